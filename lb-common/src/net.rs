//! Numbers in network byte order, addresses, and what differs between IPv4 and IPv6.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The 32-bit word of two 16-bit ones that follow each other in memory.
#[inline(always)]
#[must_use]
pub const fn join(first: u16, second: u16) -> u32 {
    if cfg!(target_endian = "little") {
        (first as u32) | (second as u32) << 16
    } else {
        (first as u32) << 16 | (second as u32)
    }
}

/// The two that [`join`] joined.
#[inline(always)]
#[must_use]
pub const fn split(word: u32) -> [u16; 2] {
    if cfg!(target_endian = "little") {
        [word as u16, (word >> 16) as u16]
    } else {
        [(word >> 16) as u16, word as u16]
    }
}

/// The 64-bit word of two 32-bit ones that follow each other in memory.
#[inline(always)]
#[must_use]
pub const fn join_words([first, second]: [u32; 2]) -> u64 {
    if cfg!(target_endian = "little") {
        (first as u64) | (second as u64) << 32
    } else {
        (first as u64) << 32 | (second as u64)
    }
}

/// The two that [`join_words`] joined.
#[inline(always)]
#[must_use]
pub const fn split_words(word: u64) -> [u32; 2] {
    if cfg!(target_endian = "little") {
        [word as u32, (word >> 32) as u32]
    } else {
        [(word >> 32) as u32, word as u32]
    }
}

/// A 16-bit number kept in network byte order, such as a port.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Be16(u16);

impl Be16 {
    /// From a number in the host's order.
    #[inline(always)]
    #[must_use]
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// From two bytes as they stand in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn from_wire(bytes: [u8; 2]) -> Self {
        Self(u16::from_ne_bytes(bytes))
    }

    /// The bytes as they stand in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn to_wire(self) -> [u8; 2] {
        self.0.to_ne_bytes()
    }

    /// The number in the host's order.
    #[inline(always)]
    #[must_use]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// From the 16-bit word as loaded from memory.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u16) -> Self {
        Self(word)
    }

    /// The 16-bit word as loaded from memory: what checksum arithmetic works on.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u16 {
        self.0
    }
}

impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// An IPv4 address in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Addr4(u32);

/// An IPv6 address in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Addr6([u32; 4]);

/// An address of either family as it stands in a map that serves both: an IPv4 address in the first word, the rest zero.
pub type AnyAddr = [u32; 4];

/// What an address must offer so that one source serves both families.
pub trait Address: Copy + PartialEq {
    /// The address in the first of a map's four words, the rest zero; or in all four.
    fn to_any(self) -> AnyAddr;
    /// Back from a map's four words.
    fn from_any(any: AnyAddr) -> Self;
    /// Its 32-bit words as loaded from memory, for checksum arithmetic. Words beyond the address are zero.
    fn words(self) -> [u32; 4];
}

impl Addr4 {
    /// From the 32-bit word of a header.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u32) -> Self {
        Self(word)
    }

    /// The 32-bit word of a header.
    #[inline(always)]
    #[must_use]
    pub const fn to_word(self) -> u32 {
        self.0
    }

    /// From four bytes as they stand in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn from_wire(bytes: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(bytes))
    }

    /// The bytes as they stand in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn to_wire(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }
}

impl Addr6 {
    /// From sixteen bytes as they stand in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn from_wire([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]: [u8; 16]) -> Self {
        Self::from_quarters([
            Addr4::from_wire([a, b, c, d]),
            Addr4::from_wire([e, f, g, h]),
            Addr4::from_wire([i, j, k, l]),
            Addr4::from_wire([m, n, o, p]),
        ])
    }

    /// The bytes as they stand in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn to_wire(self) -> [u8; 16] {
        let [p, q, r, s] = self.to_quarters();
        let ([a, b, c, d], [e, f, g, h]) = (p.to_wire(), q.to_wire());
        let ([i, j, k, l], [m, n, o, p]) = (r.to_wire(), s.to_wire());
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// From its 32-bit quarters.
    #[inline(always)]
    #[must_use]
    pub const fn from_quarters([a, b, c, d]: [Addr4; 4]) -> Self {
        Self([a.0, b.0, c.0, d.0])
    }

    /// Its 32-bit quarters.
    #[inline(always)]
    #[must_use]
    pub const fn to_quarters(self) -> [Addr4; 4] {
        let [a, b, c, d] = self.0;
        [Addr4(a), Addr4(b), Addr4(c), Addr4(d)]
    }
}

impl Address for Addr4 {
    #[inline(always)]
    fn to_any(self) -> AnyAddr {
        [self.0, 0, 0, 0]
    }

    #[inline(always)]
    fn from_any(any: AnyAddr) -> Self {
        Self(any[0])
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        [self.0, 0, 0, 0]
    }
}

impl Address for Addr6 {
    #[inline(always)]
    fn to_any(self) -> AnyAddr {
        self.0
    }

    #[inline(always)]
    fn from_any(any: AnyAddr) -> Self {
        Self(any)
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        self.0
    }
}

impl From<Ipv4Addr> for Addr4 {
    fn from(ip: Ipv4Addr) -> Self {
        Self::from_wire(ip.octets())
    }
}

impl From<Addr4> for Ipv4Addr {
    fn from(a: Addr4) -> Self {
        Self::from(a.to_wire())
    }
}

impl From<Ipv6Addr> for Addr6 {
    fn from(ip: Ipv6Addr) -> Self {
        Self::from_wire(ip.octets())
    }
}

impl From<Addr6> for Ipv6Addr {
    fn from(a: Addr6) -> Self {
        Self::from(a.to_wire())
    }
}

impl fmt::Debug for Addr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv6Addr::from(*self).fmt(f)
    }
}

/// An address of either family as maps that serve both hold it.
#[must_use]
pub fn to_any(ip: IpAddr) -> AnyAddr {
    match ip {
        IpAddr::V4(ip) => Addr4::from(ip).to_any(),
        IpAddr::V6(ip) => Addr6::from(ip).to_any(),
    }
}

/// A MAC address, in words so that it is aligned like the headers it stands in.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct MacAddr([u16; 3]);

impl MacAddr {
    /// From its six bytes.
    #[must_use]
    pub const fn new([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self([
            u16::from_ne_bytes([a, b]),
            u16::from_ne_bytes([c, d]),
            u16::from_ne_bytes([e, f]),
        ])
    }

    /// Its words as loaded from memory.
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> [u16; 3] {
        self.0
    }

    /// Its six bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        let [a, b, c] = self.0;
        let ([a, b], [c, d], [e, f]) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes());
        [a, b, c, d, e, f]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.bytes();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
