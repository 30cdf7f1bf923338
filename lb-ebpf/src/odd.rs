//! What is not a plain packet: fragments, IPv6 extension headers, ICMP.

use lb_common::{
    abi::{Backend, Datagram, Flow, FlowKey, FragmentKey},
    flow::TcpFlags,
    fragment::{self, Piece},
    net::{Address, Be16, TCP, UDP},
    reason::{DropReason, PassReason},
    schedule,
    wire::ETHERNET,
};

use crate::{
    Exit, Sent, Stage, direct,
    family::Family,
    flow_table, icmp, kernel, maps,
    packet::{Frame, Window},
    parse::{self, Ip, Packet},
    pipeline, service,
};

const INTERNAL: Exit = Exit::Drop(DropReason::Internal);

/// What there is to be seen to. Each kind has a function of its own that reads the packet by itself: together they would need
/// more stack than there is.
#[derive(Clone, Copy)]
enum Kind {
    /// TCP or UDP, whole or the first of several fragments.
    Packet,
    /// A fragment without ports.
    LaterFragment,
    /// ICMP of the packet's IP version.
    Icmp,
}

/// A later fragment goes where the first one went; a packet with extension headers goes where any other goes.
#[inline(always)]
pub fn forward<F: Family>(frame: Frame) -> Result<Sent, Exit> {
    match kind::<F>(frame)? {
        Kind::Packet => packet::<F>(frame),
        Kind::LaterFragment => later_fragment::<F>(frame),
        Kind::Icmp => icmp::receive::<F>(frame),
    }
}

#[inline(never)]
fn kind<F: Family>(frame: Frame) -> Result<Kind, Exit> {
    let ip = headers::<F>(frame)?;
    match ip.protocol {
        _ if ip.piece.is_later() => Ok(Kind::LaterFragment),
        TCP | UDP => Ok(Kind::Packet),
        protocol if protocol == F::ICMP && !ip.piece.is_fragment() => Ok(Kind::Icmp),
        _ => Err(Exit::Pass(PassReason::NotTcpOrUdp)),
    }
}

/// The headers before the transport header.
#[inline(always)]
pub fn headers<F: Family>(frame: Frame) -> Result<Ip<F::Addr>, Exit> {
    parse::headers::<F>(kernel::anew(frame))
}

/// A packet of an established flow. What is of no such flow goes on where any other does, to [`Stage::Open`].
#[inline(never)]
fn packet<F: Family>(frame: Frame) -> Result<Sent, Exit> {
    let ip = &headers::<F>(frame)?;
    let frame = kernel::anew(frame);
    if ip.piece.is_fragment() && !ip.piece.sound(parse::payload(ip).unwrap_or(0)) {
        return Err(Exit::Pass(PassReason::Malformed));
    }
    let packet = match parse::transport::<F>(frame, ip) {
        Ok(packet) => packet,
        Err(exit) => return Err(tiny::<F>(frame, ip).unwrap_or(exit)),
    };
    if let Some(flow) = direct::flow::<F>(frame, &packet)? {
        return pipeline::send_on::<F>(packet, ip.piece, flow);
    }
    let found = flow_table::find::<F>(frame, &packet, kernel::now())?;
    let (flow, _) = found.ok_or(Exit::Divert(Stage::Open))?;
    pipeline::send_on::<F>(packet, ip.piece, flow)
}

/// The first fragment has the ports, and is remembered for the others. Where the identification is changed, that comes before the
/// rest of the rewrite.
#[inline(always)]
pub fn begin<F: Family>(
    frame: Frame,
    packet: &Packet<F>,
    piece: &Piece,
    flow: &Flow<F::Addr>,
    backend: &Backend,
) -> Result<(), Exit> {
    let _link = pipeline::way::<F>(frame, packet.ttl, packet.length, flow, backend)?;
    let id = if backend.mode.sees_replies() {
        next_id(flow.rewrite.dst).ok_or(INTERNAL)?
    } else {
        piece.id
    };
    let datagram = Datagram {
        src_port: packet.key.src_port,
        dst_port: packet.key.dst_port,
        next: (ETHERNET as u32 + packet.length).saturating_sub(packet.l4 as u32),
        id,
        expires: kernel::now().plus(fragment::LIFETIME),
    };
    let key = FragmentKey::new(packet.key.src, packet.key.dst, piece.id, packet.key.protocol());
    F::fragments().set(&key, &datagram).ok_or(INTERNAL)?;
    if backend.mode.sees_replies() {
        F::identify(frame, piece, id).ok_or(INTERNAL)?;
    }
    Ok(())
}

/// A later fragment has no ports: those of the first are its own. Only its IP header is rewritten.
#[inline(never)]
fn later_fragment<F: Family>(frame: Frame) -> Result<Sent, Exit> {
    let ip = &headers::<F>(frame)?;
    let frame = kernel::anew(frame);
    let now = kernel::now();
    let unknown = || unknown_fragment::<F>(ip.dst);
    let datagram = F::fragments().get(&key(ip)).ok_or_else(unknown)?;
    if !datagram.is_fresh(now) {
        return Err(unknown());
    }
    let length = parse::payload(ip).unwrap_or(0);
    if !ip.piece.sound(length) {
        return Err(Exit::Pass(PassReason::Malformed));
    }
    let packet = Packet::<F> {
        key: FlowKey::new((ip.src, datagram.src_port), (ip.dst, datagram.dst_port), ip.protocol),
        flags: TcpFlags(0),
        ttl: ip.ttl,
        length: ip.length,
        l4: ip.l4,
    };
    let flow = match direct::flow::<F>(frame, &packet)? {
        Some(flow) => flow,
        None => flow_table::peek::<F>(&packet.key, now).ok_or_else(unknown)?,
    };
    let backend = maps::backend(flow.backend).ok_or(INTERNAL)?;
    let hop = pipeline::way::<F>(frame, ip.ttl, ip.length, flow, backend)?;
    if !datagram.admit(ip.piece.offset, length) {
        return Err(Exit::Drop(DropReason::FragmentOverlap));
    }
    if !backend.mode.sees_replies() {
        return pipeline::send_on::<F>(packet, Piece::WHOLE, flow);
    }
    let id = datagram.id;
    F::rewrite(F::head(frame).ok_or(INTERNAL)?, &flow.rewrite, hop);
    F::identify(frame, &ip.piece, id).ok_or(INTERNAL)?;
    pipeline::sent(frame, ip.length, flow, hop)
}

/// A first fragment that ends within the TCP header hides flags from whoever looks at it (RFC 1858). It is dropped if it is
/// for a service; others are the kernel's.
#[inline(always)]
fn tiny<F: Family>(frame: Frame, ip: &Ip<F::Addr>) -> Option<Exit> {
    if ip.protocol != TCP || !ip.piece.is_fragment() {
        return None;
    }
    // Before the length is looked at, or the compiler would leave out the check that the verifier looks for.
    let ports: Window<4> = frame.window(ip.l4)?;
    let [ports] = ports.words::<1, 0>();
    if parse::payload(ip)? < size_of::<u32>() as u32 {
        return None;
    }
    let (src_port, dst_port) = parse::split(ports);
    let packet = Packet::<F> {
        key: FlowKey::new((ip.src, src_port), (ip.dst, dst_port), TCP),
        flags: TcpFlags(0),
        ttl: ip.ttl,
        length: ip.length,
        l4: ip.l4,
    };
    service::find::<F>(&packet).ok()?;
    Some(Exit::Drop(DropReason::FragmentTiny))
}

/// A fragment whose first is not known leaves as it came; to a VIP, it may be that it overtook the first.
#[inline(always)]
fn unknown_fragment<F: Family>(dst: F::Addr) -> Exit {
    Exit::Pass(if F::vip(&dst).is_some() {
        PassReason::FragmentBeforeFirst
    } else {
        PassReason::LaterFragment
    })
}

#[inline(always)]
fn key<A: Address>(ip: &Ip<A>) -> FragmentKey<A> {
    FragmentKey::new(ip.src, ip.dst, ip.piece.id, ip.protocol)
}

/// An identification that no other packet to this address had for long. That of the sender will not do: behind the rewrite,
/// packets of several senders have the same source address, and their fragments would be put together (RFC 6864).
#[inline(always)]
fn next_id<A: Address>(to: A) -> Option<u32> {
    let cursor = schedule::source_cursor(to.to_any(), Be16::new(0));
    Some(maps::next_fragment_id(cursor)? as u32)
}
