//! Kernel helpers and machine instructions, each wrapped once.
#![expect(unsafe_code, reason = "helpers and intrinsics are foreign functions")]

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering, atomic_xadd},
};

use aya_ebpf::helpers::generated::bpf_jiffies64;
use lb_common::flow::Tick;

use crate::features;

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

/// Loads 32 bits from wherever they lie. Rust would load unaligned words byte by byte, although every machine that runs
/// XDP loads them whole.
///
/// # Safety
/// The four bytes are readable.
#[inline(always)]
pub unsafe fn load_word(at: *const u32) -> u32 {
    let word: u64;
    // SAFETY: by contract.
    unsafe {
        asm!("{word} = *(u32 *)({at} + 0)", at = in(reg) at, word = lateout(reg) word, options(nostack, preserves_flags, readonly))
    };
    word as u32
}

/// Stores 32 bits wherever they are to lie.
///
/// # Safety
/// The four bytes are writable.
#[inline(always)]
pub unsafe fn store_word(at: *mut u32, word: u32) {
    // SAFETY: by contract.
    unsafe {
        asm!("*(u32 *)({at} + 0) = {word}", at = in(reg) at, word = in(reg) u64::from(word), options(nostack, preserves_flags))
    };
}
