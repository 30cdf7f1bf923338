//! Waiting for something to become true, without betting on how fast the machine is.

use std::{
    env,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// By how much to be more patient than on an ordinary machine, from the environment: a whole number.
const FACTOR: &str = "LB_TEST_PATIENCE";

/// A time limit, longer where the machine is known to be slow, such as an emulated one.
#[must_use]
pub fn patience(limit: Duration) -> Duration {
    static SET: LazyLock<u32> = LazyLock::new(|| {
        let Ok(set) = env::var(FACTOR) else { return 1 };
        set.parse().unwrap_or_else(|e| panic!("{FACTOR}={set}: {e}"))
    });
    limit * *SET
}

/// Looks until `look` returns a value, for at most `limit`, as [`patience`] has it.
///
/// # Panics
/// When the time is up; the message carries what was waited for and what the last look saw.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let limit = patience(limit);
    let end = Instant::now() + limit;
    loop {
        match look() {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= end => panic!("waited {limit:?} for {what}; last seen: {seen}"),
            // Where everything is slow, looking is, too, and would keep what is waited for from happening.
            Err(_) => thread::sleep(patience(PAUSE)),
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
