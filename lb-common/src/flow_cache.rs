//! The flow cache: copies of what established packets need of their flows, each in a cache line or two of its own, in front of
//! the flow table.
//!
//! A flow has one place in it, which its key alone gives; other flows may have the same. A copy is good for as long as its flow
//! would leave its entry as it is ([`crate::flow::refresh_step`]), so that a packet that finds one has nothing to do to the entry.
//! Whoever removes an entry, or makes one that another flow may have had before, voids the copy; where user space does, it voids
//! all copies of a backend's flows by another [`Epoch`].
//!
//! Any CPU reads and writes any place, without locks. A version stands before each copy: odd while the copy is written, with
//! [`VOID`] in it once the copy is of no use. Readers take what they read only if the version was even and the same before and
//! after (Lamport, Concurrent reading and writing, 1977). Writers claim a place by compare-and-swap, look into the flow
//! table again, and publish by another one, which fails if the copy was voided meanwhile: of a writer and of one who removes the
//! entry at the same time, one at least sees the other. That holds where loads are not reordered with loads, nor stores with
//! stores, as on x86; elsewhere there is no flow cache.

use crate::{
    abi::{Backend, Flow, FlowKey, Hop, Vlans},
    checksum::Delta,
    flow::{Direction, LONGEST_STEP, Tick},
    hash::Spread,
    net::{self, Addr4, Addr6, Address, Be16},
    rewrite::Rewrite,
};

/// In a version: the copy is of no use.
pub const VOID: u32 = 1 << 31;
/// In a version: the copy is written.
const CLAIMED: u32 = 1;

/// A number of words.
pub trait Words: Copy {
    /// How many.
    const COUNT: usize;

    /// Word by word.
    fn load(word: impl Fn(usize) -> u64) -> Self;
    /// Word by word.
    fn store(self, set: impl Fn(usize, u64));
    /// Whether they are the same.
    fn is(self, other: Self) -> bool;
}

// One by one: a loop that LLVM does not unroll in time leaves an array in memory.
macro_rules! words {
    ($count:literal: $($i:literal $name:ident $other:ident),+) => {
        impl Words for [u64; $count] {
            const COUNT: usize = $count;

            #[inline(always)]
            fn load(word: impl Fn(usize) -> u64) -> Self {
                [$(word($i)),+]
            }

            #[inline(always)]
            fn store(self, set: impl Fn(usize, u64)) {
                let [$($name),+] = self;
                $(set($i, $name);)+
            }

            #[inline(always)]
            fn is(self, other: Self) -> bool {
                let ([$($name),+], [$($other),+]) = (self, other);
                $(($name ^ $other))|+ == 0
            }
        }
    };
}

words!(1: 0 a p);
words!(2: 0 a p, 1 b q);
words!(4: 0 a p, 1 b q, 2 c r, 3 d s);
words!(5: 0 a p, 1 b q, 2 c r, 3 d s, 4 e t);

/// An address family that has a flow cache. What it holds is in words of 64 bits, which is what a CPU reads fastest.
pub trait Cached: Address {
    /// Two addresses, as they lie in memory one behind the other.
    type Pair: Words;
    /// A flow's key.
    type Tuple: Words;

    /// Two addresses as they lie in memory.
    fn pair(first: Self, second: Self) -> Self::Pair;
    /// Both again.
    fn unpair(pair: Self::Pair) -> (Self, Self);
    /// A flow's key.
    fn tuple(key: &FlowKey<Self>) -> Self::Tuple;
    /// A hash of it.
    fn hash(tuple: &Self::Tuple) -> u32;
}

impl Cached for Addr4 {
    type Pair = [u64; 1];
    type Tuple = [u64; 2];

    #[inline(always)]
    fn pair(first: Self, second: Self) -> [u64; 1] {
        [net::join_words([first.to_word(), second.to_word()])]
    }

    #[inline(always)]
    fn unpair([pair]: [u64; 1]) -> (Self, Self) {
        let [first, second] = net::split_words(pair);
        (Self::from_word(first), Self::from_word(second))
    }

    #[inline(always)]
    fn tuple(key: &FlowKey<Self>) -> [u64; 2] {
        let [addresses] = Self::pair(key.src, key.dst);
        [addresses, net::join_words(key.tail())]
    }

    #[inline(always)]
    fn hash(&[addresses, tail]: &[u64; 2]) -> u32 {
        Spread::START.and(addresses).and(tail).finish()
    }
}

impl Cached for Addr6 {
    type Pair = [u64; 4];
    type Tuple = [u64; 5];

    #[inline(always)]
    fn pair(first: Self, second: Self) -> [u64; 4] {
        let ([a, b, c, d], [e, f, g, h]) = (first.words(), second.words());
        [
            net::join_words([a, b]),
            net::join_words([c, d]),
            net::join_words([e, f]),
            net::join_words([g, h]),
        ]
    }

    #[inline(always)]
    fn unpair(pair: [u64; 4]) -> (Self, Self) {
        let [p, q, r, s] = pair;
        let ([a, b], [c, d]) = (net::split_words(p), net::split_words(q));
        let ([e, f], [g, h]) = (net::split_words(r), net::split_words(s));
        (Self::from_any([a, b, c, d]), Self::from_any([e, f, g, h]))
    }

    #[inline(always)]
    fn tuple(key: &FlowKey<Self>) -> [u64; 5] {
        let [a, b, c, d] = Self::pair(key.src, key.dst);
        [a, b, c, d, net::join_words(key.tail())]
    }

    #[inline(always)]
    fn hash(&[a, b, c, d, tail]: &[u64; 5]) -> u32 {
        Spread::START.and(a).and(b).and(c).and(d).and(tail).finish()
    }
}

/// What an established packet needs of its flow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Forwarding<A: Cached> {
    /// New source and destination address.
    addresses: A::Pair,
    /// New ports, and the changes of the checksums.
    ports_deltas: u64,
    /// The first eight bytes of a frame between lb and the client, in this direction.
    macs: u64,
    /// The other four, and the index of the interface between them.
    mac_ifindex: u64,
    /// The VLANs; and the backend: its index, its epoch, and the direction in the highest bit.
    vlans_owner: u64,
}

/// Bits of a backend's index.
const INDEX_BITS: u32 = 18;
/// Bits of a backend's epoch.
const EPOCH_BITS: u32 = 13;
const DIRECTION_SHIFT: u32 = INDEX_BITS + EPOCH_BITS;

/// Backends that can be told apart.
pub const MAX_BACKENDS: u32 = 1 << INDEX_BITS;

/// Which copies of a backend's flows are good: those that were made in the same epoch. User space begins another one where it
/// removes entries of flows that may go on, and where an index is used again. They come again after 8,192; no copy is good
/// for that long.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Epoch(u16);

impl Epoch {
    /// The next one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self((self.0 + 1) & ((1 << EPOCH_BITS) - 1))
    }
}

/// The first twelve bytes of a frame the other way.
const fn opposite([x, y, z]: [u32; 3]) -> [u32; 3] {
    let ([a, b], [c, d], [e, f]) = (net::split(x), net::split(y), net::split(z));
    [net::join(d, e), net::join(f, a), net::join(b, c)]
}

impl<A: Cached> Forwarding<A> {
    /// That of a flow's packets in one direction.
    #[inline(always)]
    #[must_use]
    pub fn of(flow: &Flow<A>, backend: &Backend) -> Self {
        let Rewrite {
            src,
            dst,
            src_port,
            dst_port,
            ip_delta,
            l4_delta,
        } = flow.rewrite;
        let [a, b, c] = match flow.direction {
            Direction::TO_BACKEND => opposite(flow.client.addresses),
            _ => flow.client.addresses,
        };
        let ports = net::join(src_port.word(), dst_port.word());
        let deltas = net::join(ip_delta.to_bits(), l4_delta.to_bits());
        let owner =
            flow.backend | u32::from(backend.epoch.0) << INDEX_BITS | u32::from(flow.direction.0) << DIRECTION_SHIFT;
        Self {
            addresses: A::pair(src, dst),
            ports_deltas: net::join_words([ports, deltas]),
            macs: net::join_words([a, b]),
            mac_ifindex: net::join_words([c, flow.client.ifindex]),
            vlans_owner: net::join_words([flow.client.vlans.0, owner]),
        }
    }

    /// What happens to the packet.
    #[inline(always)]
    #[must_use]
    pub fn rewrite(&self) -> Rewrite<A> {
        let (src, dst) = A::unpair(self.addresses);
        let [ports, deltas] = net::split_words(self.ports_deltas);
        let ([src_port, dst_port], [ip_delta, l4_delta]) = (net::split(ports), net::split(deltas));
        Rewrite {
            src,
            dst,
            src_port: Be16::from_word(src_port),
            dst_port: Be16::from_word(dst_port),
            ip_delta: Delta::from_bits(ip_delta),
            l4_delta: Delta::from_bits(l4_delta),
        }
    }

    /// Of a packet to the backend: whether it came by the link that the client was on, with these first twelve bytes.
    #[inline(always)]
    #[must_use]
    pub fn came_by(&self, (macs, mac): (u64, u32), ifindex: u32, vlans: Vlans) -> bool {
        let [of, _] = net::split_words(self.vlans_owner);
        self.macs == macs && self.mac_ifindex == net::join_words([mac, ifindex]) && of == vlans.0
    }

    /// Of a packet to the client: the way there.
    #[inline(always)]
    #[must_use]
    pub const fn client(&self) -> Hop {
        let [vlans, _] = net::split_words(self.vlans_owner);
        Hop {
            macs: self.macs,
            mac_ifindex: self.mac_ifindex,
            vlans: Vlans(vlans),
        }
    }

    #[inline(always)]
    const fn owner(&self) -> u32 {
        let [_, owner] = net::split_words(self.vlans_owner);
        owner
    }

    /// Index of the backend.
    #[inline(always)]
    #[must_use]
    pub const fn backend(&self) -> u32 {
        self.owner() & (MAX_BACKENDS - 1)
    }

    /// Whether it was made in the epoch that the backend is in.
    #[inline(always)]
    #[must_use]
    pub const fn is_of_epoch(&self, backend: &Backend) -> bool {
        let bits = self.owner() >> INDEX_BITS & ((1 << EPOCH_BITS) - 1);
        bits == backend.epoch.0 as u32
    }

    /// Which way the packet goes.
    #[inline(always)]
    #[must_use]
    pub const fn direction(&self) -> Direction {
        Direction((self.owner() >> DIRECTION_SHIFT) as u8)
    }
}

impl<A: Cached> Forwarding<A> {
    const WORDS: usize = A::Pair::COUNT;

    /// Word by word.
    #[inline(always)]
    fn load(word: impl Fn(usize) -> u64) -> Self {
        Self {
            addresses: A::Pair::load(&word),
            ports_deltas: word(Self::WORDS),
            macs: word(Self::WORDS + 1),
            mac_ifindex: word(Self::WORDS + 2),
            vlans_owner: word(Self::WORDS + 3),
        }
    }

    /// Word by word.
    #[inline(always)]
    fn store(self, set: impl Fn(usize, u64)) {
        self.addresses.store(&set);
        set(Self::WORDS, self.ports_deltas);
        set(Self::WORDS + 1, self.macs);
        set(Self::WORDS + 2, self.mac_ifindex);
        set(Self::WORDS + 3, self.vlans_owner);
    }
}

/// One place of the cache, alone on its cache lines. All zeroes, as it begins, is a copy of no flow.
#[repr(C, align(64))]
pub struct Entry<A: Cached> {
    /// See the module.
    pub version: u32,
    /// Until when the copy is good.
    pub until: Tick,
    /// Of which flow it is.
    pub tuple: A::Tuple,
    /// The copy.
    pub forwarding: Forwarding<A>,
}

const _: () = {
    assert!(size_of::<Entry<Addr4>>() == 64);
    assert!(size_of::<Entry<Addr6>>() == 128);
};

/// Which of so many places is a flow's, by its hash: a multiplication in place of a division (Lemire, Fast random integer
/// generation in an interval, 2019).
#[inline(always)]
#[must_use]
pub const fn place_of(hash: u32, places: u32) -> u32 {
    ((hash as u64 * places as u64) >> 32) as u32
}

/// The memory of a place, shared by all CPUs. Loads are in order among themselves, and stores are.
pub trait Place {
    /// The version.
    fn version(&self) -> u32;
    /// Sets the version if it is the old one.
    fn swap_version(&self, old: u32, new: u32) -> bool;
    /// Sets the version, for who has claimed the place.
    fn set_version(&self, new: u32);
    /// Adds [`VOID`] to the version.
    fn void(&self);
    /// Until when the copy is good.
    fn until(&self) -> Tick;
    /// Sets that, for who has claimed the place.
    fn set_until(&self, until: Tick);
    /// One of the words that follow: the flow's key, and then the copy.
    fn word(&self, i: usize) -> u64;
    /// Sets one of them, for who has claimed the place.
    fn set_word(&self, i: usize, word: u64);
}

/// Whether a copy that is good until a tick is so now. None is for longer than [`LONGEST_STEP`]: a tick that is further ahead
/// passed weeks ago.
#[inline(always)]
#[must_use]
pub const fn is_good(until: Tick, now: Tick) -> bool {
    until.0.wrapping_sub(now.0).wrapping_sub(1) < LONGEST_STEP
}

/// The copy for a flow's packets, if there is one that is good.
#[inline(always)]
pub fn find<A: Cached>(place: &impl Place, tuple: &A::Tuple, now: Tick) -> Option<Forwarding<A>> {
    let version = place.version();
    if version & (CLAIMED | VOID) != 0 || !is_of::<A>(place, tuple) || !is_good(place.until(), now) {
        return None;
    }
    let forwarding = Forwarding::load(|i| place.word(A::Tuple::COUNT + i));
    (place.version() == version).then_some(forwarding)
}

#[inline(always)]
fn is_of<A: Cached>(place: &impl Place, tuple: &A::Tuple) -> bool {
    A::Tuple::load(|i| place.word(i)).is(*tuple)
}

/// Makes the copy for a flow's packets, unless a good one of another flow has the place. `again` looks into the flow
/// table once more: what it gives is copied, as good until the tick beside it.
#[inline(always)]
pub fn fill<A: Cached>(
    place: &impl Place,
    tuple: &A::Tuple,
    now: Tick,
    again: impl FnOnce() -> Option<(Forwarding<A>, Tick)>,
) {
    let before = place.version();
    let of_other = before & VOID == 0 && !is_of::<A>(place, tuple) && is_good(place.until(), now);
    let claimed = (before & !VOID) | CLAIMED;
    if before & CLAIMED != 0 || of_other || !place.swap_version(before, claimed) {
        return;
    }
    let after = claimed.wrapping_add(1) & !VOID;
    if let Some((forwarding, until)) = again() {
        tuple.store(|i, word| place.set_word(i, word));
        forwarding.store(|i, word| place.set_word(A::Tuple::COUNT + i, word));
        place.set_until(until);
        if place.swap_version(claimed, after) {
            return;
        }
    }
    place.set_version(after | VOID);
}

/// Voids the copy for a flow's packets, if there is one, or is about to be.
#[inline(always)]
pub fn forget<A: Cached>(place: &impl Place, tuple: &A::Tuple) {
    if place.version() & CLAIMED != 0 || is_of::<A>(place, tuple) {
        place.void();
    }
}

/// Voids a copy whose time is over. Ticks come again after 52 days; until then, every place is to have been looked at.
#[inline(always)]
pub fn clear(place: &impl Place, now: Tick) {
    let version = place.version();
    if version != 0 && version & (CLAIMED | VOID) == 0 && !is_good(place.until(), now) {
        place.void();
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
    use std::{net::Ipv4Addr, sync::Mutex, thread, vec::Vec};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        abi::{BackendState, Link},
        flow::Phase,
        net::{MacAddr, UDP},
        splice::Splice,
    };

    const NOW: Tick = Tick(1000);
    const LATER: Tick = Tick(2000);

    /// A place in the memory of this process.
    #[derive(Default)]
    struct Memory {
        version: AtomicU32,
        until: AtomicU32,
        words: [AtomicU64; 15],
    }

    impl Place for Memory {
        fn version(&self) -> u32 {
            self.version.load(SeqCst)
        }

        fn swap_version(&self, old: u32, new: u32) -> bool {
            self.version.compare_exchange(old, new, SeqCst, SeqCst).is_ok()
        }

        fn set_version(&self, new: u32) {
            self.version.store(new, SeqCst);
        }

        fn void(&self) {
            self.version.fetch_or(VOID, SeqCst);
        }

        fn until(&self) -> Tick {
            Tick(self.until.load(SeqCst))
        }

        fn set_until(&self, until: Tick) {
            self.until.store(until.0, SeqCst);
        }

        fn word(&self, i: usize) -> u64 {
            self.words[i].load(SeqCst)
        }

        fn set_word(&self, i: usize, word: u64) {
            self.words[i].store(word, SeqCst);
        }
    }

    fn key(port: u16) -> FlowKey<Addr4> {
        let addr = |last| Addr4::from(Ipv4Addr::new(10, 0, 0, last));
        FlowKey::new((addr(1), Be16::new(port)), (addr(2), Be16::new(80)), UDP)
    }

    fn backend() -> Backend {
        Backend {
            state: BackendState::UP,
            ..Backend::default()
        }
    }

    fn flow(key: &FlowKey<Addr4>, source: u16, direction: Direction) -> Flow<Addr4> {
        let to = (Addr4::from(Ipv4Addr::new(10, 1, 0, 9)), Be16::new(8080));
        Flow {
            rewrite: Rewrite::new(key, (Addr4::from(Ipv4Addr::new(10, 1, 0, 1)), Be16::new(source)), to),
            client: Link::new(MacAddr::new([1, 2, 3, 4, 5, 6]), MacAddr::new([7, 8, 9, 10, 11, 12]), 7),
            backend: u32::from(source),
            expires: LATER,
            opened: NOW,
            phase: Phase::UDP,
            direction,
            alone: 0,
            splice: Splice::NONE,
            beyond: 0,
            refresh: LATER,
            answer: 0,
        }
    }

    fn copy(key: &FlowKey<Addr4>, source: u16) -> Forwarding<Addr4> {
        Forwarding::of(&flow(key, source, Direction::TO_CLIENT), &backend())
    }

    fn filled(place: &Memory, port: u16, source: u16, until: Tick) {
        let key = key(port);
        fill::<Addr4>(place, &Addr4::tuple(&key), NOW, || Some((copy(&key, source), until)));
    }

    fn found(place: &Memory, port: u16, now: Tick) -> Option<u32> {
        find::<Addr4>(place, &Addr4::tuple(&key(port)), now).map(|copy| copy.backend())
    }

    #[test]
    fn a_copy_says_what_the_flow_says() {
        for direction in [Direction::TO_BACKEND, Direction::TO_CLIENT] {
            let key = key(4000);
            let flow = flow(&key, 777, direction);
            let copy = Forwarding::of(&flow, &backend());
            assert_eq!(copy.rewrite(), flow.rewrite);
            assert_eq!((copy.backend(), copy.direction()), (777, direction));
            assert!(copy.is_of_epoch(&backend()));
            let later = Backend {
                epoch: backend().epoch.next(),
                ..backend()
            };
            assert!(!copy.is_of_epoch(&later));
        }
        let there = flow(&key(1), 1, Direction::TO_CLIENT);
        let (copy, hop) = (Forwarding::of(&there, &backend()), Hop::from(&there.client));
        assert_eq!(
            (copy.client().macs, copy.client().mac_ifindex),
            (hop.macs, hop.mac_ifindex)
        );
        // The client's frames begin with our address.
        let back = Forwarding::of(&flow(&key(1), 1, Direction::TO_BACKEND), &backend());
        let frame = [7, 8, 9, 10, 11, 12, 1, 2];
        let macs = (u64::from_ne_bytes(frame), u32::from_ne_bytes([3, 4, 5, 6]));
        assert!(back.came_by(macs, 7, Vlans(0)));
        assert!(!back.came_by(macs, 8, Vlans(0)) && !back.came_by(macs, 7, Vlans(1)));
        assert!(!back.came_by((macs.0, 0), 7, Vlans(0)) && !back.came_by((0, macs.1), 7, Vlans(0)));
    }

    #[test]
    fn a_copy_is_good_for_its_flow_and_its_time() {
        let place = Memory::default();
        assert_eq!(found(&place, 0, NOW), None, "empty");
        filled(&place, 1, 11, LATER);
        assert_eq!((found(&place, 1, NOW), found(&place, 2, NOW)), (Some(11), None));
        assert_eq!(found(&place, 1, LATER), None, "its time is over");
        // Ticks come again after 52 days, and half of them look as if they were ahead.
        for weeks in [1 << 29, 1 << 31, 3 << 30] {
            assert_eq!(found(&place, 1, LATER.plus(weeks)), None);
        }
    }

    #[test]
    fn a_good_copy_stays_until_its_time_is_over() {
        let place = Memory::default();
        filled(&place, 1, 11, LATER);
        filled(&place, 2, 22, LATER);
        assert_eq!((found(&place, 1, NOW), found(&place, 2, NOW)), (Some(11), None));
        filled(&place, 1, 33, LATER);
        assert_eq!(found(&place, 1, NOW), Some(33), "its own flow may write it anew");
        let (key, two) = (key(2), LATER.plus(10));
        fill::<Addr4>(&place, &Addr4::tuple(&key), LATER, || Some((copy(&key, 22), two)));
        assert_eq!(found(&place, 2, LATER), Some(22), "after that, another may");
    }

    #[test]
    fn what_is_forgotten_is_not_found() {
        let place = Memory::default();
        filled(&place, 1, 11, LATER);
        forget::<Addr4>(&place, &Addr4::tuple(&key(2)));
        assert_eq!(found(&place, 1, NOW), Some(11), "another flow was forgotten");
        forget::<Addr4>(&place, &Addr4::tuple(&key(1)));
        assert_eq!(found(&place, 1, NOW), None);
        filled(&place, 2, 22, LATER);
        assert_eq!(found(&place, 2, NOW), Some(22), "the place is free again");
    }

    #[test]
    fn old_copies_are_cleared_for_good() {
        let place = Memory::default();
        filled(&place, 1, 11, LATER);
        clear(&place, NOW);
        assert_eq!(found(&place, 1, NOW), Some(11), "it is good");
        clear(&place, LATER);
        assert_eq!(found(&place, 1, NOW), None, "even when its time comes again");
        filled(&place, 1, 12, LATER);
        assert_eq!(found(&place, 1, NOW), Some(12));
    }

    #[test]
    fn a_flow_that_ends_while_its_copy_is_made_leaves_none() {
        let place = Memory::default();
        let key = key(1);
        let tuple = Addr4::tuple(&key);
        fill::<Addr4>(&place, &tuple, NOW, || {
            let read = Some((copy(&key, 11), LATER));
            // Another CPU removes the entry now.
            forget::<Addr4>(&place, &tuple);
            read
        });
        assert_eq!(found(&place, 1, NOW), None);
        fill::<Addr4>(&place, &tuple, NOW, || None);
        assert_eq!(found(&place, 1, NOW), None, "it was gone");
        filled(&place, 1, 11, LATER);
        assert_eq!(found(&place, 1, NOW), Some(11));
    }

    #[test]
    fn a_place_that_is_written_is_left_alone() {
        let place = Memory::default();
        let outer = key(1);
        fill::<Addr4>(&place, &Addr4::tuple(&outer), NOW, || {
            filled(&place, 2, 22, LATER);
            assert_eq!((found(&place, 1, NOW), found(&place, 2, NOW)), (None, None));
            Some((copy(&outer, 11), LATER))
        });
        assert_eq!(found(&place, 1, NOW), Some(11));
    }

    /// Many threads find, fill and forget copies of flows in one place, while flows end and others begin with the same key: the
    /// flow table says under a lock which version of a flow is there. No copy is ever of two flows, and none is found after its
    /// flow's end was made known.
    #[test]
    fn threads_never_find_what_is_not_there() {
        const FLOWS: usize = 3;
        const ROUNDS: u32 = 30_000;
        let place = Memory::default();
        let table: Vec<Mutex<Option<u16>>> = (0..FLOWS).map(|_| Mutex::new(None)).collect();
        // The oldest version of each flow that may be found.
        let since: Vec<AtomicU32> = (0..FLOWS).map(|_| AtomicU32::new(0)).collect();
        let done = AtomicBool::new(false);
        let hits = AtomicU32::new(0);
        let keys: Vec<_> = (0..FLOWS).map(|n| key(n as u16)).collect();
        thread::scope(|scope| {
            let readers: Vec<_> = (0..3)
                .map(|reader| {
                    let (place, table, since, done, hits, keys) = (&place, &table, &since, &done, &hits, &keys);
                    scope.spawn(move || {
                        let mut n = reader;
                        while !done.load(SeqCst) {
                            n = (n + 1) % FLOWS;
                            let (key, oldest) = (&keys[n], since[n].load(SeqCst));
                            let tuple = Addr4::tuple(key);
                            if let Some(found) = find::<Addr4>(place, &tuple, NOW) {
                                let version = found.backend();
                                assert!(version >= oldest, "{version} of flow {n} ended before {oldest}");
                                assert_eq!(found.rewrite(), copy(key, version as u16).rewrite(), "torn");
                                hits.fetch_add(1, SeqCst);
                            } else {
                                fill::<Addr4>(place, &tuple, NOW, || {
                                    let version = *table[n].lock().unwrap();
                                    version.map(|version| (copy(key, version), LATER))
                                });
                            }
                        }
                    })
                })
                .collect();
            for round in 0..ROUNDS {
                let n = round as usize % FLOWS;
                let version = (round / FLOWS as u32 + 1) as u16;
                *table[n].lock().unwrap() = None;
                forget::<Addr4>(&place, &Addr4::tuple(&keys[n]));
                since[n].store(version.into(), SeqCst);
                *table[n].lock().unwrap() = Some(version);
                if round % 64 == 0 {
                    thread::yield_now();
                }
            }
            done.store(true, SeqCst);
            for reader in readers {
                reader.join().unwrap();
            }
        });
        assert!(hits.load(SeqCst) > 0);
    }

    proptest! {
        #[test]
        fn ipv6_flows_come_back_whole(src: [u8; 16], dst: [u8; 16], ports: [u16; 2], new: [u8; 16]) {
            let [src_port, dst_port] = ports.map(Be16::new);
            let (src, dst, new) = (Addr6::from_wire(src), Addr6::from_wire(dst), Addr6::from_wire(new));
            let template = flow(&key(1), 1, Direction::TO_CLIENT);
            let key = FlowKey::new((src, src_port), (dst, dst_port), UDP);
            let rewrite = Rewrite::new(&key, (new, dst_port), (src, src_port));
            let flow = Flow {
                rewrite,
                client: template.client,
                backend: template.backend,
                expires: template.expires,
                opened: template.opened,
                phase: template.phase,
                direction: template.direction,
                alone: 0,
                splice: template.splice,
                beyond: 0,
                refresh: template.refresh,
                answer: 0,
            };
            let place = Memory::default();
            let tuple = Addr6::tuple(&key);
            fill::<Addr6>(&place, &tuple, NOW, || Some((Forwarding::of(&flow, &backend()), LATER)));
            let found = find::<Addr6>(&place, &tuple, NOW);
            prop_assert_eq!(found.map(|copy| copy.rewrite()), Some(rewrite));
        }
    }
}
