//! The health of one target as a pure state machine, in the terms of HAProxy's `rise`, `fall`, `inter` and `fastinter`.
//!
//! A state flips when `rise` successes or `fall` failures in a row contradict it; one result that agrees starts the count
//! anew. A target of which nothing is known is the exception: its first result decides at once, so that a start with
//! healthy backends serves after one check, not after `rise`. HAProxy goes further and takes a new server as up before
//! any check; here the first check stands between a dead backend and its first client.

use std::time::{Duration, SystemTime};

use super::unix_seconds;
use crate::{
    api::{HealthReport, HealthState},
    model::HealthCheck,
};

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// Whether the target answered as it should.
    pub healthy: bool,
    /// In words: `connected`, `HTTP 503`, `connection refused`.
    pub words: String,
    /// How long the check took.
    pub latency: Duration,
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The old state.
    pub from: HealthState,
    /// The new state: up or down.
    pub to: HealthState,
}

/// Health of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    state: HealthState,
    since: SystemTime,
    /// Results in a row that contradict the state.
    contrary: u32,
    last: Option<CheckResult>,
    rise: u32,
    fall: u32,
    interval: Duration,
    fast_interval: Duration,
}

impl Machine {
    /// A machine at the start of its check.
    ///
    /// `initial` is what an adopted packet path believes: such a target stays up until `fall` failures, or down until
    /// `rise` successes. Anything but up and down means that nothing is known.
    #[must_use]
    pub fn new(check: &HealthCheck, initial: Option<HealthState>, now: SystemTime) -> Self {
        let state = match initial {
            Some(known @ (HealthState::Up | HealthState::Down)) => known,
            Some(HealthState::Unknown | HealthState::Unchecked) | None => HealthState::Unknown,
        };
        Self {
            state,
            since: now,
            contrary: 0,
            last: None,
            rise: check.rise.max(1),
            fall: check.fall.max(1),
            interval: check.interval,
            fast_interval: check.fast_interval,
        }
    }

    /// Takes in the next result; gives the change of state, if that was one.
    pub fn record(&mut self, result: CheckResult, now: SystemTime) -> Option<Transition> {
        let seen = if result.healthy {
            HealthState::Up
        } else {
            HealthState::Down
        };
        self.last = Some(result);
        if seen == self.state {
            self.contrary = 0;
            return None;
        }
        self.contrary += 1;
        if self.contrary < self.needed() {
            return None;
        }
        let from = std::mem::replace(&mut self.state, seen);
        self.contrary = 0;
        self.since = now;
        Some(Transition { from, to: seen })
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> HealthState {
        self.state
    }

    /// From the start of the last check to the start of the next: the fast interval while the state is in doubt.
    #[must_use]
    pub fn delay(&self) -> Duration {
        if self.contrary > 0 || self.state == HealthState::Unknown {
            self.fast_interval
        } else {
            self.interval
        }
    }

    /// Contrary results in a row that flip the state.
    const fn needed(&self) -> u32 {
        match self.state {
            HealthState::Up => self.fall,
            HealthState::Down => self.rise,
            HealthState::Unknown | HealthState::Unchecked => 1,
        }
    }

    /// What `lb status` shows.
    #[must_use]
    pub fn report(&self) -> HealthReport {
        HealthReport {
            state: self.state,
            since: unix_seconds(self.since),
            last_result: self.last.as_ref().map(|result| result.words.clone()),
            latency_ms: self.last.as_ref().map(|result| result.latency.as_secs_f64() * 1000.0),
            progress: (self.contrary, self.needed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(rise: u32, fall: u32) -> HealthCheck {
        HealthCheck {
            rise,
            fall,
            ..HealthCheck::default()
        }
    }

    fn result(healthy: bool) -> CheckResult {
        CheckResult {
            healthy,
            words: if healthy { "connected" } else { "connection refused" }.to_owned(),
            latency: Duration::from_micros(1500),
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn machine(rise: u32, fall: u32, initial: Option<HealthState>) -> Machine {
        Machine::new(&check(rise, fall), initial, at(0))
    }

    #[test]
    fn the_first_result_of_a_fresh_target_decides() {
        for (healthy, state) in [(true, HealthState::Up), (false, HealthState::Down)] {
            let mut machine = machine(5, 5, None);
            assert_eq!(machine.report().progress, (0, 1));
            let transition = machine.record(result(healthy), at(7));
            assert_eq!(
                transition,
                Some(Transition {
                    from: HealthState::Unknown,
                    to: state
                })
            );
            assert_eq!(machine.report().since, 7);
        }
    }

    #[test]
    fn an_adopted_target_falls_and_rises_as_any_other() {
        let mut machine = machine(2, 3, Some(HealthState::Up));
        assert_eq!(machine.record(result(false), at(1)), None);
        assert_eq!(machine.record(result(false), at(2)), None);
        assert_eq!(machine.report().progress, (2, 3));
        assert_eq!(machine.state(), HealthState::Up);
        assert!(machine.record(result(false), at(3)).is_some());
        assert_eq!(machine.report().progress, (0, 2));
        assert_eq!(machine.record(result(true), at(4)), None);
        assert!(machine.record(result(true), at(5)).is_some());
        assert_eq!(machine.report().since, 5);
    }

    #[test]
    fn states_that_a_check_cannot_have_mean_nothing_is_known() {
        for initial in [None, Some(HealthState::Unknown), Some(HealthState::Unchecked)] {
            assert_eq!(machine(2, 3, initial).state(), HealthState::Unknown);
        }
    }

    #[test]
    fn one_agreeing_result_starts_the_count_anew() {
        let mut machine = machine(2, 2, Some(HealthState::Up));
        for healthy in [false, true, false, true, false] {
            assert_eq!(machine.record(result(healthy), at(1)), None);
        }
    }

    #[test]
    fn checks_are_fast_only_while_the_state_is_in_doubt() {
        let check = check(2, 2);
        let mut machine = machine(2, 2, None);
        assert_eq!(machine.delay(), check.fast_interval);
        let mut delay_after = |healthy| {
            machine.record(result(healthy), at(1));
            machine.delay()
        };
        assert_eq!(delay_after(true), check.interval);
        assert_eq!(delay_after(false), check.fast_interval);
        assert_eq!(delay_after(false), check.interval);
        assert_eq!(delay_after(true), check.fast_interval);
        assert_eq!(delay_after(true), check.interval);
    }

    #[test]
    fn the_report_has_the_last_result() {
        let mut machine = machine(1, 2, Some(HealthState::Up));
        assert_eq!(machine.report().last_result, None);
        machine.record(result(false), at(1));
        let report = machine.report();
        assert_eq!(report.last_result.as_deref(), Some("connection refused"));
        assert_eq!(report.latency_ms, Some(1.5));
    }

    proptest! {
        /// A flip comes with exactly the needed number of contrary results in a row, counted by hand from the history.
        #[test]
        fn flips_follow_the_history(
            rise in 1_u32..6,
            fall in 1_u32..6,
            initial in prop_oneof![Just(None), Just(Some(HealthState::Up)), Just(Some(HealthState::Down))],
            history in proptest::collection::vec(any::<bool>(), 0..200),
        ) {
            let mut machine = machine(rise, fall, initial);
            // Results since the last flip: a run from before it must not count.
            let mut since_flip: Vec<bool> = Vec::new();
            for (index, healthy) in history.into_iter().enumerate() {
                let before = machine.state();
                since_flip.push(healthy);
                let run = since_flip.iter().rev().take_while(|r| **r == healthy).count();
                let transition = machine.record(result(healthy), at(index as u64));
                let flips = match (before, healthy) {
                    (HealthState::Up, false) => run >= fall as usize,
                    (HealthState::Down, true) => run >= rise as usize,
                    (HealthState::Unknown, _) => true,
                    _ => false,
                };
                prop_assert_eq!(transition.is_some(), flips);
                prop_assert_eq!(machine.state() != before, flips);
                let (contrary, needed) = machine.report().progress;
                prop_assert!(contrary < needed);
                if let Some(transition) = transition {
                    prop_assert_eq!(transition, Transition { from: before, to: machine.state() });
                    prop_assert_eq!(contrary, 0);
                    prop_assert_eq!(machine.report().since, index as u64);
                    since_flip.clear();
                }
            }
        }
    }
}
