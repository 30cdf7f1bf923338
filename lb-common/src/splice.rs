//! Spliced connections: the packet path answered the client's SYN itself, with a cookie as its sequence number, and opened the
//! backend's half once the client had proven its address. The two halves number the backend's bytes differently, by a
//! difference that is constant for the life of the connection.

use crate::{
    checksum::{self, Delta, fold, sum_words},
    net::{Address, Be16, TCP},
    wire::{self, Ports, Tcp},
};

/// Where a flow's splice stands. A number rather than an enum, because it is read from a map.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Splice(pub u8);

impl Splice {
    /// It is not spliced.
    pub const NONE: Self = Self(0);
    /// The client is connected, and the backend has not answered the SYN yet.
    pub const OPENING: Self = Self(1);
    /// Both halves are joined.
    pub const JOINED: Self = Self(2);
}

/// The segment sizes that a cookie tells apart, by its index (`msstab` of the kernel's `net/ipv4/syncookies.c`): the largest
/// that the client takes or a smaller one.
pub const SEGMENT_SIZES_V4: [u16; 4] = [536, 1300, 1440, 1460];
/// The same for IPv6 (`net/ipv6/syncookies.c`).
pub const SEGMENT_SIZES_V6: [u16; 4] = [1220, 1420, 1440, 8940];

/// The segment size that a SYN is answered with, where the smallest MTU of any interface is so many bytes: no backend has
/// been asked yet, so that of Ethernet at most.
#[inline(always)]
#[must_use]
pub const fn segment_size(mtu: u32, ip_header: u32) -> u16 {
    const ETHERNET_MTU: u32 = 1500;
    let mtu = if mtu < ETHERNET_MTU { mtu } else { ETHERNET_MTU };
    let size = mtu.saturating_sub(ip_header + size_of::<Tcp>() as u32);
    if size < SEGMENT_SIZES_V4[0] as u32 {
        SEGMENT_SIZES_V4[0]
    } else {
        size as u16
    }
}

/// What the kernel is told in place of a SYN's sequence number. It only adds that to the cookie: with the number itself, a client
/// whose segment has a number that is one less, and one that takes a larger segment, would have the same cookie. Multiplied by an
/// odd number, no two numbers become the same, and neighbours come to lie far apart.
#[inline(always)]
#[must_use]
pub const fn spread(syn: u32) -> u32 {
    syn.wrapping_mul(0x9e37_79b1)
}

/// How long a cookie is good, in ticks: the kernel takes those of this minute and of the one before.
pub const COOKIE_LIFETIME: u32 = 120 * 954;

/// What a 32-bit number of a TCP header that changes from `old` to `new`, as loaded from the packet, does to checksums.
#[inline(always)]
#[must_use]
pub const fn renumbered(old: u32, new: u32) -> Delta {
    let ([a, b, c, d], [e, f, g, h]) = (old.to_ne_bytes(), new.to_ne_bytes());
    Delta::ZERO
        .word(u16::from_ne_bytes([a, b]), u16::from_ne_bytes([e, f]))
        .word(u16::from_ne_bytes([c, d]), u16::from_ne_bytes([g, h]))
}

/// A segment that the packet path makes itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Window.
    pub window: Be16,
    /// What follows the header.
    pub rest: Rest,
}

/// What follows the header of a [`Segment`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rest {
    /// The option that tells the largest segment: of SYNs, and their only one. The client's window scaling, SACK and timestamps
    /// would have to be agreed upon with a backend that nobody knows yet.
    SegmentSize(u16),
    /// One byte of zero, whose sequence number was used: no data, but worth an answer (RFC 1122, section 4.2.3.6).
    Octet,
}

impl Rest {
    /// Its bytes.
    #[inline(always)]
    #[must_use]
    pub const fn length(self) -> usize {
        match self {
            Self::SegmentSize(_) => 4,
            Self::Octet => 1,
        }
    }

    /// The option as the word of a packet (RFC 9293, section 3.2); zero if there is none.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u32 {
        match self {
            Self::SegmentSize(size) => {
                let [high, low] = size.to_be_bytes();
                u32::from_ne_bytes([2, 4, high, low])
            }
            Self::Octet => 0,
        }
    }
}

impl Segment {
    /// Its header, checksum included, from `from` to `to`.
    #[inline(always)]
    #[must_use]
    pub fn header<A: Address>(&self, from: (A, Be16), to: (A, Be16)) -> Tcp {
        let options = match self.rest {
            Rest::SegmentSize(_) => 1,
            Rest::Octet => 0,
        };
        let header = Tcp {
            ports: Ports { src: from.1, dst: to.1 },
            seq: wire::halves(self.seq),
            ack: wire::halves(self.ack),
            data_offset: (5 + options) << 4,
            flags: self.flags,
            window: self.window,
            checksum: 0,
            urgent: Be16::new(0),
        };
        let length = (size_of::<Tcp>() + self.rest.length()) as u16;
        let pseudo = u32::from(sum_words(from.0.words()))
            + u32::from(sum_words(to.0.words()))
            + u32::from(u16::from(TCP).to_be())
            + u32::from(length.to_be());
        let [a, b, c, d] = self.rest.word().to_ne_bytes();
        let words = [
            header.ports.src.word(),
            header.ports.dst.word(),
            header.seq[0].word(),
            header.seq[1].word(),
            header.ack[0].word(),
            header.ack[1].word(),
            u16::from_ne_bytes([header.data_offset, header.flags]),
            header.window.word(),
            u16::from_ne_bytes([a, b]),
            u16::from_ne_bytes([c, d]),
        ];
        Tcp {
            checksum: checksum::full(words, fold(pseudo)),
            ..header
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{flow::TICK_SHIFT, net::Addr6};

    fn sum(words: impl IntoIterator<Item = u16>) -> u16 {
        let sum = words.into_iter().map(u32::from).sum::<u32>();
        fold(fold(sum).into())
    }

    fn words(bytes: &[u8]) -> impl Iterator<Item = u16> {
        bytes
            .chunks(2)
            .map(|pair| u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))
    }

    /// The header and what follows, as they lie in a packet.
    fn bytes(header: &Tcp, rest: Rest) -> Vec<u8> {
        let mut bytes = Vec::new();
        let halves = [
            header.ports.src,
            header.ports.dst,
            header.seq[0],
            header.seq[1],
            header.ack[0],
            header.ack[1],
        ];
        halves.iter().for_each(|half| bytes.extend(half.to_wire()));
        bytes.extend([header.data_offset, header.flags]);
        bytes.extend(header.window.to_wire());
        bytes.extend(header.checksum.to_ne_bytes());
        bytes.extend(header.urgent.to_wire());
        bytes.extend(&rest.word().to_ne_bytes()[..rest.length()]);
        bytes
    }

    proptest! {
        /// A segment whose numbers were translated one way has the checksum that its sender would have given it.
        #[test]
        fn translated_checksums_verify(mut segment: [u8; 40], offset in prop_oneof![Just(4usize), Just(8)], delta: u32) {
            segment[0] |= 1; // a sum of zero has two spellings
            segment[16..18].fill(0);
            let check = !sum(words(&segment));
            let place = offset..offset + 4;
            let old = u32::from_ne_bytes(segment[place.clone()].try_into().unwrap());
            let new = u32::from_be(old).wrapping_add(delta).to_be();
            segment[place].copy_from_slice(&new.to_ne_bytes());
            prop_assert_eq!(renumbered(old, new).apply(check), !sum(words(&segment)));
        }

        /// There and back is as it was.
        #[test]
        fn renumbering_can_be_undone(old: u32, new: u32, check in 1u16..0xffff) {
            prop_assert_eq!(renumbered(new, old).apply(renumbered(old, new).apply(check)), check);
        }

        /// The sum over pseudo-header and segment, checksum included, is all ones (RFC 1071).
        #[test]
        fn own_segments_verify(src: [u8; 16], dst: [u8; 16], ports: [u16; 2], seq: u32, ack: u32, window: u16, size: u16, syn: bool) {
            let rest = if syn { Rest::SegmentSize(size) } else { Rest::Octet };
            let segment = Segment { seq, ack, flags: 0x12, window: Be16::new(window), rest };
            let (src, dst) = (Addr6::from_wire(src), Addr6::from_wire(dst));
            let header = segment.header((src, Be16::new(ports[0])), (dst, Be16::new(ports[1])));
            let bytes = bytes(&header, rest);
            let pseudo = [u16::from(TCP).to_be(), (bytes.len() as u16).to_be()];
            let all = src.to_words().into_iter().chain(dst.to_words()).chain(pseudo).chain(words(&bytes));
            prop_assert_eq!(sum(all), 0xffff);
            prop_assert_eq!(usize::from(header.data_offset >> 4) * 4, if syn { 24 } else { 20 });
        }

        #[test]
        fn segments_fit_the_way(mtu in 576u32..70_000) {
            for header in [20, 40] {
                let size = u32::from(segment_size(mtu, header));
                prop_assert!(size + header + 20 <= mtu.max(596));
                prop_assert!(size + header + 20 <= 1500);
            }
        }
    }

    /// A cookie is good if it is this much or less, and not below zero, beyond that of the smallest size; so far from another
    /// number's are those of its neighbours.
    #[test]
    fn neighbours_have_other_cookies() {
        for step in 1..16u32 {
            for apart in [spread(step), spread(step).wrapping_neg()] {
                assert!((1 << 26..u32::MAX - (1 << 26)).contains(&apart), "{step}: {apart:x}");
            }
        }
    }

    #[test]
    fn a_cookie_lives_for_two_minutes() {
        let seconds = (u64::from(COOKIE_LIFETIME) << TICK_SHIFT) as f64 / 1e9;
        assert!((119.0..121.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn the_option_reads_as_in_the_standard() {
        assert_eq!(Rest::SegmentSize(1460).word().to_ne_bytes(), [2, 4, 5, 0xb4]);
    }
}
