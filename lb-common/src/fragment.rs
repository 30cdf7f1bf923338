//! Fragments: where one lies in its packet, and which of them may follow the first.

use crate::{
    abi::Datagram,
    flow::{TICK_SHIFT, Tick},
};

/// How long a first fragment is remembered, in ticks: about 30 s, as Linux waits for the rest (`ipfrag_time`).
pub const LIFETIME: u32 = ((30 * 1_000_000_000_u64) >> TICK_SHIFT) as u32;

/// Bytes that the payload of a packet can have.
const MAX_PAYLOAD: u32 = 0xffff;

/// Where the payload of an IP packet stands in the packet that it is a fragment of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Identification; of IPv4 in the lower half.
    pub id: u32,
    /// Bytes before it.
    pub offset: u32,
    /// Whether others follow.
    pub more: bool,
    /// Where the IPv6 fragment header lies in the frame.
    pub header: usize,
}

impl Piece {
    /// A packet that is no fragment.
    pub const WHOLE: Self = Self {
        id: 0,
        offset: 0,
        more: false,
        header: 0,
    };

    /// From an IPv4 header's identification, and its word of flags and offset (RFC 791).
    #[inline(always)]
    #[must_use]
    pub const fn ipv4(id: u16, flags_offset: u16) -> Self {
        Self {
            id: id as u32,
            offset: (flags_offset as u32 & 0x1fff) * 8,
            more: flags_offset & 0x2000 != 0,
            header: 0,
        }
    }

    /// From an IPv6 fragment header at an offset of the frame (RFC 8200, section 4.5).
    #[inline(always)]
    #[must_use]
    pub const fn ipv6(id: u32, offset_more: u16, header: usize) -> Self {
        Self {
            id,
            offset: offset_more as u32 & 0xfff8,
            more: offset_more & 1 != 0,
            header,
        }
    }

    /// Whether it is not all there is. An IPv6 packet with a fragment header may be (an atomic fragment, RFC 6946).
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.offset != 0 || self.more
    }

    /// Whether it is a fragment without ports.
    #[inline(always)]
    #[must_use]
    pub const fn is_later(&self) -> bool {
        self.offset != 0
    }

    /// Whether a fragment of so many bytes can be: all but the last end on a multiple of 8, and none beyond what a packet
    /// can hold.
    #[inline(always)]
    #[must_use]
    pub const fn sound(&self, length: u32) -> bool {
        length > 0 && (!self.more || length & 7 == 0) && self.offset + length <= MAX_PAYLOAD
    }
}

impl Datagram {
    /// Takes in a later fragment; false where it overlaps what came without a gap. One that leaves a gap is early: it
    /// belongs to the packet whatever comes between, and what comes between still may.
    #[inline(always)]
    #[must_use]
    pub const fn admit(&mut self, offset: u32, length: u32) -> bool {
        if offset < self.next {
            return false;
        }
        if offset == self.next {
            self.next += length;
        }
        true
    }

    /// Whether it is still remembered.
    #[inline(always)]
    #[must_use]
    pub const fn is_fresh(&self, now: Tick) -> bool {
        !self.expires.passed(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn datagram(next: u32) -> Datagram {
        Datagram {
            next,
            ..Datagram::default()
        }
    }

    #[test]
    fn headers_are_read() {
        let first = Piece::ipv4(0xbeef, 0x2000);
        assert_eq!((first.id, first.offset, first.more), (0xbeef, 0, true));
        assert!(first.is_fragment() && !first.is_later());
        let last = Piece::ipv4(1, 185);
        assert_eq!((last.offset, last.more), (1480, false));
        assert!(last.is_fragment() && last.is_later());
        assert!(
            !Piece::ipv4(1, 0x4000).is_fragment(),
            "\"don't fragment\" is no fragment"
        );
        let first = Piece::ipv6(7, 0x0001, 54);
        assert_eq!((first.id, first.offset, first.more, first.header), (7, 0, true, 54));
        assert_eq!(Piece::ipv6(7, 0x05a8, 54).offset, 0x05a8);
        assert!(!Piece::ipv6(7, 0, 54).is_fragment(), "an atomic fragment");
        assert!(!Piece::WHOLE.is_fragment());
    }

    #[test]
    fn lengths_must_fit() {
        assert!(Piece::ipv4(1, 0x2000).sound(1480));
        assert!(!Piece::ipv4(1, 0x2000).sound(1481));
        assert!(Piece::ipv4(1, 185).sound(1481));
        assert!(!Piece::ipv4(1, 0x1fff).sound(100), "the \"ping of death\"");
        assert!(!Piece::ipv4(1, 1).sound(0));
    }

    proptest! {
        /// In whatever order the later fragments come, each is let in once, and what would rewrite bytes is not.
        #[test]
        fn order_does_not_matter_and_overlaps_do(
            (lengths, order) in (2usize..20).prop_flat_map(|n| (
                proptest::collection::vec(1u32..200, n),
                Just((0..n).collect::<Vec<_>>()).prop_shuffle(),
            )),
            back in 1u32..100,
        ) {
            let mut packet = datagram(8);
            let offset = |n: usize| 8 + lengths.iter().take(n).map(|l| l * 8).sum::<u32>();
            for n in &order {
                prop_assert!(packet.admit(offset(*n), lengths[*n] * 8));
            }
            let contiguous = packet.next;
            prop_assert!(!packet.admit(contiguous.saturating_sub(back), 8));
            prop_assert_eq!(packet.next, contiguous);
        }

        /// Ports are never overwritten: nothing reaches into the first fragment.
        #[test]
        fn the_first_fragment_stands(first in 8u32..1500, offset: u16, length in 1u32..1500) {
            let mut packet = datagram(first);
            prop_assert_eq!(packet.admit(offset.into(), length), u32::from(offset) >= first);
        }
    }
}
