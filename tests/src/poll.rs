//! Waiting for something to become true, without betting on how fast the machine is.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Looks until `look` returns a value, for at most `limit`.
///
/// # Panics
/// When the time is up; the message carries what was waited for and what the last look saw.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= end => panic!("waited {limit:?} for {what}; last seen: {seen}"),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Looks for the whole of `span` and ends the test as soon as `look` returns an observation.
///
/// # Panics
/// When `look` returns `Some`.
#[track_caller]
pub fn never(what: &str, span: Duration, mut look: impl FnMut() -> Option<String>) {
    let end = Instant::now() + span;
    while Instant::now() < end {
        if let Some(seen) = look() {
            panic!("{what} happened: {seen}");
        }
        thread::sleep(PAUSE);
    }
}
