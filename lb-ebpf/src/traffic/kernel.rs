//! Kernel helpers, each wrapped once.
#![expect(unsafe_code, reason = "helpers are foreign functions")]

use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns};

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
