//! When the next packet is due.

/// Bits of a nanosecond's fractions.
const FRACTION: u32 = 16;
/// How far a schedule may be behind before the packets that it missed are given up, in 2^-16 nanoseconds: 250 ms.
const PATIENCE: u64 = 250_000_000 << FRACTION;

/// A schedule of equal distances. It runs for 39 hours.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Pace {
    /// When the next packet is due, counted from the first, in 2^-16 nanoseconds.
    due: u64,
    /// From packet to packet, in 2^-16 nanoseconds.
    interval: u64,
}

impl Pace {
    /// The part of one of several lanes in `rate` packets a second. The lanes take turns.
    #[must_use]
    pub const fn new(rate: u64, place: u32, lanes: u32) -> Self {
        const SECOND: u64 = 1_000_000_000 << FRACTION;
        let rate = if rate == 0 { 1 } else { rate };
        Self {
            due: SECOND / rate * place as u64,
            interval: SECOND / rate * lanes as u64,
        }
    }

    /// Whether a packet is due so many nanoseconds after the beginning; it counts as sent then.
    ///
    /// A sender that was held up catches up, because the mean rate is what was asked for; after more than 250 ms it does
    /// not, because the burst would measure something else.
    #[inline(always)]
    pub fn take(&mut self, elapsed: u64) -> bool {
        let elapsed = elapsed << FRACTION;
        if elapsed < self.due {
            return false;
        }
        if elapsed - self.due > PATIENCE {
            self.due = elapsed - PATIENCE;
        }
        self.due += self.interval;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(mut pace: Pace, times: impl Iterator<Item = u64>) -> usize {
        times.filter(|now| pace.take(*now)).count()
    }

    #[test]
    fn the_rate_is_kept_at_any_polling_distance() {
        for (rate, step) in [(10_000, 83), (500_000, 61), (999_999, 700), (3, 1_000)] {
            let seconds = 2;
            let got = sent(Pace::new(rate, 0, 1), (0..seconds * 1_000_000_000).step_by(step));
            let wanted = (rate * seconds) as usize;
            assert!(got.abs_diff(wanted) <= 1 + wanted / 100_000, "{rate}: {got}");
        }
    }

    #[test]
    fn a_short_pause_is_caught_up_and_a_long_one_is_not() {
        let after = |pause: u64| {
            let mut pace = Pace::new(1000, 0, 1);
            assert!(pace.take(0));
            (0..1_000_000).filter(|_| pace.take(pause)).count()
        };
        assert_eq!(after(20_000_000), 20);
        assert!((250..=251).contains(&after(10_000_000_000)));
    }

    #[test]
    fn schedules_of_several_lanes_interlock() {
        let mut first: Vec<u64> = (0..4)
            .map(|place| {
                let mut pace = Pace::new(4000, place, 4);
                (0..2_000_000).find(|now| pace.take(*now)).unwrap()
            })
            .collect();
        first.sort_unstable();
        assert!(first.windows(2).all(|pair| pair[1] - pair[0] == 250_000), "{first:?}");
    }
}
