//! Messages for `lb run --datapath-log LEVEL`. The level is a read-only global, so that the verifier removes what is off.

use aya_log_ebpf::{debug, info, trace};
use lb_common::reason::{DropReason, PassReason};

use crate::{family::Family, packet::Frame};

/// A packet was handed to the kernel.
#[inline(never)]
pub fn passed(frame: Frame, reason: PassReason) {
    trace!(
        &frame.context(),
        "passed: reason {} on interface {}",
        reason as u32,
        frame.ifindex()
    );
}

/// A packet was dropped or rejected.
#[inline(never)]
pub fn dropped(frame: Frame, reason: DropReason) {
    debug!(
        &frame.context(),
        "dropped: reason {} on interface {}",
        reason as u32,
        frame.ifindex()
    );
}

/// A flow was opened.
#[inline(never)]
pub fn opened<F: Family>(frame: Frame) {
    if let Some(new) = F::new_flow() {
        info!(
            &frame.context(),
            "opened: flow of backend {} from source port {}",
            new.flow.backend,
            new.flow.rewrite.src_port.get()
        );
    }
}
