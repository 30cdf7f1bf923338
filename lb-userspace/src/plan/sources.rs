//! The source arena: runs of addresses that backends share. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use super::ranges::{Range, RangeAllocator};
use crate::datapath::Contents;

/// Gives each distinct run of source addresses one place in the arena.
#[derive(Debug, Clone)]
pub struct SourceArena {
    runs: BTreeMap<Vec<IpAddr>, Range>,
    ranges: RangeAllocator,
}

impl SourceArena {
    /// An arena of `size` addresses that holds what the backends in `contents` refer to.
    #[must_use]
    pub fn adopt(size: u32, contents: &Contents) -> Self {
        let ranges: BTreeSet<Range> = referenced(contents);
        let runs = ranges
            .iter()
            .filter_map(|range| Some((addresses(contents, *range)?, *range)));
        Self {
            runs: runs.collect(),
            ranges: RangeAllocator::new(size, ranges.iter().copied()),
        }
    }

    /// Where a run is, or shall be; `None` when the arena is full.
    pub fn place(&mut self, run: &[IpAddr], now: Duration) -> Option<Range> {
        if run.is_empty() {
            return Some(Range { first: 0, len: 0 });
        }
        if let Some(range) = self.runs.get(run) {
            return Some(*range);
        }
        let range = self.ranges.allocate(u32::try_from(run.len()).ok()?, now)?;
        self.runs.insert(run.to_vec(), range);
        Some(range)
    }

    /// Gives up the runs that no backend in `contents` refers to any more.
    pub fn collect_garbage(&mut self, contents: &Contents, now: Duration) {
        let kept = referenced(contents);
        let ranges = &mut self.ranges;
        self.runs.retain(|_, range| {
            let keep = kept.contains(range);
            if !keep {
                ranges.retire(*range, now);
            }
            keep
        });
    }
}

fn referenced(contents: &Contents) -> BTreeSet<Range> {
    let range = |b: &lb_common::abi::Backend| Range {
        first: b.first_source,
        len: b.source_places(),
    };
    contents.backends.values().map(range).filter(|r| r.len > 0).collect()
}

/// The addresses at a range of places.
pub(super) fn addresses(contents: &Contents, range: Range) -> Option<Vec<IpAddr>> {
    let end = range.first.checked_add(range.len)?;
    (range.first..end)
        .map(|place| contents.sources.get(&place).copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use lb_common::abi::Backend;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn equal_runs_share_a_place_and_unused_ones_are_given_up() {
        let mut arena = SourceArena::adopt(3, &Contents::default());
        let now = Duration::ZERO;
        let a = arena.place(&[ip(1), ip(2)], now).unwrap();
        assert_eq!(arena.place(&[ip(1), ip(2)], now), Some(a));
        assert_eq!(
            arena.place(&[ip(2), ip(1)], now),
            None,
            "no room for another run of two"
        );
        arena.collect_garbage(&Contents::default(), now);
        assert_eq!(
            arena.place(&[ip(2), ip(1)], now),
            None,
            "not before the quarantine is over"
        );
        assert!(arena.place(&[ip(2), ip(1)], Duration::from_secs(1)).is_some());
    }

    #[test]
    fn what_backends_refer_to_is_adopted() {
        let backend = Backend {
            first_source: 1,
            sources: 2,
            ..Backend::default()
        };
        let contents = Contents {
            backends: [(0, backend)].into(),
            sources: [(1, ip(1)), (2, ip(2))].into(),
            ..Contents::default()
        };
        let mut arena = SourceArena::adopt(4, &contents);
        assert_eq!(
            arena.place(&[ip(1), ip(2)], Duration::ZERO),
            Some(Range { first: 1, len: 2 })
        );
        arena.collect_garbage(&contents, Duration::ZERO);
        assert_eq!(
            arena.place(&[ip(1), ip(2)], Duration::ZERO),
            Some(Range { first: 1, len: 2 })
        );
    }
}
