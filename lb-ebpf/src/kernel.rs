//! Kernel helpers and machine instructions, each wrapped once.
#![expect(unsafe_code, reason = "helpers and intrinsics are foreign functions")]

use core::arch::asm;
use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    helpers::generated::{bpf_check_mtu, bpf_get_prandom_u32, bpf_jiffies64},
    programs::XdpContext,
};
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

/// The MTU of an interface, in bytes from the IP header on; `None` if there is no such interface.
#[inline(always)]
pub fn mtu(frame: Frame, ifindex: u32) -> Option<u32> {
    // A length to check, which the helper replaces by the MTU.
    let mut mtu = 1;
    // SAFETY: the context is valid, and the helper writes four bytes.
    let result = unsafe { bpf_check_mtu(frame.context().ctx.cast(), ifindex, &raw mut mtu, 0, 0) };
    (result >= 0).then_some(mtu)
}

/// The same frame, whose bounds the compiler reads anew. Kept over a loop, or handed to a function in place of the frame,
/// they arrive as 32-bit numbers, which the verifier does not take for pointers.
#[inline(always)]
pub fn anew(frame: Frame) -> Frame {
    let mut ctx = frame.context().ctx;
    // SAFETY: the register is its own.
    unsafe { asm!("{0} = {0}", inout(reg) ctx, options(nostack, readonly, preserves_flags)) };
    Frame::new(&XdpContext::new(ctx)).perhaps_tagged(frame.may_have_tags())
}

/// Adds to a counter, atomically among all CPUs.
///
/// # Safety
/// `counter` points to a map value of eight bytes, aligned.
#[inline(always)]
pub unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: by contract.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}

/// A random number, good enough to choose by.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_prandom_u32() }
}
