//! Counters that only grow, read now and then, become rates over time.

use std::time::Duration;

use super::report::Series;

/// Turns counters into rates, keeps them, and hands each on to whoever watches.
#[derive(Debug)]
pub struct Meter {
    names: Vec<&'static str>,
    before: (Duration, Vec<u64>),
    points: Vec<Vec<(f64, f64)>>,
}

/// One reading: rates since the one before.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Since the start.
    pub at: Duration,
    /// Name and rate per second of each counter.
    pub rates: Vec<(&'static str, f64)>,
}

impl Meter {
    /// A meter of these counters, all zero at the start.
    #[must_use]
    pub fn new(names: &[&'static str]) -> Self {
        Self {
            names: names.to_vec(),
            before: (Duration::ZERO, vec![0; names.len()]),
            points: vec![Vec::new(); names.len()],
        }
    }

    /// How often to read in a run of this length: often enough for a curve, seldom enough to see rates and not chance.
    #[must_use]
    pub fn interval(run: Duration) -> Duration {
        (run / 100).clamp(Duration::from_millis(100), Duration::from_secs(1))
    }

    /// The counters are at these totals now. Nothing comes of a reading without time since the last.
    pub fn read(&mut self, at: Duration, totals: &[u64]) -> Option<Reading> {
        let (then, before) = &self.before;
        let seconds = at.checked_sub(*then).filter(|gone| !gone.is_zero())?.as_secs_f64();
        let rates: Vec<_> = before
            .iter()
            .zip(totals)
            .map(|(before, now)| count(now.saturating_sub(*before)) / seconds)
            .collect();
        for (points, rate) in self.points.iter_mut().zip(&rates) {
            points.push((at.as_secs_f64(), *rate));
        }
        self.before = (at, totals.to_vec());
        Some(Reading {
            at,
            rates: self.names.iter().copied().zip(rates).collect(),
        })
    }

    /// All readings.
    #[must_use]
    pub fn series(self) -> Vec<Series> {
        let named = self.names.iter().zip(self.points);
        named
            .map(|(name, points)| Series {
                name: (*name).to_owned(),
                unit: "per second",
                points,
            })
            .collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "no counter here comes near 2^53")]
const fn count(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_since_the_last_reading() {
        let mut meter = Meter::new(&["sent", "failed"]);
        let reading = meter.read(Duration::from_secs(2), &[100, 0]).unwrap();
        assert_eq!(reading.rates, [("sent", 50.0), ("failed", 0.0)]);
        assert_eq!(meter.read(Duration::from_secs(2), &[100, 0]), None);
        let reading = meter.read(Duration::from_millis(2500), &[150, 1]).unwrap();
        assert_eq!(reading.rates, [("sent", 100.0), ("failed", 2.0)]);
        let series = meter.series();
        assert_eq!(series[0].points, [(2.0, 50.0), (2.5, 100.0)]);
        assert_eq!(series[1].name, "failed");
    }
}
