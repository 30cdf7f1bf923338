//! What happens to the addresses and ports of a flow's packets, worked out once when the flow is made.

use crate::{
    abi::FlowKey,
    checksum::{Delta, TTL_DECREMENT},
    net::{Address, Be16},
};

/// New addresses and ports, and what they do to the checksums.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rewrite<A> {
    /// New source address.
    pub src: A,
    /// New destination address.
    pub dst: A,
    /// New source port.
    pub src_port: Be16,
    /// New destination port.
    pub dst_port: Be16,
    /// Change of the IPv4 header checksum, the TTL's decrement included; unused for IPv6, and between families.
    pub ip_delta: Delta,
    /// Change of the TCP or UDP checksum, which covers addresses and ports.
    pub l4_delta: Delta,
}

impl<A: Address> Rewrite<A> {
    /// The rewrite of packets with the given key to new addresses and ports, which may be of the other family.
    #[inline(always)]
    #[must_use]
    pub fn new<B: Address>(key: &FlowKey<B>, (src, src_port): (A, Be16), (dst, dst_port): (A, Be16)) -> Self {
        let addresses = Delta::ZERO.address(key.src, src).address(key.dst, dst);
        Self {
            src,
            dst,
            src_port,
            dst_port,
            ip_delta: addresses.and(TTL_DECREMENT),
            l4_delta: addresses.port(key.src_port, src_port).port(key.dst_port, dst_port),
        }
    }

    /// The key of the packets that answer a rewritten one.
    #[inline(always)]
    #[must_use]
    pub fn reply_key(&self, protocol: u8) -> FlowKey<A> {
        FlowKey::new((self.dst, self.dst_port), (self.src, self.src_port), protocol)
    }

    /// The rewrite of the answers: back to what the packets with the given key were before.
    #[inline(always)]
    #[must_use]
    pub fn reply<B: Address>(&self, key: &FlowKey<B>) -> Rewrite<B> {
        Rewrite {
            src: key.dst,
            dst: key.src,
            src_port: key.dst_port,
            dst_port: key.src_port,
            ip_delta: self.ip_delta.and(TTL_DECREMENT.inverse()).inverse().and(TTL_DECREMENT),
            l4_delta: self.l4_delta.inverse(),
        }
    }

    /// Whether this rewrite leads the answers of `key` back to it: the check that two entries are one flow's.
    #[inline(always)]
    #[must_use]
    pub fn leads_to(&self, key: &FlowKey<A>) -> bool {
        self.src == key.dst && self.dst == key.src && self.src_port == key.dst_port && self.dst_port == key.src_port
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        checksum::fold,
        net::{Addr4, TCP},
    };

    fn full(header: &[u8; 20]) -> u16 {
        !fold(
            header
                .chunks(2)
                .map(|pair| u32::from(u16::from_ne_bytes([pair[0], pair[1]])))
                .sum(),
        )
    }

    fn header(src: [u8; 4], dst: [u8; 4], ttl: u8) -> [u8; 20] {
        let mut h = [0x45, 0, 0, 60, 1, 2, 0, 0, ttl, TCP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        h[12..16].copy_from_slice(&src);
        h[16..20].copy_from_slice(&dst);
        h
    }

    proptest! {
        #[test]
        fn there_and_back(c: [u8; 4], v: [u8; 4], s: [u8; 4], b: [u8; 4], ports: [u16; 4], ttl in 2u8..=255) {
            let addr = Addr4::from_wire;
            let [cp, vp, sp, bp] = ports.map(Be16::new);
            let key = FlowKey::new((addr(c), cp), (addr(v), vp), TCP);
            let there = Rewrite::new(&key, (addr(s), sp), (addr(b), bp));
            let back_key = there.reply_key(TCP);
            let back = there.reply(&key);
            prop_assert!(back.leads_to(&key) && there.leads_to(&back_key));
            prop_assert_eq!(back.reply_key(TCP), key);
            prop_assert_eq!(there.ip_delta.apply(full(&header(c, v, ttl))), full(&header(s, b, ttl - 1)));
            prop_assert_eq!(back.ip_delta.apply(full(&header(b, s, ttl))), full(&header(v, c, ttl - 1)));
        }
    }
}
