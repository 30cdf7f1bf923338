//! Schedules: the order in which a service's backends take new flows.
//!
//! A schedule is a sequence of backends in the slot arena; round-robin walks it with one atomic cursor per service.

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

/// Which slot of a schedule of `len` slots a packet takes by its addresses and ports alone. Any will do that does not depend on
/// the order of arrival; the VIP need not count, since a schedule is a service's.
#[inline(always)]
#[must_use]
pub const fn by_hash(client: AnyAddr, client_port: Be16, port: Be16, len: u32) -> u32 {
    // Fibonacci hashing, once for each word, so that neighbouring clients come to different slots.
    const fn mix(hash: u32, word: u32) -> u32 {
        (hash ^ word).wrapping_mul(0x9e37_79b1).rotate_left(15)
    }
    let [a, b, c, d] = client;
    let ports = (client_port.get() as u32) << 16 | port.get() as u32;
    let hash = mix(mix(mix(mix(mix(ports, a), b), c), d), 0);
    ((hash as u64 * len as u64) >> 32) as u32
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
    fn hashes_spread_over_the_slots() {
        let mut slots = [0u32; 7];
        for (host, port) in (0..100u32).flat_map(|host| (0..100).map(move |port| (host, port))) {
            let client = [(0x0a00_0000 + host).to_be(), 0, 0, 0];
            slots[by_hash(client, Be16::new(40_000 + port), Be16::new(80), 7) as usize] += 1;
        }
        assert!(slots.iter().all(|n| (1200..1700).contains(n)), "{slots:?}");
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
        fn tickets_walk_the_schedule(ticket: u64, len in 1u32..100_000) {
            prop_assert_eq!(u64::from(round_robin(ticket, len)), ticket % u64::from(len));
        }
    }
}
