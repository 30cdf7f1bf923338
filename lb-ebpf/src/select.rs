//! Which backend a new flow goes to.

use lb_common::{
    abi::{Backend, BackendState, Mode, OnDown, Rotation, Rule, Service},
    flow::Tick,
    hash,
    net::TCP,
    reason::DropReason,
    schedule::{self, ATTEMPTS, COMPARED, Load},
};

use crate::{Exit, affinity, family::Family, kernel, maps, parse::Packet};

const INTERNAL: Exit = Exit::Drop(DropReason::Internal);

/// In place of an index: every backend that was looked at is full.
const NOBODY: u32 = u32::MAX - 1;

/// In place of an index or a slot: it is not there. No backend has it, and the packet is dropped for that.
const NOWHERE: u32 = u32::MAX;

/// The index of the backend for a packet that opens a flow: the one that its client stays with, else the one that the
/// service's rule chooses in the tier that serves, else, where that is full, in the next one.
#[inline(always)]
pub fn backend<F: Family>(service: Service, packet: &Packet<F>, now: Tick) -> Result<u32, Exit> {
    let rotation = maps::rotation(service.index).ok_or(INTERNAL)?;
    if rotation.is_empty() {
        return Err(Exit::Reject(DropReason::NoBackend));
    }
    if let Some(backend) = affinity::find::<F>(service, packet, now) {
        return Ok(backend);
    }
    let start = start::<F>(rotation.rule(), service, packet)?;
    let mut backend = with_room(rotation.0, start);
    if backend == NOBODY {
        let next_tier = maps::spill(service.index).ok_or(INTERNAL)?;
        if next_tier.is_empty() {
            return Err(Exit::Reject(DropReason::BackendsFull));
        }
        backend = with_room(next_tier.0, start);
    }
    if backend == NOBODY {
        return Err(Exit::Reject(DropReason::BackendsFull));
    }
    affinity::remember::<F>(service, packet, backend, now);
    Ok(backend)
}

/// The index of the backend for a packet in the middle of a flow that is not in the table: where the packet alone
/// decides and the backend sees the client's own ports, the one that it was sent to before. That is the one of the table
/// before the last change while that counts, as most such flows are older than the change.
#[inline(always)]
pub fn previous<F: Family>(service: Service, packet: &Packet<F>, now: Tick) -> Option<u32> {
    let (of_client, of_flow) = (hash::of_client(packet.key.src), hash::of_flow(&packet.key));
    match goes_on(service.index, of_client, of_flow, now.0) {
        NOBODY => None,
        index => Some(index),
    }
}

/// The backend that a service's tables give for the hashes of a packet; [`NOBODY`] if there is none. With a global name for
/// the same reason as [`with_room`].
#[expect(unsafe_code, reason = "its name is one of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn goes_on(service: u32, of_client: u32, of_flow: u32, now: u32) -> u32 {
    let (Some(previous), Some(current)) = (maps::previous(service), maps::rotation(service)) else {
        return NOBODY;
    };
    let tables = [
        if previous.until.passed(Tick(now)) {
            Rotation::default()
        } else {
            previous.rotation
        },
        current,
    ];
    for table in tables {
        let rule = table.rule();
        if !rule.by_hash() || table.is_empty() {
            continue;
        }
        let hash = if rule == Rule::SOURCE_HASH { of_client } else { of_flow };
        let slot = schedule::by_hash(hash, table.len());
        let Some(index) = maps::slot(table.base() + slot) else {
            continue;
        };
        let Some(backend) = maps::backend(index) else { continue };
        let up = backend.state == BackendState::UP;
        // A datagram may as well open a flow, which is none for a backend that is down.
        let kept = backend.state == BackendState::DOWN && backend.on_down == OnDown::KEEP && backend.protocol == TCP;
        if (up || kept) && backend.service == service && backend.mode != Mode::FULL_NAT {
            return index;
        }
    }
    NOBODY
}

/// What the rule begins with: a ticket, a hash, or nothing.
#[inline(always)]
fn start<F: Family>(rule: Rule, service: Service, packet: &Packet<F>) -> Result<u64, Exit> {
    Ok(match rule {
        Rule::SOURCE_HASH | Rule::MAGLEV => u64::from(hash_of::<F>(rule, packet)),
        Rule::LEAST_CONN_OF_TWO => 0,
        _ => maps::next_ticket(service.index).ok_or(INTERNAL)?,
    })
}

#[inline(always)]
fn hash_of<F: Family>(rule: Rule, packet: &Packet<F>) -> u32 {
    if rule == Rule::SOURCE_HASH {
        hash::of_client(packet.key.src)
    } else {
        hash::of_flow(&packet.key)
    }
}

/// The backend that a rotation's rule chooses among those that are not full; [`NOBODY`] if there is none.
///
/// A function with a global name: the verifier goes through its loops once, for any numbers, and not once for each
/// state that a packet may have left the program in.
#[expect(unsafe_code, reason = "its name is one of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn with_room(rotation: u64, start: u64) -> u32 {
    let rotation = Rotation(rotation);
    match rotation.rule() {
        Rule::LEAST_CONN => lightest(rotation, start),
        Rule::LEAST_CONN_OF_TWO => {
            let [one, other] = schedule::two_of([kernel::random(), kernel::random()], rotation.len());
            match lighter(rotation, one, other) {
                NOBODY => first(rotation, other),
                index => index,
            }
        }
        Rule::SOURCE_HASH | Rule::MAGLEV => first(rotation, schedule::by_hash(start as u32, rotation.len())),
        _ => first(rotation, schedule::round_robin(start, rotation.len())),
    }
}

/// The first that is not full, from a slot on.
#[inline(always)]
fn first(rotation: Rotation, slot: u32) -> u32 {
    for step in 0..ATTEMPTS {
        let index = unless_full(rotation.0, schedule::behind(slot, step, rotation.len()));
        if index != NOBODY {
            return index;
        }
    }
    NOBODY
}

/// The one with the fewest flows for its weight. Of equals, that whose turn it is, so that none is always first.
#[inline(always)]
fn lightest(rotation: Rotation, ticket: u64) -> u32 {
    let turn = schedule::round_robin(ticket, rotation.len());
    let (mut best, mut least) = (NOWHERE, HEAVIEST);
    for step in 0..COMPARED {
        if step >= rotation.len() {
            break;
        }
        let slot = schedule::behind(turn, step, rotation.len());
        let load = load(rotation.0, slot);
        if load != FULL && Load::from_bits(load).is_lighter_than(least) {
            (best, least) = (slot, Load::from_bits(load));
        }
    }
    at(rotation, best)
}

/// The one of two slots with the fewer flows for its weight.
#[inline(always)]
fn lighter(rotation: Rotation, one: u32, other: u32) -> u32 {
    let [first, second] = [one, other].map(|slot| load(rotation.0, slot));
    match (first, second) {
        (FULL, FULL) => NOBODY,
        (_, FULL) => at(rotation, one),
        (FULL, _) => at(rotation, other),
        _ if Load::from_bits(second).is_lighter_than(Load::from_bits(first)) => at(rotation, other),
        _ => at(rotation, one),
    }
}

/// More than any backend bears.
const HEAVIEST: Load = Load {
    active: u32::MAX,
    weight: 1,
};

/// In place of a load: the backend is full, or not there.
const FULL: u64 = u64::MAX;

// What loops ask of a slot has global names too: its cases would be gone through once for each turn of a loop.

/// The backend in a slot; [`NOBODY`] if it is full.
#[expect(unsafe_code, reason = "its name is one of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn unless_full(rotation: u64, slot: u32) -> u32 {
    let index = at(Rotation(rotation), slot);
    match maps::backend(index) {
        Some(backend) if is_full(index, backend) => NOBODY,
        _ => index,
    }
}

/// What the backend in a slot has to do, as bits; [`FULL`] if it may not have more.
#[expect(unsafe_code, reason = "its name is one of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn load(rotation: u64, slot: u32) -> u64 {
    let index = at(Rotation(rotation), slot);
    match maps::backend(index) {
        Some(backend) if !is_full(index, backend) => {
            let (active, weight) = (maps::active(index), backend.weight);
            Load { active, weight }.to_bits()
        }
        _ => FULL,
    }
}

/// The index in a slot; [`NOBODY`] in that which is [`NOWHERE`].
#[inline(always)]
fn at(rotation: Rotation, slot: u32) -> u32 {
    if slot == NOWHERE {
        return NOBODY;
    }
    maps::slot(rotation.base() + slot).unwrap_or(NOWHERE)
}

/// Whether a backend has as many flows as it may. CPUs that ask at the same moment may each add one.
#[inline(always)]
pub fn is_full(index: u32, backend: &Backend) -> bool {
    backend.limit > 0 && maps::active(index) >= backend.limit
}

/// The index of the backend that the packet alone gives, for as long as the schedule does not change: by the rule where that
/// goes by a hash, so that the packet comes to where its flow would have been opened or [is taken up](previous), else by the
/// 5-tuple.
#[inline(always)]
pub fn by_hash<F: Family>(service: Service, packet: &Packet<F>, now: Tick) -> Result<u32, Exit> {
    if let Some(index) = previous::<F>(service, packet, now) {
        return Ok(index);
    }
    let rotation = maps::rotation(service.index).ok_or(INTERNAL)?;
    if rotation.is_empty() {
        return Err(Exit::Reject(DropReason::NoBackend));
    }
    let slot = schedule::by_hash(hash::of_flow(&packet.key), rotation.len());
    maps::slot(rotation.base() + slot).ok_or(INTERNAL)
}
