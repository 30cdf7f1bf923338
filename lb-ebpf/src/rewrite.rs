//! Writing a flow's addresses, ports and checksums into a packet.
//!
//! What can refuse comes before the first write: a packet leaves either rewritten whole or as it came.

use lb_common::{
    abi::{Hop, Link},
    checksum::{Delta, TTL_DECREMENT},
    flow_cache::Cached,
    net::{self, Addr4, Addr6, Address, UDP},
    reason::DropReason,
    rewrite::Rewrite,
    wire::{ETHERNET, Ipv4, Ipv6, Ipv6Fragment, TCP_CHECKSUM, UDP_CHECKSUM},
};

use crate::{
    Exit,
    family::Family,
    packet::{Frame, Window},
    parse::{HEAD_V4, HEAD_V6, IPV6_DESTINATION, IPV6_SOURCE, Ip, L4Places, Packet, Places},
};

const INTERNAL: Exit = Exit::Drop(DropReason::Internal);

/// Finds what of a packet is written.
#[inline(always)]
pub fn places<F: Family>(frame: Frame, packet: &Packet<F>) -> Result<Places<F>, Exit> {
    let checksum = match packet.key.protocol() {
        UDP => UDP_CHECKSUM,
        _ => TCP_CHECKSUM,
    };
    Ok(Places {
        head: F::head(frame).ok_or(INTERNAL)?,
        l4: L4Places {
            ports: frame.window(packet.l4).ok_or(INTERNAL)?,
            checksum: frame.window(packet.l4 + checksum).ok_or(INTERNAL)?,
        },
    })
}

/// Ethernet, IP and TCP or UDP header, as the flow says.
#[inline(always)]
pub fn apply<F: Family>(
    places: Places<F>,
    packet: &Packet<F>,
    rewrite: &Rewrite<F::Addr>,
    hop: Hop,
) -> Result<(), Exit> {
    let old = places.l4.checksum.read::<u16, 0>();
    let new = l4_checksum::<F>(packet.key.protocol(), old, rewrite.l4_delta)?;
    places.l4.checksum.write::<u16, 0>(new);
    let ports = net::join(rewrite.src_port.word(), rewrite.dst_port.word());
    places.l4.ports.set_words::<1, 0>([ports]);
    F::rewrite(places.head, rewrite, hop);
    Ok(())
}

/// Whether [`apply`] would do it, asked before a flow is made.
#[inline(always)]
pub fn possible<F: Family>(frame: Frame, l4: usize, protocol: u8) -> Result<(), Exit> {
    if protocol != UDP {
        return Ok(());
    }
    let checksum: Window<2> = frame.window(l4 + UDP_CHECKSUM).ok_or(INTERNAL)?;
    l4_checksum::<F>(UDP, checksum.read::<u16, 0>(), Delta::ZERO).map(drop)
}

/// The MAC addresses alone.
#[inline(always)]
pub fn neighbour(frame: Frame, hop: Hop) -> Result<(), Exit> {
    set_macs(frame.window(0).ok_or(INTERNAL)?, hop);
    Ok(())
}

/// What a frame to a next hop begins with.
#[inline(always)]
pub fn set_macs(ethernet: Window<ETHERNET>, hop: Hop) {
    ethernet.set_long::<0>(hop.macs);
    ethernet.set_words::<1, 8>([hop.mac()]);
}

/// The new TCP or UDP checksum.
#[inline(always)]
pub fn l4_checksum<F: Family>(protocol: u8, old: u16, delta: Delta) -> Result<u16, Exit> {
    match (protocol, old) {
        (UDP, 0) if F::UDP_CHECKSUM_OPTIONAL => Ok(0),
        (UDP, 0) => Err(Exit::Drop(DropReason::UdpChecksumMissing)),
        (UDP, old) => Ok(delta.apply_udp(old)),
        (_, old) => Ok(delta.apply(old)),
    }
}

/// The TTL of the IPv4 header that lies there goes down by one; gives its DSCP and ECN.
#[inline(always)]
pub fn hop_ipv4(frame: Frame, offset: usize) -> Option<u8> {
    const TTL: usize = 8;
    let header: Window<{ size_of::<Ipv4>() }> = frame.window(offset)?;
    let [first] = header.words::<1, 0>();
    let [old] = header.words::<1, TTL>();
    let [ttl, protocol, c0, c1] = old.to_ne_bytes();
    let [c0, c1] = TTL_DECREMENT.apply(u16::from_ne_bytes([c0, c1])).to_ne_bytes();
    header.set_words::<1, TTL>([u32::from_ne_bytes([ttl - 1, protocol, c0, c1])]);
    let [_, class, ..] = first.to_ne_bytes();
    Some(class)
}

/// The hop limit of the IPv6 header that lies there goes down by one; gives its traffic class.
#[inline(always)]
pub fn hop_ipv6(frame: Frame, offset: usize) -> Option<u8> {
    const NEXT_AND_HOP_LIMIT: usize = 6;
    let header: Window<{ size_of::<Ipv6>() }> = frame.window(offset)?;
    let [next_header, hop_limit] = header.read::<u16, NEXT_AND_HOP_LIMIT>().to_ne_bytes();
    header.write::<u16, NEXT_AND_HOP_LIMIT>(u16::from_ne_bytes([next_header, hop_limit - 1]));
    let [first] = header.words::<1, 0>();
    Some((u32::from_be(first) >> 20) as u8)
}

/// MAC addresses, IP addresses, TTL and header checksum.
#[inline(always)]
pub fn ipv4(head: Window<HEAD_V4>, rewrite: &Rewrite<Addr4>, hop: Hop) {
    const TTL: usize = ETHERNET + 8;
    const ADDRESSES: usize = ETHERNET + 12;
    let [old] = head.words::<1, TTL>();
    let [ttl, protocol, c0, c1] = old.to_ne_bytes();
    let [c0, c1] = rewrite.ip_delta.apply(u16::from_ne_bytes([c0, c1])).to_ne_bytes();
    head.set_words::<1, TTL>([u32::from_ne_bytes([ttl - 1, protocol, c0, c1])]);
    // Both addresses in one store.
    let [addresses] = Addr4::pair(rewrite.src, rewrite.dst);
    head.set_long::<ADDRESSES>(addresses);
    set_macs(head.part::<ETHERNET, 0>(), hop);
}

/// MAC addresses, IP addresses and hop limit.
#[inline(always)]
pub fn ipv6(head: Window<HEAD_V6>, rewrite: &Rewrite<Addr6>, hop: Hop) {
    const NEXT_AND_HOP_LIMIT: usize = ETHERNET + 6;
    let [next_header, hop_limit] = head.read::<u16, NEXT_AND_HOP_LIMIT>().to_ne_bytes();
    head.write::<u16, NEXT_AND_HOP_LIMIT>(u16::from_ne_bytes([next_header, hop_limit - 1]));
    let [a, b, c, d] = Addr6::pair(rewrite.src, rewrite.dst);
    head.set_long::<IPV6_SOURCE>(a);
    head.set_long::<{ IPV6_SOURCE + 8 }>(b);
    head.set_long::<IPV6_DESTINATION>(c);
    head.set_long::<{ IPV6_DESTINATION + 8 }>(d);
    set_macs(head.part::<ETHERNET, 0>(), hop);
}

/// The addresses of a quoted packet, which is one of the flow's other direction: its source is the rewrite's destination.
/// Gives the IPv4 header checksum before and after.
#[inline(always)]
pub fn quoted_ipv4(frame: Frame, at: usize, rewrite: &Rewrite<Addr4>) -> Option<(u16, u16)> {
    const CHECKSUM: usize = 10;
    let header: Window<{ size_of::<Ipv4>() }> = frame.window(at)?;
    let old = header.read::<u16, CHECKSUM>();
    // The router counted the TTL down, not lb.
    let new = rewrite.ip_delta.and(TTL_DECREMENT.inverse()).apply(old);
    header.write::<u16, CHECKSUM>(new);
    header.set_words::<2, 12>([rewrite.dst.to_word(), rewrite.src.to_word()]);
    Some((old, new))
}

/// As [`quoted_ipv4`]; IPv6 has no header checksum.
#[inline(always)]
pub fn quoted_ipv6(frame: Frame, at: usize, rewrite: &Rewrite<Addr6>) -> Option<(u16, u16)> {
    let header: Window<{ size_of::<Ipv6>() }> = frame.window(at)?;
    header.set_words::<4, 8>(rewrite.dst.to_any());
    header.set_words::<4, 24>(rewrite.src.to_any());
    Some((0, 0))
}

/// Another identification for a fragment.
#[inline(always)]
pub fn identify_ipv4(frame: Frame, old: u32, new: u32) -> Option<()> {
    const ID: usize = ETHERNET + 4;
    const CHECKSUM: usize = ETHERNET + 10;
    let head: Window<HEAD_V4> = frame.window(0)?;
    let (old, new) = ((old as u16).to_be(), (new as u16).to_be());
    head.write::<u16, ID>(new);
    head.write::<u16, CHECKSUM>(Delta::ZERO.word(old, new).apply(head.read::<u16, CHECKSUM>()));
    Some(())
}

/// The same of IPv6, whose fragment header lies at an offset.
#[inline(always)]
pub fn identify_ipv6(frame: Frame, header: usize, new: u32) -> Option<()> {
    let header: Window<{ size_of::<Ipv6Fragment>() }> = frame.window(header)?;
    header.set_words::<1, 4>([new.to_be()]);
    Some(())
}

/// Sends an IPv4 packet back: addresses exchanged, and a TTL of its own.
#[inline(always)]
pub fn exchange_ipv4(frame: Frame, ip: &Ip<Addr4>, link: &Link) -> Option<()> {
    const TTL: usize = ETHERNET + 8;
    let head: Window<HEAD_V4> = frame.window(0)?;
    let [old] = head.words::<1, TTL>();
    let [ttl, protocol, c0, c1] = old.to_ne_bytes();
    let (before, after) = (u16::from_ne_bytes([ttl, protocol]), u16::from_ne_bytes([64, protocol]));
    let checksum = Delta::ZERO.word(before, after).apply(u16::from_ne_bytes([c0, c1]));
    let [c0, c1] = checksum.to_ne_bytes();
    let new = u32::from_ne_bytes([64, protocol, c0, c1]);
    head.set_words::<3, TTL>([new, ip.dst.to_word(), ip.src.to_word()]);
    set_macs(head.part::<ETHERNET, 0>(), Hop::from(link));
    Some(())
}

/// Sends an IPv6 packet back: addresses exchanged, and a hop limit of its own.
#[inline(always)]
pub fn exchange_ipv6(frame: Frame, ip: &Ip<Addr6>, link: &Link) -> Option<()> {
    const HOP_LIMIT: usize = ETHERNET + 7;
    let head: Window<HEAD_V6> = frame.window(0)?;
    head.write::<u8, HOP_LIMIT>(64);
    head.set_words::<4, IPV6_SOURCE>(ip.dst.to_any());
    head.set_words::<4, IPV6_DESTINATION>(ip.src.to_any());
    set_macs(head.part::<ETHERNET, 0>(), Hop::from(link));
    Some(())
}
