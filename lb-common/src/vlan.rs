//! VLAN tags: as they lie in a frame (IEEE 802.1Q, clause 9), and as a link names them.
//!
//! A tag is four bytes between the MAC addresses and what follows: a number that says that it is one, then priority
//! (PCP), eligibility to be dropped (DEI) and the VLAN's number. A frame may have two, of which the outer is the
//! provider's (802.1ad, "`QinQ`").

use crate::abi::Vlans;

/// Says that an 802.1Q tag follows.
pub const TPID_CUSTOMER: u16 = 0x8100;
/// Says that a provider's tag follows (802.1ad).
pub const TPID_PROVIDER: u16 = 0x88a8;
/// The VLAN's number in the second half of a tag; the rest is PCP and DEI.
const VID: u16 = 0x0fff;

/// Whether an ethertype, as loaded from a frame, says that a tag follows.
#[inline(always)]
#[must_use]
pub const fn is_tag(ethertype: u16) -> bool {
    matches!(u16::from_be(ethertype), TPID_CUSTOMER | TPID_PROVIDER)
}

/// The tags of one frame, each a word as loaded, priority included. The default is none.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Tags(u64);

impl Tags {
    /// An untagged frame's.
    pub const NONE: Self = Self(0);

    /// From the words of the outer tag and the inner, which is zero if there is none.
    #[inline(always)]
    #[must_use]
    pub const fn new(outer: u32, inner: u32) -> Self {
        Self((inner as u64) << 32 | outer as u64)
    }

    /// Whether there is none.
    #[inline(always)]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The word of the outer tag.
    #[inline(always)]
    #[must_use]
    pub const fn outer(self) -> u32 {
        self.0 as u32
    }

    /// The word of the inner tag; zero if there is none.
    #[inline(always)]
    #[must_use]
    pub const fn inner(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// As a map holds them.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// As a map held them.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Which VLANs these are. Priority is a frame's own, not its VLAN's.
    #[inline(always)]
    #[must_use]
    pub const fn vlans(self) -> Vlans {
        Vlans((compact(self.inner()) as u32) << 16 | compact(self.outer()) as u32)
    }
}

impl Vlans {
    /// No tag.
    pub const NONE: Self = Self(0);

    /// With one more tag around those that there are; `None` if there are two, or for a number or kind of tag that
    /// does not exist.
    #[must_use]
    pub const fn within(self, tpid: u16, id: u16) -> Option<Self> {
        let kind: u16 = match tpid {
            TPID_CUSTOMER => 1,
            TPID_PROVIDER => 2,
            _ => return None,
        };
        if id > VID || self.0 >> 16 != 0 {
            return None;
        }
        Some(Self(self.0 << 16 | (kind << 12 | id) as u32))
    }

    /// The VLAN numbers, outer first.
    #[must_use]
    pub const fn ids(self) -> [Option<u16>; 2] {
        const fn id(half: u32) -> Option<u16> {
            let half = half as u16;
            if half == 0 { None } else { Some(half & VID) }
        }
        [id(self.0), id(self.0 >> 16)]
    }

    /// The tags of a frame that leaves to these VLANs. It keeps the priority that it came with, which is that of its
    /// outer tag; none is the lowest.
    #[inline(always)]
    #[must_use]
    pub const fn tags(self, came_with: Tags) -> Tags {
        let [_, _, high, _] = came_with.outer().to_ne_bytes();
        let priority = (high & 0xf0) as u16;
        Tags::new(word(self.0 as u16, priority), word((self.0 >> 16) as u16, priority))
    }
}

/// A tag in 16 bits: the kind above the number, so that zero is none.
#[inline(always)]
const fn compact(word: u32) -> u16 {
    let [t0, t1, c0, c1] = word.to_ne_bytes();
    let kind = match u16::from_be_bytes([t0, t1]) {
        TPID_CUSTOMER => 1,
        TPID_PROVIDER => 2,
        _ => return 0,
    };
    kind << 12 | u16::from_be_bytes([c0, c1]) & VID
}

/// The word of a tag for a frame, with the upper half byte of `priority` as its PCP and DEI.
#[inline(always)]
const fn word(compact: u16, priority: u16) -> u32 {
    if compact == 0 {
        return 0;
    }
    let tpid = if compact >> 12 == 1 {
        TPID_CUSTOMER
    } else {
        TPID_PROVIDER
    };
    let ([t0, t1], [c0, c1]) = (tpid.to_be_bytes(), (compact & VID | priority << 8).to_be_bytes());
    u32::from_ne_bytes([t0, t1, c0, c1])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(tpid: u16, tci: u16) -> u32 {
        let ([a, b], [c, d]) = (tpid.to_be_bytes(), tci.to_be_bytes());
        u32::from_ne_bytes([a, b, c, d])
    }

    fn tpid() -> impl Strategy<Value = u16> {
        prop_oneof![Just(TPID_CUSTOMER), Just(TPID_PROVIDER)]
    }

    #[test]
    fn nothing_is_nothing() {
        assert!(Tags::NONE.is_none() && Tags::new(0, 0).is_none());
        assert_eq!(Tags::NONE.vlans(), Vlans::NONE);
        assert_eq!(Vlans::NONE.tags(Tags::new(load(TPID_CUSTOMER, 0xe001), 0)), Tags::NONE);
        assert_eq!(Vlans::NONE.ids(), [None, None]);
    }

    #[test]
    fn a_priority_tag_is_a_tag() {
        let vlans = Tags::new(load(TPID_CUSTOMER, 0), 0).vlans();
        assert_eq!(vlans.ids(), [Some(0), None]);
        assert_eq!(vlans.tags(Tags::NONE), Tags::new(load(TPID_CUSTOMER, 0), 0));
    }

    #[test]
    fn what_no_tag_can_say_is_refused() {
        assert_eq!(Vlans::NONE.within(0x9100, 1), None);
        assert_eq!(Vlans::NONE.within(TPID_CUSTOMER, 4096), None);
        let two = Vlans::NONE
            .within(TPID_CUSTOMER, 1)
            .unwrap()
            .within(TPID_PROVIDER, 2)
            .unwrap();
        assert_eq!(two.ids(), [Some(2), Some(1)]);
        assert_eq!(two.within(TPID_PROVIDER, 3), None);
    }

    proptest! {
        #[test]
        fn a_link_gives_the_tags_back_with_the_frames_own_priority(
            outer in tpid(), inner in tpid(), ids in [0u16..4096, 0u16..4096], priority in 0u16..16, two: bool,
        ) {
            let tag = |tpid, id| load(tpid, id);
            let came = Tags::new(tag(outer, ids[0]), if two { tag(inner, ids[1]) } else { 0 });
            prop_assert_eq!(came.vlans().tags(Tags::NONE), came);
            let with = |id| priority << 12 | id;
            let raised = Tags::new(
                tag(outer, with(ids[0])),
                if two { tag(inner, with(ids[1])) } else { 0 },
            );
            prop_assert_eq!(raised.vlans(), came.vlans(), "priority is not part of the link");
            prop_assert_eq!(came.vlans().tags(raised), raised);
            let built = if two { Vlans::NONE.within(inner, ids[1]).unwrap() } else { Vlans::NONE };
            prop_assert_eq!(built.within(outer, ids[0]).unwrap(), came.vlans());
        }

        #[test]
        fn only_two_ethertypes_are_tags(ethertype: u16) {
            prop_assert_eq!(is_tag(ethertype.to_be()), ethertype == 0x8100 || ethertype == 0x88a8);
        }
    }
}
