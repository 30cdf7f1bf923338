//! Indices of backends in their map: given out, given up, and used again once no flow names them. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::ranges::QUARANTINE;

/// Hands out indices below a limit, lowest first.
#[derive(Debug, Clone)]
pub struct Indices {
    limit: u32,
    /// Every index from here on was never given out.
    fresh_from: u32,
    free: BTreeSet<u32>,
    /// Given up, and since when.
    retired: BTreeMap<u32, Duration>,
}

impl Indices {
    /// Indices below `limit`, of which `used` are taken.
    #[must_use]
    pub fn new(limit: u32, used: impl IntoIterator<Item = u32>) -> Self {
        let used: BTreeSet<u32> = used.into_iter().collect();
        let fresh_from = used.last().map_or(0, |last| last + 1);
        Self {
            limit,
            fresh_from,
            free: (0..fresh_from).filter(|i| !used.contains(i)).collect(),
            retired: BTreeMap::new(),
        }
    }

    /// An index that nobody uses, unless there is none.
    pub fn allocate(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop_first() {
            return Some(index);
        }
        (self.fresh_from < self.limit).then(|| {
            self.fresh_from += 1;
            self.fresh_from - 1
        })
    }

    /// Gives an index up. It stays taken until [`Indices::unused`] says so and [`Indices::release`] is called.
    pub fn retire(&mut self, index: u32, now: Duration) {
        self.retired.entry(index).or_insert(now);
    }

    /// Takes an index back that was given up and is still taken.
    pub fn revive(&mut self, index: u32) {
        self.retired.remove(&index);
    }

    /// The retired indices that a sweep over the flow tables found no flow of. A sweep that began before, or while
    /// packets may still have seen what came before, says nothing.
    #[must_use]
    pub fn unused(&self, sweep_began: Duration, has_flows: impl Fn(u32) -> bool) -> Vec<u32> {
        let unused = |(index, since): &(&u32, &Duration)| **since + QUARANTINE <= sweep_began && !has_flows(**index);
        self.retired.iter().filter(unused).map(|(index, _)| *index).collect()
    }

    /// Makes an index free, whatever it was.
    pub fn release(&mut self, index: u32) {
        self.retired.remove(&index);
        self.free.insert(index);
    }

    /// Whether an index was given up and is not free yet.
    #[must_use]
    pub fn is_retired(&self, index: u32) -> bool {
        self.retired.contains_key(&index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn lowest_first_up_to_the_limit() {
        let mut indices = Indices::new(4, [1]);
        assert_eq!(indices.allocate(), Some(0));
        assert_eq!(indices.allocate(), Some(2));
        assert_eq!(indices.allocate(), Some(3));
        assert_eq!(indices.allocate(), None);
    }

    #[test]
    fn an_index_is_free_only_after_a_later_sweep_without_its_flows() {
        let mut indices = Indices::new(1, [0]);
        indices.retire(0, ms(1000));
        assert_eq!(indices.allocate(), None);
        assert_eq!(indices.unused(ms(999), |_| false), [0; 0], "that sweep began before");
        assert_eq!(
            indices.unused(ms(1050), |_| false),
            [0; 0],
            "packets may still be on their way"
        );
        assert_eq!(indices.unused(ms(1100), |_| true), [0; 0], "it has flows");
        assert_eq!(indices.unused(ms(1100), |_| false), [0]);
        assert_eq!(indices.allocate(), None, "not before it is released");
        indices.release(0);
        assert_eq!(indices.allocate(), Some(0));
    }

    #[test]
    fn a_revived_index_stays() {
        let mut indices = Indices::new(1, [0]);
        indices.retire(0, ms(0));
        indices.revive(0);
        assert_eq!(indices.unused(ms(9999), |_| false), [0; 0]);
    }
}
