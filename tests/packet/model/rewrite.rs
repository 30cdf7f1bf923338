//! What a packet becomes on its way: other addresses, the other family's header, a tunnel's before it.

use std::net::{IpAddr, SocketAddr};

use lb_common::{abi::Mode, reason::DropReason};

use super::{
    fate::Left,
    read::{Key, Parsed},
    wire::{ETHERNET, TCP, UDP, endpoint, number, octets, put, updated},
};
use crate::{
    frames::{self, Outer},
    lab::{Case, Server},
    service::TUNNEL_PORT,
};

/// Source addresses of a service.
pub(super) const SOURCES: u8 = 2;

/// Whether a packet has the checksum that has to change with its addresses. Without one, none gets from one family to the other.
pub(super) fn translatable(frame: &[u8], packet: &Parsed, crosses: bool) -> Result<(), Left> {
    let required = crosses || packet.key.to.is_ipv6();
    if packet.key.protocol == UDP && required && number(frame, packet.l4 + 6) == 0 {
        return Err(Left::Dropped(DropReason::UdpChecksumMissing));
    }
    Ok(())
}

/// New addresses and ports, one hop less to live, checksums to match.
pub(super) fn translate(frame: &mut [u8], packet: &Parsed, (from, to): (SocketAddr, SocketAddr)) -> Result<(), Left> {
    let l4 = packet.l4;
    let Key {
        from: old_from,
        to: old_to,
        protocol,
    } = packet.key;
    let at = l4 + if protocol == TCP { 16 } else { 6 };
    let checksum = number(frame, at);
    translatable(frame, packet, false)?;
    let old = [endpoint(old_from), endpoint(old_to)].concat();
    let new = [endpoint(from), endpoint(to)].concat();
    if protocol == TCP || checksum != 0 {
        let sum = match updated(checksum, &old, &new) {
            0 if protocol == UDP => 0xffff,
            sum => sum,
        };
        put(frame, at, &sum.to_be_bytes());
    }
    put(frame, l4, &from.port().to_be_bytes());
    put(frame, l4 + 2, &to.port().to_be_bytes());
    readdress(frame, from.ip(), to.ip());
    Ok(())
}

/// New addresses, and one hop less to live.
pub(super) fn readdress(frame: &mut [u8], from: IpAddr, to: IpAddr) {
    let ip = ETHERNET;
    if from.is_ipv4() {
        let before = frame[ip + 8..ip + 20].to_vec();
        frame[ip + 8] -= 1;
        put(frame, ip + 12, &octets(from));
        put(frame, ip + 16, &octets(to));
        // Less the checksum itself.
        let covered = |bytes: &[u8]| [&bytes[..2], &bytes[4..]].concat();
        let sum = updated(
            number(frame, ip + 10),
            &covered(&before),
            &covered(&frame[ip + 8..ip + 20]),
        );
        put(frame, ip + 10, &sum.to_be_bytes());
    } else {
        frame[ip + 7] -= 1;
        put(frame, ip + 8, &octets(from));
        put(frame, ip + 24, &octets(to));
    }
}

/// Another identification: of IPv6 where its fragment header is.
pub(super) fn identify(frame: &mut [u8], header: usize, id: u32) {
    if header > 0 {
        put(frame, header + 4, &id.to_be_bytes());
        return;
    }
    let (old, new) = (frame[ETHERNET + 4..ETHERNET + 6].to_vec(), id.to_be_bytes());
    let sum = updated(number(frame, ETHERNET + 10), &old, &new[2..]);
    put(frame, ETHERNET + 4, &new[2..]);
    put(frame, ETHERNET + 10, &sum.to_be_bytes());
}

/// The frame in the outer headers that a flow has to a server, its packet one hop older.
pub(super) fn wrapped(case: Case, frame: &[u8], packet: &Parsed, server: Server) -> Vec<u8> {
    let Key { from, to, protocol } = packet.key;
    let mut inner = frame.to_vec();
    readdress(&mut inner, from.ip(), to.ip());
    let hash = frames::hash(from, to, protocol);
    let class = if from.is_ipv4() {
        frame[ETHERNET + 1]
    } else {
        (number(frame, ETHERNET) >> 4) as u8
    };
    let outer = Outer {
        from: case.source(hash as u8 % SOURCES),
        to: server.address.ip(),
        // Of the dynamic ports (RFC 6335), by what of the hash has not chosen the address.
        udp: (case.mode == Mode::GUE).then_some((49_152 + (hash >> 16) as u16 % 16_384, TUNNEL_PORT)),
        tos: class,
        label: hash % (1 << 20),
    };
    outer.around(&inner, frame.len() - ETHERNET - packet.length)
}

/// The packet with the other family's header.
pub(super) fn other_family(
    frame: &[u8],
    packet: &Parsed,
    (from, to): (SocketAddr, SocketAddr),
) -> Result<Vec<u8>, Left> {
    let (ip, l4) = (ETHERNET, packet.l4);
    let (was_v4, header) = if from.is_ipv4() { (false, 20) } else { (true, 40) };
    let length = header + ip + packet.length - l4;
    translatable(frame, packet, true)?;
    let is_udp = packet.key.protocol == UDP;
    let at = l4 + if is_udp { 6 } else { 16 };
    let class = if was_v4 {
        frame[ip + 1]
    } else {
        (number(frame, ip) >> 4) as u8
    };
    let mut rest = frame[l4..].to_vec();
    let old = [endpoint(packet.key.from), endpoint(packet.key.to)].concat();
    let new = [endpoint(from), endpoint(to)].concat();
    let sum = match updated(number(frame, at), &old, &new) {
        0 if is_udp => 0xffff,
        sum => sum,
    };
    put(&mut rest, at - l4, &sum.to_be_bytes());
    put(&mut rest, 0, &from.port().to_be_bytes());
    put(&mut rest, 2, &to.port().to_be_bytes());
    let mut out = vec![0; 12];
    let ttl = packet.ttl - 1;
    if was_v4 {
        out.extend([0x86, 0xdd, 0x60 | class >> 4, class << 4, 0, 0]);
        out.extend(((length - header) as u16).to_be_bytes());
        out.extend([packet.key.protocol, ttl]);
        out.extend(octets(from.ip()));
        out.extend(octets(to.ip()));
    } else {
        out.extend([0x08, 0x00, 0x45, class]);
        out.extend((length as u16).to_be_bytes());
        out.extend([0, 0, 0x40, 0, ttl, packet.key.protocol, 0, 0]);
        out.extend(octets(from.ip()));
        out.extend(octets(to.ip()));
        let sum = updated(0xffff, &[], &out[ip..]);
        put(&mut out, ip + 10, &sum.to_be_bytes());
    }
    out.extend(rest);
    Ok(out)
}
