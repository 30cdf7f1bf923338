//! Headers as they lie in a packet.
//!
//! Drivers start a frame at an even address and every header before TCP and UDP has an even length, so all of these are
//! aligned to two bytes and no more. The compiler then reads 16 bits at a time; byte arrays it would read byte by byte,
//! because the BPF target has no unaligned loads.

use crate::net::{Addr4, Addr6, Be16, MacAddr};

/// Bytes of the Ethernet header.
pub const ETHERNET: usize = size_of::<Ethernet>();

/// Ethernet II.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ethernet {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// What follows.
    pub ethertype: Be16,
}

/// IPv4 (RFC 791), without options.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4 {
    /// Version, and header length in words of 32 bits.
    pub version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Bytes of header and payload.
    pub length: Be16,
    /// Identification.
    pub id: Be16,
    /// Flags, and fragment offset in units of 8 bytes.
    pub fragment: Be16,
    /// Time to live.
    pub ttl: u8,
    /// What follows.
    pub protocol: u8,
    /// Header checksum, as loaded.
    pub checksum: u16,
    /// Source.
    pub src: [u16; 2],
    /// Destination.
    pub dst: [u16; 2],
}

/// IPv6 (RFC 8200).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_class_flow: [Be16; 2],
    /// Bytes behind this header.
    pub length: Be16,
    /// What follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source.
    pub src: [u16; 8],
    /// Destination.
    pub dst: [u16; 8],
}

/// The IPv6 fragment header (RFC 8200, section 4.5).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv6Fragment {
    /// What follows.
    pub next_header: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset in units of 8 bytes, two zero bits, "more fragments".
    pub offset_more: Be16,
    /// Identification.
    pub id: [Be16; 2],
}

/// Source and destination port, which TCP and UDP share.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// Source.
    pub src: Be16,
    /// Destination.
    pub dst: Be16,
}

/// TCP (RFC 9293), without options.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tcp {
    /// Ports.
    pub ports: Ports,
    /// Sequence number.
    pub seq: [Be16; 2],
    /// Acknowledgement number.
    pub ack: [Be16; 2],
    /// Header length in words of 32 bits, in the upper four bits.
    pub data_offset: u8,
    /// Flags.
    pub flags: u8,
    /// Window.
    pub window: Be16,
    /// Checksum, as loaded.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: Be16,
}

/// Where the checksum lies in the TCP header.
pub const TCP_CHECKSUM: usize = 16;
/// Offset of the sequence number in a TCP header; the acknowledgement number follows.
pub const TCP_SEQUENCE: usize = 4;

/// UDP (RFC 768).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Udp {
    /// Ports.
    pub ports: Ports,
    /// Bytes of header and payload.
    pub length: Be16,
    /// Checksum, as loaded; zero means none.
    pub checksum: u16,
}

/// Where the checksum lies in the UDP header.
pub const UDP_CHECKSUM: usize = 6;

/// A 32-bit number from its halves.
#[inline(always)]
#[must_use]
pub const fn number([high, low]: [Be16; 2]) -> u32 {
    (high.get() as u32) << 16 | low.get() as u32
}

/// A 32-bit number as its halves.
#[inline(always)]
#[must_use]
pub const fn halves(number: u32) -> [Be16; 2] {
    [Be16::new((number >> 16) as u16), Be16::new(number as u16)]
}

impl Addr4 {
    /// From the words of a header.
    #[inline(always)]
    #[must_use]
    pub const fn from_words([a, b]: [u16; 2]) -> Self {
        let ([a0, a1], [b0, b1]) = (a.to_ne_bytes(), b.to_ne_bytes());
        Self::from_wire([a0, a1, b0, b1])
    }

    /// The words for a header.
    #[inline(always)]
    #[must_use]
    pub const fn to_words(self) -> [u16; 2] {
        let [a, b, c, d] = self.to_wire();
        [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
    }
}

impl Addr6 {
    /// From the words of a header.
    #[inline(always)]
    #[must_use]
    pub const fn from_words([a, b, c, d, e, f, g, h]: [u16; 8]) -> Self {
        Self::from_quarters([
            Addr4::from_words([a, b]),
            Addr4::from_words([c, d]),
            Addr4::from_words([e, f]),
            Addr4::from_words([g, h]),
        ])
    }

    /// The words for a header.
    #[inline(always)]
    #[must_use]
    pub const fn to_words(self) -> [u16; 8] {
        let [p, q, r, s] = self.to_quarters();
        let ([a, b], [c, d], [e, f], [g, h]) = (p.to_words(), q.to_words(), r.to_words(), s.to_words());
        [a, b, c, d, e, f, g, h]
    }
}

const _: () = {
    assert!(size_of::<Ethernet>() == 14 && align_of::<Ethernet>() == 2);
    assert!(size_of::<Ipv4>() == 20 && align_of::<Ipv4>() == 2);
    assert!(size_of::<Ipv6>() == 40 && align_of::<Ipv6>() == 2);
    assert!(size_of::<Ipv6Fragment>() == 8 && align_of::<Ipv6Fragment>() == 2);
    assert!(size_of::<Tcp>() == 20 && align_of::<Tcp>() == 2);
    assert!(size_of::<Udp>() == 8 && align_of::<Udp>() == 2);
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn words_and_bytes_agree(a: [u8; 4], b: [u8; 16], n: u32) {
            prop_assert_eq!(Addr4::from_words(Addr4::from_wire(a).to_words()).to_wire(), a);
            prop_assert_eq!(Addr6::from_words(Addr6::from_wire(b).to_words()).to_wire(), b);
            prop_assert_eq!(number(halves(n)), n);
            prop_assert_eq!(halves(n)[0].to_wire(), [n.to_be_bytes()[0], n.to_be_bytes()[1]]);
        }
    }
}
