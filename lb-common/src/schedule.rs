//! Schedules: the order in which a service's backends take new flows.
//!
//! A schedule is a sequence of backends in the slot arena. Round-robin walks it with one atomic cursor per service, hashes
//! point into it, and for the fewest connections every backend stands in it once.

use crate::net::{AnyAddr, Be16};

/// Which slot of a schedule of `len` slots the `ticket`-th new flow takes. The caller sees to it that `len` is not zero.
#[inline(always)]
#[must_use]
pub const fn round_robin(ticket: u64, len: u32) -> u32 {
    match (ticket as u32).checked_rem(len) {
        Some(slot) if ticket <= u32::MAX as u64 => slot,
        _ => match ticket.checked_rem(len as u64) {
            Some(slot) => slot as u32,
            None => 0,
        },
    }
}

/// Which slot of a table of `len` slots a hash takes: the hash as a fraction of its range, so that its high bits count and
/// nothing is divided (Lemire, "Fast Random Integer Generation in an Interval", 2019). The caller sees to it that `len` is not
/// zero.
#[inline(always)]
#[must_use]
pub const fn by_hash(hash: u32, len: u32) -> u32 {
    ((hash as u64 * len as u64) >> 32) as u32
}

/// The slot that lies `steps` behind another one, around the end. The caller sees to it that `len` is not zero.
#[inline(always)]
#[must_use]
pub const fn behind(slot: u32, steps: u32, len: u32) -> u32 {
    match slot.wrapping_add(steps).checked_rem(len) {
        Some(slot) => slot,
        None => 0,
    }
}

/// How many slots are looked at for a backend that is not full, from the one whose turn it is on.
pub const ATTEMPTS: u32 = 16;

/// How many backends are compared for the fewest connections; where there are more, chance picks two of them.
pub const COMPARED: u32 = 64;

/// Two different slots of `len`, or the same one twice where there is only one, out of two random numbers.
///
/// Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001: the lighter of two that chance picks is
/// nearly as good as the lightest of all, and need not be looked for.
#[inline(always)]
#[must_use]
pub const fn two_of(random: [u32; 2], len: u32) -> [u32; 2] {
    let [one, other] = random;
    let first = by_hash(one, len);
    let distance = match other.checked_rem(len.saturating_sub(1)) {
        Some(steps) => steps + 1,
        None => 0,
    };
    [first, behind(first, distance, len)]
}

/// How much a backend has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Its active flows.
    pub active: u32,
    /// Its share of the work; 0 counts as 1.
    pub weight: u16,
}

impl Load {
    /// Whether a new flow here would leave less for its weight than one there: `(active + 1) / weight`, compared without
    /// division.
    #[inline(always)]
    #[must_use]
    pub const fn is_lighter_than(self, other: Self) -> bool {
        self.times(other.weight) < other.times(self.weight)
    }

    /// As one number, less than 2^48.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.active as u64) << 16 | self.weight as u64
    }

    /// From [`Load::to_bits`].
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            active: (bits >> 16) as u32,
            weight: bits as u16,
        }
    }

    #[inline(always)]
    const fn times(self, weight: u16) -> u64 {
        let weight = if weight == 0 { 1 } else { weight };
        (self.active as u64 + 1) * weight as u64
    }
}

/// How many source-port cursors there are.
pub const SOURCE_CURSORS: u32 = 1 << 12;

/// The cursor that hands out source ports towards a server. Services that share the server share the cursor, so that a
/// port rests as long as possible: the server keeps a connection that it closed in TIME-WAIT for a minute, and a new one
/// through the same ports may have to wait for that.
#[inline(always)]
#[must_use]
pub const fn source_cursor(server: AnyAddr, port: Be16) -> u32 {
    // Fibonacci hashing: neighbouring addresses come to different cursors. Servers that meet at one do each other no harm.
    let [a, b, c, d] = server;
    let mixed = a ^ b ^ c ^ d ^ (port.get() as u32);
    mixed.to_be().wrapping_mul(0x9e37_79b1) >> (32 - SOURCE_CURSORS.trailing_zeros())
}

/// Smooth weighted round-robin, as nginx describes it (commit 52327e0627f4, "Upstream: smooth weighted round-robin
/// balancing"): each turn every peer gains its weight, the one that has most is taken and pays the sum of all weights.
///
/// Weights 5, 1, 1 give `a a b a c a a`. `credit` is scratch of the same length as `weights`, all zero at first.
#[derive(Debug)]
pub struct SmoothWrr<'a> {
    weights: &'a [u32],
    credit: &'a mut [i64],
    total: i64,
}

impl<'a> SmoothWrr<'a> {
    /// Peers with the given weights.
    #[must_use]
    pub fn new(weights: &'a [u32], credit: &'a mut [i64]) -> Self {
        let total = weights.iter().map(|w| i64::from(*w)).sum();
        Self { weights, credit, total }
    }

    /// After how many turns the order repeats: the sum of the weights over their greatest common divisor.
    #[must_use]
    pub fn period(weights: &[u32]) -> u64 {
        let gcd = weights.iter().fold(0, |a, b| gcd(a, *b));
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        sum.checked_div(u64::from(gcd)).unwrap_or(0)
    }
}

impl Iterator for SmoothWrr<'_> {
    type Item = usize;

    /// The peer whose turn it is; `None` when no peer has any weight.
    fn next(&mut self) -> Option<usize> {
        if self.total == 0 {
            return None;
        }
        let mut best: Option<(usize, &mut i64)> = None;
        for (i, (credit, weight)) in self.credit.iter_mut().zip(self.weights).enumerate() {
            *credit += i64::from(*weight);
            if *weight > 0 && best.as_ref().is_none_or(|(_, most)| *credit > **most) {
                best = Some((i, credit));
            }
        }
        let (i, credit) = best?;
        *credit -= self.total;
        Some(i)
    }
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::{Addr4, Address as _};

    fn order(weights: &[u32], turns: usize) -> Vec<usize> {
        let mut credit = vec![0; weights.len()];
        SmoothWrr::new(weights, &mut credit).take(turns).collect()
    }

    #[test]
    fn nginx_example() {
        assert_eq!(order(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn the_servers_of_a_rack_have_cursors_of_their_own() {
        let cursor = |host: u8| source_cursor(Addr4::from_wire([10, 0, 0, host]).to_any(), Be16::new(80));
        let cursors: std::collections::HashSet<_> = (1..=100).map(cursor).collect();
        assert!(cursors.len() >= 98, "{} of 100", cursors.len());
        assert!(cursors.iter().all(|c| *c < SOURCE_CURSORS));
    }

    #[test]
    fn nobody_to_take() {
        assert_eq!(order(&[], 3), [0; 0]);
        assert_eq!(order(&[0, 0], 3), [0; 0]);
        assert_eq!(SmoothWrr::period(&[]), 0);
    }

    proptest! {
        #[test]
        fn shares_are_exact_over_a_period(weights in proptest::collection::vec(0u32..=256, 1..12)) {
            let period = SmoothWrr::period(&weights) as usize;
            let turns = order(&weights, period);
            let sum: u32 = weights.iter().sum();
            prop_assert_eq!(turns.len(), period);
            for (i, weight) in weights.iter().enumerate() {
                let got = turns.iter().filter(|t| **t == i).count() as u64;
                prop_assert_eq!(got * u64::from(sum), u64::from(*weight) * period as u64);
            }
        }

        /// Smooth: at every moment each peer is within one turn of its fair share for equal weights, and a heavy peer
        /// never waits longer than its share demands, give or take the number of peers.
        #[test]
        fn equal_weights_differ_by_at_most_one(n in 1usize..20, turns in 1usize..200) {
            let order = order(&vec![7; n], turns);
            let counts: Vec<_> = (0..n).map(|i| order.iter().filter(|t| **t == i).count()).collect();
            prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1);
        }

        #[test]
        fn never_far_from_the_fair_share(weights in proptest::collection::vec(1u32..=256, 2..12)) {
            let sum: u32 = weights.iter().sum();
            let mut counts = vec![0i64; weights.len()];
            for (turn, peer) in order(&weights, SmoothWrr::period(&weights) as usize).into_iter().enumerate() {
                counts[peer] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let fair = (turn as f64 + 1.0) * f64::from(*weight) / f64::from(sum);
                    prop_assert!((*count as f64 - fair).abs() < weights.len() as f64);
                }
            }
        }

        #[test]
        fn chance_picks_two_different_slots(random: [u32; 2], len in 1u32..100_000) {
            let [a, b] = two_of(random, len);
            prop_assert!(a < len && b < len);
            prop_assert_eq!(a == b, len == 1);
        }

        #[test]
        fn the_lighter_backend_is_that_of_the_smaller_quotient(
            a in (0u32..1000, 1u16..=256), b in (0u32..1000, 1u16..=256),
        ) {
            let load = |(active, weight)| Load { active, weight };
            let quotient = |(active, weight): (u32, u16)| f64::from(active + 1) / f64::from(weight);
            let expected = quotient(a) < quotient(b) && (a.0 + 1) * u32::from(b.1) != (b.0 + 1) * u32::from(a.1);
            prop_assert_eq!(load(a).is_lighter_than(load(b)), expected);
        }

        #[test]
        fn a_load_survives_as_bits(active: u32, weight: u16) {
            let load = Load { active, weight };
            prop_assert_eq!(Load::from_bits(load.to_bits()), load);
            prop_assert!(load.to_bits() < 1 << 48);
        }

        #[test]
        fn tickets_walk_the_schedule(ticket: u64, len in 1u32..100_000) {
            prop_assert_eq!(u64::from(round_robin(ticket, len)), ticket % u64::from(len));
        }
    }
}
