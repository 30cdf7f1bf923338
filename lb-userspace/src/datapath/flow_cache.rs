//! The flow cache, where user space voids copies of flows that it removes.
#![expect(
    unsafe_code,
    reason = "memory that the kernel shares is reached through raw pointers"
)]

use std::{
    marker::PhantomData,
    os::fd::AsRawFd as _,
    path::Path,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::maps::MapData;
use lb_common::{
    abi::FlowKey,
    flow::Tick,
    flow_cache::{self, Cached, Entry, Place, VOID},
};
use memmap2::{MmapOptions, MmapRaw};

use super::{DatapathError, pins::kernel};

/// Places in a flow cache for so many flows of a family: one each, for one of a flow's two directions or by chance for both. A
/// machine that may reorder loads has no cache.
pub(super) const fn places(flows: u32) -> u32 {
    if cfg!(target_arch = "x86_64") { flows } else { 0 }
}

/// One in so many places is cleared in a sweep: all of them within hours.
const CLEARED: u32 = 1024;

/// The flow cache of a family, if there is one.
pub(super) struct FlowCache<A> {
    memory: Option<MmapRaw>,
    places: u32,
    /// The place that is looked at next for a copy whose time is over.
    next: AtomicU32,
    family: PhantomData<fn(A)>,
}

impl<A: Cached> FlowCache<A> {
    /// That of a pin.
    pub(super) fn open(pin: &Path, flows: u32) -> Result<Self, DatapathError> {
        let places = places(flows);
        let map = || -> std::io::Result<MmapRaw> {
            let data = MapData::from_pin(pin).map_err(std::io::Error::other)?;
            let bytes = places as usize * size_of::<Entry<A>>();
            MmapOptions::new()
                .len(bytes)
                .map_raw(std::os::fd::AsFd::as_fd(data.fd()).as_raw_fd())
        };
        let memory = if places == 0 {
            None
        } else {
            Some(map().map_err(|e| kernel(format!("cannot map {}", pin.display()), e))?)
        };
        Ok(Self {
            memory,
            places,
            next: AtomicU32::new(0),
            family: PhantomData,
        })
    }

    /// Voids the copy for a flow's packets, if there is one.
    pub(super) fn forget(&self, key: &FlowKey<A>) {
        let tuple = A::tuple(key);
        if let Some(place) = self.place(flow_cache::place_of(A::hash(&tuple), self.places)) {
            flow_cache::forget::<A>(&place, &tuple);
        }
    }

    /// Voids copies whose time is over, in the next [`CLEARED`] of the places.
    pub(super) fn clear_some(&self, now: Tick) {
        let count = self.places.div_ceil(CLEARED);
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        for n in 0..count {
            let place = first.wrapping_add(n).checked_rem(self.places);
            if let Some(place) = place.and_then(|place| self.place(place)) {
                flow_cache::clear(&place, now);
            }
        }
    }

    fn place(&self, place: u32) -> Option<SharedPlace<'_>> {
        let offset = place as usize * size_of::<Entry<A>>();
        let start = self.memory.as_ref()?.as_mut_ptr().wrapping_add(offset);
        Some(SharedPlace {
            start,
            memory: PhantomData,
        })
    }
}

/// A place in shared memory, which begins with a page: version, time and words are aligned.
struct SharedPlace<'a> {
    start: *mut u8,
    memory: PhantomData<&'a MmapRaw>,
}

impl SharedPlace<'_> {
    fn number(&self, i: usize) -> &AtomicU32 {
        // SAFETY: an aligned number within the entry; the mapping lives as long as this, and all access to it is atomic.
        unsafe { AtomicU32::from_ptr(self.start.cast::<u32>().wrapping_add(i)) }
    }

    fn long(&self, i: usize) -> &AtomicU64 {
        // SAFETY: as above; the words stand behind the first eight bytes, and the callers count those of an entry.
        unsafe { AtomicU64::from_ptr(self.start.cast::<u64>().wrapping_add(1 + i)) }
    }
}

impl Place for SharedPlace<'_> {
    fn version(&self) -> u32 {
        self.number(0).load(Ordering::SeqCst)
    }

    fn swap_version(&self, old: u32, new: u32) -> bool {
        let swapped = self
            .number(0)
            .compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst);
        swapped.is_ok()
    }

    fn set_version(&self, new: u32) {
        self.number(0).store(new, Ordering::SeqCst);
    }

    fn void(&self) {
        self.number(0).fetch_or(VOID, Ordering::SeqCst);
    }

    fn until(&self) -> Tick {
        Tick(self.number(1).load(Ordering::SeqCst))
    }

    fn set_until(&self, until: Tick) {
        self.number(1).store(until.0, Ordering::SeqCst);
    }

    fn word(&self, i: usize) -> u64 {
        self.long(i).load(Ordering::SeqCst)
    }

    fn set_word(&self, i: usize, word: u64) {
        self.long(i).store(word, Ordering::SeqCst);
    }
}
