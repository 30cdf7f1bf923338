//! Ranges of an arena: slot pages, and source addresses. Pure; time is handed in.
//!
//! A packet that read where a range is may go on reading it for a moment after the range was given up. So a range that
//! was published is not handed out again before [`QUARANTINE`] has passed since the write that replaced it.

use std::{collections::BTreeMap, time::Duration};

/// How long a range that was given up stays untouched. A packet spends microseconds in the packet path.
pub const QUARANTINE: Duration = Duration::from_millis(100);

/// A run of places in an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    /// First place.
    pub first: u32,
    /// Number of places, at least 1.
    pub len: u32,
}

impl Range {
    const fn end(self) -> u32 {
        self.first.saturating_add(self.len)
    }
}

/// Hands out ranges of an arena, first fit.
#[derive(Debug, Clone)]
pub struct RangeAllocator {
    /// Free ranges by first place, never adjacent to one another.
    free: BTreeMap<u32, u32>,
    quarantined: Vec<(Range, Duration)>,
}

impl RangeAllocator {
    /// An arena of `size` places, of which `used` are taken. Ranges in `used` may overlap.
    #[must_use]
    pub fn new(size: u32, used: impl IntoIterator<Item = Range>) -> Self {
        let mut used: Vec<_> = used.into_iter().filter(|r| r.len > 0).collect();
        used.sort_unstable();
        let mut free = BTreeMap::new();
        let mut next = 0;
        for range in used {
            if range.first > next {
                free.insert(next, range.first.min(size).saturating_sub(next));
            }
            next = next.max(range.end());
        }
        if next < size {
            free.insert(next, size - next);
        }
        free.retain(|_, len| *len > 0);
        Self {
            free,
            quarantined: Vec::new(),
        }
    }

    /// A range of `len` places, unless none is free. `now` is any clock that only goes forward.
    pub fn allocate(&mut self, len: u32, now: Duration) -> Option<Range> {
        self.end_quarantines(now);
        let (first, size) = self
            .free
            .iter()
            .find(|(_, size)| **size >= len)
            .map(|(f, s)| (*f, *s))?;
        self.free.remove(&first);
        if size > len {
            self.free.insert(first + len, size - len);
        }
        Some(Range { first, len })
    }

    /// Gives up a range, right after the write that replaced it.
    pub fn retire(&mut self, range: Range, now: Duration) {
        if range.len > 0 {
            self.quarantined.push((range, now + QUARANTINE));
        }
    }

    /// Places that could be handed out now or after the quarantine.
    #[must_use]
    pub fn available(&self) -> u64 {
        let quarantined: u64 = self.quarantined.iter().map(|(r, _)| u64::from(r.len)).sum();
        self.free.values().map(|len| u64::from(*len)).sum::<u64>() + quarantined
    }

    fn end_quarantines(&mut self, now: Duration) {
        let (over, kept) = std::mem::take(&mut self.quarantined)
            .into_iter()
            .partition(|(_, until)| *until <= now);
        self.quarantined = kept;
        let over: Vec<(Range, Duration)> = over;
        for (range, _) in over {
            self.release(range);
        }
    }

    fn release(&mut self, range: Range) {
        let Range { mut first, mut len } = range;
        if let Some((before, size)) = self.free.range(..first).next_back().map(|(f, s)| (*f, *s))
            && before + size == first
        {
            self.free.remove(&before);
            (first, len) = (before, size + len);
        }
        if let Some(size) = self.free.remove(&(first + len)) {
            len += size;
        }
        self.free.insert(first, len);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_range_rests_before_it_is_used_again() {
        let mut arena = RangeAllocator::new(4, []);
        let old = arena.allocate(3, ms(0)).unwrap();
        arena.retire(old, ms(10));
        assert_eq!(arena.allocate(3, ms(109)), None);
        assert_eq!(arena.allocate(3, ms(110)), Some(old));
        assert_eq!(arena.available(), 1);
    }

    #[test]
    fn adopted_ranges_are_taken() {
        let used = [(2, 2), (3, 3), (8, 1)].map(|(first, len)| Range { first, len });
        let mut arena = RangeAllocator::new(10, used);
        let got: Vec<_> = (0..5).map(|_| arena.allocate(1, ms(0)).map(|r| r.first)).collect();
        assert_eq!(got, [Some(0), Some(1), Some(6), Some(7), Some(9)]);
        assert_eq!(arena.allocate(1, ms(0)), None);
    }

    proptest! {
        /// Whatever happens, no place belongs to two ranges, resting ones included, and none is lost.
        #[test]
        fn ranges_never_overlap(steps in proptest::collection::vec((any::<bool>(), 1u32..9, 0u64..60), 1..200)) {
            let mut arena = RangeAllocator::new(64, []);
            let mut now = ms(0);
            let mut held: Vec<Range> = Vec::new();
            let mut resting: Vec<(Range, Duration)> = Vec::new();
            for (take, n, wait) in steps {
                now += ms(wait);
                if take {
                    if let Some(new) = arena.allocate(n, now) {
                        let rest = resting.iter().filter(|(_, since)| now - *since < QUARANTINE).map(|(r, _)| r);
                        for other in held.iter().chain(rest) {
                            prop_assert!(new.end() <= other.first || other.end() <= new.first, "{new:?} {other:?}");
                        }
                        prop_assert!(new.end() <= 64);
                        held.push(new);
                    }
                } else if !held.is_empty() {
                    let range = held.swap_remove(n as usize % held.len());
                    arena.retire(range, now);
                    resting.push((range, now));
                }
                let taken: u64 = held.iter().map(|r| u64::from(r.len)).sum();
                prop_assert_eq!(arena.available() + taken, 64);
            }
        }
    }
}
