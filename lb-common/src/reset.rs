//! TCP RST in answer to a segment that has no connection (RFC 9293, section 3.10.7.1).

use crate::{
    checksum::{self, fold, sum_words},
    flow::TcpFlags,
    net::{Address, Be16, TCP},
};

/// Bytes of a TCP header without options.
pub const TCP_HEADER: usize = 20;

/// What a segment tells about the RST that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its sequence number.
    pub seq: u32,
    /// Its acknowledgement number.
    pub ack: u32,
    /// Its flags.
    pub flags: TcpFlags,
    /// Its bytes of payload.
    pub payload: u32,
}

/// The RST header that answers a segment, from `from` to `to` (the segment's destination and source), checksum included.
#[inline(always)]
#[must_use]
pub fn answer<A: Address>(segment: Segment, from: (A, Be16), to: (A, Be16)) -> [u8; TCP_HEADER] {
    let (seq, ack, flags) = if segment.flags.any(TcpFlags::ACK) {
        (segment.ack, 0, TcpFlags::RST)
    } else {
        let counted = u32::from(segment.flags.any(TcpFlags::SYN)) + u32::from(segment.flags.any(TcpFlags::FIN));
        (
            0,
            segment.seq.wrapping_add(segment.payload).wrapping_add(counted),
            TcpFlags::RST | TcpFlags::ACK,
        )
    };
    let [s0, s1, s2, s3] = seq.to_be_bytes();
    let [a0, a1, a2, a3] = ack.to_be_bytes();
    let [f0, f1] = from.1.to_wire();
    let [t0, t1] = to.1.to_wire();
    let mut header = [
        f0, f1, t0, t1, s0, s1, s2, s3, a0, a1, a2, a3, 0x50, flags, 0, 0, 0, 0, 0, 0,
    ];
    let pseudo = u32::from(sum_words(from.0.words()))
        + u32::from(sum_words(to.0.words()))
        + u32::from(u16::from(TCP).to_be())
        + u32::from((TCP_HEADER as u16).to_be());
    let [c0, c1] = checksum::full(&header, fold(pseudo)).to_ne_bytes();
    header[16] = c0;
    header[17] = c1;
    header
}

/// An IPv4 header without options for a segment of `payload` bytes.
#[inline(always)]
#[must_use]
pub fn ipv4_header(src: [u8; 4], dst: [u8; 4], payload: u16) -> [u8; 20] {
    let [l0, l1] = (payload + 20).to_be_bytes();
    // DF, no identification (RFC 6864), TTL 64.
    let mut h = [
        0x45, 0, l0, l1, 0, 0, 0x40, 0, 64, TCP, 0, 0, src[0], src[1], src[2], src[3], dst[0], dst[1], dst[2], dst[3],
    ];
    let [c0, c1] = checksum::full(&h, 0).to_ne_bytes();
    h[10] = c0;
    h[11] = c1;
    h
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::{Addr4, Addr6};

    fn segment(flags: u8) -> Segment {
        Segment {
            seq: 1000,
            ack: 77,
            flags: TcpFlags(flags),
            payload: 5,
        }
    }

    fn v4(segment: Segment) -> [u8; 20] {
        answer(
            segment,
            (Addr4::from_wire([10, 0, 0, 1]), Be16::new(80)),
            (Addr4::from_wire([10, 0, 0, 2]), Be16::new(9)),
        )
    }

    #[test]
    fn with_ack_the_reset_takes_the_place_of_what_was_expected() {
        let rst = v4(segment(TcpFlags::ACK | TcpFlags::PSH));
        assert_eq!(
            (&rst[4..8], &rst[8..12], rst[13]),
            (&77u32.to_be_bytes()[..], &[0; 4][..], TcpFlags::RST)
        );
        assert_eq!(
            (&rst[..2], &rst[2..4]),
            (&80u16.to_be_bytes()[..], &9u16.to_be_bytes()[..])
        );
    }

    #[test]
    fn without_ack_the_reset_acknowledges_what_came() {
        let rst = v4(segment(TcpFlags::SYN));
        assert_eq!(
            (&rst[4..8], &rst[8..12], rst[13]),
            (&[0; 4][..], &1006u32.to_be_bytes()[..], TcpFlags::RST | TcpFlags::ACK)
        );
    }

    proptest! {
        /// The sum over pseudo-header and segment, checksum included, is all ones (RFC 1071).
        #[test]
        fn checksums_verify(src: [u8; 16], dst: [u8; 16], ports: [u16; 2], seq: u32, ack: u32, flags: u8) {
            let s = Segment { seq, ack, flags: TcpFlags(flags), payload: 0 };
            let rst = answer(s, (Addr6::from_wire(src), Be16::new(ports[0])), (Addr6::from_wire(dst), Be16::new(ports[1])));
            let mut all = [0; 56];
            all[..16].copy_from_slice(&src);
            all[16..32].copy_from_slice(&dst);
            all[32..36].copy_from_slice(&[0, TCP, 0, 20]);
            all[36..].copy_from_slice(&rst);
            prop_assert_eq!(checksum::full(&all, 0), 0);
        }

        #[test]
        fn ipv4_headers_verify(src: [u8; 4], dst: [u8; 4]) {
            prop_assert_eq!(checksum::full(&ipv4_header(src, dst, 20), 0), 0);
        }
    }
}
