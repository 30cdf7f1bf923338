//! The front of a frame.
#![expect(unsafe_code, reason = "helpers are foreign functions")]

use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;

use crate::packet::Frame;

/// Takes bytes off the front. Windows into the frame are to be taken anew.
#[inline(always)]
pub fn cut(frame: Frame, bytes: usize) -> Option<()> {
    // SAFETY: the context is the kernel's, and the helper checks that as many bytes are there.
    let result = unsafe { bpf_xdp_adjust_head(frame.context().ctx, bytes as i32) };
    (result == 0).then_some(())
}
