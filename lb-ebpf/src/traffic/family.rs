//! What differs between IPv4 and IPv6.

use lb_common::{
    net::{AnyAddr, Be16},
    traffic::stamp::sum,
    wire::{ETHERNET, Ethernet, Ipv4, Ipv6},
};

use crate::packet::{Frame, Window};

/// What the IP header says.
pub struct Ip {
    pub protocol: u8,
    /// Bytes behind the IP header.
    pub length: u32,
}

/// An IP version. Headers with options, extension headers and fragments are not generated, so they are not read.
pub trait Family {
    /// Its number.
    const VERSION: u16;
    /// Offset of the TCP or UDP header.
    const L4: usize;

    /// Reads the IP header.
    fn parse(frame: Frame) -> Option<Ip>;
    /// Source and destination address.
    fn addresses(frame: Frame) -> Option<(AnyAddr, AnyAddr)>;
    /// The last 32 bits of the destination address, as a number.
    fn destination(frame: Frame) -> Option<u32>;
    /// Whether the header checksum is right, where there is one.
    fn header_intact(frame: Frame) -> bool;
    /// Exchanges MAC and IP addresses.
    fn turn_round(frame: Frame) -> Option<()>;
    /// Writes another length of what is behind the IP header.
    fn set_length(frame: Frame, length: u16) -> Option<()>;
}

/// IPv4.
pub struct V4;

/// IPv6.
pub struct V6;

const V4_HEAD: usize = ETHERNET + size_of::<Ipv4>();
const V6_HEAD: usize = ETHERNET + size_of::<Ipv6>();
const V4_CHECKSUM: usize = ETHERNET + 10;

impl Family for V4 {
    const VERSION: u16 = 4;
    const L4: usize = V4_HEAD;

    #[inline(always)]
    fn parse(frame: Frame) -> Option<Ip> {
        const PLAIN: u8 = 0x45;
        const FRAGMENT: u16 = 0x3fff;
        let head: Window<V4_HEAD> = frame.window(0)?;
        let ip: Ipv4 = head.read::<_, ETHERNET>();
        let length = u32::from(ip.length.get());
        if ip.version_ihl != PLAIN
            || ip.fragment.get() & FRAGMENT != 0
            || length < size_of::<Ipv4>() as u32
            || ETHERNET + length as usize > frame.length()
        {
            return None;
        }
        Some(Ip {
            protocol: ip.protocol,
            length: length - size_of::<Ipv4>() as u32,
        })
    }

    #[inline(always)]
    fn addresses(frame: Frame) -> Option<(AnyAddr, AnyAddr)> {
        let head: Window<V4_HEAD> = frame.window(0)?;
        let [src, dst] = head.words::<2, { ETHERNET + 12 }>();
        Some(([src, 0, 0, 0], [dst, 0, 0, 0]))
    }

    #[inline(always)]
    fn destination(frame: Frame) -> Option<u32> {
        let head: Window<V4_HEAD> = frame.window(0)?;
        let [dst] = head.words::<1, { ETHERNET + 16 }>();
        Some(u32::from_be(dst))
    }

    #[inline(always)]
    fn header_intact(frame: Frame) -> bool {
        let head: Option<Window<V4_HEAD>> = frame.window(0);
        head.is_some_and(|head| sum(total(head.words::<5, ETHERNET>())) == 0xffff)
    }

    #[inline(always)]
    fn turn_round(frame: Frame) -> Option<()> {
        turn_macs(frame)?;
        let head: Window<V4_HEAD> = frame.window(0)?;
        let [src, dst] = head.words::<2, { ETHERNET + 12 }>();
        head.set_words::<2, { ETHERNET + 12 }>([dst, src]);
        Some(())
    }

    #[inline(always)]
    fn set_length(frame: Frame, length: u16) -> Option<()> {
        let head: Window<V4_HEAD> = frame.window(0)?;
        head.write::<_, { ETHERNET + 2 }>(Be16::new(length + size_of::<Ipv4>() as u16));
        head.write::<u16, V4_CHECKSUM>(0);
        head.write::<u16, V4_CHECKSUM>(!sum(total(head.words::<5, ETHERNET>())));
        Some(())
    }
}

impl Family for V6 {
    const VERSION: u16 = 6;
    const L4: usize = V6_HEAD;

    #[inline(always)]
    fn parse(frame: Frame) -> Option<Ip> {
        let head: Window<V6_HEAD> = frame.window(0)?;
        let ip: Ipv6 = head.read::<_, ETHERNET>();
        let length = u32::from(ip.length.get());
        let [version_class, _] = ip.version_class_flow;
        if version_class.get() >> 12 != 6 || V6_HEAD + length as usize > frame.length() {
            return None;
        }
        Some(Ip {
            protocol: ip.next_header,
            length,
        })
    }

    #[inline(always)]
    fn addresses(frame: Frame) -> Option<(AnyAddr, AnyAddr)> {
        let head: Window<V6_HEAD> = frame.window(0)?;
        Some((
            head.words::<4, { ETHERNET + 8 }>(),
            head.words::<4, { ETHERNET + 24 }>(),
        ))
    }

    #[inline(always)]
    fn destination(frame: Frame) -> Option<u32> {
        let head: Window<V6_HEAD> = frame.window(0)?;
        let [last] = head.words::<1, { ETHERNET + 36 }>();
        Some(u32::from_be(last))
    }

    #[inline(always)]
    fn header_intact(_frame: Frame) -> bool {
        true
    }

    #[inline(always)]
    fn turn_round(frame: Frame) -> Option<()> {
        turn_macs(frame)?;
        let head: Window<V6_HEAD> = frame.window(0)?;
        let (src, dst) = (
            head.words::<4, { ETHERNET + 8 }>(),
            head.words::<4, { ETHERNET + 24 }>(),
        );
        head.set_words::<4, { ETHERNET + 8 }>(dst);
        head.set_words::<4, { ETHERNET + 24 }>(src);
        Some(())
    }

    #[inline(always)]
    fn set_length(frame: Frame, length: u16) -> Option<()> {
        let head: Window<V6_HEAD> = frame.window(0)?;
        head.write::<_, { ETHERNET + 4 }>(Be16::new(length));
        Some(())
    }
}

#[inline(always)]
fn turn_macs(frame: Frame) -> Option<()> {
    let head: Window<ETHERNET> = frame.window(0)?;
    let ethernet: Ethernet = head.read::<_, 0>();
    head.write::<_, 0>(Ethernet {
        dst: ethernet.src,
        src: ethernet.dst,
        ..ethernet
    });
    Some(())
}

/// The sum of words, with its carries.
#[inline(always)]
pub fn total<const N: usize>(words: [u32; N]) -> u64 {
    let mut sum = 0;
    for word in words {
        sum += u64::from(word);
    }
    sum
}

/// What the pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1) adds to a checksum.
#[inline(always)]
pub fn pseudo<F: Family>(frame: Frame, protocol: u8, length: u32) -> Option<u64> {
    let (src, dst) = F::addresses(frame)?;
    Some(total(src) + total(dst) + u64::from((u32::from(protocol)).to_be()) + u64::from(length.to_be()))
}
