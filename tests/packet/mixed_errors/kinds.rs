//! What is said in one family, and what that is in the other.

use std::collections::BTreeMap;

use super::*;

/// What is said in a family, and what the receiver of the other one is told: all that has a meaning there.
pub(super) fn translations(family: Family) -> BTreeMap<Kind, Kind> {
    match family {
        Family::V4 => from_ipv4(),
        Family::V6 => from_ipv6(),
    }
}

fn from_ipv4() -> BTreeMap<Kind, Kind> {
    let mut told = BTreeMap::new();
    for code in [0, 1, 5, 6, 7, 8, 11, 12] {
        told.insert((3, code, NOTHING), (1, 0, NOTHING));
    }
    told.insert((3, 2, NOTHING), (4, 1, word(6)));
    told.insert((3, 3, NOTHING), (1, 4, NOTHING));
    for code in [9, 10, 13, 15] {
        told.insert((3, code, NOTHING), (1, 1, NOTHING));
    }
    let mtus = [1, 68, 1259, 1260].map(|mtu| (mtu, 1280));
    for (mtu, larger) in mtus
        .into_iter()
        .chain([(1261, 1281), (1480, 1500), (1500, 1520), (0xffff, 0x1_0013)])
    {
        told.insert((3, 4, word(mtu)), (2, 0, word(larger)));
    }
    for code in 0..=255 {
        told.insert((11, code, NOTHING), (3, code, NOTHING));
    }
    let mut pointers = vec![(0, 0), (1, 1), (2, 4), (3, 4), (8, 7), (9, 6)];
    pointers.extend((12..=15).map(|pointer| (pointer, 8)));
    pointers.extend((16..=19).map(|pointer| (pointer, 24)));
    for (pointer, there) in pointers {
        for code in [0, 2] {
            told.insert((12, code, [pointer, 0, 0, 0]), (4, 0, word(there)));
        }
    }
    // What else the second word holds has no meaning there: the length of a quote before extensions (RFC 4884), say.
    told.insert((3, 1, [0, 32, 0, 0]), (1, 0, NOTHING));
    told.insert((3, 2, [0, 32, 1, 1]), (4, 1, word(6)));
    told.insert((3, 3, [9, 32, 1, 1]), (1, 4, NOTHING));
    told.insert((3, 4, [0, 32, 5, 0x78]), (2, 0, word(1420)));
    told.insert((11, 0, [0, 17, 0, 0]), (3, 0, NOTHING));
    told.insert((12, 0, [8, 17, 5, 1]), (4, 0, word(7)));
    told
}

fn from_ipv6() -> BTreeMap<Kind, Kind> {
    let mut told = BTreeMap::new();
    for code in [0, 2, 3] {
        told.insert((1, code, NOTHING), (3, 1, NOTHING));
    }
    told.insert((1, 1, NOTHING), (3, 10, NOTHING));
    told.insert((1, 4, NOTHING), (3, 3, NOTHING));
    for (mtu, smaller) in [
        (21, 1),
        (1280, 1260),
        (1500, 1480),
        (0x1_0012, 0xfffe),
        (0x1_0013, 0xffff),
    ] {
        told.insert((2, 0, word(mtu)), (3, 4, word(smaller)));
    }
    for mtu in [0x1_0014, 0x2_0000, u32::MAX] {
        told.insert((2, 0, word(mtu)), (3, 4, word(0xffff)));
    }
    // Receivers do not look at the code (RFC 4443, section 3.2).
    told.insert((2, 9, word(1400)), (3, 4, word(1380)));
    for code in 0..=255 {
        told.insert((3, code, NOTHING), (11, code, NOTHING));
    }
    let mut pointers = vec![(0, 0), (1, 1), (4, 2), (5, 2), (6, 9), (7, 8)];
    pointers.extend((8..=23).map(|pointer| (pointer, 12)));
    pointers.extend((24..=39).map(|pointer| (pointer, 16)));
    for (pointer, there) in pointers {
        told.insert((4, 0, word(pointer)), (12, 0, [there, 0, 0, 0]));
    }
    for pointer in [0, 6, 40, u32::MAX] {
        told.insert((4, 1, word(pointer)), (3, 2, NOTHING));
    }
    told.insert((1, 0, [16, 0, 0, 0]), (3, 1, NOTHING));
    told.insert((1, 4, [16, 0, 0, 9]), (3, 3, NOTHING));
    told.insert((3, 1, [16, 0, 7, 0]), (11, 1, NOTHING));
    told
}

/// What has no meaning in the other family.
fn meaningless(family: Family) -> Vec<Kind> {
    let told = translations(family);
    let types = match family {
        Family::V4 => vec![3, 11, 12],
        Family::V6 => vec![1, 2, 3, 4],
    };
    let mut kinds = Vec::new();
    for kind in types {
        kinds.extend((0..=255).map(|code| (kind, code, NOTHING)));
    }
    match family {
        Family::V4 => {
            kinds.extend((0..=255).flat_map(|pointer| [0, 2].map(|code| (12, code, [pointer, 0, 0, 0]))));
            kinds.extend([(12, 1, [8, 0, 0, 0]), (12, 3, [8, 0, 0, 0]), (3, 4, [5, 0x78, 0, 0])]);
        }
        Family::V6 => {
            kinds.extend((0..=255).map(|pointer| (4, 0, word(pointer))));
            kinds.extend([(4, 0, word(1 << 24)), (4, 0, word(256 + 7)), (4, 2, word(7))]);
            kinds.extend((0..=20).map(|mtu| (2, 0, word(mtu))));
        }
    }
    kinds.retain(|kind| !told.contains_key(kind));
    kinds
}

#[test]
fn errors_of_every_kind_reach_the_other_end_in_its_own_words() {
    let mut lab = Lab::new();
    for case in cases() {
        let talk = Talk::new(&mut lab, case, 600);
        for side in &talk.sides {
            for kinds in translations(side.family()) {
                let (comes, goes) = side.about(kinds, 100);
                side.is_translated(&mut lab, (&comes, &goes), &format!("{kinds:?}"));
            }
        }
    }
}

#[test]
fn errors_that_the_other_family_does_not_know_are_the_kernels() {
    let mut lab = Lab::new();
    for case in two_arms() {
        let talk = Talk::new(&mut lab, case, 200);
        for side in &talk.sides {
            for kind in meaningless(side.family()) {
                let (comes, _) = side.about((kind, kind), 100);
                side.is_left_alone(&mut lab, &comes, PassReason::IcmpNoFlow);
            }
        }
    }
}
