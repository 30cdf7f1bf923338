//! Health checks: which backends may take new flows.
//!
//! [`machine`] decides, and does nothing else: results in, state out. [`probe`] asks a backend; it is the only part that
//! opens sockets. [`runner`] keeps one task per distinct target and tells of every change of state. [`room`] says how many of
//! them may ask at a time.

pub mod machine;
pub mod probe;
pub mod room;
pub mod runner;

use std::time::{SystemTime, UNIX_EPOCH};

pub use self::{
    machine::{CheckResult, Machine, Transition},
    probe::{NetworkProber, Prober},
    runner::{HealthEvent, HealthRunner},
};
use crate::api::{HealthReport, HealthState};

/// The report of a backend that is not checked, because there is no check or the operator disabled it.
#[must_use]
pub fn unchecked(since: SystemTime) -> HealthReport {
    HealthReport {
        state: HealthState::Unchecked,
        since: unix_seconds(since),
        last_result: None,
        latency_ms: None,
        progress: (0, 0),
    }
}

/// A clock before 1970 counts as 1970.
fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
