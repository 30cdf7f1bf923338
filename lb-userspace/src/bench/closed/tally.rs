//! What the workers of one thread have counted.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use hdrhistogram::Histogram;

use super::{
    failure::{Failure, FailureKind},
    schedule::Timing,
};

/// Names that a spread tells apart; what comes after goes under one name.
const MOST_NAMES: usize = 1000;
/// The name for what would be one too many.
const OTHERS: &str = "(others)";
/// Latencies are told apart from a microsecond to an hour, in three figures.
const SHORTEST: u64 = 1000;
const LONGEST: u64 = 3_600_000_000_000;
const FIGURES: u8 = 3;

/// An answer that came whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// HTTP only.
    pub(super) status: Option<u16>,
    /// Bytes of its body.
    pub(super) bytes: u64,
    /// Who gave it, if that was asked.
    pub(super) from: Option<String>,
}

/// Counts and times.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) begun: u64,
    pub(super) succeeded: u64,
    pub(super) opened: u64,
    pub(super) bytes: u64,
    pub(super) failures: BTreeMap<FailureKind, (u64, String)>,
    pub(super) statuses: BTreeMap<u16, u64>,
    pub(super) spread: BTreeMap<String, u64>,
    /// From when it was due.
    pub(super) whole: Histogram<u64>,
    /// From when it began.
    pub(super) service: Histogram<u64>,
    /// From SYN to the established connection.
    pub(super) connect: Histogram<u64>,
}

impl Tally {
    /// Nothing yet.
    ///
    /// # Errors
    /// Never: the bounds are good.
    pub(super) fn new() -> Result<Self, hdrhistogram::CreationError> {
        let histogram = Histogram::new_with_bounds(SHORTEST, LONGEST, FIGURES)?;
        Ok(Self {
            begun: 0,
            succeeded: 0,
            opened: 0,
            bytes: 0,
            failures: BTreeMap::new(),
            statuses: BTreeMap::new(),
            spread: BTreeMap::new(),
            whole: histogram.clone(),
            service: histogram.clone(),
            connect: histogram,
        })
    }

    pub(super) fn failed(&self) -> u64 {
        self.failures.values().map(|(count, _)| count).sum()
    }

    pub(super) fn connected(&mut self, took: Duration) {
        self.opened += 1;
        self.connect.saturating_record(nanos(took));
    }

    pub(super) fn succeed(&mut self, timing: Timing, answer: Answer) {
        self.succeeded += 1;
        self.bytes += answer.bytes;
        self.whole.saturating_record(nanos(timing.since_due));
        self.service.saturating_record(nanos(timing.since_begun));
        if let Some(status) = answer.status {
            *self.statuses.entry(status).or_default() += 1;
        }
        if let Some(name) = answer.from {
            self.came_from(name, 1);
        }
    }

    pub(super) fn fail(&mut self, failure: Failure) {
        let (count, _) = self.failures.entry(failure.kind).or_insert((0, failure.words));
        *count += 1;
    }

    fn came_from(&mut self, name: String, count: u64) {
        let full = self.spread.len() >= MOST_NAMES;
        match self.spread.entry(name) {
            Entry::Occupied(mut entry) => *entry.get_mut() += count,
            Entry::Vacant(entry) if !full => drop(entry.insert(count)),
            Entry::Vacant(_) => *self.spread.entry(OTHERS.to_owned()).or_default() += count,
        }
    }

    /// Takes another thread's counts in.
    ///
    /// # Errors
    /// Never: all histograms have the same bounds.
    pub(super) fn add(&mut self, other: &Self) -> Result<(), hdrhistogram::AdditionError> {
        self.begun += other.begun;
        self.succeeded += other.succeeded;
        self.opened += other.opened;
        self.bytes += other.bytes;
        for (kind, (count, words)) in &other.failures {
            let (sum, _) = self.failures.entry(*kind).or_insert_with(|| (0, words.clone()));
            *sum += count;
        }
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (name, count) in &other.spread {
            self.came_from(name.clone(), *count);
        }
        self.whole.add(&other.whole)?;
        self.service.add(&other.service)?;
        self.connect.add(&other.connect)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(from: &str) -> Answer {
        Answer {
            status: Some(200),
            bytes: 3,
            from: Some(from.to_owned()),
        }
    }

    fn timing(ms: u64) -> Timing {
        Timing {
            since_due: Duration::from_millis(ms),
            since_begun: Duration::from_millis(ms / 2),
        }
    }

    #[test]
    fn counts_of_threads_add_up() {
        let (mut one, mut two) = (Tally::new().unwrap(), Tally::new().unwrap());
        one.succeed(timing(10), answer("s1"));
        two.succeed(timing(20), answer("s1"));
        two.succeed(timing(30), answer("s2"));
        one.fail(Failure::new(FailureKind::Reset, "first"));
        one.fail(Failure::new(FailureKind::Reset, "second"));
        two.fail(Failure::new(FailureKind::Refused, "no"));
        one.add(&two).unwrap();
        assert_eq!((one.succeeded, one.failed(), one.bytes), (3, 3, 9));
        assert_eq!(one.statuses[&200], 3);
        assert_eq!((one.spread["s1"], one.spread["s2"]), (2, 1));
        assert_eq!(one.failures[&FailureKind::Reset], (2, "first".to_owned()));
        assert_eq!((one.whole.len(), one.service.len()), (3, 3));
        assert!(one.whole.max() >= 30_000_000 && one.service.max() < 16_000_000);
    }

    #[test]
    fn too_many_names_share_one() {
        let mut tally = Tally::new().unwrap();
        for n in 0..MOST_NAMES + 5 {
            tally.succeed(timing(1), answer(&n.to_string()));
        }
        assert_eq!(tally.spread[OTHERS], 5);
        assert_eq!(tally.spread.len(), MOST_NAMES + 1);
    }
}
