//! Maglev tables: which backend each hash goes to, so that a change of the pool moves few of them. Pure.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4. Each backend has
//! a permutation of the slots, made from its address alone, and backends take turns to claim the next free slot of theirs.
//! The paper leaves weights open; here a backend has turns in proportion to its weight, spread evenly over the rounds.
//!
//! Turns are ordered by when they fall due, which is at `k / weight` for a backend's `k`-th. So the turns of the others
//! keep their order when one backend comes, goes or changes its weight, and their claims change little. The result
//! depends on addresses and weights alone, not on the order of the backends: load balancers beside each other agree.

use std::{cmp::Reverse, iter, net::SocketAddr};

use lb_common::{hash::of_backend, net::to_any};

/// Slots of a table unless the operator says otherwise; the smaller of the paper's two sizes.
pub const DEFAULT_SIZE: u32 = 65_537;

/// Seeds of the two hashes that a permutation is made of.
const OFFSET: u32 = 0x6f66_6673;
const SKIP: u32 = 0x736b_6970;

/// With so few free slots left, it is cheaper to ask where each of them stands in a permutation than to walk it.
const FEW: usize = 256;

/// A backend that has a share in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// What its permutation is made from.
    pub address: SocketAddr,
    /// Its share; with 0 it has no slot.
    pub weight: u32,
}

/// A table of `size` slots, which must be prime: positions in `peers`. Empty if no peer has any weight.
///
/// Every peer with a weight has a slot, if there are no more peers than slots.
#[must_use]
pub fn table(peers: &[Peer], size: u32) -> Vec<u32> {
    let turns = turns(peers, size);
    if turns.is_empty() {
        return Vec::new();
    }
    let mut walks: Vec<Walk> = peers.iter().map(|peer| Walk::new(peer.address, size)).collect();
    let mut slots = Slots::new(size);
    let mut order = turns.iter().cycle();
    while slots.free > FEW {
        let Some((peer, walk)) = order
            .next()
            .and_then(|peer| Some((peer, walks.get_mut(*peer as usize)?)))
        else {
            break;
        };
        let slot = slots.next_free(walk, size);
        slots.claim(slot, *peer);
    }
    finish(&mut slots, &mut walks, order, size);
    slots.owners
}

/// The last few slots: each goes to the peer whose turn it is, the one that comes first in the rest of its permutation.
fn finish<'t>(slots: &mut Slots, walks: &mut [Walk], order: impl Iterator<Item = &'t u32>, size: u32) {
    let mut left = slots.left(size);
    for peer in order {
        let Some(walk) = walks.get_mut(*peer as usize) else {
            return;
        };
        let ahead = Ahead::of(walk, size);
        let steps = (0..)
            .zip(&left)
            .map(|(n, slot): (u64, _)| (ahead.steps_to(*slot) << 32) | n);
        let Some(nearest) = steps.min() else { return };
        let slot = left.swap_remove((nearest & u64::from(u32::MAX)) as usize);
        walk.next = (slot + walk.skip) % size;
        slots.claim(slot, *peer);
    }
}

/// Where a peer stands in its permutation.
struct Walk {
    next: u32,
    skip: u32,
    /// What `skip` times this leaves 1 over `size`; 0: not asked for yet.
    inverse: u32,
}

impl Walk {
    fn new(address: SocketAddr, size: u32) -> Self {
        let (ip, port) = (to_any(address.ip()), address.port());
        Self {
            next: of_backend(ip, port, OFFSET) % size.max(1),
            skip: of_backend(ip, port, SKIP) % size.saturating_sub(1).max(1) + 1,
            inverse: 0,
        }
    }
}

/// From where a peer stands, how many steps ahead each slot is.
struct Ahead {
    next: u32,
    size: u32,
    inverse: u64,
    /// `inverse` over `size`, as a fraction of 32 bits: with it, a product's remainder takes no division (Shoup's method, as
    /// in Harvey, "Faster arithmetic for number-theoretic transforms", 2014).
    quotient: u64,
}

impl Ahead {
    fn of(walk: &mut Walk, size: u32) -> Self {
        if walk.inverse == 0 {
            walk.inverse = inverse(walk.skip, size);
        }
        Self {
            next: walk.next,
            size,
            inverse: walk.inverse.into(),
            quotient: (u64::from(walk.inverse) << 32) / u64::from(size.max(1)),
        }
    }

    fn steps_to(&self, slot: u32) -> u64 {
        let distance = slot
            .checked_sub(self.next)
            .unwrap_or_else(|| slot + (self.size - self.next));
        let distance = u64::from(distance);
        let size = u64::from(self.size);
        let rest = distance * self.inverse - ((distance * self.quotient) >> 32) * size;
        if rest >= size { rest - size } else { rest }
    }
}

/// By Fermat's little theorem: `n` to the power of `prime - 2`.
fn inverse(n: u32, prime: u32) -> u32 {
    let prime = u64::from(prime);
    let (mut result, mut base, mut exponent) = (1 % prime, u64::from(n) % prime, prime.saturating_sub(2));
    while exponent > 0 {
        if exponent % 2 == 1 {
            result = result * base % prime;
        }
        base = base * base % prime;
        exponent /= 2;
    }
    u32::try_from(result).unwrap_or(0)
}

/// The table while it is filled.
struct Slots {
    owners: Vec<u32>,
    /// A bit for each slot that has an owner: they fit the first-level cache, where the search for free ones goes on.
    taken: Vec<u64>,
    free: usize,
}

impl Slots {
    fn new(size: u32) -> Self {
        Self {
            owners: vec![0; size as usize],
            taken: vec![0; (size as usize).div_ceil(64)],
            free: size as usize,
        }
    }

    /// The slots without an owner, in order.
    fn left(&self, size: u32) -> Vec<u32> {
        let words = (0..).step_by(64).zip(&self.taken);
        let free = words.flat_map(|(first, word)| {
            let mut free = !word;
            iter::from_fn(move || {
                let place = free.trailing_zeros();
                free &= free.wrapping_sub(1);
                (place < 64).then_some(first + place)
            })
        });
        free.take_while(|slot| *slot < size).collect()
    }

    fn is_taken(&self, slot: u32) -> bool {
        let word = self.taken.get(slot as usize / 64);
        word.is_none_or(|word| word >> (slot % 64) & 1 == 1)
    }

    /// The next free slot of a permutation, of at least one that is free.
    fn next_free(&self, walk: &mut Walk, size: u32) -> u32 {
        loop {
            let slot = walk.next;
            let next = slot + walk.skip;
            walk.next = if next >= size { next - size } else { next };
            if !self.is_taken(slot) {
                return slot;
            }
        }
    }

    fn claim(&mut self, slot: u32, owner: u32) {
        if let Some(word) = self.taken.get_mut(slot as usize / 64) {
            *word |= 1 << (slot % 64);
        }
        if let Some(place) = self.owners.get_mut(slot as usize) {
            *place = owner;
        }
        self.free -= 1;
    }
}

/// In which order peers take turns, over one period: each as often as its weight says, at most `most` turns in all. Of
/// turns that fall due together, the heavier peer's is first, then that of the lower address. Each peer's first turn is
/// due at once.
fn turns(peers: &[Peer], most: u32) -> Vec<u32> {
    let mut ranked: Vec<(u32, &Peer)> = (0..).zip(peers).filter(|(_, peer)| peer.weight > 0).collect();
    ranked.sort_by_key(|(_, peer)| (Reverse(peer.weight), peer.address));
    let divisor = ranked.iter().fold(0, |divisor, (_, peer)| gcd(divisor, peer.weight));
    let heaviest = ranked.first().map_or(0, |(_, peer)| peer.weight / divisor);
    let mut rounds = vec![Vec::new(); heaviest as usize];
    for (index, peer) in ranked {
        let weight = peer.weight / divisor;
        for turn in 0..weight {
            let round = u64::from(turn) * u64::from(heaviest) / u64::from(weight);
            if let Some(round) = rounds.get_mut(usize::try_from(round).unwrap_or(usize::MAX)) {
                round.push(index);
            }
        }
    }
    let mut turns = rounds.concat();
    turns.truncate(most as usize);
    turns
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Whether a number is prime, by trial division.
#[must_use]
pub const fn is_prime(n: u32) -> bool {
    if n < 4 {
        return n > 1;
    }
    let mut divisor = 2;
    while divisor <= n / divisor {
        if n.is_multiple_of(divisor) {
            return false;
        }
        divisor += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(n: u32, weight: u32) -> Peer {
        let [_, _, c, d] = n.to_be_bytes();
        Peer {
            address: SocketAddr::from(([10, 0, c, d], 80)),
            weight,
        }
    }

    fn equal(n: u32) -> Vec<Peer> {
        (1..=n).map(|n| peer(n, 1)).collect()
    }

    fn counts(table: &[u32], peers: usize) -> Vec<u32> {
        let mut counts = vec![0; peers];
        for owner in table {
            counts[*owner as usize] += 1;
        }
        counts
    }

    /// The paper's own pseudocode, slot by slot, in the order of turns that is ours.
    fn by_the_book(peers: &[Peer], size: u32) -> Vec<u32> {
        let mut owners = vec![None; size as usize];
        let mut walks: Vec<_> = peers.iter().map(|p| Walk::new(p.address, size)).collect();
        let turns = turns(peers, size);
        for peer in turns
            .iter()
            .cycle()
            .take(if turns.is_empty() { 0 } else { size as usize })
        {
            let walk = &mut walks[*peer as usize];
            while owners[walk.next as usize].is_some() {
                walk.next = (walk.next + walk.skip) % size;
            }
            owners[walk.next as usize] = Some(*peer);
            walk.next = (walk.next + walk.skip) % size;
        }
        owners.into_iter().flatten().collect()
    }

    /// Part of the slots whose owner, by address, is another one.
    fn moved(a: (&[Peer], &[u32]), b: (&[Peer], &[u32])) -> f64 {
        let owner = |(peers, table): (&[Peer], &[u32]), slot: usize| peers[table[slot] as usize].address;
        let moved = (0..a.1.len()).filter(|slot| owner(a, *slot) != owner(b, *slot)).count();
        moved as f64 / a.1.len() as f64
    }

    /// Section 3.4: with at least 100 slots a backend, shares differ by at most 1 %. Section 5.3 compares how much more than
    /// the average the busiest of 1,000 backends must be provisioned for, with 65,537 and 655,373 slots, and finds next to
    /// nothing for Maglev; what is left comes of 1,000 not dividing the size.
    #[test]
    fn shares_are_within_the_papers_bound() {
        for (backends, size, over) in [(100, 65_537, 1.01), (1000, 65_537, 1.016), (1000, 655_373, 1.002)] {
            let peers = equal(backends);
            let counts = counts(&table(&peers, size), peers.len());
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            assert!(most - least <= 1, "turns are even: {least} to {most}");
            let average = f64::from(size) / f64::from(backends);
            assert!(
                f64::from(*most) / average < over,
                "{backends} in {size}: {most} of {average}"
            );
        }
    }

    /// A backend that fails moves its own slots and few besides, and the fewer the larger the table is (section 5.3, for the
    /// same sizes).
    #[test]
    fn a_failure_moves_little_besides() {
        for (backends, size, most) in [
            (10, 65_537, 0.005),
            (100, 65_537, 0.01),
            (1000, 65_537, 0.01),
            (1000, 655_373, 0.005),
        ] {
            let all = equal(backends);
            let before = table(&all, size);
            let left: Vec<_> = all.iter().filter(|p| p.address != all[3].address).copied().collect();
            let part = moved((&all, &before), (&left, &table(&left, size)));
            let own = 1.0 / f64::from(backends);
            println!(
                "{backends} backends in {size} slots, one fails: {part:.4} of the slots move, {own:.4} were its own"
            );
            assert!(part >= own * 0.98 && part < own + most, "{backends} in {size}: {part}");
        }
    }

    #[test]
    fn a_weight_moves_little_besides() {
        let mut peers = equal(100);
        let before = table(&peers, DEFAULT_SIZE);
        let old = peers.clone();
        peers[7].weight = 3;
        let part = moved((&old, &before), (&peers, &table(&peers, DEFAULT_SIZE)));
        println!("100 backends, one of weight 3 instead of 1: {part:.4} of the slots move");
        // Its share grows from 1/100 to 3/102.
        assert!(part > 0.019 && part < 0.07, "{part}");
    }

    #[test]
    fn weights_of_all_sizes_fit() {
        let peers: Vec<_> = (1..=1000).map(|n| peer(n, 1 + (n * 7) % 256)).collect();
        let counts = counts(&table(&peers, DEFAULT_SIZE), peers.len());
        assert!(counts.iter().all(|n| *n > 0), "nobody is left out");
        assert_eq!(table(&[peer(1, 5), peer(2, 0)], 251), vec![0; 251]);
        assert!(table(&[peer(1, 0)], 251).is_empty() && table(&[], 11).is_empty());
    }

    #[test]
    fn primes() {
        let primes: Vec<u32> = (0..30).filter(|n| is_prime(*n)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537) && is_prime(655_373) && !is_prime(65_536) && is_prime(4_294_967_291));
    }

    proptest! {
        #[test]
        fn it_is_the_papers_table(
            weights in proptest::collection::vec(0u32..6, 1..20),
            size in prop::sample::select(vec![251u32, 509, 1021]),
        ) {
            let peers: Vec<_> = (1..).zip(&weights).map(|(n, weight)| peer(n, *weight)).collect();
            prop_assert_eq!(table(&peers, size), by_the_book(&peers, size));
        }

        #[test]
        fn shares_are_as_weights_say(weights in proptest::collection::vec(0u32..=256, 1..30)) {
            let peers: Vec<_> = (1..).zip(&weights).map(|(n, weight)| peer(n, *weight)).collect();
            let table = table(&peers, 16_381);
            let sum: u32 = weights.iter().sum();
            for (n, count) in counts(&table, if sum > 0 { peers.len() } else { 0 }).into_iter().enumerate() {
                let share = f64::from(weights[n]) / f64::from(sum);
                let fair = 16_381.0 * share;
                // The table may end where each of the others has just had a turn that is due a little later: their fractions
                // of turns are missed in proportion to the share.
                let missed = f64::from(u32::try_from(weights.len()).unwrap()) * share;
                prop_assert!((f64::from(count) - fair).abs() <= 2.0 + missed, "{count} for {fair}");
            }
        }

        #[test]
        fn the_order_of_backends_does_not_matter(weights in proptest::collection::vec(1u32..=9, 2..20), at in 0usize..20) {
            let peers: Vec<_> = (1..).zip(&weights).map(|(n, weight)| peer(n, *weight)).collect();
            let mut turned = peers.clone();
            turned.rotate_left(at % peers.len());
            prop_assert_eq!(moved((&peers, &table(&peers, 1021)), (&turned, &table(&turned, 1021))), 0.0);
        }

        /// Whoever goes, slots of the others that move are few.
        #[test]
        fn whoever_goes_takes_little_along(n in 2u32..60, gone: prop::sample::Index) {
            let all = equal(n);
            let gone = gone.get(&all).address;
            let left: Vec<_> = all.iter().filter(|p| p.address != gone).copied().collect();
            let part = moved((&all, &table(&all, 16_381)), (&left, &table(&left, 16_381)));
            prop_assert!(part < 1.0 / f64::from(n) + 0.06, "{part} of {n}");
        }
    }
}
