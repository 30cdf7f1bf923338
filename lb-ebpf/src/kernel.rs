//! Kernel helpers and machine instructions, each wrapped once.
#![expect(unsafe_code, reason = "helpers and intrinsics are foreign functions")]

use core::arch::asm;
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_or, atomic_xadd};

use aya_ebpf::{
    helpers::generated::{
        bpf_check_mtu, bpf_get_prandom_u32, bpf_jiffies64, bpf_tcp_raw_check_syncookie_ipv4,
        bpf_tcp_raw_check_syncookie_ipv6, bpf_tcp_raw_gen_syncookie_ipv4, bpf_tcp_raw_gen_syncookie_ipv6,
        bpf_xdp_load_bytes,
    },
    programs::XdpContext,
};
use lb_common::flow::Tick;

use crate::{features, maps::Headers, packet::Frame};

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

/// Sets a number if it is the old one, atomically among all CPUs.
///
/// # Safety
/// `number` points into a map value, aligned.
#[inline(always)]
pub unsafe fn swap(number: *mut u32, old: u32, new: u32) -> bool {
    // SAFETY: by contract.
    unsafe { atomic_cxchg::<u32, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(number, old, new).1 }
}

/// Sets bits of a number, atomically among all CPUs.
///
/// # Safety
/// `number` points into a map value, aligned.
#[inline(always)]
pub unsafe fn set_bits(number: *mut u32, bits: u32) {
    // SAFETY: by contract.
    unsafe { atomic_or::<u32, u32, { AtomicOrdering::Relaxed }>(number, bits) };
}

/// A random number, good enough to choose by.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// The length of a TCP header, in bytes: the same again, from 20 to 80, in a way that the compiler cannot find superfluous. The
/// verifier of Linux 6.1 learns nothing of a comparison with zero, and forgets what it knew of a number that lay on the stack.
#[inline(always)]
fn bounded(tcp: u32) -> u32 {
    let mut bytes = u64::from(tcp);
    // SAFETY: the register is its own.
    unsafe { asm!("{0} -= 20", "{0} &= 60", "{0} += 20", inout(reg) bytes, options(nostack, nomem, preserves_flags)) };
    bytes as u32
}

/// Copies a TCP header of so many bytes from an offset of a frame on, as [`copy`] does.
#[inline(always)]
pub fn copy_tcp<const N: usize>(frame: Frame, offset: usize, to: &mut [u32; N], bytes: u32) -> Option<()> {
    copy(frame, offset, to, bounded(bytes))
}

/// Copies so many bytes of a frame from an offset on, wherever its buffers begin and end; `None` if they are not there, or too
/// many for `to`.
#[inline(always)]
pub fn copy<const N: usize>(frame: Frame, offset: usize, to: &mut [u32; N], bytes: u32) -> Option<()> {
    if bytes == 0 || bytes as usize > size_of_val(to) {
        return None;
    }
    // SAFETY: the context is valid, and the helper writes as many bytes as there are at least.
    let result = unsafe { bpf_xdp_load_bytes(frame.context().ctx, offset as u32, to.as_mut_ptr().cast(), bytes) };
    (result == 0).then_some(())
}

/// The SYN cookie for the headers of an IPv4 packet, of which the TCP header has so many bytes.
#[inline(always)]
pub fn cookie_v4(headers: &Headers, tcp: u32) -> Option<u32> {
    let tcp = bounded(tcp);
    // SAFETY: the helper reads 20 and so many bytes, and writes nothing.
    let cookie = unsafe {
        bpf_tcp_raw_gen_syncookie_ipv4(
            headers.ip.as_ptr().cast_mut().cast(),
            headers.tcp.as_ptr().cast_mut().cast(),
            tcp,
        )
    };
    // Above it, the segment size that it stands for; below zero, an error.
    (cookie >= 0).then_some(cookie as u32)
}

/// The same of an IPv6 packet.
#[inline(always)]
pub fn cookie_v6(headers: &Headers, tcp: u32) -> Option<u32> {
    let tcp = bounded(tcp);
    // SAFETY: the helper reads 40 and so many bytes, and writes nothing.
    let cookie = unsafe {
        bpf_tcp_raw_gen_syncookie_ipv6(
            headers.ip.as_ptr().cast_mut().cast(),
            headers.tcp.as_ptr().cast_mut().cast(),
            tcp,
        )
    };
    (cookie >= 0).then_some(cookie as u32)
}

/// Whether the headers of an IPv4 packet acknowledge a SYN cookie.
#[inline(always)]
pub fn is_cookie_v4(headers: &Headers) -> bool {
    // SAFETY: the helper reads 20 and 20 bytes, and writes nothing.
    unsafe {
        bpf_tcp_raw_check_syncookie_ipv4(
            headers.ip.as_ptr().cast_mut().cast(),
            headers.tcp.as_ptr().cast_mut().cast(),
        ) == 0
    }
}

/// Whether the headers of an IPv6 packet acknowledge a SYN cookie.
#[inline(always)]
pub fn is_cookie_v6(headers: &Headers) -> bool {
    // SAFETY: the helper reads 40 and 20 bytes, and writes nothing.
    unsafe {
        bpf_tcp_raw_check_syncookie_ipv6(
            headers.ip.as_ptr().cast_mut().cast(),
            headers.tcp.as_ptr().cast_mut().cast(),
        ) == 0
    }
}
