//! The sweep as the kernel can make it by itself (`bpf_for_each_map_elem`, Linux 5.13), for comparison with the walk by batches
//! that `lb` makes from user space. It counts the flows of each backend and removes what has expired.
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "the kernel calls back with raw pointers")]

use core::ffi::c_void;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::bpf_for_each_map_elem,
    macros::{map, xdp},
    maps::{Array, LruHashMap},
    programs::XdpContext,
};
use lb_common::{
    abi::{Flow, FlowKey},
    flow::{Direction, Phase, Tick},
    net::Addr4,
};

/// The packet path's own, by its pin.
#[map]
static FLOWS_V4: LruHashMap<FlowKey<Addr4>, Flow<Addr4>> = LruHashMap::pinned(1, 0);

/// Flows of each backend.
#[map]
static SWEPT: Array<u64> = Array::with_max_entries(4096, 0);

/// The time that the sweep goes by, as the packet path counts it.
#[map]
static SWEEP_TIME: Array<u32> = Array::with_max_entries(1, 0);

/// Goes through the whole table, in one run that nothing can interrupt.
#[xdp]
pub fn sweep(_ctx: XdpContext) -> u32 {
    let Some(now) = SWEEP_TIME.get(0).copied() else {
        return xdp_action::XDP_ABORTED;
    };
    // SAFETY: the map lives as long as the program, the function has the signature that the helper calls, and what it is given
    // lives on this stack until the helper returns.
    let entries = unsafe {
        bpf_for_each_map_elem(
            (&raw const FLOWS_V4).cast_mut().cast(),
            visit as *mut c_void,
            (&raw const now).cast_mut().cast(),
            0,
        )
    };
    if entries < 0 {
        xdp_action::XDP_ABORTED
    } else {
        xdp_action::XDP_PASS
    }
}

/// One entry. The result says whether to go on: 0.
extern "C" fn visit(_map: *mut c_void, key: *const FlowKey<Addr4>, flow: *const Flow<Addr4>, now: *const u32) -> i64 {
    // SAFETY: the kernel gives a key and a value of the map, and the pointer that `sweep` passed.
    let (key, flow, now) = unsafe { (&*key, &*flow, Tick(*now)) };
    if flow.expires.passed(now) {
        let _ = FLOWS_V4.remove(key);
    } else if flow.direction == Direction::TO_BACKEND
        && flow.phase != Phase::CLOSING
        && let Some(count) = SWEPT.get_ptr_mut(flow.backend)
    {
        // SAFETY: a place of an array map; only one run goes on at a time.
        unsafe { *count += 1 };
    }
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lends some helpers to GPL programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
