//! ICMP that comes in: errors about packets of flows go on to the packet's sender, echo requests to VIPs are answered.

use lb_common::{
    abi::{FlowKey, VipFlags},
    checksum::Delta,
    flow::{Direction, TcpFlags},
    fragment::Piece,
    icmp::{self, HEADER, Message},
    net::{Address, TCP, UDP},
    reason::{DropReason, PassReason},
    rewrite::Rewrite,
    wire::{ETHERNET, TCP_CHECKSUM, UDP_CHECKSUM},
};

use crate::{
    Exit, Sent, Stage, direct,
    family::Family,
    flow_table::{self, link_of},
    kernel, maps, mixed, odd, outer,
    packet::{Frame, Window},
    parse::{self, Ip, Packet},
    pipeline, splice, vlan,
};

const INTERNAL: Exit = Exit::Drop(DropReason::Internal);
const MALFORMED: Exit = Exit::Pass(PassReason::Malformed);

/// An ICMP message to anyone.
#[inline(never)]
pub fn receive<F: Family>(frame: Frame) -> Result<Sent, Exit> {
    let ip = &odd::headers::<F>(frame)?;
    let frame = kernel::anew(frame);
    let head: Window<HEADER> = frame.window(ip.l4).ok_or(MALFORMED)?;
    let [kind, _code] = head.read::<u16, 0>().to_ne_bytes();
    match F::message(kind) {
        Message::Error => error::<F>(frame, ip).map_err(silently),
        Message::EchoRequest => echo::<F>(frame, ip),
        Message::Other => Err(Exit::Pass(PassReason::NotTcpOrUdp)),
    }
}

/// An error that does not fit the way on is dropped: none is sent about an error (RFC 1122, section 3.2.2; RFC 4443,
/// section 2.4).
#[inline(always)]
fn silently(exit: Exit) -> Exit {
    match exit {
        Exit::TooBig(_) => Exit::Drop(DropReason::ExceedsMtu),
        other => other,
    }
}

/// An error goes the way of the packets that the other side sends: what it quotes travelled against that. So the quote's
/// addresses and ports, exchanged, are the key of a flow.
#[inline(always)]
fn error<F: Family>(frame: Frame, ip: &Ip<F::Addr>) -> Result<Sent, Exit> {
    const NO_FLOW: Exit = Exit::Pass(PassReason::IcmpNoFlow);
    let quote = F::quote(frame, ip.l4 + HEADER)?;
    let frame = kernel::anew(frame);
    // The window comes before the comparison, here and below: from a packet that fits its frame and a quote that fits the
    // packet, the compiler would conclude that the window does, and leave out the check that the verifier looks for.
    let ports: Window<HEADER> = frame.window(quote.l4).ok_or(MALFORMED)?;
    let [ports] = ports.words::<1, 0>();
    let end = ETHERNET + ip.length as usize;
    if quote.l4 + HEADER > end {
        return Err(MALFORMED);
    }
    let (src_port, dst_port) = parse::split(ports);
    // An error goes to whom it quotes.
    if quote.piece.is_later() || quote.src != ip.dst {
        return Err(NO_FLOW);
    }
    let no_flow = if outer::may_be(quote.protocol) {
        Exit::Divert(Stage::Outer)
    } else {
        NO_FLOW
    };
    if !matches!(quote.protocol, TCP | UDP) {
        return Err(no_flow);
    }
    let key = FlowKey::new((quote.dst, dst_port), (quote.src, src_port), quote.protocol);
    let packet = Packet::<F> {
        key,
        flags: TcpFlags(0),
        ttl: ip.ttl,
        length: ip.length,
        l4: ip.l4,
    };
    let flow = match direct::flow::<F>(frame, &packet)? {
        Some(flow) => flow,
        None => match flow_table::peek::<F>(&key, kernel::now()) {
            Some(flow) => flow,
            None if mixed::is_known::<F>(&key, kernel::now()) => return Err(Exit::Divert(Stage::MixedError)),
            None => return Err(no_flow),
        },
    };
    let backend = maps::backend(flow.backend).ok_or(INTERNAL)?;
    let hop = pipeline::way::<F>(frame, ip.ttl, ip.length, flow, backend)?;
    if !backend.mode.sees_replies() {
        // The backend sent what is quoted as it stands there: the error reaches it as the flow's packets do.
        return pipeline::send_on::<F>(packet, Piece::WHOLE, flow);
    }
    let outer = outer(ip, &key, &flow.rewrite, flow.direction);
    let numbers = splice::quote(frame, &quote, flow)?;
    translate::<F>(frame, ip, &quote, end, &flow.rewrite, &outer, numbers)?;
    F::rewrite(F::head(frame).ok_or(INTERNAL)?, &outer, hop);
    pipeline::sent(frame, ip.length, flow, hop)
}

/// The error's own addresses. Its source becomes that of the flow's packets wherever theirs is rewritten, as with IPVS and
/// netfilter: the receiver, and whoever filters on the way, expect nothing from the router's address, which may not even
/// have a route back. Only a backend in `nat` mode, which sees client addresses, sees the router's.
#[inline(always)]
fn outer<A: Address>(ip: &Ip<A>, key: &FlowKey<A>, rewrite: &Rewrite<A>, direction: Direction) -> Rewrite<A> {
    let keep = direction == Direction::TO_BACKEND && rewrite.src == key.src;
    let src = if keep { ip.src } else { rewrite.src };
    let packet = FlowKey::new((ip.src, key.src_port), (ip.dst, key.src_port), 0);
    Rewrite::new(&packet, (src, key.src_port), (rewrite.dst, key.src_port))
}

/// Makes the quote the packet that its sender sent, and the error's checksum right. What the flow's rewrite does to
/// checksums is the same for packets the other way, since it is a sum. `numbers` is what became of the quoted numbers.
#[inline(always)]
fn translate<F: Family>(
    frame: Frame,
    ip: &Ip<F::Addr>,
    quote: &Ip<F::Addr>,
    end: usize,
    flow: &Rewrite<F::Addr>,
    outer: &Rewrite<F::Addr>,
    numbers: Delta,
) -> Result<(), Exit> {
    let l4 = quoted_checksum(frame, quote.l4, end, quote.protocol, flow.l4_delta.and(numbers)).ok_or(INTERNAL)?;
    let header = F::rewrite_quote(frame, ip.l4 + HEADER, flow).ok_or(INTERNAL)?;
    let ports: Window<4> = frame.window(quote.l4).ok_or(INTERNAL)?;
    let ([s0, s1], [d0, d1]) = (flow.dst_port.to_wire(), flow.src_port.to_wire());
    ports.set_words::<1, 0>([u32::from_ne_bytes([s0, s1, d0, d1])]);
    let mut delta = icmp::quote_delta(flow.l4_delta.and(numbers), header, l4);
    if F::ICMP_COVERS_ADDRESSES {
        delta = delta.and(outer.l4_delta);
    }
    let head: Window<HEADER> = frame.window(ip.l4).ok_or(INTERNAL)?;
    head.write::<u16, 2>(delta.apply(head.read::<u16, 2>()));
    Ok(())
}

/// Changes the checksum of the quoted TCP or UDP header, if the message does not end before it; gives the old and the new one.
#[inline(always)]
pub fn quoted_checksum(frame: Frame, l4: usize, end: usize, protocol: u8, delta: Delta) -> Option<(u16, u16)> {
    let at = l4 + if protocol == UDP { UDP_CHECKSUM } else { TCP_CHECKSUM };
    let Some(checksum) = frame.window::<2>(at) else {
        return Some((0, 0));
    };
    if at + size_of::<u16>() > end {
        return Some((0, 0));
    }
    let old = checksum.read::<u16, 0>();
    let new = match (protocol, old) {
        (UDP, 0) => 0,
        (UDP, old) => delta.apply_udp(old),
        (_, old) => delta.apply(old),
    };
    checksum.write::<u16, 0>(new);
    Some((old, new))
}

/// An echo request is answered where lb was told that the kernel may not have the VIP; others are the kernel's.
#[inline(always)]
fn echo<F: Family>(frame: Frame, ip: &Ip<F::Addr>) -> Result<Sent, Exit> {
    const KERNELS: Exit = Exit::Pass(PassReason::NotTcpOrUdp);
    if !F::vip(&ip.dst).ok_or(KERNELS)?.any(VipFlags::ECHO) {
        return Err(KERNELS);
    }
    if !maps::may_send_icmp() {
        return Err(Exit::Drop(DropReason::IcmpRateLimited));
    }
    let head: Window<HEADER> = frame.window(ip.l4).ok_or(INTERNAL)?;
    let old = head.read::<u16, 0>();
    let [_, code] = old.to_ne_bytes();
    let new = u16::from_ne_bytes([F::ECHO_REPLY, code]);
    let checksum = Delta::ZERO.word(old, new).apply(head.read::<u16, 2>());
    head.write::<u16, 0>(new);
    head.write::<u16, 2>(checksum);
    F::send_back(frame, ip, &link_of(frame)?).ok_or(INTERNAL)?;
    vlan::restore(frame).ok_or(Exit::Drop(DropReason::NoHeadroom))?;
    Ok(Sent::Back)
}
