//! Where a flow stands in its life.

use lb_common::abi::Mode;

use super::read::Parsed;
use crate::frames::{ACK, FIN, RST, SYN};

/// See [`lb_common::flow::Phase`]; half-open datagrams fare as others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    SynSeen,
    /// What the client acknowledges next.
    SynAnswered(u32),
    Established,
    ClientFin,
    BackendFin,
    Closing,
    Udp,
}

/// Whether a segment opens a connection.
pub(super) fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | FIN | RST) == SYN
}

/// Whether no sound stack sends such a segment.
pub(super) fn nonsense(flags: u8) -> bool {
    flags & (SYN | ACK | FIN | RST) == 0 || (flags & SYN != 0 && flags & (FIN | RST) != 0)
}

/// Whether a client's SYN opens another flow in place of this one. Where the server's FIN is not seen, the client's will do.
pub(super) fn is_replaceable(phase: Phase, mode: Mode) -> bool {
    phase == Phase::Closing || (phase == Phase::ClientFin && !mode.sees_replies())
}

/// The phase after a packet.
pub(super) fn after(phase: Phase, mode: Mode, from_client: bool, packet: &Parsed) -> Phase {
    let ((seq, ack), flags) = (packet.numbers, packet.flags);
    let (fin, rst) = (flags & FIN != 0, flags & RST != 0);
    match phase {
        Phase::Udp | Phase::Closing => phase,
        Phase::SynSeen | Phase::SynAnswered(_) if !from_client => match flags & (SYN | ACK | RST) {
            both if both == SYN | ACK => Phase::SynAnswered(seq.wrapping_add(1)),
            _ if rst => Phase::Closing,
            _ => phase,
        },
        // The server answers past us, and the client's word has to do.
        Phase::SynSeen if !mode.sees_replies() => match flags & (SYN | ACK | RST) {
            _ if rst => Phase::Closing,
            ack if ack == ACK && fin => Phase::ClientFin,
            ack if ack == ACK => Phase::Established,
            _ => phase,
        },
        // Even if it refuses: that may be the answer of an older connection.
        Phase::SynSeen => phase,
        Phase::SynAnswered(_) if rst => Phase::Closing,
        Phase::SynAnswered(answer) => {
            let complete = flags & ACK != 0 && flags & SYN == 0 && ack.wrapping_sub(answer) < 65_536;
            match (complete, fin) {
                (false, _) => phase,
                (true, false) => Phase::Established,
                (true, true) => Phase::ClientFin,
            }
        }
        _ if rst => Phase::Closing,
        Phase::BackendFin if fin && from_client => Phase::Closing,
        Phase::ClientFin if fin && !from_client => Phase::Closing,
        _ if fin && from_client => Phase::ClientFin,
        _ if fin => Phase::BackendFin,
        _ => phase,
    }
}
