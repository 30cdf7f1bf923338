//! Fragments: where they stand, as another implementation reads it, and which of them are let through.
#![no_main]

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4HeaderSlice, Ipv6FragmentHeader};
use lb_common::{
    abi::Datagram,
    flow::Tick,
    fragment::{LIFETIME, Piece},
};
use libfuzzer_sys::fuzz_target;

/// The longest payload of an IP packet.
const LONGEST: u32 = 0xffff;

/// Identification, place and flags of one; the time; place, length and "more" of each of a row.
type Input = (u32, u16, bool, bool, u32, Vec<(u16, u16, bool)>);

fuzz_target!(|input: Input| {
    let (id, offset, more, whole, now, pieces) = input;
    positions(id, offset & 0x1fff, more, whole);
    order(&pieces);
    let packet = Datagram {
        expires: Tick(now.wrapping_add(LIFETIME)),
        ..Datagram::default()
    };
    assert!(packet.is_fresh(Tick(now)) && !packet.is_fresh(Tick(now.wrapping_add(LIFETIME + 1))));
});

/// A header that says where a fragment stands is read as it was written.
fn positions(id: u32, offset: u16, more: bool, whole: bool) {
    let offset = IpFragOffset::try_new(offset).expect("13 bits");
    let mut v4 = Ipv4Header::new(8, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).expect("a short packet");
    (v4.identification, v4.fragment_offset) = (id as u16, offset);
    (v4.more_fragments, v4.dont_fragment) = (more, whole);
    let bytes = v4.to_bytes();
    let read = Ipv4HeaderSlice::from_slice(&bytes).expect("a header");
    let piece = Piece::ipv4(
        u16::from_be_bytes([bytes[4], bytes[5]]),
        u16::from_be_bytes([bytes[6], bytes[7]]),
    );
    assert_eq!((piece.id, piece.more), (u32::from(id as u16), more));
    assert_eq!(piece.offset, u32::from(offset.value()) * 8);
    assert_eq!(piece.is_fragment(), read.is_fragmenting_payload());

    let v6 = Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, id);
    let [_, _, o0, o1, i0, i1, i2, i3] = v6.to_bytes();
    let piece = Piece::ipv6(u32::from_be_bytes([i0, i1, i2, i3]), u16::from_be_bytes([o0, o1]), 54);
    assert_eq!((piece.id, piece.more, piece.header), (id, more, 54));
    assert_eq!(piece.offset, u32::from(offset.value()) * 8);
    assert_eq!(piece.is_fragment(), v6.is_fragmenting_payload());
    assert_eq!(piece.is_later(), offset.value() > 0);
}

/// Pieces in any order: what came without a gap from the start is never written over.
fn order(pieces: &[(u16, u16, bool)]) {
    let mut packet = Datagram::default();
    let mut whole = 0u32;
    for (place, length, more) in pieces {
        let piece = Piece::ipv4(1, place & 0x1fff | if *more { 0x2000 } else { 0 });
        let length = u32::from(*length);
        let sound = piece.sound(length);
        assert_eq!(
            sound,
            length > 0 && (!more || length % 8 == 0) && piece.offset + length <= LONGEST
        );
        if !sound {
            continue;
        }
        let admitted = packet.admit(piece.offset, length);
        assert_eq!(admitted, piece.offset >= whole, "an overlap, or none");
        if piece.offset == whole {
            whole += length;
        }
        assert_eq!(packet.next, whole);
        assert!(packet.next <= LONGEST);
    }
}
