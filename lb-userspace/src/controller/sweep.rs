//! Walks over the flow tables: how many flows each backend has, and which removed backends have none left.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use lb_common::{
    abi::{Backend, Previous},
    reason::{COUNTERS, DropReason},
};

use super::{
    Controller,
    events::Internal,
    ports::{Health, Network},
    strays::Strays,
};
use crate::{
    api::{Counters, SweepReport},
    datapath::{BackendCounters, Datapath, DatapathError, Sweep},
    model::ServiceId,
    plan::{Action, Layout},
};

/// Sweeps in a minute, at one every five seconds.
const SAMPLES: usize = 13;

/// What the last sweep found.
#[derive(Debug, Default)]
pub(super) struct Books {
    running: bool,
    /// Established flows in the IPv4 and IPv6 table, and all between families.
    pub(super) flows: [u64; 3],
    /// Half-open ones.
    pub(super) half_open: [u64; 2],
    /// What the last sweep took.
    pub(super) cost: Option<SweepReport>,
    /// Flows of each backend index at the last sweep, and its counters then.
    active: BTreeMap<u32, (u64, BackendCounters)>,
    /// Counters of each backend index when the sweep began.
    counted: BTreeMap<u32, BackendCounters>,
    /// How often source ports had run out, at each of the last sweeps.
    exhausted: VecDeque<u64>,
    /// Why the last sweep failed.
    pub(super) error: Option<String>,
}

impl Books {
    /// Flows open now: those that the last sweep found, and what was opened and closed since.
    pub(super) fn active(&self, index: u32, now: &BackendCounters) -> u64 {
        let (swept, then) = self.active.get(&index).copied().unwrap_or_default();
        let opened = now.opened.saturating_sub(then.opened);
        (swept + opened).saturating_sub(now.closed.saturating_sub(then.closed))
    }

    /// How often source ports ran out in the last minute.
    pub(super) fn exhausted_lately(&self) -> u64 {
        match (self.exhausted.front(), self.exhausted.back()) {
            (Some(first), Some(last)) => last.saturating_sub(*first),
            _ => 0,
        }
    }
}

impl<D: Datapath, N: Network, H: Health> Controller<D, N, H> {
    /// Begins to walk over the flow tables, aside.
    pub(super) fn begin_sweep(&mut self) {
        if std::mem::replace(&mut self.books.running, true) {
            return;
        }
        let counted: Vec<u32> = self.layout.contents().backends.keys().copied().collect();
        self.books.counted = counted.into_iter().map(|i| (i, self.counters_of(i))).collect();
        let (flows, internal, began) = (Arc::clone(&self.flows), self.internal.clone(), self.now());
        let mut strays = Strays::begin(&self.layout, self.flows.now().ok());
        tokio::task::spawn_blocking(move || {
            let sweep = match &mut strays {
                Some(strays) => flows.sweep_watching(Some(&mut |flow| strays.note(flow))),
                None => flows.sweep(),
            };
            drop(internal.send(Internal::Swept(began, sweep, strays)));
        });
    }

    pub(super) fn on_swept(&mut self, began: Duration, result: Result<Sweep, DatapathError>, strays: Option<Strays>) {
        self.books.running = false;
        let sweep = match result {
            Ok(sweep) => sweep,
            Err(error) => {
                tracing::warn!("the flow tables could not be walked: {error}");
                self.books.error = Some(error.to_string());
                return;
            }
        };
        self.books.error = None;
        self.books.flows = sweep.flows;
        self.books.half_open = sweep.half_open;
        self.books.cost = Some(SweepReport::new(&sweep, self.now().saturating_sub(began)));
        self.free_unused(began, &sweep);
        let indices: Vec<u32> = self.layout.contents().backends.keys().copied().collect();
        let count = |i: u32| (i, (sweep.active.get(&i).copied().unwrap_or(0), self.counters_of(i)));
        self.books.active = indices.into_iter().map(count).collect();
        self.correct_active(&sweep);
        self.sample_reasons();
        let now = self.now();
        self.layout.collect_garbage(now);
        if !self.layout.contents().previous.is_empty()
            && let Ok(tick) = self.flows.now()
        {
            self.forget_previous(|layout| layout.outdated(tick));
        }
        let needless = strays.map(|strays| strays.needless(&self.layout));
        for (id, marks) in needless.unwrap_or_default() {
            self.publish_marks(id, &marks);
        }
    }

    /// Puts right how many flows the packet path takes backends to have: entries that expire or are evicted end unseen.
    fn correct_active(&mut self, sweep: &Sweep) {
        let counted = |b: &Backend| b.weight > 0 || b.limit > 0;
        let backends = self.layout.contents().backends.iter();
        let counted: Vec<u32> = backends.filter(|(_, b)| counted(b)).map(|(index, _)| *index).collect();
        for index in counted {
            let before = self.books.counted.get(&index).copied().unwrap_or_default();
            let now = self.counters_of(index);
            let stirred = now.opened.saturating_sub(before.opened) + now.closed.saturating_sub(before.closed);
            let swept = sweep.active.get(&index).copied().unwrap_or(0);
            let Ok(active) = self.datapath.active(index) else {
                continue;
            };
            if let Some(flows) = corrected(active, swept, stirred)
                && let Err(error) = self.datapath.set_active(index, flows)
            {
                tracing::warn!("the flows of a backend could not be corrected: {error}; trying again");
            }
        }
    }

    /// Tables before the last change make room for others.
    pub(super) fn forget_previous(&mut self, which: impl FnOnce(&Layout) -> Vec<(u32, Previous)>) {
        for (service, previous) in which(&self.layout) {
            let none = Action::SetPrevious {
                service,
                previous: Previous::default(),
            };
            if let Err(error) = self.write(&none) {
                tracing::warn!("a table could not be given up: {error}; trying again");
                continue;
            }
            let now = self.now();
            self.layout.forgot(service, previous, now);
        }
    }

    /// Removed backends without flows make room for others; their traffic stays in their service's books.
    fn free_unused(&mut self, began: Duration, sweep: &Sweep) {
        let has_flows = |index| sweep.present.get(&index).is_some_and(|n| *n > 0);
        let unused = self.layout.unused(began, has_flows);
        if unused.is_empty() {
            return;
        }
        let contents = self.layout.contents();
        let ids: HashMap<u32, ServiceId> = contents.services.iter().rev().map(|(id, s)| (s.index, *id)).collect();
        let mut freed = BTreeSet::new();
        for index in unused {
            let counters = self.counters_of(index);
            let entry = self.layout.contents().backends.get(&index);
            let service = entry.and_then(|backend| ids.get(&backend.service)).copied();
            let backend = Backend::default();
            if let Err(error) = self.write(&Action::SetBackend { index, backend }) {
                tracing::warn!("a removed backend could not be freed: {error}; trying again");
                continue;
            }
            freed.insert(index);
            if let Some(id) = service.filter(|id| self.desired.by_id(*id).is_some()) {
                add(self.departed.entry(id).or_default(), &counters, 0);
            }
        }
        self.layout.freed(&freed);
        self.save();
    }

    fn sample_reasons(&mut self) {
        let place = COUNTERS.min(DropReason::SourcePortsExhausted.counter()) as usize;
        let Ok(reasons) = self.datapath.reasons() else { return };
        self.books.exhausted.push_back(reasons.get(place).copied().unwrap_or(0));
        if self.books.exhausted.len() > SAMPLES {
            self.books.exhausted.pop_front();
        }
    }

    /// Counters of a backend index; zero where they cannot be read.
    pub(super) fn counters_of(&self, index: u32) -> BackendCounters {
        self.datapath.backend_counters(index).unwrap_or_default()
    }
}

/// What a count of active flows is put right to, from what a sweep found and how many flows opened and closed
/// while it went on: each of those may have been seen or not, so a count within that distance is as good as the sweep's.
fn corrected(active: u32, swept: u64, stirred: u64) -> Option<u32> {
    (u64::from(active).abs_diff(swept) > stirred).then(|| u32::try_from(swept).unwrap_or(u32::MAX))
}

/// Adds a backend's counters to a sum.
pub(super) const fn add(sum: &mut Counters, counters: &BackendCounters, active: u64) {
    sum.packets_in += counters.packets_in;
    sum.bytes_in += counters.bytes_in;
    sum.packets_out += counters.packets_out;
    sum.bytes_out += counters.bytes_out;
    sum.new_flows += counters.opened;
    sum.active_flows += active;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_put_right_unless_they_may_be() {
        assert_eq!(corrected(5, 5, 0), None);
        assert_eq!(corrected(9, 5, 0), Some(5));
        assert_eq!(corrected(9, 5, 4), None, "flows that came after the sweep had gone by");
        assert_eq!(corrected(9, 5, 3), Some(5));
        assert_eq!(corrected(0, 7, 2), Some(7));
    }

    #[test]
    fn active_flows_are_never_negative() {
        let then = BackendCounters {
            opened: 10,
            closed: 4,
            ..BackendCounters::default()
        };
        let books = Books {
            active: [(7, (5, then))].into(),
            ..Books::default()
        };
        let now = |opened, closed| BackendCounters { opened, closed, ..then };
        assert_eq!(books.active(7, &now(10, 4)), 5);
        assert_eq!(books.active(7, &now(13, 5)), 7);
        assert_eq!(books.active(7, &now(10, 99)), 0);
        assert_eq!(books.active(8, &now(3, 1)), 2, "not swept yet");
    }
}
