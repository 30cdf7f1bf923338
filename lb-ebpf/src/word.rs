//! Loads and stores that Rust has no way to ask for.
#![expect(unsafe_code, reason = "machine instructions on raw pointers")]

use core::arch::asm;

/// Loads the `I`-th of the 32-bit words from an offset on, wherever they lie. Rust would load unaligned words byte by byte,
/// although every machine that runs XDP loads them whole; and the offset is in the instruction, where LLVM would work out the
/// address first.
///
/// # Safety
/// The four bytes are readable.
#[inline(always)]
pub unsafe fn load_word<const OFFSET: usize, const I: usize>(start: *const u8) -> u32 {
    let word: u64;
    // SAFETY: by contract.
    unsafe {
        asm!("{word} = *(u32 *)({start} + {offset})", start = in(reg) start, offset = const OFFSET + 4 * I, word = lateout(reg) word, options(nostack, preserves_flags, pure, readonly))
    };
    word as u32
}

/// Stores the `I`-th of the 32-bit words from an offset on, wherever they are to lie.
///
/// # Safety
/// The four bytes are writable.
#[inline(always)]
pub unsafe fn store_word<const OFFSET: usize, const I: usize>(start: *mut u8, word: u32) {
    // SAFETY: by contract.
    unsafe {
        asm!("*(u32 *)({start} + {offset}) = {word}", start = in(reg) start, offset = const OFFSET + 4 * I, word = in(reg) u64::from(word), options(nostack, preserves_flags))
    };
}

/// Loads the `I`-th of the 64-bit words from an offset on.
///
/// # Safety
/// The eight bytes are readable.
#[inline(always)]
pub unsafe fn load_long<const OFFSET: usize, const I: usize>(start: *const u8) -> u64 {
    let word: u64;
    // SAFETY: by contract.
    unsafe {
        asm!("{word} = *(u64 *)({start} + {offset})", start = in(reg) start, offset = const OFFSET + 8 * I, word = lateout(reg) word, options(nostack, preserves_flags, pure, readonly))
    };
    word
}

/// Stores the `I`-th of the 64-bit words from an offset on.
///
/// # Safety
/// The eight bytes are writable.
#[inline(always)]
pub unsafe fn store_long<const OFFSET: usize, const I: usize>(start: *mut u8, word: u64) {
    // SAFETY: by contract.
    unsafe {
        asm!("*(u64 *)({start} + {offset}) = {word}", start = in(reg) start, offset = const OFFSET + 8 * I, word = in(reg) word, options(nostack, preserves_flags))
    };
}

/// Loads 32 bits at an offset of the context. The verifier wants the offset in the instruction, while LLVM may work out the
/// address once for several loads. The kernel makes addresses of packet memory of some, in 64 bits: of a plain load LLVM
/// knows that the upper half is zero, and may clear that again, which leaves the verifier no address.
///
/// # Safety
/// `context` is what the kernel gave to the program, and the offset that of a readable field.
#[inline(always)]
pub unsafe fn load_field<T, const OFFSET: usize>(context: *const T) -> u64 {
    let word: u64;
    // SAFETY: by contract.
    unsafe {
        asm!("{word} = *(u32 *)({context} + {offset})", context = in(reg) context, offset = const OFFSET, word = lateout(reg) word, options(nostack, preserves_flags, pure, readonly))
    };
    word
}
