//! Writing a flow's addresses, ports and checksums into a packet.
//!
//! All reads that can fail come before the first write: a packet leaves either rewritten whole or as it came.

use lb_common::{
    abi::Link,
    checksum::Delta,
    net::{Addr4, Addr6, Address, MacAddr, UDP},
    reason::DropReason,
    rewrite::Rewrite,
    wire::{ETHERNET, IPV4_REST, IPV6_ADDRESSES, Ipv4Rest, Ports, TCP_CHECKSUM, UDP_CHECKSUM},
};

use crate::{Exit, family::Family, packet::Frame, parse::Packet};

const INTERNAL: Exit = Exit::Drop(DropReason::Internal);

/// Ethernet, IP and TCP or UDP header, as the flow says.
#[inline(always)]
pub fn apply<F: Family>(frame: Frame, packet: &Packet<F>, rewrite: &Rewrite<F::Addr>, link: &Link) -> Result<(), Exit> {
    let checksum = packet.l4
        + if packet.key.protocol() == UDP {
            UDP_CHECKSUM
        } else {
            TCP_CHECKSUM
        };
    let old: u16 = frame.read(checksum).ok_or(INTERNAL)?;
    let new = l4_checksum::<F>(packet.key.protocol(), old, rewrite.l4_delta)?;
    frame.write(checksum, new).ok_or(INTERNAL)?;
    frame
        .write(
            packet.l4,
            Ports {
                src: rewrite.src_port,
                dst: rewrite.dst_port,
            },
        )
        .ok_or(INTERNAL)?;
    F::rewrite(frame, rewrite).ok_or(INTERNAL)?;
    ethernet(frame, link).ok_or(INTERNAL)
}

/// The link's MAC addresses.
#[inline(always)]
fn ethernet(frame: Frame, link: &Link) -> Option<()> {
    const SOURCE: usize = size_of::<MacAddr>();
    frame.write(SOURCE, link.local)?;
    frame.write(0, link.remote)
}

/// The new TCP or UDP checksum.
#[inline(always)]
fn l4_checksum<F: Family>(protocol: u8, old: u16, delta: Delta) -> Result<u16, Exit> {
    match (protocol, old) {
        (UDP, 0) if F::UDP_CHECKSUM_OPTIONAL => Ok(0),
        (UDP, 0) => Err(Exit::Drop(DropReason::UdpChecksumMissing)),
        (UDP, old) => Ok(delta.apply_udp(old)),
        (_, old) => Ok(delta.apply(old)),
    }
}

/// Addresses, TTL and header checksum.
#[inline(always)]
pub fn ipv4(frame: Frame, rewrite: &Rewrite<Addr4>) -> Option<()> {
    const REST: usize = ETHERNET + IPV4_REST;
    let old: Ipv4Rest = frame.read(REST)?;
    let new = Ipv4Rest {
        ttl: old.ttl - 1,
        protocol: old.protocol,
        checksum: rewrite.ip_delta.apply(old.checksum),
        src: rewrite.src.to_words(),
        dst: rewrite.dst.to_words(),
    };
    frame.write(REST, new)
}

/// Addresses and hop limit.
#[inline(always)]
pub fn ipv6(frame: Frame, rewrite: &Rewrite<Addr6>) -> Option<()> {
    const HOP_LIMIT: usize = ETHERNET + 7;
    let hop_limit: u8 = frame.read(HOP_LIMIT)?;
    frame.write_words(ETHERNET + IPV6_ADDRESSES, rewrite.src.to_any())?;
    frame.write_words(ETHERNET + IPV6_ADDRESSES + 16, rewrite.dst.to_any())?;
    frame.write(HOP_LIMIT, hop_limit - 1)
}
