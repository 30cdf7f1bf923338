//! Slow start: how the share of a backend that returns climbs. Pure.

use std::time::Duration;

/// In so many steps, of the same size and length.
pub const STEPS: u32 = 10;

/// How many of the [`STEPS`] a backend has reached; it begins with the first, since one that is given nothing never warms
/// up.
#[must_use]
pub fn reached(elapsed: Duration, over: Duration) -> u32 {
    let steps = (elapsed.as_nanos() * u128::from(STEPS)).checked_div(over.as_nanos());
    let steps = steps.and_then(|steps| u32::try_from(steps).ok()).unwrap_or(STEPS);
    steps.saturating_add(1).min(STEPS)
}

/// How long after its return the next step is due; `None` when there is none any more.
#[must_use]
pub fn next(elapsed: Duration, over: Duration) -> Option<Duration> {
    let reached = reached(elapsed, over);
    (reached < STEPS).then(|| over * reached / STEPS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn it_climbs_from_a_tenth_to_the_whole() {
        let over = s(30);
        assert_eq!(
            [0, 2, 3, 15, 26, 27, 30, 999].map(|n| reached(s(n), over)),
            [1, 1, 2, 6, 9, 10, 10, 10]
        );
        assert_eq!(reached(s(0), s(0)), STEPS, "no slow start");
        assert_eq!(
            [0, 3, 26, 27, 30].map(|n| next(s(n), over)),
            [Some(s(3)), Some(s(6)), Some(s(27)), None, None]
        );
    }

    proptest! {
        /// Whoever looks when a step is due finds it done, and needs no more looks than there are steps.
        #[test]
        fn every_step_is_seen_when_it_is_due(over in 1u64..1_000_000_000) {
            let over = Duration::from_micros(over);
            let (mut elapsed, mut seen) = (Duration::ZERO, vec![reached(Duration::ZERO, over)]);
            while let Some(due) = next(elapsed, over) {
                prop_assert!(due >= elapsed && due <= over);
                // The division rounds down by less than a step's nanosecond.
                elapsed = due + Duration::from_nanos(1);
                seen.push(reached(elapsed, over));
                prop_assert!(seen.len() <= STEPS as usize);
            }
            prop_assert_eq!(seen, (1..=STEPS).collect::<Vec<_>>());
        }
    }
}
