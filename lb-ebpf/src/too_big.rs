//! Answering a packet that does not fit the way on: fragmentation needed (RFC 1191), or packet too big (RFC 4443). The
//! frame becomes the answer, in place, and goes back where it came from.
//!
//! IPv4 packets that may be fragmented are answered as well: XDP cannot make two packets of one, and the kernel would not
//! forward a packet whose source is an address of its own, as `full-nat` has it. Senders take the hint and fragment.

use lb_common::{
    abi::{Link, Vlans},
    icmp::{self, HEADER, QUOTE_V4, QUOTE_V6, Sum},
    net::{Addr4, Addr6, Address, Be16, ICMPV6},
    network_types::eth::EtherType,
    reason::DropReason,
    wire::{ETHERNET, Ipv4, Ipv6},
};

use crate::{
    family::{Family, V6},
    maps,
    packet::{Frame, Window},
    parse::{self, ETHERTYPE, HEAD_V4, HEAD_V6},
    stats,
};

/// Turns the frame into an answer to its sender; `None` where none is due, and the frame is of no use any more.
#[inline(always)]
pub fn answer(frame: Frame) -> Option<()> {
    let mtu = maps::mtu()?;
    match parse::ethertype(frame).ok()? {
        EtherType::Ipv4 => answer_ipv4(frame, mtu),
        EtherType::Ipv6 => answer_ipv6(frame, mtu),
        _ => None,
    }
}

/// Whether this CPU may still answer.
#[inline(always)]
fn in_time() -> Option<()> {
    if maps::may_send_icmp() {
        return Some(());
    }
    stats::count_reason(DropReason::IcmpRateLimited.counter());
    None
}

#[inline(never)]
fn answer_ipv4(frame: Frame, mtu: u32) -> Option<()> {
    const ADDED: usize = size_of::<Ipv4>() + HEADER;
    let ip = parse::ipv4(frame, frame.window(0)?).ok()?;
    // None about later fragments (RFC 1122, section 3.2.2).
    if ip.piece.is_later() {
        return None;
    }
    in_time()?;
    let quote = icmp::quoted(ip.length, QUOTE_V4)?;
    let back = prepend(frame, quote, ADDED)?;
    let header = icmp::fragmentation_needed(mtu, sum(frame, ETHERNET + ADDED, quote)?);
    write_ipv4(frame, back.addresses, (ip.dst, ip.src), quote, header)
}

#[inline(never)]
fn answer_ipv6(frame: Frame, mtu: u32) -> Option<()> {
    const ADDED: usize = size_of::<Ipv6>() + HEADER;
    let ip = parse::ipv6(frame, frame.window(0)?).ok()?;
    in_time()?;
    let quote = icmp::quoted(ip.length, QUOTE_V6)?;
    let back = prepend(frame, quote, ADDED)?;
    let sum = sum(frame, ETHERNET + ADDED, quote)?;
    let header = icmp::packet_too_big(mtu, sum, quote, ip.dst, ip.src);
    write_ipv6(frame, back.addresses, (ip.dst, ip.src), quote, header)
}

/// Writes what stands before a quote of so many bytes: MAC addresses, an IP header from a source to a destination, and that of
/// ICMP.
#[inline(always)]
pub fn write<F: Family>(
    frame: Frame,
    addresses: [u32; 3],
    (src, dst): (F::Addr, F::Addr),
    quote: u32,
    header: [u32; 2],
) -> Option<()> {
    let (src, dst) = (src.to_any(), dst.to_any());
    if F::VERSION == V6::VERSION {
        let (src, dst) = (Addr6::from_any(src), Addr6::from_any(dst));
        write_ipv6(frame, addresses, (src, dst), quote, header)
    } else {
        let (src, dst) = (Addr4::from_any(src), Addr4::from_any(dst));
        write_ipv4(frame, addresses, (src, dst), quote, header)
    }
}

#[inline(always)]
fn write_ipv4(
    frame: Frame,
    addresses: [u32; 3],
    (src, dst): (Addr4, Addr4),
    quote: u32,
    header: [u32; 2],
) -> Option<()> {
    let head: Window<{ HEAD_V4 + HEADER }> = frame.window(0)?;
    head.set_words::<3, 0>(addresses);
    head.write::<u16, ETHERTYPE>(EtherType::Ipv4 as u16);
    head.write::<_, ETHERNET>(icmp::ipv4_header(src, dst, quote));
    head.set_words::<2, HEAD_V4>(header);
    Some(())
}

#[inline(always)]
fn write_ipv6(
    frame: Frame,
    addresses: [u32; 3],
    (src, dst): (Addr6, Addr6),
    quote: u32,
    header: [u32; 2],
) -> Option<()> {
    let head: Window<{ HEAD_V6 + HEADER }> = frame.window(0)?;
    head.set_words::<3, 0>(addresses);
    head.write::<u16, ETHERTYPE>(EtherType::Ipv6 as u16);
    head.write::<_, ETHERNET>(Ipv6 {
        version_class_flow: [Be16::new(0x6000), Be16::new(0)],
        length: Be16::new(HEADER as u16 + quote as u16),
        next_header: ICMPV6,
        hop_limit: 64,
        src: src.to_words(),
        dst: dst.to_words(),
    });
    head.set_words::<2, HEAD_V6>(header);
    Some(())
}

/// Cuts the packet to what is quoted and makes room before it; gives the way back.
#[inline(always)]
fn prepend(frame: Frame, quote: u32, room: usize) -> Option<Link> {
    let ethernet: Window<ETHERNET> = frame.window(0)?;
    let back = Link {
        addresses: parse::way_back(ethernet),
        ifindex: frame.ifindex(),
        vlans: Vlans::NONE,
    };
    frame.truncate(ETHERNET + quote as usize)?;
    frame.lengthen_head(room)?;
    Some(back)
}

/// The sum of what is quoted, in steps of 16 bytes.
#[inline(always)]
fn sum(frame: Frame, at: usize, quote: u32) -> Option<Sum> {
    let mut sum = Sum::default();
    for step in 0..QUOTE_V6 as usize / 16 {
        if step * 16 >= quote as usize {
            break;
        }
        let chunk: Window<16> = frame.window(at + step * 16)?;
        sum = sum.and(chunk.words::<4, 0>());
    }
    Some(sum)
}
