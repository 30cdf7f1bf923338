//! Flows between IPv4 and IPv6: tables of their own, so that other flows pay nothing for them, and a new IP header.
//!
//! An entry stands in the table of the family of the packets that arrive, and rewrites them to the other; its twin
//! stands in the other family's table. Their life is that of all flows ([`crate::flow_table`]).
//!
//! Both kinds of flows share source addresses and ports. Who claims a port first makes an entry in its own table and
//! then looks into the other's: of two at the same time, one sees the other at least. Until the first flow between families
//! opens, nobody looks into these tables: a number says so, which that flow sets before it claims anything, for good.

use lb_common::{
    abi::{Backend, BackendState, Flow, FlowKey, Hop, Link, Mode, OnDown, Service},
    flow::{Direction, Opening, Phase, Tick, refresh_due},
    net::{Addr4, Addr6, Address, TCP, UDP},
    reason::DropReason,
    rewrite::Rewrite,
    translate::{self, Carried},
    wire::{ETHERNET, Ipv4, Ipv6, TCP_CHECKSUM, UDP_CHECKSUM},
};

use crate::{
    Exit, Sent, Stage,
    family::{Family, Key, V6},
    features, flow_cache,
    flow_table::{self, SOURCE_ATTEMPTS},
    half_open, kernel,
    maps::{self, Choice, FlowRef, NewFlow, Refused},
    packet::{Frame, Window},
    parse::{HEAD_V4, HEAD_V6, Packet},
    pipeline, rewrite, service, stats,
};

const INTERNAL: Exit = Exit::Drop(DropReason::Internal);
const NO_FLOW: Exit = Exit::Divert(Stage::Open);
const MIXED: Exit = Exit::Divert(Stage::Mixed);

/// The family that packets are rewritten to.
type Other<F> = <F as Family>::Other;
/// Its addresses.
type OtherAddr<F> = <Other<F> as Family>::Addr;

/// Whether there is a mixed flow under this key.
#[inline(always)]
pub fn is_known<F: Family>(key: &Key<F>, now: Tick) -> bool {
    maps::mixed_seen() && F::mixed().get(key).is_some_and(|flow| !flow.expires.passed(now))
}

/// Packets of mixed flows are another program's.
#[inline(always)]
pub fn divert_known<F: Family>(packet: &Packet<F>, now: Tick) -> Result<(), Exit> {
    if !is_known::<F>(&packet.key, now) {
        return Ok(());
    }
    maps::set_choice(Choice::NONE);
    Err(MIXED)
}

/// A new flow to a backend of the other family is another program's. The choice goes with it, so that each new flow
/// takes one turn.
#[inline(always)]
pub fn divert_chosen<F: Family>(packet: &Packet<F>, service: Service, index: u32) -> Result<(), Exit> {
    let backend = maps::backend(index).ok_or(INTERNAL)?;
    if backend.mode != Mode::FULL_NAT || backend.family == F::VERSION {
        return Ok(());
    }
    maps::set_choice(Choice::new(index, service::schedules_alone(packet, service)));
    Err(MIXED)
}

/// The flow of a packet that was diverted here.
#[inline(always)]
pub fn find_or_open<F: Family>(
    frame: Frame,
    packet: &Packet<F>,
    now: Tick,
) -> Result<(&'static Flow<OtherAddr<F>>, &'static Backend), Exit> {
    let choice = maps::choice();
    match choice.backend() {
        Some(index) => open::<F>(frame, packet, index, choice.is_alone(), now),
        None => find::<F>(frame, packet, now),
    }
}

#[inline(always)]
fn find<F: Family>(
    frame: Frame,
    packet: &Packet<F>,
    now: Tick,
) -> Result<(&'static Flow<OtherAddr<F>>, &'static Backend), Exit> {
    let flow = F::mixed().get(&packet.key).ok_or(NO_FLOW)?;
    if flow.expires.passed(now) {
        return Err(NO_FLOW);
    }
    let backend = maps::backend(flow.backend).ok_or(INTERNAL)?;
    let from_client = flow.direction == Direction::TO_BACKEND;
    let replaced = packet.flags.opens() && flow.phase.replaceable(backend.mode);
    let orphaned = backend.state != BackendState::UP && backend.on_down != OnDown::KEEP;
    if from_client && (replaced || orphaned) {
        return Err(give_up::<F>(packet, flow, backend));
    }
    if flow.alone != 0 {
        // Replies to one datagram prove nothing, and there is no twin.
        flow.expires = now.plus(backend.timeouts.of(flow.phase));
        return Ok((flow, backend));
    }
    let before = Opening {
        phase: flow.phase,
        answer: flow.answer,
    };
    let after = if before.phase.is_half_open() {
        before.after(half_open::step::<F>(frame, packet, flow.direction)?, true)
    } else {
        Opening {
            phase: before.phase.after(flow.direction, packet.flags),
            ..before
        }
    };
    let client = flow_table::client_link(frame, flow)?;
    let timeout = backend.timeouts.of(after.phase);
    if after != before || client != flow.client || refresh_due(flow.expires, now, timeout) {
        flow.answer = after.answer;
        flow.phase = after.phase;
        flow.expires = now.plus(timeout);
        flow.client = client;
        if !refresh::<F>(&packet.key, flow, before.phase) {
            return Err(NO_FLOW);
        }
    }
    Ok((flow, backend))
}

/// Ends a flow that a new one replaces, or whose backend is down.
#[inline(always)]
fn give_up<F: Family>(packet: &Packet<F>, flow: FlowRef<OtherAddr<F>>, backend: &Backend) -> Exit {
    if flow.phase != Phase::CLOSING {
        stats::count_closed(flow.backend);
    }
    Other::<F>::mixed().remove(&flow.rewrite.reply_key(packet.key.protocol()));
    F::mixed().remove(&packet.key);
    if packet.flags.opens() || (packet.key.protocol() != TCP && backend.on_down == OnDown::MOVE) {
        return NO_FLOW;
    }
    Exit::Reject(DropReason::BackendDown)
}

/// Writes what a packet changed in one entry into the other; false when the flow has lost that to another flow, and ended.
#[inline(never)]
fn refresh<F: Family>(key: &Key<F>, flow: &Flow<OtherAddr<F>>, before: Phase) -> bool {
    if flow.phase == Phase::CLOSING && before != Phase::CLOSING {
        stats::count_closed(flow.backend);
    }
    let twin_key = flow.rewrite.reply_key(key.protocol());
    let whole = match Other::<F>::mixed().get(&twin_key) {
        Some(twin) if twin.rewrite.leads_to(key) => {
            twin.answer = flow.answer;
            twin.phase = flow.phase;
            twin.expires = flow.expires;
            twin.client = flow.client;
            true
        }
        Some(_) => false,
        None => restore_twin::<F>(key, flow, &twin_key),
    };
    if !whole {
        if flow.phase != Phase::CLOSING {
            stats::count_closed(flow.backend);
        }
        F::mixed().remove(key);
    }
    whole
}

/// Makes the evicted twin of an entry anew; false when another flow took its place.
#[inline(always)]
fn restore_twin<F: Family>(key: &Key<F>, flow: &Flow<OtherAddr<F>>, twin_key: &Key<Other<F>>) -> bool {
    let Some(new) = F::new_flow() else { return false };
    if Other::<F>::flows().get(twin_key).is_some() || Other::<F>::half_open_flows().get(twin_key).is_some() {
        return false;
    }
    new.reply = turned::<F>(flow, key);
    new.reply.direction = flow.direction.opposite();
    Other::<F>::mixed().insert(twin_key, &new.reply).is_ok()
}

/// Makes the two entries of a new flow to the chosen backend.
#[inline(always)]
fn open<F: Family>(
    frame: Frame,
    packet: &Packet<F>,
    index: u32,
    alone: bool,
    now: Tick,
) -> Result<(&'static Flow<OtherAddr<F>>, &'static Backend), Exit> {
    let backend = maps::backend(index).ok_or(INTERNAL)?;
    pipeline::lives_on(packet.ttl, backend)?;
    fits::<F>(packet, backend.mtu)?;
    rewrite::possible::<V6>(frame, packet.l4, packet.key.protocol())?;
    let new = Other::<F>::new_flow().ok_or(INTERNAL)?;
    let phase = if packet.key.protocol() == TCP {
        Phase::SYN_SEEN
    } else {
        Phase::UDP_NEW
    };
    new.flow.client = flow_table::link_of(frame)?;
    new.flow.backend = index;
    new.flow.expires = now.plus(backend.timeouts.of(phase));
    new.flow.opened = now;
    new.flow.phase = phase;
    new.flow.direction = Direction::TO_BACKEND;
    new.flow.alone = u8::from(alone);
    new.flow.answer = 0;
    claim::<F>(&packet.key, backend, now, new)?;
    if alone {
        stats::count_datagram(index);
        return Ok((&new.flow, backend));
    }
    settle::<F>(&packet.key, now, new)?;
    // A packet that came at the same time on another CPU may have opened the flow, to another backend.
    Ok((&new.flow, maps::backend(new.flow.backend).ok_or(INTERNAL)?))
}

/// Picks a source port, and makes the entry of the replies.
#[inline(always)]
fn claim<F: Family>(key: &Key<F>, backend: &Backend, now: Tick, new: &mut NewFlow<OtherAddr<F>>) -> Result<(), Exit> {
    maps::see_mixed();
    F::new_flow().ok_or(INTERNAL)?.key = *key;
    new.flow.rewrite.dst = OtherAddr::<F>::from_any(backend.address);
    new.flow.rewrite.dst_port = flow_table::port_of(backend, key.dst_port);
    for attempt in 0..SOURCE_ATTEMPTS {
        match F::attempt_mixed(now, attempt) {
            flow_table::TUPLE_IN_USE => {}
            result => return flow_table::claimed(result),
        }
    }
    Err(Exit::Reject(DropReason::SourcePortsExhausted))
}

/// As [`flow_table::attempt`]. The client's key is in the room of its family, the flow in that of the other.
#[inline(always)]
pub fn attempt<F: Family>(now: Tick, attempt: u32) -> u32 {
    flow_table::attempted(try_source::<F>(now, attempt))
}

#[inline(always)]
fn try_source<F: Family>(now: Tick, attempt: u32) -> Result<bool, Exit> {
    let key = F::new_flow().ok_or(INTERNAL)?.key;
    let new = Other::<F>::new_flow().ok_or(INTERNAL)?;
    let backend = maps::backend(new.flow.backend).ok_or(INTERNAL)?;
    let to = (new.flow.rewrite.dst, new.flow.rewrite.dst_port);
    let source = flow_table::next_source::<Other<F>>(backend, to.1, attempt)?;
    new.flow.rewrite = Rewrite::new(&key, source, to);
    new.reply_key = new.flow.rewrite.reply_key(key.protocol());
    if !claim_reply::<F>(&key, &new.reply_key, &new.flow, now)? {
        return Ok(false);
    }
    if is_taken::<Other<F>>(&new.reply_key, now) {
        Other::<F>::mixed().remove(&new.reply_key);
        return Ok(false);
    }
    flow_cache::forget::<Other<F>>(&new.reply_key);
    Ok(true)
}

/// Whether a flow within the family has the key.
#[inline(always)]
fn is_taken<F: Family>(key: &Key<F>, now: Tick) -> bool {
    F::flows().get(key).is_some_and(|flow| !flow.expires.passed(now))
        || F::half_open_flows()
            .get(key)
            .is_some_and(|flow| !flow.expires.passed(now))
}

/// Makes the entry of the replies; false when another flow has it.
#[inline(always)]
fn claim_reply<F: Family>(
    key: &Key<F>,
    reply_key: &Key<Other<F>>,
    flow: &Flow<OtherAddr<F>>,
    now: Tick,
) -> Result<bool, Exit> {
    let room = F::new_flow().ok_or(INTERNAL)?;
    room.reply = turned::<F>(flow, key);
    room.reply.direction = Direction::TO_CLIENT;
    if insert::<Other<F>>(reply_key, &room.reply)? {
        return Ok(true);
    }
    if let Some(other) = Other::<F>::mixed().get(reply_key)
        && !other.expires.passed(now)
        && !other.rewrite.leads_to(key)
    {
        return Ok(false);
    }
    // Expired, or left over from this very flow.
    Other::<F>::mixed().remove(reply_key);
    insert::<Other<F>>(reply_key, &room.reply)
}

/// Makes the client's entry; where another CPU was faster, gives back the claim and takes over that CPU's flow.
#[inline(always)]
fn settle<F: Family>(key: &Key<F>, now: Tick, new: &mut NewFlow<OtherAddr<F>>) -> Result<(), Exit> {
    if insert::<F>(key, &new.flow)? {
        stats::count_opened(new.flow.backend);
        return Ok(());
    }
    if let Some(other) = F::mixed().get(key) {
        if !other.expires.passed(now) {
            Other::<F>::mixed().remove(&new.reply_key);
            maps::copy_flow(other, &mut new.flow);
            return Ok(());
        }
        if other.phase != Phase::CLOSING {
            stats::count_closed(other.backend);
        }
    }
    F::mixed().remove(key);
    insert::<F>(key, &new.flow)?;
    stats::count_opened(new.flow.backend);
    Ok(())
}

/// Makes an entry; false when there is one.
#[inline(always)]
fn insert<F: Family>(key: &Key<F>, flow: &Flow<OtherAddr<F>>) -> Result<bool, Exit> {
    match F::mixed().insert(key, flow) {
        Ok(()) => Ok(true),
        Err(Refused::Exists) => Ok(false),
        Err(Refused::Full) => Err(Exit::Reject(DropReason::FlowTableFull)),
    }
}

/// The entry of the answers, in the same direction.
#[inline(always)]
fn turned<F: Family>(flow: &Flow<OtherAddr<F>>, key: &FlowKey<F::Addr>) -> Flow<F::Addr> {
    Flow {
        rewrite: flow.rewrite.reply(key),
        client: flow.client,
        backend: flow.backend,
        expires: flow.expires,
        refresh: flow.refresh,
        opened: flow.opened,
        phase: flow.phase,
        direction: flow.direction,
        alone: flow.alone,
        splice: flow.splice,
        beyond: flow.beyond,
        answer: flow.answer,
    }
}

/// Gives the packet the other family's header, as its flow says, and sends it on.
#[inline(always)]
pub fn deliver<F: Family>(
    frame: Frame,
    packet: &Packet<F>,
    flow: &Flow<OtherAddr<F>>,
    backend: &Backend,
) -> Result<Sent, Exit> {
    let link = way::<F>(frame, packet, flow, backend)?;
    let payload = payload(packet);
    let carried = Carried {
        class: F::class(frame).ok_or(INTERNAL)?,
        payload: payload as u16,
        protocol: packet.key.protocol(),
        ttl: packet.ttl - 1,
    };
    rewrite_l4(frame, packet.l4, carried.protocol, &flow.rewrite)?;
    frame
        .move_head(surplus(packet))
        .ok_or(Exit::Drop(DropReason::NoHeadroom))?;
    let ethernet: Window<ETHERNET> = frame.window(0).ok_or(INTERNAL)?;
    ethernet.set_words::<3, 0>(link.addresses);
    ethernet.write::<u16, { ETHERNET - 2 }>(Other::<F>::ETHERTYPE);
    Other::<F>::write_header(frame, carried, &flow.rewrite).ok_or(INTERNAL)?;
    pipeline::sent(frame, Other::<F>::HEADER as u32 + payload, flow, Hop::from(link))
}

/// The way on of a flow's packets, if a packet may take it.
#[inline(always)]
fn way<'a, F: Family>(
    frame: Frame,
    packet: &Packet<F>,
    flow: &'a Flow<OtherAddr<F>>,
    backend: &'a Backend,
) -> Result<&'a Link, Exit> {
    pipeline::lives_on(packet.ttl, backend)?;
    if flow.direction == Direction::TO_BACKEND {
        fits::<F>(packet, backend.mtu)?;
        return Ok(&backend.link);
    }
    if Other::<F>::HEADER as u32 + payload(packet) > features::smallest_mtu() {
        fits::<F>(packet, kernel::mtu(frame, flow.client.ifindex).unwrap_or(u32::MAX))?;
    }
    Ok(&flow.client)
}

/// Whether a packet is within an MTU once it has the other header. What its sender is told is what fits with the header
/// that it has now.
#[inline(always)]
fn fits<F: Family>(packet: &Packet<F>, mtu: u32) -> Result<(), Exit> {
    pipeline::fits(packet.length, mtu.saturating_add_signed(surplus(packet)))
}

/// Bytes of TCP or UDP.
#[inline(always)]
fn payload<F: Family>(packet: &Packet<F>) -> u32 {
    (ETHERNET as u32 + packet.length).saturating_sub(packet.l4 as u32)
}

/// How far the TCP or UDP header is from where it must be; options and extension headers end here.
#[inline(always)]
fn surplus<F: Family>(packet: &Packet<F>) -> i32 {
    packet.l4 as i32 - (ETHERNET + Other::<F>::HEADER) as i32
}

/// Ports and checksum. What goes to IPv6 must have one, what comes from there does.
#[inline(always)]
fn rewrite_l4<A>(frame: Frame, l4: usize, protocol: u8, rewrite: &Rewrite<A>) -> Result<(), Exit> {
    let ports: Window<4> = frame.window(l4).ok_or(INTERNAL)?;
    let checksum = l4 + if protocol == UDP { UDP_CHECKSUM } else { TCP_CHECKSUM };
    let checksum: Window<2> = frame.window(checksum).ok_or(INTERNAL)?;
    let new = rewrite::l4_checksum::<V6>(protocol, checksum.read::<u16, 0>(), rewrite.l4_delta)?;
    checksum.write::<u16, 0>(new);
    let ([s0, s1], [d0, d1]) = (rewrite.src_port.to_wire(), rewrite.dst_port.to_wire());
    ports.set_words::<1, 0>([u32::from_ne_bytes([s0, s1, d0, d1])]);
    Ok(())
}

/// DSCP and ECN of an IPv4 header.
#[inline(always)]
pub fn class_ipv4(frame: Frame) -> Option<u8> {
    let head: Window<HEAD_V4> = frame.window(0)?;
    let [_, class] = head.read::<u16, ETHERNET>().to_ne_bytes();
    Some(class)
}

/// DSCP and ECN of an IPv6 header, which are not aligned to bytes.
#[inline(always)]
pub fn class_ipv6(frame: Frame) -> Option<u8> {
    let head: Window<HEAD_V6> = frame.window(0)?;
    let [a, b] = head.read::<u16, ETHERNET>().to_ne_bytes();
    Some(a << 4 | b >> 4)
}

/// An IPv4 header behind the Ethernet header.
#[inline(always)]
pub fn write_ipv4(frame: Frame, carried: Carried, rewrite: &Rewrite<Addr4>) -> Option<()> {
    let head: Window<HEAD_V4> = frame.window(0)?;
    head.write::<Ipv4, ETHERNET>(translate::ipv4(carried, rewrite.src, rewrite.dst));
    Some(())
}

/// An IPv6 header behind the Ethernet header.
#[inline(always)]
pub fn write_ipv6(frame: Frame, carried: Carried, rewrite: &Rewrite<Addr6>) -> Option<()> {
    let head: Window<HEAD_V6> = frame.window(0)?;
    head.write::<Ipv6, ETHERNET>(translate::ipv6(carried, rewrite.src, rewrite.dst));
    Some(())
}
