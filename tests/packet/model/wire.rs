//! Headers in a frame, byte by byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// Two bytes of a frame as a number.
pub(super) fn number(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Four bytes of a frame as a number.
pub(super) fn long_number(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

/// Writes bytes into a frame.
pub(super) fn put(frame: &mut [u8], at: usize, bytes: &[u8]) {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The address at an offset.
pub(super) fn address(frame: &[u8], at: usize, v4: bool) -> IpAddr {
    if v4 {
        Ipv4Addr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap()).into()
    } else {
        Ipv6Addr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap()).into()
    }
}

/// An address as it stands in a frame.
pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// The 16-bit words that a checksum covers of an address and port.
pub(super) fn endpoint(at: SocketAddr) -> Vec<u8> {
    let mut bytes = octets(at.ip());
    bytes.extend(at.port().to_be_bytes());
    bytes
}

/// RFC 1624, equation 3: the checksum after `old` bytes became `new` ones.
pub(super) fn updated(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> Vec<u16> { bytes.chunks(2).map(|w| u16::from_be_bytes([w[0], w[1]])).collect() };
    let mut sum = u64::from(!checksum);
    sum += words(old).into_iter().map(|w| u64::from(!w)).sum::<u64>();
    sum += words(new).into_iter().map(u64::from).sum::<u64>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
