//! Tunnels: the headers that modes `ipip` and `gue` put before a client's packet, and what room they take.
//!
//! IP in IP is that of RFC 2003 (IPv4 outside) and RFC 2473 (IPv6 outside). GUE is variant 1 of draft-ietf-intarea-gue
//! (section 4): the packet follows the UDP header at once, and its version tells what it is. Linux decapsulates that with
//! `ip fou add port PORT gue`.

use crate::{
    abi::{Backend, Mode},
    checksum::{fold, sum_words},
    net::{AnyAddr, Be16, UDP},
    wire::{Ipv4, Ipv6, Udp},
};

/// Hop limit and TTL of the outer header.
const TTL: u8 = 64;
/// The flags and fragment offset of a packet that is not to be fragmented, whose identification then says nothing (RFC 6864).
const DONT_FRAGMENT: u16 = 0x4000;
/// What IP's length fields can say.
const LARGEST: u32 = u16::MAX as u32;
/// First of the UDP source ports: the dynamic ones (RFC 6335).
const FIRST_PORT: u16 = 49_152;
/// How many source ports there are.
const PORTS: u16 = 1 << 14;
/// Bits of an IPv6 flow label.
const FLOW_LABEL: u32 = (1 << 20) - 1;

/// The bytes that a mode puts before the packet, with an outer header of IP version `family`.
#[inline(always)]
#[must_use]
pub const fn overhead(mode: Mode, family: u8) -> u32 {
    let ip = if family == 6 {
        size_of::<Ipv6>() as u32
    } else {
        size_of::<Ipv4>() as u32
    };
    match mode {
        Mode::IPIP => ip,
        Mode::GUE => ip + size_of::<Udp>() as u32,
        _ => 0,
    }
}

/// The largest packet of a client, in bytes from its IP header on, that reaches the backend: what a "packet too big" has to
/// announce.
#[inline(always)]
#[must_use]
pub const fn inner_mtu(backend: &Backend) -> u32 {
    // First the modes that are asked for nearly every packet.
    if backend.mode.sees_replies() || matches!(backend.mode, Mode::L2_DSR) {
        return backend.mtu;
    }
    let outer = if backend.mtu < LARGEST { backend.mtu } else { LARGEST };
    outer.saturating_sub(overhead(backend.mode, backend.family))
}

/// What the outer headers say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// Source, from [`source`].
    pub src: AnyAddr,
    /// Destination: the backend.
    pub dst: AnyAddr,
    /// DSCP and ECN. ECN is copied as it is, congestion marks too: the normal mode of RFC 6040, section 4.1.
    pub class: u8,
    /// The number of what follows: [`protocol`].
    pub protocol: u8,
    /// Bytes behind the outer IP header, which fit its length field as [`inner_mtu`] asks.
    pub payload: u32,
    /// The flow's hash.
    pub flow: u32,
}

/// The number of what follows the outer IP header, before a packet of IP version `inner`.
#[inline(always)]
#[must_use]
pub const fn protocol(mode: Mode, inner: u8) -> u8 {
    const IPV4: u8 = 4;
    const IPV6: u8 = 41;
    match (mode, inner) {
        (Mode::GUE, _) => UDP,
        (_, 6) => IPV6,
        _ => IPV4,
    }
}

/// The outer source of a flow: one of `sources` addresses (a power of two, or 0 for one) from `base` on, always the same.
/// Receivers choose a queue by addresses, and would choose the same for all flows from one source.
#[inline(always)]
#[must_use]
pub const fn source(base: AnyAddr, family: u8, sources: u32, flow: u32) -> AnyAddr {
    let [a, b, c, d] = base;
    let place = (flow & sources.saturating_sub(1)).to_be();
    if family == 6 {
        [a, b, c, d | place]
    } else {
        [a | place, b, c, d]
    }
}

/// The outer IPv4 header, as the words that it is written by.
#[inline(always)]
#[must_use]
pub fn ipv4(outer: &Outer) -> [u32; 5] {
    let [src, ..] = outer.src;
    let [dst, ..] = outer.dst;
    let [l0, l1] = Be16::new((size_of::<Ipv4>() as u32 + outer.payload) as u16).to_wire();
    let [f0, f1] = Be16::new(DONT_FRAGMENT).to_wire();
    let first = u32::from_ne_bytes([0x45, outer.class, l0, l1]);
    let fragment = u32::from_ne_bytes([0, 0, f0, f1]);
    let third = u32::from_ne_bytes([TTL, outer.protocol, 0, 0]);
    let sum = sum_words([first, third, src, dst]);
    let [c0, c1] = (!fold(u32::from(sum) + u32::from(DONT_FRAGMENT.to_be()))).to_ne_bytes();
    let third = u32::from_ne_bytes([TTL, outer.protocol, c0, c1]);
    [first, fragment, third, src, dst]
}

/// The outer IPv6 header, as the words that it is written by. Its flow label is the flow's, so that routers spread flows
/// by it (RFC 6438).
#[inline(always)]
#[must_use]
pub const fn ipv6(outer: &Outer) -> [u32; 10] {
    let [s0, s1, s2, s3] = outer.src;
    let [d0, d1, d2, d3] = outer.dst;
    let first = (6 << 28 | (outer.class as u32) << 20 | outer.flow & FLOW_LABEL).to_be();
    let [l0, l1] = Be16::new(outer.payload as u16).to_wire();
    let second = u32::from_ne_bytes([l0, l1, outer.protocol, TTL]);
    [first, second, s0, s1, s2, s3, d0, d1, d2, d3]
}

/// The UDP header of GUE, as the words that it is written by; `length` counts header and packet. The source port is the
/// flow's, so that routers and receivers spread flows by it. There is no checksum: the packet inside has its own, and
/// IPv6 allows that for tunnels (RFC 6935, RFC 6936).
#[inline(always)]
#[must_use]
pub const fn udp(port: Be16, flow: u32, length: u32) -> [u32; 2] {
    // Other bits than those that choose the source address.
    let [s0, s1] = Be16::new(FIRST_PORT + ((flow >> 16) as u16 & (PORTS - 1))).to_wire();
    let [d0, d1] = port.to_wire();
    let [l0, l1] = Be16::new(length as u16).to_wire();
    [u32::from_ne_bytes([s0, s1, d0, d1]), u32::from_ne_bytes([l0, l1, 0, 0])]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::{Addr4, Addr6, Address};

    fn bytes<const N: usize>(words: [u32; N]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// RFC 1071 over a header with its checksum: all ones.
    fn verifies(header: &[u8]) -> bool {
        let sum = header
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        fold(sum) == 0xffff
    }

    fn be(bytes: &[u8]) -> u32 {
        bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
    }

    #[test]
    fn overheads() {
        for (mode, v4, v6) in [
            (Mode::FULL_NAT, 0, 0),
            (Mode::NAT, 0, 0),
            (Mode::L2_DSR, 0, 0),
            (Mode::IPIP, 20, 40),
            (Mode::GUE, 28, 48),
        ] {
            assert_eq!((overhead(mode, 4), overhead(mode, 6)), (v4, v6), "{mode:?}");
            for (family, overhead) in [(4, v4), (6, v6)] {
                let backend = |mtu| Backend {
                    mode,
                    family,
                    mtu,
                    ..Backend::default()
                };
                assert_eq!(inner_mtu(&backend(1500)), 1500 - overhead);
                assert_eq!(inner_mtu(&backend(65_535)), 65_535 - overhead);
                assert_eq!(inner_mtu(&backend(20)), 20u32.saturating_sub(overhead));
                // A loopback's MTU, for one. No length field may overflow.
                assert_eq!(
                    inner_mtu(&backend(65_536)),
                    if overhead == 0 { 65_536 } else { 65_535 - overhead }
                );
            }
        }
    }

    #[test]
    fn protocols() {
        let of = |mode| [protocol(mode, 4), protocol(mode, 6)];
        assert_eq!((of(Mode::IPIP), of(Mode::GUE)), ([4, 41], [17, 17]));
    }

    #[test]
    fn sources_begin_at_the_base_and_are_as_many_as_there_are() {
        let base = Addr4::from_wire([10, 0, 1, 64]);
        let of = |sources, flow| Addr4::from_any(source(base.to_any(), 4, sources, flow)).to_wire();
        for fixed in [0, 1] {
            assert_eq!(of(fixed, u32::MAX), [10, 0, 1, 64]);
        }
        assert_eq!(of(16, 0xffff_fff5), [10, 0, 1, 69]);
        assert_eq!(of(64, 63), [10, 0, 1, 127]);
        let base = Addr6::from_wire([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]);
        let six = Addr6::from_any(source(base.to_any(), 6, 1 << 16, 0xabcd_1234)).to_wire();
        assert_eq!(six, [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0x12, 0x34]);
    }

    proptest! {
        #[test]
        fn ipv4_headers(src: [u8; 4], dst: [u8; 4], class: u8, payload in 0u32..=65_515, flow: u32, protocol: u8) {
            let (a, b) = (Addr4::from_wire(src), Addr4::from_wire(dst));
            let outer = Outer { src: a.to_any(), dst: b.to_any(), class, protocol, payload, flow };
            let h = bytes(ipv4(&outer));
            prop_assert!(verifies(&h));
            prop_assert_eq!(&h[..2], &[0x45, class]);
            prop_assert_eq!(be(&h[2..4]), payload + 20);
            prop_assert_eq!(&h[4..10], &[0, 0, 0x40, 0, 64, protocol]);
            prop_assert_eq!((&h[12..16], &h[16..]), (&src[..], &dst[..]));
        }

        #[test]
        fn ipv6_headers(src: [u8; 16], dst: [u8; 16], class: u8, payload in 0u32..=65_535, flow: u32, protocol: u8) {
            let (a, b) = (Addr6::from_wire(src), Addr6::from_wire(dst));
            let outer = Outer { src: a.to_any(), dst: b.to_any(), class, protocol, payload, flow };
            let h = bytes(ipv6(&outer));
            prop_assert_eq!(be(&h[..4]), 6 << 28 | u32::from(class) << 20 | flow & 0xf_ffff);
            prop_assert_eq!(be(&h[4..6]), payload);
            prop_assert_eq!(&h[6..8], &[protocol, 64]);
            prop_assert_eq!((&h[8..24], &h[24..]), (&src[..], &dst[..]));
        }

        #[test]
        fn udp_headers(port: u16, flow: u32, length in 8u32..=65_535) {
            let h = bytes(udp(Be16::new(port), flow, length));
            prop_assert!(be(&h[..2]) >= 49_152);
            prop_assert_eq!((be(&h[2..4]), be(&h[4..6]), be(&h[6..])), (port.into(), length, 0));
        }
    }

    #[test]
    fn udp_source_ports_use_all_of_their_range() {
        let port = |flow| be(&bytes(udp(Be16::new(6080), flow, 100))[..2]);
        assert_eq!((port(0), port(u32::MAX)), (49_152, 65_535));
        assert_eq!(port(0xffff), 49_152, "the bits of the source address");
    }
}
