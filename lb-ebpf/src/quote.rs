//! What ICMP errors quote: IP headers of packets that `lb` sent, as it writes them.

use lb_common::{
    checksum::sum_words,
    icmp::HEADER,
    net::{Addr4, Addr6, Address, AnyAddr, ICMPV6},
    translate::{self, Carried},
    wire::{Ipv4, Ipv6},
};

use crate::{
    family::{Family, V6},
    packet::{Frame, Window},
    parse::{self, HEAD_V4, HEAD_V6},
};

/// Where a quote begins at most: [`parse`] goes no further for the headers before it.
pub const MAX_OFFSET: usize = 0xfff;

/// What a quoted header says.
pub struct Quote {
    pub src: AnyAddr,
    pub dst: AnyAddr,
    pub carried: Carried,
    /// The sum of its words.
    pub sum: u32,
}

/// A header without options or extension headers, of a packet in one piece.
#[inline(always)]
pub fn read<F: Family>(frame: Frame, at: usize) -> Option<Quote> {
    if F::VERSION == V6::VERSION {
        read_ipv6(frame, at)
    } else {
        read_ipv4(frame, at)
    }
}

#[inline(always)]
fn read_ipv4(frame: Frame, at: usize) -> Option<Quote> {
    let window: Window<{ size_of::<Ipv4>() }> = frame.window(at)?;
    let words = window.words::<5, 0>();
    let ip = parse::ipv4_header(words, at)?;
    if ip.l4 != at + size_of::<Ipv4>() || ip.piece.is_fragment() {
        return None;
    }
    let [a, b, c, d, e] = words;
    let [_, class, ..] = a.to_ne_bytes();
    Some(Quote {
        src: ip.src.to_any(),
        dst: ip.dst.to_any(),
        carried: Carried {
            class,
            payload: (ip.length as u16).saturating_sub(size_of::<Ipv4>() as u16),
            protocol: ip.protocol,
            ttl: ip.ttl,
        },
        sum: u32::from(sum_words([a, b, c, d])) + u32::from(sum_words([e, 0, 0, 0])),
    })
}

#[inline(always)]
fn read_ipv6(frame: Frame, at: usize) -> Option<Quote> {
    let window: Window<{ size_of::<Ipv6>() }> = frame.window(at)?;
    let (start, src, dst) = (window.words::<2, 0>(), window.words::<4, 8>(), window.words::<4, 24>());
    let ip = parse::ipv6_header(start, (src, dst), at)?;
    let [first, second] = start;
    let ([v0, v1, ..], [l0, l1, ..]) = (first.to_ne_bytes(), second.to_ne_bytes());
    Some(Quote {
        src,
        dst,
        carried: Carried {
            class: v0 << 4 | v1 >> 4,
            payload: u16::from_be_bytes([l0, l1]),
            protocol: ip.protocol,
            ttl: ip.ttl,
        },
        sum: u32::from(sum_words([first, second, 0, 0])) + u32::from(sum_words(src)) + u32::from(sum_words(dst)),
    })
}

/// Writes the header that an error quotes, behind those of Ethernet, IP and ICMP.
#[inline(always)]
pub fn write<F: Family>(frame: Frame, carried: Carried, src: AnyAddr, dst: AnyAddr) -> Option<()> {
    if F::VERSION == V6::VERSION {
        let head: Window<{ HEAD_V6 + HEADER + size_of::<Ipv6>() }> = frame.window(0)?;
        let header = translate::ipv6(carried, Addr6::from_any(src), Addr6::from_any(dst));
        head.write::<_, { HEAD_V6 + HEADER }>(header);
    } else {
        let head: Window<{ HEAD_V4 + HEADER + size_of::<Ipv4>() }> = frame.window(0)?;
        let header = translate::ipv4(carried, Addr4::from_any(src), Addr4::from_any(dst));
        head.write::<_, { HEAD_V4 + HEADER }>(header);
    }
    Some(())
}

/// The sum of what an ICMPv6 checksum covers besides the message, which has so many bytes.
#[inline(always)]
pub fn pseudo_header<A: Address>(src: A, dst: A, length: usize) -> u32 {
    u32::from(sum_words(src.words()))
        + u32::from(sum_words(dst.words()))
        + u32::from((length as u16).to_be())
        + u32::from(u16::from(ICMPV6).to_be())
}
