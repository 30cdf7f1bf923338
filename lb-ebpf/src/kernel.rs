//! Kernel helpers and machine instructions, each wrapped once.
#![expect(unsafe_code, reason = "helpers and intrinsics are foreign functions")]

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_xdp_adjust_head};
use lb_common::flow::Tick;

use crate::{features, packet::Frame};

/// The time, right to a jiffy (1 to 10 ms). The kernel makes one load of this helper; reading any of its clocks would be
/// a call, which costs a fifth of an established packet.
#[inline(always)]
pub fn now() -> Tick {
    // SAFETY: a helper without arguments.
    Tick::from_jiffies(unsafe { bpf_jiffies64() }, features::jiffy_scale())
}

/// Adds one and gives what was there before, atomically among all CPUs.
///
/// # Safety
/// `counter` points to a map value of eight bytes, aligned.
#[inline(always)]
pub unsafe fn take_ticket(counter: *mut u64) -> u64 {
    // Not relaxed: LLVM 22 makes of a relaxed one the old instruction that gives nothing back, and takes the addend for
    // what was there.
    // SAFETY: by contract.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(counter, 1) }
}

/// Makes the frame begin so many bytes earlier; `None` where the driver left no room for them. What they are is undefined.
#[inline(always)]
pub fn make_room(frame: Frame, bytes: u32) -> Option<()> {
    // SAFETY: a context that the kernel handed; it checks the new start, and every window is taken anew.
    let result = unsafe { bpf_xdp_adjust_head(frame.context().ctx, -(bytes as i32)) };
    (result == 0).then_some(())
}
