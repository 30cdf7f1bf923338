//! Messages for `lb run --datapath-log LEVEL`. The level is a read-only global, so that the verifier removes what is off.

use aya_log_ebpf::{debug, info, trace};

use lb_common::reason::PassReason;

use crate::{family::Family, packet::Frame};

/// A packet was handed to the kernel, for the reason with this counter.
#[inline(never)]
pub fn passed(frame: Frame, counter: u32) {
    trace!(
        &frame.context(),
        "passed: reason {} on interface {}",
        counter,
        frame.ifindex()
    );
}

/// A packet was dropped or rejected, for the reason with this counter.
#[inline(never)]
pub fn dropped(frame: Frame, counter: u32) {
    debug!(
        &frame.context(),
        "dropped: reason {} on interface {}",
        counter.wrapping_sub(PassReason::COUNT),
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
