//! ICMP errors about packets of flows between IPv4 and IPv6: the other side learns of them as of errors about its own packet.
//!
//! Errors whose meaning or whose quoted packet has no counterpart in the other version are the kernel's, as those about no flow.

use lb_common::{
    abi::{Backend, Flow, FlowKey, Hop, Link},
    checksum::{Delta, fold, sum_words},
    flow::Direction,
    icmp::HEADER,
    net::{Address, TCP, UDP},
    reason::{DropReason, PassReason},
    translate_error,
    wire::ETHERNET,
};

use crate::{
    Exit, Sent,
    family::{Family, V6},
    icmp, kernel, maps, odd,
    packet::{Frame, Window},
    parse, pipeline,
    quote::{self, Quote},
    too_big,
};

const NO_FLOW: Exit = Exit::Pass(PassReason::IcmpNoFlow);
const INTERNAL: Exit = Exit::Drop(DropReason::Internal);

/// The flow of an error's receiver, whose packets go to the other version.
type FlowOf<F> = Flow<<<F as Family>::Other as Family>::Addr>;

/// What an error says, and about what.
struct Told {
    /// Type and code, and the second word, as the other version has them.
    message: ([u8; 2], u32),
    quote: Quote,
    /// The checksum, and the sum of what it covers of what is written anew.
    checksum: u16,
    sum: u32,
    /// Where the quoted TCP or UDP header begins, and the message ends.
    l4: usize,
    end: usize,
}

/// An error that quotes a packet of such a flow goes the way of the packets that the other side sends.
#[inline(always)]
pub fn forward<F: Family>(frame: Frame) -> Result<Sent, Exit> {
    let ip = &odd::headers::<F>(frame)?;
    let frame = kernel::anew(frame);
    let head: Window<HEADER> = frame.window(ip.l4).ok_or(NO_FLOW)?;
    let (kind, [second]) = (head.read::<u16, 0>(), head.words::<1, 4>());
    let message = if F::VERSION == V6::VERSION {
        translate_error::to_v4(kind.to_ne_bytes(), second)
    } else {
        translate_error::to_v6(kind.to_ne_bytes(), second)
    };
    let at = (ip.l4 + HEADER) & quote::MAX_OFFSET;
    let quote = quote::read::<F>(frame, at).ok_or(NO_FLOW)?;
    let mut told = Told {
        message: message.ok_or(NO_FLOW)?,
        checksum: head.read::<u16, 2>(),
        sum: u32::from(kind) + u32::from(sum_words([second, 0, 0, 0])) + quote.sum,
        l4: at + F::HEADER,
        end: ETHERNET + ip.length as usize,
        quote,
    };
    if F::ICMP_COVERS_ADDRESSES {
        told.sum += quote::pseudo_header(ip.src, ip.dst, told.end - ip.l4);
    }
    // An error goes to whom it quotes.
    if told.quote.src != ip.dst.to_any() {
        return Err(NO_FLOW);
    }
    let flow = flow::<F>(frame, &told)?;
    let backend = maps::backend(flow.backend).ok_or(INTERNAL)?;
    pipeline::lives_on(ip.ttl, backend)?;
    let link = way::<F>(frame, &told, flow, backend)?;
    write::<F>(frame, &told, flow, link)?;
    pipeline::sent(frame, length::<F::Other>(&told), flow, Hop::from(link))
}

/// The flow of the packets that go the error's way: what it quotes travelled against that.
#[inline(always)]
fn flow<F: Family>(frame: Frame, told: &Told) -> Result<&'static FlowOf<F>, Exit> {
    // The window comes before the comparison, see `icmp`.
    let ports: Window<HEADER> = frame.window(told.l4).ok_or(NO_FLOW)?;
    let [ports] = ports.words::<1, 0>();
    let protocol = told.quote.carried.protocol;
    if told.l4 + HEADER > told.end || !matches!(protocol, TCP | UDP) {
        return Err(NO_FLOW);
    }
    let (src_port, dst_port) = parse::split(ports);
    let (src, dst) = (F::Addr::from_any(told.quote.src), F::Addr::from_any(told.quote.dst));
    let key = FlowKey::new((dst, dst_port), (src, src_port), protocol);
    match F::mixed().get(&key) {
        Some(flow) if !flow.expires.passed(kernel::now()) => Ok(flow),
        _ => Err(NO_FLOW),
    }
}

/// The way on, if the error fits it with its new headers. None is sent about an error (RFC 1122, section 3.2.2; RFC 4443, section 2.4).
#[inline(always)]
fn way<'a, F: Family>(frame: Frame, told: &Told, flow: &'a FlowOf<F>, backend: &'a Backend) -> Result<&'a Link, Exit> {
    let (link, mtu) = if flow.direction == Direction::TO_BACKEND {
        (&backend.link, backend.mtu)
    } else {
        let mtu = kernel::mtu(frame, flow.client.ifindex).unwrap_or(u32::MAX);
        (&flow.client, mtu)
    };
    if length::<F::Other>(told) > mtu {
        return Err(Exit::Drop(DropReason::ExceedsMtu));
    }
    Ok(link)
}

/// Bytes before the quoted TCP or UDP header.
#[inline(always)]
const fn head<O: Family>() -> usize {
    O::HEAD + HEADER + O::HEADER
}

/// Bytes of the message from its IP header on.
#[inline(always)]
const fn length<O: Family>(told: &Told) -> u32 {
    (head::<O>() - ETHERNET + told.end - told.l4) as u32
}

/// Makes of the frame a message to the other side, about the packet that it sent. What of the old message is not written anew is
/// summed up as its checksum says: a message that was damaged on its way is so afterwards.
#[inline(always)]
fn write<F: Family>(frame: Frame, told: &Told, flow: &FlowOf<F>, link: &Link) -> Result<(), Exit> {
    let (rewrite, protocol) = (&flow.rewrite, told.quote.carried.protocol);
    let (src, dst) = (rewrite.src, rewrite.dst);
    let ports: Window<4> = frame.window(told.l4).ok_or(INTERNAL)?;
    let [old_ports] = ports.words::<1, 0>();
    let ([s0, s1], [d0, d1]) = (rewrite.dst_port.to_wire(), rewrite.src_port.to_wire());
    let new_ports = u32::from_ne_bytes([s0, s1, d0, d1]);
    ports.set_words::<1, 0>([new_ports]);
    let (old_l4, new_l4) =
        icmp::quoted_checksum(frame, told.l4, told.end, protocol, rewrite.l4_delta).ok_or(INTERNAL)?;
    let room = told.l4 as i32 - head::<F::Other>() as i32;
    frame.move_head(room).ok_or(Exit::Drop(DropReason::NoHeadroom))?;
    quote::write::<F::Other>(frame, told.quote.carried, dst.to_any(), src.to_any()).ok_or(INTERNAL)?;
    let quoted = quote::read::<F::Other>(frame, F::Other::HEAD + HEADER).ok_or(INTERNAL)?;
    let length = F::Other::HEADER + told.end - told.l4;
    let ([k0, k1], second) = told.message;
    let kind = u16::from_ne_bytes([k0, k1]);
    let mut sum = u32::from(kind) + u32::from(sum_words([second, 0, 0, 0])) + quoted.sum;
    if F::Other::ICMP_COVERS_ADDRESSES {
        sum += quote::pseudo_header(src, dst, HEADER + length);
    }
    let checksum = Delta::ZERO
        .word(fold(told.sum), fold(sum))
        .word(sum_words([old_ports, 0, 0, 0]), sum_words([new_ports, 0, 0, 0]))
        .word(old_l4, new_l4)
        .apply(told.checksum);
    let [c0, c1] = checksum.to_ne_bytes();
    let header = [u32::from_ne_bytes([k0, k1, c0, c1]), second];
    too_big::write::<F::Other>(frame, link.addresses, (src, dst), length as u32, header).ok_or(INTERNAL)
}
