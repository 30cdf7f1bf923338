//! Kernel helpers, each wrapped once.
#![expect(unsafe_code, reason = "helpers are foreign functions")]

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_redirect};

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// 32 random bits.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// Redirects the frame to an interface; the action to return.
#[inline(always)]
pub fn redirect(ifindex: u32) -> u32 {
    // SAFETY: a helper that takes numbers.
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}
