//! How many flows a CPU opens in a second, as a token bucket: a flow takes a token, and time brings new ones.

use crate::flow::{TICK_SHIFT, Tick};

/// Binary places of a token.
const SCALE_SHIFT: u32 = 16;
/// One token.
const TOKEN: u64 = 1 << SCALE_SHIFT;
/// A bucket holds what so many ticks bring, about an eighth of a second: several jiffies, as the clock goes by these.
const DEPTH: u32 = 128;

/// The highest rate that a bucket can have, per second.
pub const MAX_RATE: u32 = 50_000_000;

/// What a tick brings at a rate, in parts of a token. Zero: there is no limit.
#[must_use]
pub const fn credit(per_second: u32) -> u32 {
    let rate = if per_second < MAX_RATE { per_second } else { MAX_RATE };
    (((rate as u64) << (TICK_SHIFT + SCALE_SHIFT)) / 1_000_000_000) as u32
}

/// A CPU's bucket. The default is empty, and full when it was not used for an eighth of a second.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Bucket {
    /// In parts of a token.
    tokens: u64,
    /// When they were counted.
    at: Tick,
    /// Zero.
    pad: u32,
}

impl Bucket {
    /// Takes a token; false when there is none.
    #[inline(always)]
    pub const fn take(&mut self, now: Tick, credit: u32) -> bool {
        let elapsed = now.remaining(self.at);
        // The packet path's clock never goes back, but it wraps.
        let elapsed = if elapsed < 0 { u32::MAX } else { elapsed.cast_unsigned() };
        let depth = credit as u64 * DEPTH as u64;
        let depth = if depth < TOKEN { TOKEN } else { depth };
        let tokens = self.tokens + credit as u64 * elapsed as u64;
        let tokens = if tokens < depth { tokens } else { depth };
        self.at = now;
        let enough = tokens >= TOKEN;
        self.tokens = if enough { tokens - TOKEN } else { tokens };
        enough
    }
}

const _: () = assert!(size_of::<Bucket>() == 16);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: f64 = 1e9 / (1u64 << TICK_SHIFT) as f64;

    /// What is let through of packets in even steps, in ticks.
    fn passed(start: u32, rate: u32, steps: u32, each: u32, at_once: u32) -> u32 {
        let mut bucket = Bucket::default();
        let mut passed = 0;
        for step in 0..steps {
            let now = Tick(start).plus(step * each);
            passed += (0..at_once)
                .map(|_| u32::from(bucket.take(now, credit(rate))))
                .sum::<u32>();
        }
        passed
    }

    proptest! {
        /// Wherever the clock stands, and however seldom it moves: the rate, and a bucket full at the start.
        #[test]
        fn the_rate_is_kept(start: u32, rate in 100u32..200_000, each in 1u32..16) {
            let (steps, at_once) = (200, 1000);
            let got = f64::from(passed(start, rate, steps, each, at_once));
            let time = f64::from(steps * each) / SECOND;
            let most = f64::from(rate) * (time + f64::from(DEPTH) / SECOND) + 2.0;
            let can = f64::from(steps * at_once);
            prop_assert!(got <= most, "{got} of {most}");
            prop_assert!(got >= (f64::from(rate) * time * 0.98).min(can) - 2.0, "{got}");
        }

        /// Less than the rate is never refused, once the bucket has filled.
        #[test]
        fn what_keeps_to_the_rate_passes(start: u32, rate in 1000u32..100_000) {
            let each = 16;
            let fair = (f64::from(rate) * f64::from(each) / SECOND * 0.95) as u32;
            prop_assert_eq!(passed(start, rate, 50, each, fair), 50 * fair);
        }
    }

    #[test]
    fn the_lowest_rate_lets_one_pass_now_and_then() {
        let mut bucket = Bucket::default();
        let mut times = 0;
        for tick in 0..10 * 954 {
            times += u32::from(bucket.take(Tick(tick), credit(1)));
        }
        assert!((9..=11).contains(&times), "{times} in ten seconds");
    }
}
