//! Services whose packets go to the backend that their hash gives, without a look at the flow table: where they are found, and
//! what a slot of theirs says.
//!
//! Just Enough Connection Tracking (Mendelson, Vargaftik, Barabash, Lorenz, Keslassy and Orda, CoNEXT 2021): of flows that a hash
//! sends to the same backend before and after a change, nothing need be known. Slots whose backend is another one lately are
//! marked, and flows of these alone are stored.

use crate::{
    abi::{DirectBucket, DirectEntry},
    net::{Address, Be16},
};

/// Places where a service's port may be found. There is room for a thousand of them, less a few for whom it is taken: their
/// packets take the way of all others, by the flow table.
pub const BUCKETS: u32 = 1 << BUCKET_BITS;
const BUCKET_BITS: u32 = 13;

/// In a slot, besides its backend's index: another backend had it lately, and may still have flows.
pub const MOVED: u32 = 1 << 31;

/// The index of a slot's backend.
#[inline(always)]
#[must_use]
pub const fn backend_of(slot: u32) -> u32 {
    slot & !MOVED
}

/// Whether another backend had a slot lately.
#[inline(always)]
#[must_use]
pub const fn is_moved(slot: u32) -> bool {
    slot & MOVED != 0
}

/// What is looked for besides the address: port, protocol and IP version in one word, never 0.
#[inline(always)]
#[must_use]
pub const fn what(port: Be16, protocol: u8, version: u8) -> u32 {
    port.word() as u32 | (protocol as u32) << 16 | (version as u32) << 24
}

/// Where that is found.
#[inline(always)]
#[must_use]
pub fn bucket<A: Address>(vip: A, what: u32) -> u32 {
    let [a, b, c, d] = vip.words();
    let word = u64::from(a ^ b ^ c ^ d) << 32 | u64::from(what);
    (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - BUCKET_BITS)) as u32
}

impl DirectEntry {
    /// Whether it is that of an address, and what belongs to it.
    #[inline(always)]
    #[must_use]
    pub fn is<A: Address>(&self, vip: A, what: u32) -> bool {
        // The words that an address does not have are zero on both sides, and the compiler knows.
        self.what == what && A::from_any(self.vip) == vip
    }
}

impl DirectBucket {
    /// The index of the service.
    #[inline(always)]
    #[must_use]
    pub fn find<A: Address>(&self, vip: A, what: u32) -> Option<u32> {
        let [first, second] = &self.0;
        if first.is(vip, what) {
            return Some(first.service);
        }
        second.is(vip, what).then_some(second.service)
    }

    /// The two writes that put an entry into a free place, or change it: packets find it whole or not at all. `None`: both places are
    /// others'.
    #[must_use]
    pub fn with(&self, entry: DirectEntry) -> Option<[Self; 2]> {
        let at = self.0.iter().position(|e| e.what == entry.what && e.vip == entry.vip);
        let at = at.or_else(|| self.0.iter().position(|e| e.what == 0))?;
        let (mut staged, mut whole) = (*self, *self);
        *staged.0.get_mut(at)? = DirectEntry { what: 0, ..entry };
        *whole.0.get_mut(at)? = entry;
        Some([staged, whole])
    }

    /// The same without an entry; `None`: it is not there.
    #[must_use]
    pub fn without(&self, entry: DirectEntry) -> Option<Self> {
        let at = self.0.iter().position(|e| e.what == entry.what && e.vip == entry.vip)?;
        let mut rest = *self;
        rest.0.get_mut(at)?.what = 0;
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Addr4, Addr6, TCP, UDP};

    fn entry(vip: [u32; 4], port: u16, protocol: u8) -> DirectEntry {
        DirectEntry {
            vip,
            what: what(Be16::new(port), protocol, 4),
            service: u32::from(port),
            ..DirectEntry::default()
        }
    }

    #[test]
    fn an_entry_is_found_whole_or_not_at_all() {
        let vip = Addr4::from_wire([192, 0, 2, 1]);
        let find = |bucket: &DirectBucket, port| bucket.find(vip, what(Be16::new(port), TCP, 4));
        let (a, b, c) = (
            entry(vip.to_any(), 1, TCP),
            entry(vip.to_any(), 2, TCP),
            entry(vip.to_any(), 3, TCP),
        );
        let [staged, one] = DirectBucket::default().with(a).unwrap();
        assert_eq!((find(&staged, 1), find(&one, 1)), (None, Some(1)));
        let [staged, two] = one.with(b).unwrap();
        assert_eq!(
            (find(&staged, 1), find(&staged, 2), find(&two, 2)),
            (Some(1), None, Some(2))
        );
        assert_eq!(two.with(c), None, "full");
        let [_, again] = two.with(DirectEntry { service: 9, ..b }).unwrap();
        assert_eq!(find(&again, 2), Some(9), "the same one is replaced");
        let rest = two.without(a).unwrap();
        assert_eq!((find(&rest, 1), find(&rest, 2), rest.without(a)), (None, Some(2), None));
        assert_eq!(find(&rest.with(c).unwrap()[1], 3), Some(3));
    }

    #[test]
    fn families_protocols_and_ports_are_told_apart() {
        let vip = Addr4::from_wire([192, 0, 2, 1]);
        let [_, bucket] = DirectBucket::default().with(entry(vip.to_any(), 53, UDP)).unwrap();
        assert_eq!(bucket.find(vip, what(Be16::new(53), TCP, 4)), None);
        assert_eq!(
            bucket.find(Addr4::from_wire([192, 0, 2, 2]), what(Be16::new(53), UDP, 4)),
            None
        );
        assert_eq!(
            bucket.find(Addr6::from_any(vip.to_any()), what(Be16::new(53), UDP, 6)),
            None
        );
        assert_eq!(bucket.find(vip, what(Be16::new(53), UDP, 4)), Some(53));
    }

    #[test]
    fn a_thousand_services_have_room_but_for_a_few() {
        let mut counts = std::collections::HashMap::new();
        for n in 0..1000u32 {
            let vip = Addr4::from_wire((0xc000_0200 + n / 10).to_be_bytes());
            let what = what(Be16::new(8000 + (n % 10) as u16), TCP, 4);
            *counts.entry(bucket(vip, what)).or_insert(0u32) += 1;
        }
        assert!(counts.keys().all(|bucket| *bucket < BUCKETS));
        let without: u32 = counts.values().map(|n| n.saturating_sub(2)).sum();
        assert!(without <= 10, "{without} of 1000");
    }

    #[test]
    fn a_mark_is_no_part_of_the_index() {
        assert_eq!(
            (backend_of(7 | MOVED), is_moved(7 | MOVED), is_moved(7)),
            (7, true, false)
        );
    }
}
