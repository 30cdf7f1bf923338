//! The flow table: finding, opening, refreshing and ending flows.
//!
//! A flow has two entries, one per direction, each under the key of the packets that arrive. They are refreshed
//! together, at most every few seconds, so that most packets write nothing; a refresh also restores an entry whose twin
//! was evicted, and ends a flow whose source port was given to another meanwhile.

use lb_common::{
    abi::{Backend, BackendState, Flow, FlowKey, Link, Mode, OnDown},
    flow::{Direction, Phase, Tick, refresh_due},
    net::{Address, Be16, TCP},
    reason::DropReason,
    rewrite::Rewrite,
    schedule,
    wire::ETHERNET,
};

use crate::{
    Exit, Stage,
    family::{Family, Key},
    maps::{self, FlowRef, NewFlow, Refused},
    packet::{Frame, Window},
    parse::Packet,
    stats,
};

const INTERNAL: Exit = Exit::Drop(DropReason::Internal);

/// How many source ports are tried for a new flow before it is refused.
const SOURCE_ATTEMPTS: u32 = 16;

/// A packet that belongs to no flow, or to one that it may replace.
const NO_FLOW: Exit = Exit::Divert(Stage::Open);

/// The flow of a packet, brought up to date by it.
#[inline(always)]
pub fn find<F: Family>(
    frame: Frame,
    packet: &Packet<F>,
    now: Tick,
) -> Result<(FlowRef<F::Addr>, &'static Backend), Exit> {
    let flow = F::flows().get(&packet.key).ok_or(NO_FLOW)?;
    if flow.expires.passed(now) {
        return Err(NO_FLOW);
    }
    let backend = maps::backend(flow.backend).ok_or(INTERNAL)?;
    let from_client = flow.direction == Direction::TO_BACKEND;
    let replaced = flow.phase == Phase::CLOSING && packet.flags.opens();
    let orphaned = backend.state != BackendState::UP && backend.on_down != OnDown::KEEP;
    if from_client && (replaced || orphaned) {
        return Err(give_up::<F>(packet, flow, backend));
    }
    let phase = flow.phase.after(flow.direction, packet.flags);
    let client = if from_client { link_of(frame)? } else { flow.client };
    if phase != flow.phase || client != flow.client || refresh_due(flow.expires, now, backend.timeouts.of(phase)) {
        let expires = now.plus(backend.timeouts.of(phase));
        if !refresh::<F>(&packet.key, flow, phase, expires, &client) {
            return Err(NO_FLOW);
        }
    }
    Ok((flow, backend))
}

/// Ends a flow that a new one replaces, or whose backend is down. A SYN and a datagram may open the next one.
#[inline(always)]
fn give_up<F: Family>(packet: &Packet<F>, flow: FlowRef<F::Addr>, backend: &Backend) -> Exit {
    end::<F>(&packet.key, flow);
    if packet.flags.opens() || (packet.key.protocol() != TCP && backend.on_down == OnDown::MOVE) {
        return NO_FLOW;
    }
    Exit::Reject(DropReason::BackendDown)
}

/// Removes both entries of a flow.
#[inline(always)]
fn end<F: Family>(key: &Key<F>, flow: FlowRef<F::Addr>) {
    if flow.phase != Phase::CLOSING {
        stats::count_closed(flow.backend);
    }
    let twin = flow.rewrite.reply_key(key.protocol());
    F::flows().remove(&twin);
    F::flows().remove(key);
}

/// The way back to where a frame came from.
#[inline(always)]
fn link_of(frame: Frame) -> Result<Link, Exit> {
    let ethernet: Window<ETHERNET> = frame.window(0).ok_or(INTERNAL)?;
    Ok(Link::back(ethernet.words::<3, 0>(), frame.ifindex()))
}

/// Writes what a packet changed into both entries; false when the flow has lost its twin to another flow.
#[inline(never)]
fn refresh<F: Family>(key: &Key<F>, flow: &mut Flow<F::Addr>, phase: Phase, expires: Tick, client: &Link) -> bool {
    if phase == Phase::CLOSING && flow.phase != Phase::CLOSING {
        stats::count_closed(flow.backend);
    }
    flow.phase = phase;
    flow.expires = expires;
    flow.client = *client;
    let twin_key = flow.rewrite.reply_key(key.protocol());
    let Some(twin) = F::flows().get(&twin_key) else {
        return restore_twin::<F>(key, flow, &twin_key);
    };
    if !twin.rewrite.leads_to(key) {
        if phase != Phase::CLOSING {
            stats::count_closed(flow.backend);
        }
        F::flows().remove(key);
        return false;
    }
    twin.phase = phase;
    twin.expires = expires;
    twin.client = *client;
    true
}

/// Makes the evicted twin of an entry anew; false when another flow took its place.
#[inline(always)]
fn restore_twin<F: Family>(key: &Key<F>, flow: &Flow<F::Addr>, twin_key: &Key<F>) -> bool {
    let Some(new) = F::new_flow() else { return false };
    new.reply = *flow;
    new.reply.rewrite = flow.rewrite.reply(key);
    new.reply.direction = flow.direction.opposite();
    F::flows().insert(twin_key, &new.reply).is_ok()
}

/// Makes the two entries of a new flow to the chosen backend.
#[inline(always)]
pub fn open<F: Family>(
    frame: Frame,
    packet: &Packet<F>,
    index: u32,
    now: Tick,
) -> Result<(&'static Flow<F::Addr>, &'static Backend), Exit> {
    let backend = maps::backend(index).ok_or(INTERNAL)?;
    let new = F::new_flow().ok_or(INTERNAL)?;
    let phase = if packet.key.protocol() == TCP {
        Phase::SYN_SEEN
    } else {
        Phase::UDP
    };
    let to = (F::Addr::from_any(backend.address), backend.port);
    // Field by field: a whole entry on the stack would not fit beside the rest.
    new.flow.rewrite = Rewrite::new(&packet.key, (packet.key.src, packet.key.src_port), to);
    new.flow.client = link_of(frame)?;
    new.flow.backend = index;
    new.flow.expires = now.plus(backend.timeouts.of(phase));
    new.flow.opened = now;
    new.flow.phase = phase;
    new.flow.direction = Direction::TO_BACKEND;
    claim::<F>(&packet.key, backend, now, new)?;
    settle::<F>(&packet.key, now, new)?;
    // A packet that came at the same time on another CPU may have opened the flow, to another backend.
    Ok((&new.flow, maps::backend(new.flow.backend).ok_or(INTERNAL)?))
}

/// Makes the entry of the replies, which claims the source port; in `full-nat` mode it picks one.
#[inline(always)]
fn claim<F: Family>(key: &Key<F>, backend: &Backend, now: Tick, new: &mut NewFlow<F::Addr>) -> Result<(), Exit> {
    if backend.mode == Mode::NAT {
        return if claim_reply::<F>(key, now, new)? {
            Ok(())
        } else {
            Err(Exit::Reject(DropReason::TupleInUse))
        };
    }
    for _ in 0..SOURCE_ATTEMPTS {
        let source = next_source::<F>(backend)?;
        new.flow.rewrite = Rewrite::new(key, source, (new.flow.rewrite.dst, new.flow.rewrite.dst_port));
        if claim_reply::<F>(key, now, new)? {
            return Ok(());
        }
    }
    Err(Exit::Reject(DropReason::SourcePortsExhausted))
}

/// The next source address and port in turn, so that a port rests as long as possible before it is used again.
#[inline(always)]
fn next_source<F: Family>(backend: &Backend) -> Result<(F::Addr, Be16), Exit> {
    let cursor = schedule::source_cursor(backend.address, backend.port);
    let ticket = maps::next_source(cursor).ok_or(INTERNAL)?;
    let ports = u64::from(backend.source_ports);
    let turn = ticket.checked_div(ports).ok_or(INTERNAL)?;
    let port = u64::from(backend.first_source_port.get()) + (ticket - turn * ports);
    let place = turn.checked_rem(u64::from(backend.sources)).ok_or(INTERNAL)?;
    let address = maps::source(backend.first_source + place as u32).ok_or(INTERNAL)?;
    Ok((F::Addr::from_any(address), Be16::new(port as u16)))
}

/// Makes the entry of the replies; false when another flow has it.
#[inline(always)]
fn claim_reply<F: Family>(key: &Key<F>, now: Tick, new: &mut NewFlow<F::Addr>) -> Result<bool, Exit> {
    new.reply_key = new.flow.rewrite.reply_key(key.protocol());
    new.reply = Flow {
        rewrite: new.flow.rewrite.reply(key),
        direction: Direction::TO_CLIENT,
        ..new.flow
    };
    if insert::<F>(&new.reply_key, &new.reply)? {
        return Ok(true);
    }
    if let Some(other) = F::flows().get(&new.reply_key)
        && !other.expires.passed(now)
        && !other.rewrite.leads_to(key)
    {
        return Ok(false);
    }
    // Expired, or left over from this very flow. If another CPU claims it first, the next insert says so.
    F::flows().remove(&new.reply_key);
    insert::<F>(&new.reply_key, &new.reply)
}

/// Makes the client's entry; where another CPU was faster, gives back the claim and takes over that CPU's flow.
#[inline(always)]
fn settle<F: Family>(key: &Key<F>, now: Tick, new: &mut NewFlow<F::Addr>) -> Result<(), Exit> {
    if insert::<F>(key, &new.flow)? {
        stats::count_opened(new.flow.backend);
        return Ok(());
    }
    if let Some(other) = F::flows().get(key) {
        if !other.expires.passed(now) {
            // In `nat` mode both CPUs claimed the same entry for the replies, which that flow needs.
            if other.rewrite.reply_key(key.protocol()) != new.reply_key {
                F::flows().remove(&new.reply_key);
            }
            new.flow = *other;
            return Ok(());
        }
        if other.phase != Phase::CLOSING {
            stats::count_closed(other.backend);
        }
    }
    F::flows().remove(key);
    insert::<F>(key, &new.flow)?;
    stats::count_opened(new.flow.backend);
    Ok(())
}

/// Makes an entry; false when there is one.
#[inline(always)]
fn insert<F: Family>(key: &FlowKey<F::Addr>, flow: &Flow<F::Addr>) -> Result<bool, Exit> {
    match F::flows().insert(key, flow) {
        Ok(()) => Ok(true),
        Err(Refused::Exists) => Ok(false),
        Err(Refused::Full) => Err(Exit::Reject(DropReason::FlowTableFull)),
    }
}
