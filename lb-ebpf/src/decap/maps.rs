//! The maps of the unwrapping program, behind typed functions.
#![expect(unsafe_code, reason = "map values are shared memory behind raw pointers")]

use aya_ebpf::{
    macros::map,
    maps::{HashMap, PerCpuArray},
};
use lb_common::decap::{COUNTERS as COUNTER_COUNT, Counter, Holder, Role};

// The loader sets the size.
#[map]
static ADDRESSES: HashMap<Holder, Role> = HashMap::with_max_entries(1024, 0);
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTER_COUNT, 0);

/// The key of an IPv4 address, as it lies in a header.
#[inline(always)]
pub const fn ipv4([word]: [u32; 1]) -> Holder {
    Holder {
        address: [word, 0, 0, 0],
        family: 4,
    }
}

/// The key of an IPv6 address, as it lies in a header.
#[inline(always)]
pub const fn ipv6(address: [u32; 4]) -> Holder {
    Holder { address, family: 6 }
}

/// What an address is to this host; nothing, if it is not known.
#[inline(always)]
pub fn role(holder: &Holder) -> Role {
    // SAFETY: valid until the program ends; an aligned word, written by one store.
    unsafe { ADDRESSES.get(holder) }.copied().unwrap_or_default()
}

/// Counts a packet.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(count) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a per-CPU value; programs on one CPU do not interrupt each other.
        unsafe { *count += 1 };
    }
}
