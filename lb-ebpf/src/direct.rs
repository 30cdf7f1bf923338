//! Packets that go to the backend that their hash gives, without a look at the flow table: those of services that store flows
//! only where their slot moved lately ([`lb_common::direct`]). It comes before all that knows of flows.

use lb_common::{
    abi::{Backend, BackendState, Flow, Mode, Rule, Service, ServiceFlags},
    direct,
    encap::inner_mtu,
    flow::{Direction, Tick},
    hash,
    net::TCP,
    reason::DropReason,
    schedule,
    wire::ETHERNET,
};

use crate::{
    Exit, Sent, encap,
    family::{Family, Key},
    flow_table, kernel, maps,
    packet::Frame,
    parse::Packet,
    pipeline, rewrite, select, stats, vlan,
};

/// A backend and its index.
pub type Direct = (u32, &'static Backend);

/// The backend of a packet, if its hash alone tells it.
#[inline(always)]
pub fn find<F: Family>(packet: &Packet<F>) -> Option<Direct> {
    if !maps::any_direct() {
        return None;
    }
    let index = slot::<F>(&packet.key)?;
    let backend = maps::backend(index)?;
    // What becomes of the packets of others, those know who know of flows.
    let serves = backend.state == BackendState::UP && !backend.mode.sees_replies();
    serves.then_some((index, backend))
}

/// The slot of a packet, unless it moved.
#[inline(always)]
fn slot<F: Family>(key: &Key<F>) -> Option<u32> {
    let what = direct::what(key.dst_port, key.protocol(), F::VERSION);
    let service = maps::direct_bucket(direct::bucket(key.dst, what))?.find(key.dst, what)?;
    let rotation = maps::rotation(service)?;
    // One that is empty has neither rule.
    let hash = match rotation.rule() {
        Rule::MAGLEV => hash::of_flow(key),
        Rule::SOURCE_HASH => hash::of_client(key.src),
        _ => return None,
    };
    let slot = maps::marked_slot(rotation.base() + schedule::by_hash(hash, rotation.len()))?;
    (!direct::is_moved(slot)).then_some(slot)
}

/// Sends a plain packet on.
#[inline(always)]
pub fn deliver<F: Family>(frame: Frame, packet: &Packet<F>, (index, backend): Direct) -> Result<Sent, Exit> {
    pipeline::lives_on(packet.ttl, backend)?;
    pipeline::fits(packet.length, inner_mtu(backend))?;
    count_opened(packet, index);
    if backend.mode == Mode::L2_DSR {
        rewrite::neighbour(frame, &backend.link)?;
    } else {
        encap::apply::<F>(frame, packet, backend)?;
    }
    stats::count_packet(index, Direction::TO_BACKEND, ETHERNET as u32 + packet.length);
    vlan::send(frame, &backend.link)
}

/// A connection that nothing is stored of is opened by its SYN, and nobody sees it end.
#[inline(always)]
fn count_opened<F: Family>(packet: &Packet<F>, index: u32) {
    if packet.flags.opens() {
        stats::count_datagram(index);
    }
}

/// The flow of a packet as if it were stored, for the stages that go by flows; `None`: it is not one that its hash alone
/// tells the backend of.
#[inline(always)]
pub fn flow<F: Family>(frame: Frame, packet: &Packet<F>) -> Result<Option<&'static mut Flow<F::Addr>>, Exit> {
    let Some((index, backend)) = find::<F>(packet) else {
        return Ok(None);
    };
    let new = F::new_flow().ok_or(Exit::Drop(DropReason::Internal))?;
    flow_table::describe::<F>(frame, packet, (index, backend), kernel::now(), &mut new.flow)?;
    count_opened(packet, index);
    Ok(Some(&mut new.flow))
}

/// The backend that had the slot of a datagram before, for as long as that counts: the datagram may be of a flow that was not
/// stored, and none tells which of them open one.
#[inline(always)]
pub fn going_on<F: Family>(service: Service, packet: &Packet<F>, now: Tick) -> Option<u32> {
    if packet.key.protocol() == TCP || !service.flags.any(ServiceFlags::MOVED_ONLY) {
        return None;
    }
    select::previous::<F>(service, packet, now)
}
