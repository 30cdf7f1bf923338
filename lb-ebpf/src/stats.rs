//! Counters, one set per CPU.

use lb_common::flow::Direction;

use crate::maps;

/// A packet that was forwarded.
#[inline(always)]
pub fn count_packet(backend: u32, direction: Direction, bytes: u32) {
    if let Some(stats) = maps::backend_stats(backend) {
        if direction == Direction::TO_BACKEND {
            stats.packets_in += 1;
            stats.bytes_in += u64::from(bytes);
        } else {
            stats.packets_out += 1;
            stats.bytes_out += u64::from(bytes);
        }
    }
}

/// A datagram that was scheduled by itself: a flow that is over.
#[inline(always)]
pub fn count_datagram(backend: u32) {
    if let Some(stats) = maps::backend_stats(backend) {
        stats.opened += 1;
        stats.closed += 1;
    }
}

/// A flow that was opened.
#[inline(always)]
pub fn count_opened(backend: u32) {
    if let Some(stats) = maps::backend_stats(backend) {
        stats.opened += 1;
    }
    maps::add_active(backend, 1);
}

/// A flow that ended.
#[inline(always)]
pub fn count_closed(backend: u32) {
    if let Some(stats) = maps::backend_stats(backend) {
        stats.closed += 1;
    }
    maps::add_active(backend, -1);
}

/// A packet that left for a reason.
#[inline(always)]
pub fn count_reason(counter: u32) {
    if let Some(packets) = maps::reason_counter(counter) {
        *packets += 1;
    }
}
