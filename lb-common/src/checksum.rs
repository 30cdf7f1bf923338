//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624, equation 3).
//!
//! One's complement sums do not depend on byte order as long as every word is loaded the same way, so all words here
//! are taken as they lie in memory.

use crate::net::{Address, Be16};

/// What a set of changes does to a checksum: the one's complement sum of `~m + m'` over all changed 16-bit words.
///
/// It is known when a flow is made and is the same for all of its packets.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Delta(u16);

/// What decrementing the TTL by one does to the IPv4 header checksum.
pub const TTL_DECREMENT: Delta = Delta(fold(!0x0100u16.to_be() as u32 & 0xffff));

impl Delta {
    /// No change.
    pub const ZERO: Self = Self(0);

    /// From what [`Delta::to_bits`] gave.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// As a number.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// With a 16-bit word changed from `old` to `new`.
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(fold(self.0 as u32 + (!old) as u32 + new as u32))
    }

    /// With a port changed.
    #[inline(always)]
    #[must_use]
    pub const fn port(self, old: Be16, new: Be16) -> Self {
        self.word(old.word(), new.word())
    }

    /// With an address changed, to one of either family: a pseudo-header's sum does not tell where its words stand.
    #[inline(always)]
    #[must_use]
    pub fn address<A: Address, B: Address>(self, old: A, new: B) -> Self {
        let (old, new) = (sum_words(old.words()), sum_words(new.words()));
        self.word(old, new)
    }

    /// With another set of changes made as well.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(fold(self.0 as u32 + other.0 as u32))
    }

    /// The changes undone.
    #[inline(always)]
    #[must_use]
    pub const fn inverse(self) -> Self {
        Self(!self.0)
    }

    /// The checksum field after the changes, from the field before them.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, check: u16) -> u16 {
        !fold((!check) as u32 + self.0 as u32)
    }

    /// As [`Delta::apply`] for a UDP checksum, where zero means "none": a computed zero is sent as all ones (RFC 768).
    /// The caller leaves a zero field alone.
    #[inline(always)]
    #[must_use]
    pub const fn apply_udp(self, check: u16) -> u16 {
        match self.apply(check) {
            0 => 0xffff,
            check => check,
        }
    }
}

/// Folds the carries of a sum of 16-bit words back into 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The one's complement sum of four 32-bit words, in 16 bits.
#[inline(always)]
#[must_use]
pub const fn sum_words(w: [u32; 4]) -> u16 {
    let sum = w[0] as u64 + w[1] as u64 + w[2] as u64 + w[3] as u64;
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    fold(((sum & 0xffff) + (sum >> 16)) as u32)
}

/// The checksum of `N` words as loaded, with `initial` already summed, as it is written into a header.
#[inline(always)]
#[must_use]
pub fn full<const N: usize>(words: [u16; N], initial: u16) -> u16 {
    let mut sum = u32::from(initial);
    for word in words {
        sum += u32::from(word);
    }
    !fold(sum)
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::net::{Addr4, Addr6};

    /// RFC 1071 over any bytes, written the slow and obvious way, in network byte order.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn full<const N: usize>(bytes: &[u8; N], initial: u16) -> u16 {
        let sum = bytes
            .chunks(2)
            .map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]])))
            .sum::<u32>();
        !fold(sum + u32::from(initial))
    }

    /// 0x0000 and 0xffff are the same number in one's complement; which one appears is not fixed by equality of sums.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
    }

    proptest! {
        #[test]
        fn full_agrees_with_the_reference(bytes: [u8; 40]) {
            let mut words = [0; 20];
            for (word, pair) in words.iter_mut().zip(bytes.chunks(2)) {
                *word = u16::from_ne_bytes([pair[0], pair[1]]);
            }
            prop_assert_eq!(super::full(words, 0).to_be(), reference(&bytes));
            prop_assert_eq!(full(&bytes, 0).to_be(), reference(&bytes));
        }

        #[test]
        fn incremental_equals_full(mut bytes: [u8; 40], a: [u8; 4], p: [u8; 2]) {
            bytes[20] |= 1; // a sum of zero has two spellings
            let before = full(&bytes, 0);
            let old_a = Addr4::from_wire([bytes[4], bytes[5], bytes[6], bytes[7]]);
            let old_p = Be16::from_wire([bytes[10], bytes[11]]);
            let delta = Delta::ZERO.address(old_a, Addr4::from_wire(a)).port(old_p, Be16::from_wire(p));
            bytes[4..8].copy_from_slice(&a);
            bytes[10..12].copy_from_slice(&p);
            prop_assert_eq!(delta.apply(before), full(&bytes, 0));
            prop_assert!(same(delta.inverse().apply(delta.apply(before)), before));
        }

        #[test]
        fn incremental_equals_full_ipv6(mut bytes: [u8; 64], a: [u8; 16]) {
            bytes[60] |= 1;
            let before = full(&bytes, 0);
            let mut old = [0; 16];
            old.copy_from_slice(&bytes[8..24]);
            let delta = Delta::ZERO.address(Addr6::from_wire(old), Addr6::from_wire(a));
            bytes[8..24].copy_from_slice(&a);
            prop_assert_eq!(delta.apply(before), full(&bytes, 0));
        }

        #[test]
        fn ttl_decrement(mut bytes: [u8; 20]) {
            prop_assume!(bytes[8] > 0);
            bytes[0] |= 0x40;
            let before = full(&bytes, 0);
            bytes[8] -= 1;
            prop_assert_eq!(TTL_DECREMENT.apply(before), full(&bytes, 0));
        }

        #[test]
        fn udp_is_never_zero(check: u16, old: u16, new: u16) {
            prop_assert_ne!(Delta::ZERO.word(old, new).apply_udp(check), 0);
        }
    }

    #[test]
    fn addresses_sum_as_their_bytes() {
        let ip: Ipv6Addr = "2001:db8:ffff:ffff:ffff::1".parse().unwrap();
        assert_eq!((!sum_words(Addr6::from(ip).words())).to_be(), reference(&ip.octets()));
    }
}
