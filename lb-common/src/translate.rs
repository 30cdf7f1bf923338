//! From one IP version's header to the other's (RFC 7915, "IP/ICMP Translation Algorithm"), for flows whose client and
//! backend are of different families.
//!
//! Fragments, and what no longer fits its link, do not come here. The TCP or UDP checksum covers addresses, a length and
//! a protocol number; of these only the addresses differ between the versions, so a
//! [`Rewrite`](crate::rewrite::Rewrite) has its change. ICMP errors: [`crate::translate_error`].

use crate::{
    checksum,
    net::{Addr4, Addr6, Be16},
    wire::{Ipv4, Ipv6},
};

/// What both versions' headers say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Carried {
    /// DSCP and ECN: type of service, or traffic class.
    pub class: u8,
    /// Bytes behind the IP header.
    pub payload: u16,
    /// What follows.
    pub protocol: u8,
    /// TTL or hop limit, as it is to be sent.
    pub ttl: u8,
}

/// The IPv6 header (section 4.1). Nothing is known of a flow label, so it is zero.
#[inline(always)]
#[must_use]
pub fn ipv6(carried: Carried, src: Addr6, dst: Addr6) -> Ipv6 {
    Ipv6 {
        version_class_flow: [Be16::new(0x6000 | (carried.class as u16) << 4), Be16::new(0)],
        length: Be16::new(carried.payload),
        next_header: carried.protocol,
        hop_limit: carried.ttl,
        src: src.to_words(),
        dst: dst.to_words(),
    }
}

/// The IPv4 header (section 5.1). IPv6 is never fragmented on its way, so the packet must not be as IPv4 either (DF),
/// and needs no identification then (RFC 6864).
#[inline(always)]
#[must_use]
pub fn ipv4(carried: Carried, src: Addr4, dst: Addr4) -> Ipv4 {
    const HEADER: u16 = size_of::<Ipv4>() as u16;
    const DONT_FRAGMENT: u16 = 0x4000;
    let length = carried.payload.wrapping_add(HEADER);
    let (src, dst) = (src.to_words(), dst.to_words());
    let [s0, s1] = src;
    let [d0, d1] = dst;
    let words = [
        u16::from_ne_bytes([0x45, carried.class]),
        length.to_be(),
        DONT_FRAGMENT.to_be(),
        u16::from_ne_bytes([carried.ttl, carried.protocol]),
        s0,
        s1,
        d0,
        d1,
    ];
    Ipv4 {
        version_ihl: 0x45,
        tos: carried.class,
        length: Be16::new(length),
        id: Be16::new(0),
        fragment: Be16::new(DONT_FRAGMENT),
        ttl: carried.ttl,
        protocol: carried.protocol,
        checksum: checksum::full(words, 0),
        src,
        dst,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        abi::FlowKey,
        checksum::{fold, sum_words},
        net::{Address, TCP, UDP},
        rewrite::Rewrite,
    };

    fn sum(bytes: &[u8]) -> u32 {
        bytes
            .chunks(2)
            .map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
            .sum()
    }

    /// The TCP checksum of a segment with these ports, between these addresses, from nothing.
    fn full<A: Address>(src: A, dst: A, ports: [Be16; 2], payload: &[u8]) -> u16 {
        let pseudo = u32::from(sum_words(src.words())) + u32::from(sum_words(dst.words()));
        let rest = u32::from(u16::from(TCP).to_be()) + u32::from(u16::try_from(payload.len()).unwrap().to_be());
        let ports = u32::from(ports[0].word()) + u32::from(ports[1].word());
        !fold(u32::from(fold(pseudo + rest)) + u32::from(fold(ports)) + u32::from(fold(sum(payload))))
    }

    proptest! {
        #[test]
        fn checksums_survive_the_way_there_and_back(
            c: [u8; 16], v: [u8; 16], s: [u8; 4], b: [u8; 4], ports: [u16; 4], payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let [cp, vp, sp, bp] = ports.map(Be16::new);
            let (c, v, s, b) = (Addr6::from_wire(c), Addr6::from_wire(v), Addr4::from_wire(s), Addr4::from_wire(b));
            let key = FlowKey::new((c, cp), (v, vp), TCP);
            let there = Rewrite::new(&key, (s, sp), (b, bp));
            let before = full(c, v, [cp, vp], &payload);
            let after = full(s, b, [sp, bp], &payload);
            // Zero has two representations, which a receiver takes for the same.
            let same = |x: u16, y: u16| x == y || [x, y].iter().all(|n| matches!(n, 0 | 0xffff));
            prop_assert!(same(there.l4_delta.apply(before), after));
            let back: Rewrite<Addr6> = there.reply(&key);
            prop_assert!(there.leads_to(&there.reply_key(TCP)));
            prop_assert!(back.leads_to(&key));
            prop_assert_eq!(back.reply_key(TCP), key);
            let answer = full(b, s, [bp, sp], &payload);
            prop_assert!(same(back.l4_delta.apply(answer), full(v, c, [vp, cp], &payload)));
        }

        #[test]
        fn an_ipv4_header_sums_up(class: u8, payload in 0u16..65_000, ttl: u8, s: [u8; 4], d: [u8; 4]) {
            let h = ipv4(Carried { class, payload, protocol: UDP, ttl }, Addr4::from_wire(s), Addr4::from_wire(d));
            let words = [
                u16::from_ne_bytes([h.version_ihl, h.tos]), h.length.word(), h.id.word(), h.fragment.word(),
                u16::from_ne_bytes([h.ttl, h.protocol]), h.checksum, h.src[0], h.src[1], h.dst[0], h.dst[1],
            ];
            prop_assert_eq!(fold(words.iter().map(|w| u32::from(*w)).sum()), 0xffff);
            prop_assert_eq!((h.length.get(), h.tos, h.ttl), (payload + 20, class, ttl));
        }

        #[test]
        fn an_ipv6_header_says_the_same(class: u8, payload: u16, ttl: u8, s: [u8; 16], d: [u8; 16]) {
            let h = ipv6(Carried { class, payload, protocol: TCP, ttl }, Addr6::from_wire(s), Addr6::from_wire(d));
            let [a, b] = h.version_class_flow[0].to_wire();
            prop_assert_eq!((a >> 4, a << 4 | b >> 4, b & 0x0f, h.version_class_flow[1].get()), (6, class, 0, 0));
            prop_assert_eq!((h.length.get(), h.next_header, h.hop_limit), (payload, TCP, ttl));
            prop_assert_eq!(Addr6::from_words(h.src).to_wire(), s);
            prop_assert_eq!(Addr6::from_words(h.dst).to_wire(), d);
        }
    }
}
