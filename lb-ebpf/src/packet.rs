//! The frame: every byte of it that is read or written, is so here, behind one bounds check.
#![expect(
    unsafe_code,
    reason = "packet memory is reached through raw pointers that the verifier checks"
)]

use core::mem::offset_of;

use aya_ebpf::{
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use lb_common::{
    net::Be16,
    wire::{Ethernet, Ipv4, Ipv6, Ipv6Fragment, Ports, Tcp, Udp},
};

use crate::word;

/// A frame as it came from the driver, less its VLAN tags.
#[derive(Clone, Copy)]
pub struct Frame {
    ctx: *mut xdp_md,
    tagged: bool,
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

plain!(u8, u16, Be16, Ethernet, Ipv4, Ipv6, Ipv6Fragment, Ports, Tcp, Udp);

impl Frame {
    #[inline(always)]
    pub const fn new(ctx: &XdpContext) -> Self {
        Self {
            ctx: ctx.ctx,
            tagged: false,
        }
    }

    /// The same, of which tags may have been taken off.
    #[inline(always)]
    pub const fn perhaps_tagged(self, tagged: bool) -> Self {
        Self { tagged, ..self }
    }

    /// Whether tags may have been taken off it.
    #[inline(always)]
    pub const fn may_have_tags(self) -> bool {
        self.tagged
    }

    /// The frame of a function that the kernel verifies by itself, which takes nothing but numbers and the context.
    #[inline(always)]
    pub const fn from_pointer(ctx: *mut xdp_md, tagged: bool) -> Self {
        Self { ctx, tagged }
    }

    /// The context, for such a function.
    #[inline(always)]
    pub const fn pointer(self) -> *mut xdp_md {
        self.ctx
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
        unsafe { word::load_field::<xdp_md, { offset_of!(xdp_md, ingress_ifindex) }>(self.ctx) as u32 }
    }

    /// Its bytes in the first buffer, Ethernet header included. These alone are in reach; what is larger than a page comes
    /// in several buffers.
    #[inline(always)]
    pub fn length(self) -> usize {
        self.end() - self.start()
    }

    /// Its bytes in all buffers, by a call, which frames of one buffer should do without.
    #[inline(always)]
    pub fn whole_length(self) -> usize {
        // SAFETY: the kernel hands a valid context.
        unsafe { bpf_xdp_get_buff_len(self.ctx) as usize }
    }

    /// `LENGTH` bytes of the first buffer from an even offset on; `None` beyond its end. The only bounds check: what is read
    /// or written through the window needs none.
    #[inline(always)]
    pub fn window<const LENGTH: usize>(self, offset: usize) -> Option<Window<LENGTH>> {
        let start = self.start() + offset;
        if start + LENGTH > self.end() {
            return None;
        }
        Some(Window {
            start: start as *mut u8,
        })
    }

    #[inline(always)]
    fn start(self) -> usize {
        // SAFETY: the kernel hands a valid context.
        unsafe { word::load_field::<xdp_md, { offset_of!(xdp_md, data) }>(self.ctx) as usize }
    }

    #[inline(always)]
    fn end(self) -> usize {
        // SAFETY: as above.
        unsafe { word::load_field::<xdp_md, { offset_of!(xdp_md, data_end) }>(self.ctx) as usize }
    }

    /// Cuts or keeps the frame so that it ends after `length` bytes.
    #[inline(always)]
    pub fn truncate(self, length: usize) -> Option<()> {
        self.lengthen(length as i32 - self.whole_length() as i32)
    }

    /// Cuts so many bytes off the frame's start.
    #[inline(always)]
    pub fn shorten_head(self, bytes: usize) -> Option<()> {
        self.move_head(bytes as i32)
    }

    /// Makes room for so many bytes before the frame, where the driver left any. Windows that were taken before it are of no use
    /// after it.
    #[inline(always)]
    pub fn lengthen_head(self, bytes: usize) -> Option<()> {
        self.move_head(-(bytes as i32))
    }

    /// Moves the frame's start by so many bytes, to the front if negative.
    #[inline(always)]
    pub fn move_head(self, change: i32) -> Option<()> {
        // SAFETY: as for the end.
        let result = unsafe { bpf_xdp_adjust_head(self.ctx, change) };
        (result == 0).then_some(())
    }

    /// Moves the frame's end by so many bytes, back if negative.
    #[inline(always)]
    pub fn lengthen(self, change: i32) -> Option<()> {
        // SAFETY: the helper checks the new length; pointers into the packet are made anew at each access.
        let result = unsafe { bpf_xdp_adjust_tail(self.ctx, change) };
        (result == 0).then_some(())
    }
}

/// Bytes of the frame that are known to be there, until the frame is cut.
#[derive(Clone, Copy)]
pub struct Window<const LENGTH: usize> {
    start: *mut u8,
}

impl<const LENGTH: usize> Window<LENGTH> {
    /// So many bytes of it, from an even offset on.
    #[inline(always)]
    pub fn part<const N: usize, const OFFSET: usize>(self) -> Window<N> {
        const { assert!(OFFSET + N <= LENGTH) };
        Window {
            start: self.start.wrapping_add(OFFSET),
        }
    }

    /// What lies at an even offset.
    #[inline(always)]
    pub fn read<T: Plain, const OFFSET: usize>(self) -> T {
        const { assert!(OFFSET + size_of::<T>() <= LENGTH) };
        // SAFETY: in bounds as asserted, aligned to two bytes as drivers lay out frames, and every pattern is a `T`.
        unsafe { self.start.add(OFFSET).cast::<T>().read() }
    }

    /// Writes at an even offset.
    #[inline(always)]
    pub fn write<T: Plain, const OFFSET: usize>(self, value: T) {
        const { assert!(OFFSET + size_of::<T>() <= LENGTH) };
        // SAFETY: as for reads; no reference to packet memory exists anywhere.
        unsafe { self.start.add(OFFSET).cast::<T>().write(value) };
    }

    /// Reads 32-bit words at an offset, five at most.
    #[inline(always)]
    pub fn words<const N: usize, const OFFSET: usize>(self) -> [u32; N] {
        const { assert!(OFFSET + 4 * N <= LENGTH && N <= 5) };
        let mut words = [0; N];
        for (i, word) in words.iter_mut().enumerate() {
            // SAFETY: in bounds as asserted.
            *word = unsafe {
                match i {
                    0 => word::load_word::<OFFSET, 0>(self.start),
                    1 => word::load_word::<OFFSET, 1>(self.start),
                    2 => word::load_word::<OFFSET, 2>(self.start),
                    3 => word::load_word::<OFFSET, 3>(self.start),
                    _ => word::load_word::<OFFSET, 4>(self.start),
                }
            };
        }
        words
    }

    /// Reads a 64-bit word at an offset.
    #[inline(always)]
    pub fn long<const OFFSET: usize>(self) -> u64 {
        const { assert!(OFFSET + 8 <= LENGTH) };
        // SAFETY: in bounds as asserted.
        unsafe { word::load_long::<OFFSET, 0>(self.start) }
    }

    /// Writes a 64-bit word at an offset.
    #[inline(always)]
    pub fn set_long<const OFFSET: usize>(self, word: u64) {
        const { assert!(OFFSET + 8 <= LENGTH) };
        // SAFETY: in bounds as asserted.
        unsafe { word::store_long::<OFFSET, 0>(self.start, word) };
    }

    /// Writes 32-bit words at an offset, five at most.
    #[inline(always)]
    pub fn set_words<const N: usize, const OFFSET: usize>(self, words: [u32; N]) {
        const { assert!(OFFSET + 4 * N <= LENGTH && N <= 5) };
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: in bounds as asserted.
            unsafe {
                match i {
                    0 => word::store_word::<OFFSET, 0>(self.start, word),
                    1 => word::store_word::<OFFSET, 1>(self.start, word),
                    2 => word::store_word::<OFFSET, 2>(self.start, word),
                    3 => word::store_word::<OFFSET, 3>(self.start, word),
                    _ => word::store_word::<OFFSET, 4>(self.start, word),
                }
            };
        }
    }
}
