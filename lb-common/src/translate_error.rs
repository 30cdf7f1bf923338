//! ICMP errors from one IP version to the other (RFC 7915, "IP/ICMP Translation Algorithm", sections 4.2 and 5.2), about packets of
//! flows whose client and backend are of different families.
//!
//! A message here is its type and code, and its second word, as they lie in a packet. `None`: it has no counterpart.

use crate::tunnel_error::SMALLEST_V6;

/// IPv4 and IPv6 headers differ by so many bytes, without options and extensions.
const DIFFERENCE: u32 = 20;
/// Where an IPv6 header says what follows it.
const NEXT_HEADER: u32 = 6;

/// An ICMP error as ICMPv6. A router of before RFC 1191, which does not say what fits, is not translated.
#[inline(always)]
#[must_use]
pub const fn to_v6([kind, code]: [u8; 2], second: u32) -> Option<([u8; 2], u32)> {
    let [pointer, _, m0, m1] = second.to_ne_bytes();
    let (message, second) = match (kind, code) {
        (3, 0 | 1 | 5..=8 | 11 | 12) => ([1, 0], 0),
        (3, 2) => ([4, 1], NEXT_HEADER),
        (3, 3) => ([1, 4], 0),
        (3, 4) => match u16::from_be_bytes([m0, m1]) as u32 {
            0 => return None,
            mtu if mtu + DIFFERENCE < SMALLEST_V6 => ([2, 0], SMALLEST_V6),
            mtu => ([2, 0], mtu + DIFFERENCE),
        },
        (3, 9 | 10 | 13 | 15) => ([1, 1], 0),
        (11, code) => ([3, code], 0),
        (12, 0 | 2) => match pointer_to_v6(pointer) {
            Some(pointer) => ([4, 0], pointer),
            None => return None,
        },
        _ => return None,
    };
    Some((message, second.to_be()))
}

/// An ICMPv6 error as ICMP.
#[inline(always)]
#[must_use]
pub const fn to_v4([kind, code]: [u8; 2], second: u32) -> Option<([u8; 2], u32)> {
    Some(match (kind, code) {
        (1, 0 | 2 | 3) => ([3, 1], 0),
        (1, 1) => ([3, 10], 0),
        (1, 4) => ([3, 3], 0),
        (2, _) => match u32::from_be(second).saturating_sub(DIFFERENCE) {
            0 => return None,
            mtu => {
                let mtu = if mtu > 0xffff { 0xffff } else { mtu as u16 };
                let [m0, m1] = mtu.to_be_bytes();
                ([3, 4], u32::from_ne_bytes([0, 0, m0, m1]))
            }
        },
        (3, code) => ([11, code], 0),
        (4, 0) => match pointer_to_v4(u32::from_be(second)) {
            Some(pointer) => ([12, 0], u32::from_ne_bytes([pointer, 0, 0, 0])),
            None => return None,
        },
        (4, 1) => ([3, 2], 0),
        _ => return None,
    })
}

/// Where the IPv6 header has what the IPv4 one has at a place (section 4.2, figure 3).
#[inline(always)]
const fn pointer_to_v6(pointer: u8) -> Option<u32> {
    Some(match pointer {
        0 | 1 => pointer as u32,
        2 | 3 => 4,
        8 => 7,
        9 => NEXT_HEADER,
        12..=15 => 8,
        16..=19 => 24,
        _ => return None,
    })
}

/// Where the IPv4 header has what the IPv6 one has at a place (section 5.2, figure 6).
#[inline(always)]
const fn pointer_to_v4(pointer: u32) -> Option<u8> {
    Some(match pointer {
        0 | 1 => pointer as u8,
        4 | 5 => 2,
        NEXT_HEADER => 9,
        7 => 8,
        8..=23 => 12,
        24..=39 => 16,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn word(bytes: [u8; 4]) -> u32 {
        u32::from_ne_bytes(bytes)
    }

    fn mtu(mtu: u16) -> u32 {
        let [m0, m1] = mtu.to_be_bytes();
        word([0, 0, m0, m1])
    }

    #[test]
    fn unreachable_and_late() {
        for code in [0, 1, 5, 6, 7, 8, 11, 12] {
            assert_eq!(to_v6([3, code], u32::MAX), Some(([1, 0], 0)));
        }
        for code in [9, 10, 13, 15] {
            assert_eq!(to_v6([3, code], u32::MAX), Some(([1, 1], 0)));
        }
        assert_eq!(to_v6([3, 2], u32::MAX), Some(([4, 1], word([0, 0, 0, 6]))));
        assert_eq!(to_v6([3, 3], u32::MAX), Some(([1, 4], 0)));
        assert_eq!(to_v6([11, 1], u32::MAX), Some(([3, 1], 0)));
        for code in [0, 2, 3] {
            assert_eq!(to_v4([1, code], u32::MAX), Some(([3, 1], 0)));
        }
        assert_eq!(to_v4([1, 1], u32::MAX), Some(([3, 10], 0)));
        assert_eq!(to_v4([1, 4], u32::MAX), Some(([3, 3], 0)));
        assert_eq!(to_v4([3, 1], u32::MAX), Some(([11, 1], 0)));
        assert_eq!(to_v4([4, 1], u32::MAX), Some(([3, 2], 0)));
    }

    #[test]
    fn what_has_no_counterpart() {
        for message in [[0, 0], [3, 14], [3, 16], [4, 0], [5, 0], [8, 0], [12, 1]] {
            assert_eq!(to_v6(message, 0), None, "{message:?}");
        }
        for message in [[0, 0], [1, 5], [1, 6], [4, 2], [128, 0], [137, 0]] {
            assert_eq!(to_v4(message, 0), None, "{message:?}");
        }
        for pointer in [4, 5, 6, 7, 10, 11, 20, 255] {
            assert_eq!(to_v6([12, 0], word([pointer, 0, 0, 0])), None, "{pointer}");
        }
        for pointer in [2, 3, 40, 1000] {
            assert_eq!(to_v4([4, 0], u32::to_be(pointer)), None, "{pointer}");
        }
    }

    #[test]
    fn what_fits() {
        assert_eq!(to_v6([3, 4], mtu(1400)), Some(([2, 0], word([0, 0, 5, 0x8c]))));
        assert_eq!(to_v6([3, 4], mtu(576)), Some(([2, 0], word([0, 0, 5, 0]))));
        assert_eq!(to_v6([3, 4], mtu(0)), None);
        assert_eq!(to_v4([2, 0], 1400_u32.to_be()), Some(([3, 4], mtu(1380))));
        assert_eq!(to_v4([2, 0], 20_u32.to_be()), None);
        assert_eq!(to_v4([2, 0], u32::MAX), Some(([3, 4], mtu(0xffff))));
    }

    proptest! {
        /// A pointer to a field of one header that the other has, too, comes back to the start of that field.
        #[test]
        fn pointers_lead_to_the_same_field(pointer: u8) {
            if let Some(([4, 0], there)) = to_v6([12, 0], word([pointer, 0, 0, 0])) {
                let (_, back) = to_v4([4, 0], there).unwrap();
                let [back, ..] = back.to_ne_bytes();
                prop_assert!(back <= pointer && pointer - back < 4);
            }
        }

        #[test]
        fn what_fits_comes_back(bytes in 1260_u16..=65_515) {
            let (kind, there) = to_v6([3, 4], mtu(bytes)).unwrap();
            prop_assert_eq!(to_v4(kind, there), Some(([3, 4], mtu(bytes))));
        }
    }
}
