//! ICMP errors about a tunnel's outer packet, and what its entry tells the sender of the packet inside: RFC 2003, section 4,
//! with IPv4 outside, and RFC 2473, section 8, with IPv6.
//!
//! A time that was exceeded, or a protocol or port that is not there, is a fault of the tunnel, which the sender knows nothing
//! of: it is told that the host cannot be reached.

/// What a router says of the outer packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// It fits no link of so many bytes, from the IP header on.
    TooBig(u32),
    /// It does not arrive.
    Unreachable,
}

/// An IPv6 packet of this size fits everywhere, and receivers ignore who says less (RFC 8201, section 4).
pub const SMALLEST_V6: u32 = 1280;

impl Trouble {
    /// From the type, the code and the second word of an ICMP message. `None`: nothing that the sender need know, or a router of
    /// before RFC 1191, which does not say what fits.
    #[inline(always)]
    #[must_use]
    pub const fn v4([kind, code]: [u8; 2], second: u32) -> Option<Self> {
        let [_, _, m0, m1] = second.to_ne_bytes();
        match (kind, code) {
            (3, 4) => match u16::from_be_bytes([m0, m1]) {
                0 => None,
                mtu => Some(Self::TooBig(mtu as u32)),
            },
            // Source routes are the tunnel's own business, and it has none.
            (3, 5) => None,
            (3 | 11, _) => Some(Self::Unreachable),
            _ => None,
        }
    }

    /// The same of ICMPv6.
    #[inline(always)]
    #[must_use]
    pub const fn v6([kind, _code]: [u8; 2], second: u32) -> Option<Self> {
        match kind {
            2 => Some(Self::TooBig(u32::from_be(second))),
            1 | 3 => Some(Self::Unreachable),
            _ => None,
        }
    }

    /// What that is to a packet inside, of IP version `family`, which the tunnel makes larger by `overhead` bytes. `None`: nothing
    /// would fit.
    #[inline(always)]
    #[must_use]
    pub const fn inside(self, overhead: u32, family: u8) -> Option<Self> {
        let Self::TooBig(mtu) = self else {
            return Some(self);
        };
        match mtu.saturating_sub(overhead) {
            0 => None,
            mtu if family == 6 && mtu < SMALLEST_V6 => Some(Self::TooBig(SMALLEST_V6)),
            mtu => Some(Self::TooBig(mtu)),
        }
    }

    /// The message to a sender: type and code, and the second word, as they lie in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn message(self, family: u8) -> (u16, u32) {
        match (self, family) {
            (Self::TooBig(mtu), 6) => (u16::from_ne_bytes([2, 0]), mtu.to_be()),
            (Self::TooBig(mtu), _) => {
                let mtu = if mtu > 0xffff { 0xffff } else { mtu as u16 };
                let [m0, m1] = mtu.to_be_bytes();
                (u16::from_ne_bytes([3, 4]), u32::from_ne_bytes([0, 0, m0, m1]))
            }
            (Self::Unreachable, 6) => (u16::from_ne_bytes([1, 3]), 0),
            (Self::Unreachable, _) => (u16::from_ne_bytes([3, 1]), 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn word(bytes: [u8; 4]) -> u32 {
        u32::from_ne_bytes(bytes)
    }

    #[test]
    fn what_concerns_the_sender() {
        assert_eq!(Trouble::v4([3, 4], word([9, 9, 5, 0xdc])), Some(Trouble::TooBig(1500)));
        assert_eq!(Trouble::v4([3, 4], word([9, 9, 0, 0])), None, "says nothing");
        for message in [[3, 0], [3, 1], [3, 2], [3, 3], [3, 13], [11, 0], [11, 1]] {
            assert_eq!(Trouble::v4(message, u32::MAX), Some(Trouble::Unreachable));
        }
        for message in [[3, 5], [12, 0], [4, 0], [5, 0], [0, 0], [8, 0]] {
            assert_eq!(Trouble::v4(message, u32::MAX), None);
        }
        assert_eq!(Trouble::v6([2, 0], word([0, 0, 5, 0xdc])), Some(Trouble::TooBig(1500)));
        for message in [[1, 0], [1, 4], [3, 0]] {
            assert_eq!(Trouble::v6(message, u32::MAX), Some(Trouble::Unreachable));
        }
        for message in [[4, 0], [128, 0], [129, 0], [0, 0]] {
            assert_eq!(Trouble::v6(message, u32::MAX), None);
        }
    }

    #[test]
    fn what_fits_inside() {
        let inside = |mtu, overhead, family| Trouble::TooBig(mtu).inside(overhead, family);
        assert_eq!(inside(1500, 20, 4), Some(Trouble::TooBig(1480)));
        assert_eq!(inside(1500, 48, 6), Some(Trouble::TooBig(1452)));
        assert_eq!(inside(1300, 48, 6), Some(Trouble::TooBig(1280)));
        assert_eq!(inside(1300, 48, 4), Some(Trouble::TooBig(1252)));
        assert_eq!(inside(40, 40, 4), None);
        assert_eq!(Trouble::Unreachable.inside(40, 6), Some(Trouble::Unreachable));
    }

    #[test]
    fn messages() {
        assert_eq!(
            Trouble::TooBig(1452).message(4),
            (u16::from_ne_bytes([3, 4]), word([0, 0, 5, 0xac]))
        );
        assert_eq!(
            Trouble::TooBig(1452).message(6),
            (u16::from_ne_bytes([2, 0]), word([0, 0, 5, 0xac]))
        );
        assert_eq!(Trouble::TooBig(70_000).message(4).1, word([0, 0, 0xff, 0xff]));
        assert_eq!(Trouble::Unreachable.message(4), (u16::from_ne_bytes([3, 1]), 0));
        assert_eq!(Trouble::Unreachable.message(6), (u16::from_ne_bytes([1, 3]), 0));
    }

    proptest! {
        /// What is told to a sender can be told on, in either family.
        #[test]
        fn messages_are_read_as_they_were_meant(mtu in 1280u32..=65_535, family in prop_oneof![Just(4u8), Just(6)]) {
            for trouble in [Trouble::TooBig(mtu), Trouble::Unreachable] {
                let (kind, second) = trouble.message(family);
                let read = if family == 6 { Trouble::v6 } else { Trouble::v4 };
                prop_assert_eq!(read(kind.to_ne_bytes(), second), Some(trouble));
            }
        }
    }
}
