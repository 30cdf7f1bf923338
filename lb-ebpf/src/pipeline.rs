//! What happens to a packet, top to bottom.

use lb_common::{
    abi::{Backend, Flow, Hop, Mode},
    encap::inner_mtu,
    flow::{Direction, Tick},
    flow_cache::Forwarding,
    fragment::Piece,
    net::TCP,
    network_types::eth::EtherType,
    reason::{DropReason, PassReason},
    wire::ETHERNET,
};

use crate::{
    Exit, Sent, Stage,
    cookie::{self, Cookie},
    direct, encap,
    family::{Family, V4, V6},
    features, flow_cache,
    flow_table::{self, Found},
    half_open, kernel, log, maps, mixed, mixed_error, odd, outer,
    packet::Frame,
    parse::{self, Packet, Places},
    rewrite, select, service, splice, stats, unstored, vlan,
};

/// A packet of an established flow over IPv4 is forwarded at once; what is unusual, other programs see to.
#[inline(always)]
pub fn established_ipv4(frame: Frame) -> Result<Sent, Exit> {
    established::<V4>(frame)
}

/// The same over IPv6, in a function of its own: its addresses and IPv4's would not fit one stack frame.
#[inline(never)]
pub fn established_ipv6(frame: Frame) -> Result<Sent, Exit> {
    established::<V6>(frame)
}

/// It costs the copy of its flow, its backend and a counter.
#[inline(always)]
fn established<F: Family>(frame: Frame) -> Result<Sent, Exit> {
    let (packet, places) = parse::packet::<F>(frame)?;
    let found = flow_cache::find::<F>(frame, &packet, &places, kernel::now());
    let (forwarding, backend) = found.ok_or(Exit::Divert(miss(&packet)))?;
    deliver_at::<F>(frame, &packet, || Ok(places), &forwarding, backend)
}

/// Where a packet without a copy is seen to.
#[inline(always)]
fn miss<F: Family>(packet: &Packet<F>) -> Stage {
    if packet.flags.opens() { Stage::Open } else { Stage::Flow }
}

/// A packet of a flow that has no copy, or that the packet changes.
#[inline(always)]
pub fn flow(frame: Frame) -> Result<Sent, Exit> {
    by_version(frame, looked_up::<V4>, looked_up::<V6>)
}

/// It costs the flow too, and leaves a copy for the next one.
#[inline(always)]
fn looked_up<F: Family>(frame: Frame) -> Result<Sent, Exit> {
    let (packet, places) = parse::packet::<F>(frame)?;
    let now = kernel::now();
    let found = flow_table::find::<F>(frame, &packet, now)?;
    let (flow, backend) = found.ok_or(Exit::Divert(Stage::Open))?;
    splice::divert(flow)?;
    flow_cache::fill::<F>(&packet.key, now);
    deliver_at::<F>(frame, &packet, || Ok(places), &Forwarding::of(flow, backend), backend)
}

/// A packet of no established flow belongs to a half-open one, or may open one, if it is a service's.
#[inline(always)]
pub fn open(frame: Frame) -> Result<Sent, Exit> {
    by_version(frame, opening::<V4>, opening::<V6>)
}

#[inline(always)]
fn opening<F: Family>(frame: Frame) -> Result<Sent, Exit> {
    let (packet, piece) = parse::any_packet::<F>(frame)?;
    let now = kernel::now();
    mixed::divert_known::<F>(&packet, now)?;
    let Some((flow, _)) = known::<F>(frame, &packet, now)? else {
        let opens = packet.key.protocol() != TCP || packet.flags.opens();
        return Err(Exit::Divert(if opens { Stage::New } else { Stage::TakeUp }));
    };
    send_on::<F>(packet, piece, flow)
}

/// The half-open flow of a packet; or the established one, if another CPU made it so since the program before looked. For
/// those that open a flow, none did.
#[inline(always)]
fn known<F: Family>(frame: Frame, packet: &Packet<F>, now: Tick) -> Result<Option<Found<F>>, Exit> {
    if packet.flags.opens()
        && let Some(found) = flow_table::find::<F>(frame, packet, now)?
    {
        return Ok(Some(found));
    }
    match half_open::find::<F>(frame, packet, now)? {
        None if !packet.flags.opens() => flow_table::find::<F>(frame, packet, now),
        found => Ok(found),
    }
}

/// A packet of no flow may open one, if it is a service's.
#[inline(always)]
pub fn new(frame: Frame) -> Result<Sent, Exit> {
    by_version(frame, beginning::<V4>, beginning::<V6>)
}

#[inline(always)]
fn beginning<F: Family>(frame: Frame) -> Result<Sent, Exit> {
    let (packet, piece) = parse::any_packet::<F>(frame)?;
    let (flow, _) = new_flow::<F>(frame, &packet, kernel::now())?;
    send_on::<F>(packet, piece, flow)
}

#[inline(always)]
fn new_flow<F: Family>(frame: Frame, packet: &Packet<F>, now: Tick) -> Result<Found<F>, Exit> {
    let service = service::find::<F>(packet)?;
    if packet.flags.opens() {
        // There may be a copy of an entry that was evicted.
        flow_cache::forget::<F>(&packet.key);
    }
    cookie::divert_syn::<F>(packet, service, now)?;
    if unstored::is_needed(now) {
        let refused = cookie::beyond_limit::<F>(packet, service);
        return unstored::find::<F>(frame, packet, service, now, refused);
    }
    let chosen = match direct::going_on::<F>(service, packet, now) {
        Some(chosen) => chosen,
        None => select::backend::<F>(service, packet, now)?,
    };
    mixed::divert_chosen::<F>(packet, service, chosen)?;
    acceptable::<F>(frame, packet, chosen)?;
    let found = flow_table::open::<F>(frame, packet, service, chosen, now)?;
    log::opened::<F>(frame);
    Ok(found)
}

/// A packet in the middle of a connection goes on where a table of hashes says that it was sent to before.
#[inline(always)]
pub fn take_up(frame: Frame) -> Result<Sent, Exit> {
    by_version(frame, taking_up::<V4>, taking_up::<V6>)
}

#[inline(always)]
fn taking_up<F: Cookie>(frame: Frame) -> Result<Sent, Exit> {
    let (packet, piece) = parse::any_packet::<F>(frame)?;
    let (flow, _) = taken_up::<F>(frame, &packet, kernel::now())?;
    send_on::<F>(packet, piece, flow)
}

#[inline(always)]
fn taken_up<F: Cookie>(frame: Frame, packet: &Packet<F>, now: Tick) -> Result<Found<F>, Exit> {
    let service = service::find::<F>(packet)?;
    let stray = cookie::divert_ack::<F>(frame, packet, service, now)?;
    let refused = match service::goes_on::<F>(packet).map(|()| select::previous::<F>(service, packet, now)) {
        Ok(Some(_)) if unstored::is_needed(now) => Exit::Drop(DropReason::NewFlowLimit),
        Ok(Some(chosen)) => {
            acceptable::<F>(frame, packet, chosen)?;
            let found = half_open::take_up::<F>(frame, packet, chosen, now)?;
            log::opened::<F>(frame);
            return Ok(found);
        }
        Ok(None) => Exit::Reject(stray),
        Err(refused) => refused,
    };
    // It may be of a flow that was not stored.
    if features::new_flow_credit().is_some() && !matches!(refused, Exit::Drop(DropReason::BadTcpFlags)) {
        return unstored::find::<F>(frame, packet, service, now, refused);
    }
    Err(refused)
}

/// Whether the chosen backend can be sent this packet, asked before a flow is made for it.
#[inline(always)]
pub fn acceptable<F: Family>(frame: Frame, packet: &Packet<F>, chosen: u32) -> Result<(), Exit> {
    let backend = maps::backend(chosen).ok_or(Exit::Drop(DropReason::Internal))?;
    lives_on(packet.ttl, backend)?;
    fits(packet.length, inner_mtu(backend))?;
    if backend.mode.sees_replies() {
        rewrite::possible::<F>(frame, packet.l4, packet.key.protocol())?;
    }
    Ok(())
}

/// A flow whose client and backend are of different families.
#[inline(always)]
pub fn mixed(frame: Frame) -> Result<Sent, Exit> {
    by_version(frame, between_families::<V4>, between_families::<V6>)
}

#[inline(always)]
fn between_families<F: Family>(frame: Frame) -> Result<Sent, Exit> {
    let (packet, piece) = parse::any_packet::<F>(frame)?;
    if piece.is_fragment() {
        return Err(Exit::Drop(DropReason::FragmentMixed));
    }
    let (flow, backend) = mixed::find_or_open::<F>(frame, &packet, kernel::now())?;
    mixed::deliver::<F>(frame, &packet, flow, backend)
}

/// A SYN that is answered with a cookie, or the acknowledgement of one.
#[inline(always)]
pub fn cookie(frame: Frame) -> Result<Sent, Exit> {
    by_version(frame, cookie::receive::<V4>, cookie::receive::<V6>)
}

/// A packet of a flow whose SYN was answered with a cookie.
#[inline(always)]
pub fn splice(frame: Frame) -> Result<Sent, Exit> {
    by_version(frame, splice::receive::<V4>, splice::receive::<V6>)
}

/// What is not a plain packet.
#[inline(always)]
pub fn odd(frame: Frame) -> Result<Sent, Exit> {
    by_version(frame, odd::forward::<V4>, odd::forward::<V6>)
}

/// An error about the outer packet of a tunnel.
#[inline(always)]
pub fn outer(frame: Frame) -> Result<Sent, Exit> {
    by_version(frame, outer::forward::<V4>, outer::forward::<V6>)
}

/// An error about a packet of a flow between families.
#[inline(always)]
pub fn mixed_error(frame: Frame) -> Result<Sent, Exit> {
    by_version(frame, mixed_error::forward::<V4>, mixed_error::forward::<V6>)
}

/// A stage for the packet's IP version, in a function of its own: addresses of both would not fit one stack frame.
#[inline(always)]
fn by_version(
    frame: Frame,
    ipv4: impl FnOnce(Frame) -> Result<Sent, Exit>,
    ipv6: impl FnOnce(Frame) -> Result<Sent, Exit>,
) -> Result<Sent, Exit> {
    match parse::ethertype(frame)? {
        EtherType::Ipv4 => apart(frame, ipv4),
        EtherType::Ipv6 => apart(frame, ipv6),
        _ => Err(Exit::Pass(PassReason::NotIp)),
    }
}

#[inline(never)]
fn apart(frame: Frame, stage: impl FnOnce(Frame) -> Result<Sent, Exit>) -> Result<Sent, Exit> {
    stage(frame)
}

/// A packet whose flow was found or made is another program's: this one has enough to do.
#[inline(always)]
pub fn send_on<F: Family>(packet: Packet<F>, piece: Piece, flow: &Flow<F::Addr>) -> Result<Sent, Exit> {
    let pending = F::pending().ok_or(Exit::Drop(DropReason::Internal))?;
    maps::copy_flow(flow, &mut pending.flow);
    pending.packet = packet;
    pending.piece = piece;
    Err(Exit::Divert(Stage::Deliver))
}

/// The packet that another program left.
#[inline(always)]
pub fn delivery(frame: Frame) -> Result<Sent, Exit> {
    by_version(frame, delivering::<V4>, delivering::<V6>)
}

#[inline(always)]
fn delivering<F: Family>(frame: Frame) -> Result<Sent, Exit> {
    const INTERNAL: Exit = Exit::Drop(DropReason::Internal);
    let pending = F::pending().ok_or(INTERNAL)?;
    let (packet, piece) = parse::again(&pending.packet, &pending.piece);
    let backend = maps::backend(pending.flow.backend).ok_or(INTERNAL)?;
    if piece.is_fragment() {
        odd::begin::<F>(frame, &packet, &piece, &pending.flow, backend)?;
    }
    deliver::<F>(frame, &packet, &pending.flow, backend)
}

/// Rewrites or wraps the packet as its flow and its backend's mode say, and sends it on.
#[inline(always)]
pub fn deliver<F: Family>(
    frame: Frame,
    packet: &Packet<F>,
    flow: &Flow<F::Addr>,
    backend: &Backend,
) -> Result<Sent, Exit> {
    splice::divert(flow)?;
    let forwarding = Forwarding::of(flow, backend);
    deliver_at::<F>(frame, packet, || rewrite::places(frame, packet), &forwarding, backend)
}

/// The same of a packet whose places may be known.
#[inline(always)]
fn deliver_at<F: Family>(
    frame: Frame,
    packet: &Packet<F>,
    places: impl FnOnce() -> Result<Places<F>, Exit>,
    forwarding: &Forwarding<F::Addr>,
    backend: &Backend,
) -> Result<Sent, Exit> {
    let direction = forwarding.direction();
    let hop = next_hop(
        frame,
        packet.ttl,
        packet.length,
        direction,
        || forwarding.client(),
        backend,
    )?;
    match backend.mode {
        Mode::FULL_NAT | Mode::NAT => rewrite::apply::<F>(places()?, packet, &forwarding.rewrite(), hop)?,
        Mode::L2_DSR => rewrite::neighbour(frame, hop)?,
        _ => encap::apply::<F>(frame, packet, backend)?,
    }
    send(frame, packet.length, (forwarding.backend(), direction), hop)
}

/// The way on of a flow's packets, if a packet may take it.
#[inline(always)]
pub fn way<F: Family>(
    frame: Frame,
    ttl: u8,
    length: u32,
    flow: &Flow<F::Addr>,
    backend: &Backend,
) -> Result<Hop, Exit> {
    next_hop(frame, ttl, length, flow.direction, || Hop::from(&flow.client), backend)
}

/// The same of a packet that goes in a direction between a client and a backend.
#[inline(always)]
fn next_hop(
    frame: Frame,
    ttl: u8,
    length: u32,
    direction: Direction,
    client: impl FnOnce() -> Hop,
    backend: &Backend,
) -> Result<Hop, Exit> {
    lives_on(ttl, backend)?;
    if direction == Direction::TO_BACKEND {
        fits(length, inner_mtu(backend))?;
        return Ok(Hop::from(&backend.link));
    }
    let client = client();
    // Only large packets are worth the question what fits the clients' side.
    if length > features::smallest_mtu() {
        fits(length, kernel::mtu(frame, client.ifindex()).unwrap_or(u32::MAX))?;
    }
    Ok(client)
}

/// Whether a packet may make another hop. In `l2-dsr` it makes none.
#[inline(always)]
pub fn lives_on(ttl: u8, backend: &Backend) -> Result<(), Exit> {
    if ttl <= 1 && backend.mode != Mode::L2_DSR {
        return Err(Exit::Pass(PassReason::TtlExpired));
    }
    Ok(())
}

/// Whether a packet is within an MTU, in bytes from the IP header on.
#[inline(always)]
pub fn fits(length: u32, mtu: u32) -> Result<(), Exit> {
    if length > mtu {
        return Err(Exit::TooBig(u16::try_from(mtu).unwrap_or(u16::MAX)));
    }
    Ok(())
}

/// Counts a packet of so many bytes from the IP header on, and sends it on.
#[inline(always)]
pub fn sent<A>(frame: Frame, length: u32, flow: &Flow<A>, hop: Hop) -> Result<Sent, Exit> {
    send(frame, length, (flow.backend, flow.direction), hop)
}

/// The same of a packet that goes in a direction between a client and a backend.
#[inline(always)]
fn send(frame: Frame, length: u32, (backend, direction): (u32, Direction), hop: Hop) -> Result<Sent, Exit> {
    stats::count_packet(backend, direction, ETHERNET as u32 + length);
    vlan::send(frame, hop)
}
