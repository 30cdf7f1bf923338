//! The flow tables: finding, opening, refreshing and ending flows.
//!
//! A flow has two entries, one per direction, each under the key of the packets that arrive. They are refreshed
//! together, at most every few seconds, so that most packets write nothing; a refresh also restores an entry whose twin
//! was evicted, and ends a flow whose source port was given to another meanwhile. In modes whose replies do not come back
//! this way, a flow has the client's entry alone.
//!
//! There are two tables: a flow opens in that of the half-open ones, and moves to that of the established ones when it
//! proves real ([`crate::half_open`]). What forged packets make can so push out other half-open flows only.

use lb_common::{
    abi::{Backend, BackendState, Flow, Link, Mode, OnDown, Service},
    flow::{Direction, Phase, Tick},
    net::{Address, Be16, TCP},
    reason::DropReason,
    rewrite::Rewrite,
    schedule,
    splice::Splice,
    wire::ETHERNET,
};

use crate::{
    Exit,
    family::{Family, Key},
    flow_cache,
    maps::{self, FlowRef, Flows, NewFlow, Refused},
    mixed,
    packet::{Frame, Window},
    parse::{self, Packet},
    service, stats, vlan,
};

const INTERNAL: Exit = Exit::Drop(DropReason::Internal);

/// How many source ports are tried for a new flow before it is refused.
pub const SOURCE_ATTEMPTS: u32 = 16;
/// How many of them are side by side. The others are far from each other.
const SOURCE_ATTEMPTS_IN_TURN: u32 = 4;
const SOURCE_LEAPS: u32 = SOURCE_ATTEMPTS - SOURCE_ATTEMPTS_IN_TURN;

/// One of the two tables.
pub trait Table {
    /// The other one.
    type Other: Table;
    /// That of a family.
    fn of<F: Family>() -> Flows<F::Addr>;
}

/// The table of the flows that proved real.
pub struct Established;

/// The table of the flows that open.
pub struct HalfOpen;

impl Table for Established {
    type Other = HalfOpen;

    #[inline(always)]
    fn of<F: Family>() -> Flows<F::Addr> {
        F::flows()
    }
}

impl Table for HalfOpen {
    type Other = Established;

    #[inline(always)]
    fn of<F: Family>() -> Flows<F::Addr> {
        F::half_open_flows()
    }
}

/// A flow, and the backend that it belongs to.
pub type Found<F> = (FlowRef<<F as Family>::Addr>, &'static Backend);

/// The established flow of a packet, brought up to date by it.
#[inline(always)]
pub fn find<F: Family>(frame: Frame, packet: &Packet<F>, now: Tick) -> Result<Option<Found<F>>, Exit> {
    let Some((flow, backend)) = look_up::<F, Established>(packet, now)? else {
        return Ok(None);
    };
    let phase = flow.phase.after(flow.direction, packet.flags);
    let moved = has_moved(frame, flow)?;
    if phase != flow.phase || flow.refresh.passed(now) || moved {
        let client = client_link(frame, flow)?;
        let before = flow.phase;
        flow.phase = phase;
        flow.extend(now, backend.timeouts.of(phase));
        flow.client = client;
        if moved {
            // A packet from where the client was before has to move it back. Written before, so that no copy is made of the old.
            flow_cache::forget::<F>(&packet.key);
        }
        if !refresh::<F, Established>(&packet.key, flow, backend.mode, before, now) {
            return Ok(None);
        }
    }
    Ok(Some((flow, backend)))
}

/// The flow of a packet, if it has one that goes on.
#[inline(always)]
pub fn look_up<F: Family, T: Table>(packet: &Packet<F>, now: Tick) -> Result<Option<Found<F>>, Exit> {
    let Some(flow) = T::of::<F>().get(&packet.key) else {
        return Ok(None);
    };
    if flow.expires.passed(now) {
        return Ok(None);
    }
    let backend = maps::backend(flow.backend).ok_or(INTERNAL)?;
    let from_client = flow.direction == Direction::TO_BACKEND;
    let replaced = packet.flags.opens() && flow.phase.replaceable(backend.mode);
    let orphaned = backend.state != BackendState::UP && backend.on_down != OnDown::KEEP;
    if from_client && (replaced || orphaned) {
        give_up::<F, T>(packet, flow, backend)?;
        return Ok(None);
    }
    Ok(Some((flow, backend)))
}

/// The flow of a key, in either table, for what is about it but is none of its packets: nothing is changed by that.
#[inline(always)]
pub fn peek<F: Family>(key: &Key<F>, now: Tick) -> Option<FlowRef<F::Addr>> {
    let goes_on = |flow: &FlowRef<F::Addr>| !flow.expires.passed(now);
    let half_open = || F::half_open_flows().get(key).filter(goes_on);
    F::flows().get(key).filter(goes_on).or_else(half_open)
}

/// Ends a flow that a new one replaces, or whose backend is down. A SYN and a datagram may open the next one.
#[inline(always)]
fn give_up<F: Family, T: Table>(packet: &Packet<F>, flow: FlowRef<F::Addr>, backend: &Backend) -> Result<(), Exit> {
    end::<F, T>(&packet.key, flow, backend.mode);
    if packet.flags.opens() || (packet.key.protocol() != TCP && backend.on_down == OnDown::MOVE) {
        return Ok(());
    }
    Err(Exit::Reject(DropReason::BackendDown))
}

/// Removes the entries of a flow.
#[inline(always)]
fn end<F: Family, T: Table>(key: &Key<F>, flow: FlowRef<F::Addr>, mode: Mode) {
    if flow.phase != Phase::CLOSING {
        stats::count_closed(flow.backend);
    }
    if mode.sees_replies() {
        let twin = flow.rewrite.reply_key(key.protocol());
        T::of::<F>().remove(&twin);
        flow_cache::forget::<F>(&twin);
    }
    T::of::<F>().remove(key);
    flow_cache::forget::<F>(key);
}

/// Whether a packet comes from elsewhere than its flow's client did before.
#[inline(always)]
fn has_moved<A>(frame: Frame, flow: &Flow<A>) -> Result<bool, Exit> {
    if flow.direction != Direction::TO_BACKEND {
        return Ok(false);
    }
    let ethernet: Window<ETHERNET> = frame.window(0).ok_or(INTERNAL)?;
    Ok(!parse::leads_back(ethernet, flow.client.addresses)
        || frame.ifindex() != flow.client.ifindex
        || vlan::of(frame) != flow.client.vlans)
}

/// Where the client of a flow is: where its packet came from, and of a reply, what is known.
#[inline(always)]
pub fn client_link<A>(frame: Frame, flow: &Flow<A>) -> Result<Link, Exit> {
    if flow.direction == Direction::TO_BACKEND {
        link_of(frame)
    } else {
        Ok(flow.client)
    }
}

/// The way back to where a frame came from.
#[inline(always)]
pub fn link_of(frame: Frame) -> Result<Link, Exit> {
    let ethernet: Window<ETHERNET> = frame.window(0).ok_or(INTERNAL)?;
    Ok(Link {
        addresses: parse::way_back(ethernet),
        ifindex: frame.ifindex(),
        vlans: vlan::of(frame),
    })
}

/// Writes what a packet changed in one entry into the other, if there is another; false when the flow has lost that to another flow, and ended.
#[inline(never)]
pub fn refresh<F: Family, T: Table>(key: &Key<F>, flow: &Flow<F::Addr>, mode: Mode, before: Phase, now: Tick) -> bool {
    if flow.phase == Phase::CLOSING && before != Phase::CLOSING {
        stats::count_closed(flow.backend);
    }
    if flow.alone != 0 || !mode.sees_replies() {
        return true;
    }
    let twin_key = flow.rewrite.reply_key(key.protocol());
    let whole = match T::of::<F>().get(&twin_key) {
        Some(twin) if twin.rewrite.leads_to(key) => {
            twin.answer = flow.answer;
            twin.phase = flow.phase;
            twin.expires = flow.expires;
            twin.refresh = flow.refresh;
            if twin.client != flow.client {
                twin.client = flow.client;
                flow_cache::forget::<F>(&twin_key);
            }
            // Never back: another CPU may have joined the halves meanwhile.
            if flow.splice == Splice::JOINED {
                twin.beyond = flow.beyond;
                twin.splice = flow.splice;
            }
            true
        }
        Some(_) => false,
        None => restore_twin::<F, T>(key, flow, &twin_key, now),
    };
    if !whole {
        lose::<F, T>(key, flow);
    }
    whole
}

/// Removes the entry of a flow that has lost its twin to another flow.
#[inline(always)]
pub fn lose<F: Family, T: Table>(key: &Key<F>, flow: &Flow<F::Addr>) {
    if flow.phase != Phase::CLOSING {
        stats::count_closed(flow.backend);
    }
    T::of::<F>().remove(key);
    flow_cache::forget::<F>(key);
}

/// Makes the evicted twin of an entry anew; false when another flow took its place.
#[inline(always)]
fn restore_twin<F: Family, T: Table>(key: &Key<F>, flow: &Flow<F::Addr>, twin_key: &Key<F>, now: Tick) -> bool {
    let Some(new) = F::new_flow() else { return false };
    make_twin::<F>(key, flow, &mut new.reply);
    if T::of::<F>().insert(twin_key, &new.reply).is_err() {
        return false;
    }
    flow_cache::forget::<F>(twin_key);
    keep_claim::<F, T>(key, twin_key, now) && keep_from_mixed::<F, T>(twin_key, now)
}

/// The entry of the other direction.
#[inline(always)]
pub fn make_twin<F: Family>(key: &Key<F>, flow: &Flow<F::Addr>, twin: &mut Flow<F::Addr>) {
    *twin = *flow;
    twin.rewrite = flow.rewrite.reply(key);
    twin.direction = flow.direction.opposite();
}

/// Whether an entry that was just made under a `claimed` key may stay: false, and it is taken back, when a flow other than
/// that of `key` has the key in the other table. Whoever claims a key writes it into one table first and looks into the
/// other one then; of two that do so at the same time, one at least sees the other.
#[inline(always)]
pub fn keep_claim<F: Family, T: Table>(key: &Key<F>, claimed: &Key<F>, now: Tick) -> bool {
    let Some(other) = T::Other::of::<F>().get(claimed) else {
        return true;
    };
    if other.rewrite.leads_to(key) || other.expires.passed(now) {
        return true;
    }
    T::of::<F>().remove(claimed);
    false
}

/// As [`keep_claim`], beside the flows between families, which share source ports with those of this one.
#[inline(always)]
fn keep_from_mixed<F: Family, T: Table>(claimed: &Key<F>, now: Tick) -> bool {
    if !mixed::is_known::<F>(claimed, now) {
        return true;
    }
    T::of::<F>().remove(claimed);
    false
}

/// Makes the entries of a new flow to the chosen backend: of a datagram that is scheduled by itself that of the replies
/// alone, if they come this way.
#[inline(always)]
pub fn open<F: Family>(
    frame: Frame,
    packet: &Packet<F>,
    service: Service,
    index: u32,
    now: Tick,
) -> Result<Found<F>, Exit> {
    let backend = maps::backend(index).ok_or(INTERNAL)?;
    let new = F::new_flow().ok_or(INTERNAL)?;
    describe::<F>(frame, packet, (index, backend), now, &mut new.flow)?;
    new.flow.alone = u8::from(service::schedules_alone(packet, service));
    new.key = packet.key;
    if backend.mode.sees_replies() {
        claimed(F::claim(now))?;
    }
    // Taken anew, because the claim worked on it.
    let new = F::new_flow().ok_or(INTERNAL)?;
    if backend.mode.sees_replies() {
        flow_cache::forget::<F>(&new.reply_key);
    }
    if new.flow.alone != 0 {
        stats::count_datagram(index);
        return Ok((&mut new.flow, backend));
    }
    settle::<F>(&packet.key, backend.mode, now, new)?;
    // A packet that came at the same time on another CPU may have opened the flow, to another backend.
    let backend = maps::backend(new.flow.backend).ok_or(INTERNAL)?;
    Ok((&mut new.flow, backend))
}

/// Fills in a new flow from the client's side, with the client's own source address.
#[inline(always)]
pub fn describe<F: Family>(
    frame: Frame,
    packet: &Packet<F>,
    (index, backend): (u32, &Backend),
    now: Tick,
    flow: &mut Flow<F::Addr>,
) -> Result<(), Exit> {
    let phase = if packet.key.protocol() == TCP {
        Phase::SYN_SEEN
    } else {
        Phase::UDP_NEW
    };
    // Where replies are not seen, the packet keeps its addresses and ports.
    let to = if backend.mode.sees_replies() {
        let address = F::Addr::from_any(backend.address);
        (address, port_of(backend, packet.key.dst_port))
    } else {
        (packet.key.dst, packet.key.dst_port)
    };
    // Field by field: a whole entry on the stack would not fit beside the rest.
    flow.rewrite = Rewrite::new(&packet.key, (packet.key.src, packet.key.src_port), to);
    flow.client = link_of(frame)?;
    flow.backend = index;
    flow.expires = now.plus(backend.timeouts.of(phase));
    flow.refresh = now;
    flow.opened = now;
    flow.phase = phase;
    flow.direction = Direction::TO_BACKEND;
    flow.alone = 0;
    flow.answer = 0;
    flow.splice = Splice::NONE;
    flow.beyond = 0;
    Ok(())
}

/// The port that a flow reaches its backend at: the backend's own, or the one that the client asked for.
#[inline(always)]
pub fn port_of(backend: &Backend, asked: Be16) -> Be16 {
    if backend.port.get() == 0 { asked } else { backend.port }
}

/// Makes the entry of the replies of the new flow in this CPU's room, which claims the source port; in `full-nat` mode it picks
/// one. What came of it is a number, for [`claimed`], because it crosses a function with a global name: the verifier goes through
/// such a function once, and not once for each state that a packet may have left the program in.
#[inline(always)]
pub fn claim<F: Family>(now: Tick) -> u32 {
    match try_claim::<F>(now) {
        Ok(()) => CLAIMED,
        Err(Exit::Reject(DropReason::TupleInUse)) => TUPLE_IN_USE,
        Err(Exit::Reject(DropReason::SourcePortsExhausted)) => EXHAUSTED,
        Err(Exit::Reject(_)) => TABLE_FULL,
        Err(_) => BROKEN,
    }
}

const CLAIMED: u32 = 0;
/// The next attempt may do better.
pub const TUPLE_IN_USE: u32 = 1;
const EXHAUSTED: u32 = 2;
const TABLE_FULL: u32 = 3;
const BROKEN: u32 = 4;

/// What [`claim`] said.
#[inline(always)]
pub fn claimed(result: u32) -> Result<(), Exit> {
    match result {
        CLAIMED => Ok(()),
        TUPLE_IN_USE => Err(Exit::Reject(DropReason::TupleInUse)),
        EXHAUSTED => Err(Exit::Reject(DropReason::SourcePortsExhausted)),
        TABLE_FULL => Err(Exit::Reject(DropReason::FlowTableFull)),
        _ => Err(INTERNAL),
    }
}

#[inline(always)]
fn try_claim<F: Family>(now: Tick) -> Result<(), Exit> {
    let new = F::new_flow().ok_or(INTERNAL)?;
    let backend = maps::backend(new.flow.backend).ok_or(INTERNAL)?;
    if backend.mode == Mode::NAT {
        return if claim_reply::<F>(now, new)? {
            Ok(())
        } else {
            Err(Exit::Reject(DropReason::TupleInUse))
        };
    }
    for attempt in 0..SOURCE_ATTEMPTS {
        match F::attempt(now, attempt) {
            TUPLE_IN_USE => {}
            result => return claimed(result),
        }
    }
    Err(Exit::Reject(DropReason::SourcePortsExhausted))
}

/// Tries a source address and port for the new flow in this CPU's room; attempts count from 0. As with [`claim`], what came of
/// it is a number, for [`claimed`]: the verifier is not to go through it once for each turn of the loop.
#[inline(always)]
pub fn attempt<F: Family>(now: Tick, attempt: u32) -> u32 {
    attempted(try_source::<F>(now, attempt))
}

/// Whether an attempt was one that counts, as a number for [`claimed`].
#[inline(always)]
pub fn attempted(result: Result<bool, Exit>) -> u32 {
    match result {
        Ok(true) => CLAIMED,
        Ok(false) => TUPLE_IN_USE,
        Err(Exit::Reject(_)) => TABLE_FULL,
        Err(_) => BROKEN,
    }
}

#[inline(always)]
fn try_source<F: Family>(now: Tick, attempt: u32) -> Result<bool, Exit> {
    let new = F::new_flow().ok_or(INTERNAL)?;
    let backend = maps::backend(new.flow.backend).ok_or(INTERNAL)?;
    let source = next_source::<F>(backend, new.flow.rewrite.dst_port, attempt)?;
    new.flow.rewrite = Rewrite::new(&new.key, source, (new.flow.rewrite.dst, new.flow.rewrite.dst_port));
    claim_reply::<F>(now, new)
}

/// The next source address and port in turn, so that a port rests as long as possible before it is used again. Connections
/// that were opened one after the other and stay have their ports side by side; after some attempts the others leap over the
/// whole range, so that a long run of them does not look as if all were in use.
#[inline(always)]
pub fn next_source<F: Family>(backend: &Backend, port: Be16, attempt: u32) -> Result<(F::Addr, Be16), Exit> {
    let cursor = schedule::source_cursor(backend.address, port);
    let ports = u64::from(backend.source_ports);
    let leaps = (attempt + 1).saturating_sub(SOURCE_ATTEMPTS_IN_TURN);
    let leap = ports * u64::from(backend.sources) / u64::from(SOURCE_LEAPS + 1) * u64::from(leaps);
    let ticket = maps::next_source(cursor).ok_or(INTERNAL)? + leap;
    let turn = ticket.checked_div(ports).ok_or(INTERNAL)?;
    let port = u64::from(backend.first_source_port.get()) + (ticket - turn * ports);
    let place = turn.checked_rem(u64::from(backend.sources)).ok_or(INTERNAL)?;
    let address = maps::source(backend.first_source + place as u32).ok_or(INTERNAL)?;
    Ok((F::Addr::from_any(address), Be16::new(port as u16)))
}

/// Makes the entry of the replies; false when another flow has it.
#[inline(always)]
fn claim_reply<F: Family>(now: Tick, new: &mut NewFlow<F::Addr>) -> Result<bool, Exit> {
    new.reply_key = new.flow.rewrite.reply_key(new.key.protocol());
    make_twin::<F>(&new.key, &new.flow, &mut new.reply);
    if !insert::<F, HalfOpen>(&new.reply_key, &new.reply)? {
        if let Some(other) = F::half_open_flows().get(&new.reply_key)
            && !other.expires.passed(now)
            && !other.rewrite.leads_to(&new.key)
        {
            return Ok(false);
        }
        // Expired, or left over from this very flow. If another CPU claims it first, the next insert says so.
        F::half_open_flows().remove(&new.reply_key);
        if !insert::<F, HalfOpen>(&new.reply_key, &new.reply)? {
            return Ok(false);
        }
    }
    if !keep_claim::<F, HalfOpen>(&new.key, &new.reply_key, now) || !keep_from_mixed::<F, HalfOpen>(&new.reply_key, now)
    {
        return Ok(false);
    }
    Ok(true)
}

/// Makes the client's entry; where another CPU was faster, gives back the claim and takes over that CPU's flow.
#[inline(always)]
fn settle<F: Family>(key: &Key<F>, mode: Mode, now: Tick, new: &mut NewFlow<F::Addr>) -> Result<(), Exit> {
    if insert::<F, HalfOpen>(key, &new.flow)? {
        stats::count_opened(new.flow.backend);
        return Ok(());
    }
    if let Some(other) = F::half_open_flows().get(key) {
        if !other.expires.passed(now) {
            // In `nat` mode both CPUs claimed the same entry for the replies, which that flow needs.
            if mode.sees_replies() && other.rewrite.reply_key(key.protocol()) != new.reply_key {
                F::half_open_flows().remove(&new.reply_key);
            }
            maps::copy_flow(other, &mut new.flow);
            return Ok(());
        }
        if other.phase != Phase::CLOSING {
            stats::count_closed(other.backend);
        }
    }
    F::half_open_flows().remove(key);
    insert::<F, HalfOpen>(key, &new.flow)?;
    stats::count_opened(new.flow.backend);
    Ok(())
}

/// Makes an entry; false when there is one.
#[inline(always)]
pub fn insert<F: Family, T: Table>(key: &Key<F>, flow: &Flow<F::Addr>) -> Result<bool, Exit> {
    match T::of::<F>().insert(key, flow) {
        Ok(()) => Ok(true),
        Err(Refused::Exists) => Ok(false),
        Err(Refused::Full) => Err(Exit::Reject(DropReason::FlowTableFull)),
    }
}
