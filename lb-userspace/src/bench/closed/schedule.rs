//! When requests are due, if a rate is set. Pure.

use std::time::Duration;

/// Evenly spaced times, counted from the start of the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Schedule {
    per_second: f64,
}

/// How long one took, as seen by two watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timing {
    /// Since it was due, or began where nothing was due: what a client waits.
    pub(super) since_due: Duration,
    /// Since it began: what the server and the network take.
    pub(super) since_begun: Duration,
}

impl Schedule {
    /// So many a second, which is more than none.
    pub(super) const fn new(per_second: f64) -> Self {
        Self { per_second }
    }

    /// When number `n` is due; the first is number 0.
    pub(super) fn due(&self, n: u64) -> Duration {
        Duration::try_from_secs_f64(to_f64(n) / self.per_second).unwrap_or(Duration::MAX)
    }

    /// How many are due after this time.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and a run is bounded"
    )]
    pub(super) fn due_by(&self, elapsed: Duration) -> u64 {
        // A nanosecond too early by rounding must not make one that is due wait for the next look.
        let elapsed = elapsed.as_secs_f64() + 1e-9;
        (elapsed * self.per_second).floor() as u64 + 1
    }
}

impl Timing {
    /// All times count from the start of the run.
    pub(super) fn of(due: Option<Duration>, begun: Duration, ended: Duration) -> Self {
        Self {
            since_due: ended.saturating_sub(due.unwrap_or(begun)),
            since_begun: ended.saturating_sub(begun),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "no run comes near 2^53")]
const fn to_f64(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_that_waits_for_a_connection_took_that_long() {
        // Ten a second and one connection: the server stalls for a second, and the others pile up behind it.
        let schedule = Schedule::new(10.0);
        let ms = Duration::from_millis;
        let mut free = Duration::ZERO;
        let timings: Vec<_> = (0..5)
            .map(|n| {
                let due = schedule.due(n);
                let begun = due.max(free);
                free = begun + if n == 0 { ms(1000) } else { ms(1) };
                Timing::of(Some(due), begun, free)
            })
            .collect();
        let waited: Vec<_> = timings.iter().map(|t| t.since_due.as_millis()).collect();
        assert_eq!(waited, [1000, 901, 802, 703, 604]);
        let served: Vec<_> = timings.iter().map(|t| t.since_begun.as_millis()).collect();
        assert_eq!(served, [1000, 1, 1, 1, 1]);
    }

    #[test]
    fn without_a_schedule_both_watches_agree() {
        let timing = Timing::of(None, Duration::from_secs(1), Duration::from_secs(3));
        assert_eq!(
            (timing.since_due, timing.since_begun),
            (Duration::from_secs(2), Duration::from_secs(2))
        );
    }

    proptest! {
        #[test]
        fn what_is_due_by_its_time_is_counted(n in 0_u64..10_000_000, rate in 0.1_f64..1e6) {
            let schedule = Schedule::new(rate);
            let due = schedule.due(n);
            prop_assert!(schedule.due_by(due) > n);
            prop_assert!(schedule.due_by(due) <= n + 2);
            prop_assert!(schedule.due(n + 1) > due);
        }
    }
}
