//! Half-open flows: those that one forged packet can have made. They prove real by what a forger cannot send
//! ([`Opening::after`]), and move to the table of the established flows then.
//!
//! A handshake in a mode that sees replies takes 10 look-ups in the hash tables of flows and services, 4 inserts and 2
//! removals: SYN 4 and 2 inserts, SYN-ACK 3, the client's ACK 3, 2 inserts and 2 removals. Where there ever was a flow between
//! families, it takes 4 more, in the tables of those: SYN 2, SYN-ACK 1, ACK 1.

use lb_common::{
    abi::{Backend, Flow},
    flow::{Direction, Opening, Phase, Step, Tick, refresh_due},
    net::TCP,
    reason::DropReason,
    wire,
};

use crate::{
    Exit,
    family::{Family, Key},
    flow_cache,
    flow_table::{self, Established, Found, HalfOpen},
    maps::{self, NewFlow},
    packet::{Frame, Window},
    parse::Packet,
    stats,
};

const INTERNAL: Exit = Exit::Drop(DropReason::Internal);

/// The half-open flow of a packet, brought up to date by it, and established if that proves it real.
#[inline(always)]
pub fn find<F: Family>(frame: Frame, packet: &Packet<F>, now: Tick) -> Result<Option<Found<F>>, Exit> {
    let Some((flow, backend)) = flow_table::look_up::<F, HalfOpen>(packet, now)? else {
        return Ok(None);
    };
    if flow.alone != 0 {
        // Replies to one datagram prove nothing, and there is no twin.
        flow.expires = now.plus(backend.timeouts.of(flow.phase));
        return Ok(Some((flow, backend)));
    }
    let before = Opening {
        phase: flow.phase,
        answer: flow.answer,
    };
    let step = step::<F>(frame, packet, flow.direction)?;
    let after = before.after(step, backend.mode.sees_replies());
    let client = flow_table::client_link(frame, flow)?;
    let timeout = backend.timeouts.of(after.phase);
    let changed = after != before || client != flow.client;
    if !changed && !refresh_due(flow.expires, now, timeout) {
        return Ok(Some((flow, backend)));
    }
    // Another CPU that reads the phase reads the answer that belongs to it.
    flow.answer = after.answer;
    if after.phase.is_half_open() || after.phase == Phase::CLOSING {
        flow.phase = after.phase;
        flow.expires = now.plus(timeout);
        flow.client = client;
        let whole = flow_table::refresh::<F, HalfOpen>(&packet.key, flow, backend.mode, before.phase, now);
        return Ok(whole.then_some((flow, backend)));
    }
    let new = F::new_flow().ok_or(INTERNAL)?;
    maps::copy_flow(flow, &mut new.flow);
    new.flow.phase = after.phase;
    new.flow.extend(now, timeout);
    new.flow.client = client;
    match establish::<F>(&packet.key, backend, now, new) {
        // The copy: memory of the entry may be another flow's by now.
        Ok(true) => Ok(Some((&mut new.flow, backend))),
        Ok(false) => {
            flow_table::lose::<F, HalfOpen>(&packet.key, flow);
            Ok(None)
        }
        // No room among the established ones: it goes on here.
        Err(_) => Ok(Some((flow, backend))),
    }
}

/// Makes the entries of a flow that a packet in its middle is of, among the established ones.
#[inline(always)]
pub fn take_up<F: Family>(frame: Frame, packet: &Packet<F>, index: u32, now: Tick) -> Result<Found<F>, Exit> {
    let backend = maps::backend(index).ok_or(INTERNAL)?;
    let new = F::new_flow().ok_or(INTERNAL)?;
    flow_table::describe::<F>(frame, packet, (index, backend), now, &mut new.flow)?;
    new.flow.phase = Phase::taken_up(packet.flags);
    new.flow.extend(now, backend.timeouts.of(new.flow.phase));
    if !establish::<F>(&packet.key, backend, now, new)? {
        return Err(Exit::Reject(DropReason::TupleInUse));
    }
    if backend.mode.sees_replies() {
        flow_cache::forget::<F>(&new.reply_key);
    }
    stats::count_opened(index);
    Ok((&mut new.flow, backend))
}

/// What of the packet counts while its flow opens.
#[inline(always)]
pub fn step<F: Family>(frame: Frame, packet: &Packet<F>, direction: Direction) -> Result<Step, Exit> {
    let mut step = Step {
        direction,
        flags: packet.flags,
        seq: 0,
        ack: 0,
    };
    if packet.key.protocol() == TCP {
        let numbers: Window<8> = frame.window(packet.l4 + wire::TCP_SEQUENCE).ok_or(INTERNAL)?;
        let [seq, ack] = numbers.words::<2, 0>();
        (step.seq, step.ack) = (u32::from_be(seq), u32::from_be(ack));
    }
    Ok(step)
}

/// Moves a flow to the table of the established ones. The new entries are there before the old ones go, so that a packet
/// that looks into this table first, and into that one then, finds the flow. False: another flow has its replies.
#[inline(always)]
pub fn establish<F: Family>(
    key: &Key<F>,
    backend: &Backend,
    now: Tick,
    new: &mut NewFlow<F::Addr>,
) -> Result<bool, Exit> {
    new.reply_key = new.flow.rewrite.reply_key(key.protocol());
    if backend.mode.sees_replies() {
        flow_table::make_twin::<F>(key, &new.flow, &mut new.reply);
        let made = publish::<F>(&new.reply_key, &new.reply, key, now)?;
        if !made || !flow_table::keep_claim::<F, Established>(key, &new.reply_key, now) {
            return Ok(false);
        }
    }
    if !publish::<F>(key, &new.flow, &new.reply_key, now)? {
        return Ok(false);
    }
    if backend.mode.sees_replies() {
        F::half_open_flows().remove(&new.reply_key);
    }
    F::half_open_flows().remove(key);
    Ok(true)
}

/// Makes an entry among the established flows, unless it is there: another CPU may do the same. False: the key is that of
/// another flow.
#[inline(always)]
fn publish<F: Family>(key: &Key<F>, flow: &Flow<F::Addr>, twin: &Key<F>, now: Tick) -> Result<bool, Exit> {
    if flow_table::insert::<F, Established>(key, flow)? {
        return Ok(true);
    }
    if let Some(other) = F::flows().get(key) {
        if !other.expires.passed(now) {
            return Ok(other.rewrite.leads_to(twin));
        }
        if other.phase != Phase::CLOSING && other.direction == Direction::TO_BACKEND {
            stats::count_closed(other.backend);
        }
    }
    F::flows().remove(key);
    flow_table::insert::<F, Established>(key, flow)
}
