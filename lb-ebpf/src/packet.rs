//! The frame: every byte of it that is read or written, is so here, behind one bounds check.
#![expect(
    unsafe_code,
    reason = "packet memory is reached through raw pointers that the verifier checks"
)]

use crate::kernel;
use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_xdp_adjust_tail, programs::XdpContext};
use lb_common::{
    net::{Be16, MacAddr},
    wire::{Ethernet, Ipv4, Ipv4Rest, Ipv6, Ipv6Addresses, Ipv6Fragment, Ports, Tcp, Udp},
};

/// A frame as it came from the driver.
#[derive(Clone, Copy)]
pub struct Frame {
    ctx: *mut xdp_md,
}

/// Any pattern of bits is a value, there is no padding, and the alignment is at most two.
///
/// # Safety
/// Implementors are integers of at most two bytes, or `repr(C)` structs of them without padding.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($t:ty),+) => {
        $(
            // SAFETY: as the trait asks; lb_common asserts sizes and alignments.
            unsafe impl Plain for $t {}
        )+
    };
}

plain!(
    u8,
    u16,
    MacAddr,
    Be16,
    Ethernet,
    Ipv4,
    Ipv4Rest,
    Ipv6,
    Ipv6Addresses,
    Ipv6Fragment,
    Ports,
    Tcp,
    Udp
);

impl Frame {
    #[inline(always)]
    pub const fn new(ctx: &XdpContext) -> Self {
        Self { ctx: ctx.ctx }
    }

    /// The context, for the logger.
    #[inline(always)]
    pub const fn context(self) -> XdpContext {
        XdpContext::new(self.ctx)
    }

    /// The index of the interface it came in on.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: the kernel hands a valid context.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    /// Its bytes, Ethernet header included.
    #[inline(always)]
    pub fn length(self) -> usize {
        self.context().data_end() - self.context().data()
    }

    /// What lies at an even offset; `None` beyond the end.
    #[inline(always)]
    pub fn read<T: Plain>(self, offset: usize) -> Option<T> {
        let at = self.at::<T>(offset)?;
        // SAFETY: in bounds by `at`, aligned to two bytes as drivers lay out frames, and every pattern is a `T`.
        Some(unsafe { at.read() })
    }

    /// Writes at an even offset; `None` and no write beyond the end.
    #[inline(always)]
    pub fn write<T: Plain>(self, offset: usize, value: T) -> Option<()> {
        let at = self.at::<T>(offset)?;
        // SAFETY: as for reads; no reference to packet memory exists anywhere.
        unsafe { at.write(value) };
        Some(())
    }

    /// Reads 32-bit words at an offset.
    #[inline(always)]
    pub fn read_words<const N: usize>(self, offset: usize) -> Option<[u32; N]> {
        let at = self.at::<[u32; N]>(offset)?.cast::<u32>();
        let mut words = [0; N];
        for (i, word) in words.iter_mut().enumerate() {
            // SAFETY: in bounds by `at`.
            *word = unsafe { kernel::load_word(at.add(i)) };
        }
        Some(words)
    }

    /// Writes 32-bit words at an offset.
    #[inline(always)]
    pub fn write_words<const N: usize>(self, offset: usize, words: [u32; N]) -> Option<()> {
        let at = self.at::<[u32; N]>(offset)?.cast::<u32>();
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: in bounds by `at`.
            unsafe { kernel::store_word(at.add(i), word) };
        }
        Some(())
    }

    /// Cuts or keeps the frame so that it ends after `length` bytes.
    #[inline(always)]
    pub fn truncate(self, length: usize) -> Option<()> {
        let change = length as i32 - self.length() as i32;
        // SAFETY: the helper checks the new length; pointers into the packet are made anew at each access.
        let result = unsafe { bpf_xdp_adjust_tail(self.ctx, change) };
        (result == 0).then_some(())
    }

    /// The only bounds check.
    #[inline(always)]
    fn at<T>(self, offset: usize) -> Option<*mut T> {
        let start = self.context().data() + offset;
        if start + size_of::<T>() > self.context().data_end() {
            return None;
        }
        Some(start as *mut T)
    }
}
