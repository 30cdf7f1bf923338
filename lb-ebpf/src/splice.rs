//! Packets of connections whose SYN was answered with a cookie ([`crate::cookie`]): the backend's bytes have other numbers for
//! the client than for the backend.

use lb_common::{
    abi::{Backend, Flow, Hop},
    checksum::Delta,
    flow::{Direction, Phase, TcpFlags, Tick},
    net::{Be16, TCP},
    reason::DropReason,
    splice::{self, Rest, Segment, Splice},
    wire::{TCP_CHECKSUM, TCP_SEQUENCE, Tcp},
};

use crate::{
    Exit, Sent, Stage,
    compose::{self, Compose},
    family::Family,
    features,
    flow_table::{self, Established},
    kernel, maps,
    packet::{Frame, Window},
    parse::{self, Ip, Packet},
    pipeline, rewrite,
};

const INTERNAL: Exit = Exit::Drop(DropReason::Internal);
/// Where the acknowledgement number lies in a TCP header.
const TCP_ACKNOWLEDGEMENT: usize = TCP_SEQUENCE + 4;

/// Sends the packets of spliced flows to [`Stage::Splice`].
#[inline(always)]
pub fn divert<A>(flow: &Flow<A>) -> Result<(), Exit> {
    if features::syn_cookies() && flow.splice != Splice::NONE {
        return Err(Exit::Divert(Stage::Splice));
    }
    Ok(())
}

/// [`Stage::Splice`].
#[inline(always)]
pub fn receive<F: Compose>(frame: Frame) -> Result<Sent, Exit> {
    let (packet, _) = parse::any_packet::<F>(frame)?;
    let frame = kernel::anew(frame);
    // The entry has brought it up to date.
    let flow = F::flows().get(&packet.key).ok_or(Exit::Divert(Stage::Open))?;
    let backend = maps::backend(flow.backend).ok_or(INTERNAL)?;
    let from_client = flow.direction == Direction::TO_BACKEND;
    let reset = packet.flags.any(TcpFlags::RST);
    let answers = packet.flags.any(TcpFlags::SYN) && packet.flags.any(TcpFlags::ACK) && !reset;
    match flow.splice {
        Splice::OPENING if from_client && !reset => Err(Exit::Divert(Stage::Cookie)),
        Splice::OPENING if from_client => forward::<F>(frame, &packet, flow, backend),
        Splice::OPENING if reset => refuse::<F>(frame, &packet, flow, backend),
        Splice::OPENING => join::<F>(frame, &packet, flow, backend, kernel::now()),
        _ if answers && !from_client => nudge::<F>(frame, &packet, flow),
        _ => {
            renumber(frame, packet.l4, packet.flags, flow)?;
            forward::<F>(frame, &packet, flow, backend)
        }
    }
}

#[inline(always)]
fn forward<F: Family>(frame: Frame, packet: &Packet<F>, flow: &Flow<F::Addr>, backend: &Backend) -> Result<Sent, Exit> {
    let hop = pipeline::way::<F>(frame, packet.ttl, packet.length, flow, backend)?;
    rewrite::apply::<F>(rewrite::places(frame, packet)?, packet, &flow.rewrite, hop)?;
    pipeline::sent(frame, packet.length, flow, hop)
}

/// Joins both halves, if the backend answers the SYN that it was sent. What it says of another connection by the same ports, it
/// is told that there is none.
#[inline(always)]
fn join<F: Compose>(
    frame: Frame,
    packet: &Packet<F>,
    flow: &mut Flow<F::Addr>,
    backend: &Backend,
    now: Tick,
) -> Result<Sent, Exit> {
    let [seq, ack] = numbers(frame, packet)?;
    if !packet.flags.any(TcpFlags::SYN) || ack != flow.answer {
        return Err(Exit::Reject(DropReason::SynCookieUnanswered));
    }
    let before = flow.phase;
    flow.beyond = seq.wrapping_sub(flow.beyond);
    if before == Phase::SYN_SEEN {
        flow.phase = Phase::ESTABLISHED;
    }
    flow.extend(now, backend.timeouts.of(flow.phase));
    // Another CPU that reads this reads the difference that belongs to it.
    flow.splice = Splice::JOINED;
    if !flow_table::refresh::<F, Established>(&packet.key, flow, backend.mode, before, now) {
        return Err(Exit::Divert(Stage::Open));
    }
    nudge::<F>(frame, packet, flow)
}

/// Makes the backend's SYN-ACK a segment to the client that opens its window and asks for an acknowledgement at once, which
/// completes the backend's handshake: also of protocols in which the server speaks first. The octet in it has the number of the
/// cookie, which the client has got already, so that it answers and discards it. Without the octet, it would answer too, but
/// not look at the window.
#[inline(always)]
fn nudge<F: Compose>(frame: Frame, packet: &Packet<F>, flow: &Flow<F::Addr>) -> Result<Sent, Exit> {
    let [seq, ack] = numbers(frame, packet)?;
    let start: Window<{ size_of::<Tcp>() }> = frame.window(packet.l4).ok_or(INTERNAL)?;
    let segment = Segment {
        seq: seq.wrapping_sub(flow.beyond),
        ack,
        flags: TcpFlags::ACK,
        window: start.read::<Be16, 14>(),
        rest: Rest::Octet,
    };
    let rewrite = &flow.rewrite;
    let (from, to) = ((rewrite.src, rewrite.src_port), (rewrite.dst, rewrite.dst_port));
    let hop = Hop::from(&flow.client);
    compose::segment::<F>(frame, from, to, &segment, hop).ok_or(INTERNAL)?;
    pipeline::sent(frame, packet.length, flow, hop)
}

/// The backend refuses: the client gets its RST with the number that it expects next.
#[inline(always)]
fn refuse<F: Family>(frame: Frame, packet: &Packet<F>, flow: &Flow<F::Addr>, backend: &Backend) -> Result<Sent, Exit> {
    let expected = flow.beyond.wrapping_add(1);
    change(frame, packet.l4, TCP_SEQUENCE, |_| expected)?;
    forward::<F>(frame, packet, flow, backend)
}

/// Sequence and acknowledgement number.
#[inline(always)]
fn numbers<F: Family>(frame: Frame, packet: &Packet<F>) -> Result<[u32; 2], Exit> {
    let numbers: Window<8> = frame.window(packet.l4 + TCP_SEQUENCE).ok_or(INTERNAL)?;
    Ok(numbers.words::<2, 0>().map(u32::from_be))
}

/// Gives the backend's bytes the numbers that the receiver knows them by, in a segment whose TCP header lies at `l4`.
#[inline(always)]
fn renumber<A>(frame: Frame, l4: usize, flags: TcpFlags, flow: &Flow<A>) -> Result<(), Exit> {
    let beyond = flow.beyond;
    if flow.direction == Direction::TO_CLIENT {
        change(frame, l4, TCP_SEQUENCE, |seq| seq.wrapping_sub(beyond))
    } else if flags.any(TcpFlags::ACK) {
        change(frame, l4, TCP_ACKNOWLEDGEMENT, |ack| ack.wrapping_add(beyond))
    } else {
        Ok(())
    }
}

/// Changes a number of a TCP header, and the checksum with it.
#[inline(always)]
fn change(frame: Frame, l4: usize, offset: usize, to: impl FnOnce(u32) -> u32) -> Result<(), Exit> {
    let number: Window<4> = frame.window(l4 + offset).ok_or(INTERNAL)?;
    let checksum: Window<2> = frame.window(l4 + TCP_CHECKSUM).ok_or(INTERNAL)?;
    let [old] = number.words::<1, 0>();
    let new = to(u32::from_be(old)).to_be();
    number.set_words::<1, 0>([new]);
    checksum.write::<u16, 0>(splice::renumbered(old, new).apply(checksum.read::<u16, 0>()));
    Ok(())
}

/// Gives the segment that an ICMP error to the backend quotes its own number again; gives what that does to checksums. Errors to
/// clients quote what they numbered themselves; of what they acknowledged, a quote need not tell, and nobody asks.
#[inline(always)]
pub fn quote<A>(frame: Frame, quote: &Ip<A>, flow: &Flow<A>) -> Result<Delta, Exit> {
    let spliced = features::syn_cookies() && flow.splice == Splice::JOINED && quote.protocol == TCP;
    if !spliced || flow.direction != Direction::TO_BACKEND {
        return Ok(Delta::ZERO);
    }
    let number: Window<4> = frame.window(quote.l4 + TCP_SEQUENCE).ok_or(INTERNAL)?;
    let [old] = number.words::<1, 0>();
    let new = u32::from_be(old).wrapping_add(flow.beyond).to_be();
    number.set_words::<1, 0>([new]);
    Ok(splice::renumbered(old, new))
}
