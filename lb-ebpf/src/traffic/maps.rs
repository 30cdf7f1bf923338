//! Every map, behind typed functions.
#![expect(unsafe_code, reason = "map values are shared memory behind raw pointers")]

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray, PerCpuHashMap},
};
use lb_common::traffic::{BackendCount, BackendKey, Counter, Counters, Histogram, Lane, Template, Track};

// The loader sets the sizes that depend on what was asked for.

#[map]
static TEMPLATES: Array<Template> = Array::with_max_entries(1, 0);
#[map]
static LANES: PerCpuArray<Lane> = PerCpuArray::with_max_entries(1, 0);
/// Packets sent of each flow, where flows do not take turns.
#[map]
static SEQUENCES: Array<u32> = Array::with_max_entries(1, 0);
/// The drawn order of flows.
#[map]
static ORDER: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static TRACKS: Array<Track> = Array::with_max_entries(1, 0);
#[map]
static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);
#[map]
static LATENCIES: PerCpuArray<Histogram> = PerCpuArray::with_max_entries(1, 0);
#[map]
static BACKENDS: PerCpuHashMap<BackendKey, BackendCount> = PerCpuHashMap::with_max_entries(4096, 0);
/// The run that the sink follows, if it was not told.
#[map]
static SEEN_RUN: Array<u32> = Array::with_max_entries(1, 0);

/// A frame's head.
#[inline(always)]
pub fn template(number: u32) -> Option<&'static Template> {
    TEMPLATES.get(number)
}

/// This CPU's lane.
#[inline(always)]
pub fn lane() -> Option<&'static mut Lane> {
    // SAFETY: a per-CPU value; programs on one CPU do not interrupt each other.
    LANES.get_ptr_mut(0).map(|lane| unsafe { &mut *lane })
}

/// The next sequence number of a flow.
#[inline(always)]
pub fn next_sequence(flow: u32) -> Option<u32> {
    let next = SEQUENCES.get_ptr_mut(flow)?;
    // SAFETY: an aligned value; one CPU alone sends a flow's packets.
    unsafe {
        let sequence = *next;
        *next = sequence.wrapping_add(1);
        Some(sequence)
    }
}

/// The flow at a place of the drawn order.
#[inline(always)]
pub fn drawn(place: u32) -> Option<u32> {
    ORDER.get(place).copied()
}

/// What is known of a flow.
#[inline(always)]
pub fn track(flow: u32) -> Option<&'static mut Track> {
    // SAFETY: array values never move; CPUs that meet here may miscount, as is said at the type.
    TRACKS.get_ptr_mut(flow).map(|track| unsafe { &mut *track })
}

/// Adds to a counter.
#[inline(always)]
pub fn count(counter: Counter, add: u64) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: a per-CPU value.
        unsafe { &mut *counters }.add(counter, add);
    }
}

/// Counts a duration in nanoseconds.
#[inline(always)]
pub fn record(duration: u64) {
    if let Some(histogram) = LATENCIES.get_ptr_mut(0) {
        // SAFETY: a per-CPU value.
        unsafe { &mut *histogram }.record(duration);
    }
}

/// The counts of a server, made when there are none.
#[inline(always)]
pub fn backend(key: &BackendKey) -> Option<&'static mut BackendCount> {
    if let Some(count) = BACKENDS.get_ptr_mut(key) {
        // SAFETY: a per-CPU value that is never deleted.
        return Some(unsafe { &mut *count });
    }
    // A full map says so by having no entry afterwards.
    let _ = BACKENDS.insert(key, BackendCount::default(), 0);
    // SAFETY: as above.
    BACKENDS.get_ptr_mut(key).map(|count| unsafe { &mut *count })
}

/// The run that is followed; the first one that comes if none is yet.
#[inline(always)]
pub fn seen_run(run: u16) -> Option<u16> {
    let seen = SEEN_RUN.get_ptr_mut(0)?;
    // SAFETY: an aligned value; of two runs that begin at the same moment either may win.
    unsafe {
        if seen.read_volatile() == 0 {
            seen.write_volatile(run.into());
        }
        Some(seen.read_volatile() as u16)
    }
}
