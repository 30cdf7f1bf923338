//! ICMP: which messages concern flows, and those that the packet path makes itself (RFC 792, RFC 4443).

use crate::{
    checksum::{self, Delta, fold, sum_words},
    net::{Addr4, Address, Be16, ICMP, ICMPV6},
    wire::Ipv4,
};

/// Bytes before what an error quotes.
pub const HEADER: usize = 8;

/// What a message is to the packet path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// About a packet that it quotes.
    Error,
    /// Asks for an echo.
    EchoRequest,
    /// The kernel's business.
    Other,
}

/// The ICMP message of a type. Redirects are for hosts on the link, and source quench is obsolete (RFC 6633).
#[inline(always)]
#[must_use]
pub const fn message_v4(kind: u8) -> Message {
    match kind {
        UNREACHABLE_V4 | 11 | 12 => Message::Error,
        ECHO_REQUEST_V4 => Message::EchoRequest,
        _ => Message::Other,
    }
}

/// The ICMPv6 message of a type.
#[inline(always)]
#[must_use]
pub const fn message_v6(kind: u8) -> Message {
    match kind {
        1..=4 => Message::Error,
        ECHO_REQUEST_V6 => Message::EchoRequest,
        _ => Message::Other,
    }
}

/// Destination unreachable.
const UNREACHABLE_V4: u8 = 3;
/// Its code "fragmentation needed, and don't fragment is set".
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;
/// Echo request, and its reply.
pub const ECHO_REQUEST_V4: u8 = 8;
/// See [`ECHO_REQUEST_V4`].
pub const ECHO_REPLY_V4: u8 = 0;
/// Echo request of ICMPv6, and its reply.
pub const ECHO_REQUEST_V6: u8 = 128;
/// See [`ECHO_REQUEST_V6`].
pub const ECHO_REPLY_V6: u8 = 129;

/// What becomes of an error's checksum when the packet that it quotes is translated.
///
/// `addresses_and_ports` is that of the flow; the checksums that stand in the quote are changed with them.
#[inline(always)]
#[must_use]
pub const fn quote_delta(addresses_and_ports: Delta, ip: (u16, u16), l4: (u16, u16)) -> Delta {
    addresses_and_ports.word(ip.0, ip.1).word(l4.0, l4.1)
}

/// The sum of bytes 16 by 16, for a quote that is as long as a multiple of that.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Sum(u32);

impl Sum {
    /// With 16 bytes more.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, words: [u32; 4]) -> Self {
        Self(self.0 + sum_words(words) as u32)
    }
}

/// Bytes of a packet that an error quotes: as many as its size allows, in steps. `None`: too few to be of use.
#[inline(always)]
#[must_use]
pub const fn quoted(length: u32, most: u32) -> Option<u32> {
    if length >= most {
        return Some(most);
    }
    match length {
        512.. => Some(512),
        128.. => Some(128),
        64.. => Some(64),
        _ => None,
    }
}

/// Bytes that an ICMP error quotes at most, so that it has no more than 576 (RFC 1812, section 4.3.2.3), in whole steps.
pub const QUOTE_V4: u32 = 544;
/// Bytes that an ICMPv6 error quotes at most, so that it has no more than 1280 (RFC 4443, section 2.4).
pub const QUOTE_V6: u32 = 1232;

/// "Fragmentation needed": the words of its header (RFC 1191), around a quote.
#[inline(always)]
#[must_use]
pub const fn fragmentation_needed(mtu: u32, quote: Sum) -> [u32; 2] {
    let mtu = if mtu > 0xffff { 0xffff } else { mtu as u16 };
    let kind = u16::from_ne_bytes([UNREACHABLE_V4, FRAGMENTATION_NEEDED]);
    let check = !fold(fold(quote.0) as u32 + kind as u32 + mtu.to_be() as u32);
    let ([k0, k1], [c0, c1], [m0, m1]) = (kind.to_ne_bytes(), check.to_ne_bytes(), mtu.to_be_bytes());
    [u32::from_ne_bytes([k0, k1, c0, c1]), u32::from_ne_bytes([0, 0, m0, m1])]
}

/// "Packet too big": the words of its header, around a quote of so many bytes, from `src` to `dst`.
#[inline(always)]
#[must_use]
pub fn packet_too_big<A: Address>(mtu: u32, quote: Sum, length: u32, src: A, dst: A) -> [u32; 2] {
    let kind = u16::from_ne_bytes([PACKET_TOO_BIG, 0]);
    let pseudo = u32::from(sum_words(src.words()))
        + u32::from(sum_words(dst.words()))
        + u32::from(((HEADER as u32 + length) as u16).to_be())
        + u32::from(u16::from(ICMPV6).to_be());
    let mtu = mtu.to_be();
    let sum = pseudo + u32::from(kind) + (mtu & 0xffff) + (mtu >> 16) + u32::from(fold(quote.0));
    let check = !fold(sum);
    let ([k0, k1], [c0, c1]) = (kind.to_ne_bytes(), check.to_ne_bytes());
    [u32::from_ne_bytes([k0, k1, c0, c1]), mtu]
}

/// The IPv4 header before an error that quotes so many bytes: DF, no identification (RFC 6864), TTL 64, and the
/// precedence of network control (RFC 1812, section 4.3.2.5).
#[inline(always)]
#[must_use]
pub fn ipv4_header(src: Addr4, dst: Addr4, quote: u32) -> Ipv4 {
    const DONT_FRAGMENT: u16 = 0x4000;
    const TOS: u8 = 0xc0;
    let length = (size_of::<Ipv4>() + HEADER) as u16 + quote as u16;
    let (src, dst) = (src.to_words(), dst.to_words());
    let words = [
        u16::from_ne_bytes([0x45, TOS]),
        length.to_be(),
        DONT_FRAGMENT.to_be(),
        u16::from_ne_bytes([64, ICMP]),
        src[0],
        src[1],
        dst[0],
        dst[1],
    ];
    Ipv4 {
        version_ihl: 0x45,
        tos: TOS,
        length: Be16::new(length),
        id: Be16::new(0),
        fragment: Be16::new(DONT_FRAGMENT),
        ttl: 64,
        protocol: ICMP,
        checksum: checksum::full(words, 0),
        src,
        dst,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::Addr6;

    fn sum(bytes: &[u8]) -> u16 {
        let words = bytes
            .chunks(2)
            .map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]])));
        let sum = words.sum::<u32>();
        fold(fold(sum).into())
    }

    fn quote_sum(quote: &[u8]) -> Sum {
        quote.chunks(16).fold(Sum::default(), |sum, chunk| {
            let word = |n: usize| u32::from_ne_bytes(chunk[4 * n..4 * n + 4].try_into().unwrap());
            sum.and([word(0), word(1), word(2), word(3)])
        })
    }

    fn bytes(words: [u32; 2]) -> Vec<u8> {
        words.into_iter().flat_map(u32::to_ne_bytes).collect()
    }

    proptest! {
        /// The sum over the message, checksum included, is all ones (RFC 1071).
        #[test]
        fn fragmentation_needed_verifies(mtu in 68u32..0x1_0000, steps in 1usize..34, seed: u8) {
            let quote: Vec<u8> = (0..steps * 16).map(|n| (n as u8).wrapping_mul(seed)).collect();
            let header = bytes(fragmentation_needed(mtu, quote_sum(&quote)));
            prop_assert_eq!(&header[..2], &[3, 4]);
            prop_assert_eq!(&header[4..], &mtu.to_be_bytes());
            prop_assert_eq!(sum(&[header, quote].concat()), 0xffff);
        }

        #[test]
        fn packet_too_big_verifies(mtu: u32, steps in 1usize..78, seed: u8, src: [u8; 16], dst: [u8; 16]) {
            let quote: Vec<u8> = (0..steps * 16).map(|n| (n as u8).wrapping_mul(seed)).collect();
            let length = quote.len() as u32;
            let (from, to) = (Addr6::from_wire(src), Addr6::from_wire(dst));
            let header = bytes(packet_too_big(mtu, quote_sum(&quote), length, from, to));
            prop_assert_eq!(&header[..2], &[2, 0]);
            prop_assert_eq!(&header[4..], &mtu.to_be_bytes());
            let pseudo = [&src[..], &dst, &(8 + length).to_be_bytes(), &[0, 0, 0, 58]].concat();
            prop_assert_eq!(sum(&[pseudo, header, quote].concat()), 0xffff);
        }

        #[test]
        fn ipv4_headers_verify(src: [u8; 4], dst: [u8; 4], steps in 4u32..35) {
            let h = ipv4_header(Addr4::from_wire(src), Addr4::from_wire(dst), steps * 16);
            prop_assert_eq!(u32::from(h.length.get()), 28 + steps * 16);
            let start = [u16::from_ne_bytes([h.version_ihl, h.tos]), h.length.word(), h.id.word(), h.fragment.word()];
            let rest = [u16::from_ne_bytes([h.ttl, h.protocol]), h.checksum];
            let words = start.into_iter().chain(rest).chain(h.src).chain(h.dst);
            prop_assert_eq!(fold(words.map(u32::from).sum()), 0xffff);
        }

        #[test]
        fn a_quote_fits_and_is_whole_steps(length: u32, most in prop_oneof![Just(QUOTE_V4), Just(QUOTE_V6)]) {
            match quoted(length, most) {
                Some(bytes) => prop_assert!(bytes <= length && bytes <= most && bytes % 16 == 0),
                None => prop_assert!(length < 64),
            }
        }
    }

    #[test]
    fn errors_are_told_from_the_rest() {
        let errors =
            |of: fn(u8) -> Message| -> Vec<u8> { (0..=255).filter(|kind| of(*kind) == Message::Error).collect() };
        assert_eq!(errors(message_v4), [3, 11, 12]);
        assert_eq!(errors(message_v6), [1, 2, 3, 4]);
        assert_eq!(message_v4(8), Message::EchoRequest);
        assert_eq!(message_v6(128), Message::EchoRequest);
    }
}
