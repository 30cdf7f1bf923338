//! From a frame to a flow key. Nothing is changed here; what cannot be read is the kernel's business.

use lb_common::{
    abi::FlowKey,
    flow::TcpFlags,
    net::{Addr4, Addr6, Address, Be16, TCP, UDP},
    network_types::eth::EtherType,
    reason::PassReason,
    wire::{ETHERNET, Ipv4, Ipv6, Ipv6Fragment, Tcp, Udp},
};

use crate::{
    Exit,
    family::Family,
    packet::{Frame, Window},
};

/// Bytes of Ethernet and IPv4 header.
pub const HEAD_V4: usize = ETHERNET + size_of::<Ipv4>();
/// Bytes of Ethernet and IPv6 header.
pub const HEAD_V6: usize = ETHERNET + size_of::<Ipv6>();

/// Where the number of what follows lies in the Ethernet header.
pub const ETHERTYPE: usize = 12;
const IPV6_FRAGMENT: u8 = 44;
/// Hop-by-hop options, routing, destination options, authentication, mobility, HIP, shim6 (RFC 8200, IANA).
const IPV6_EXTENSIONS: [u8; 7] = [0, 43, 60, 51, 135, 139, 140];

/// What the IP header says.
pub struct Ip<A> {
    pub src: A,
    pub dst: A,
    pub protocol: u8,
    pub ttl: u8,
    /// Bytes of the IP packet, header included.
    pub length: u32,
    /// Offset of the TCP or UDP header in the frame.
    pub l4: usize,
    /// The first of several fragments.
    pub fragment: bool,
}

/// What the TCP or UDP header says.
struct L4 {
    /// Both ports, as they lie in the packet.
    ports: u32,
    flags: TcpFlags,
}

/// What the stages need to know of a packet.
pub struct Packet<F: Family> {
    pub key: FlowKey<F::Addr>,
    pub flags: TcpFlags,
    pub ttl: u8,
    pub length: u32,
    pub fragment: bool,
    /// Offset of the TCP or UDP header in the frame.
    pub l4: usize,
}

const MALFORMED: Exit = Exit::Pass(PassReason::Malformed);

/// What the frame carries.
#[inline(always)]
pub fn ethertype(frame: Frame) -> Result<EtherType, Exit> {
    const IPV4: u16 = EtherType::Ipv4 as u16;
    const IPV6: u16 = EtherType::Ipv6 as u16;
    let ethernet: Window<ETHERNET> = frame.window(0).ok_or(MALFORMED)?;
    match ethernet.read::<u16, ETHERTYPE>() {
        IPV4 => Ok(EtherType::Ipv4),
        IPV6 => Ok(EtherType::Ipv6),
        _ => Err(Exit::Pass(PassReason::NotIp)),
    }
}

/// Addresses, ports, flags.
#[inline(always)]
pub fn packet<F: Family>(frame: Frame) -> Result<Packet<F>, Exit> {
    let ip = F::parse(frame)?;
    let l4_length = (ETHERNET as u32 + ip.length)
        .checked_sub(ip.l4 as u32)
        .ok_or(MALFORMED)?;
    let l4 = match ip.protocol {
        TCP => tcp(frame, ip.l4, l4_length)?,
        UDP => udp(frame, &ip, l4_length)?,
        _ => return Err(Exit::Pass(PassReason::NotTcpOrUdp)),
    };
    let [s0, s1, d0, d1] = l4.ports.to_ne_bytes();
    let (src_port, dst_port) = (Be16::from_wire([s0, s1]), Be16::from_wire([d0, d1]));
    Ok(Packet {
        key: FlowKey::new((ip.src, src_port), (ip.dst, dst_port), ip.protocol),
        flags: l4.flags,
        ttl: ip.ttl,
        length: ip.length,
        fragment: ip.fragment,
        l4: ip.l4,
    })
}

/// The IPv4 header (RFC 791); options are skipped.
#[inline(always)]
pub fn ipv4(frame: Frame) -> Result<Ip<Addr4>, Exit> {
    let head: Window<HEAD_V4> = frame.window(0).ok_or(MALFORMED)?;
    let [first, second, third, src, dst] = head.words::<5, ETHERNET>();
    let ([version_ihl, _tos, l0, l1], [_, _, f0, f1]) = (first.to_ne_bytes(), second.to_ne_bytes());
    let [ttl, protocol, ..] = third.to_ne_bytes();
    let header_length = usize::from(version_ihl & 0x0f) * 4;
    let length = u32::from(u16::from_be_bytes([l0, l1]));
    if version_ihl >> 4 != 4 || header_length < size_of::<Ipv4>() || !fits(frame, length) {
        return Err(MALFORMED);
    }
    let fragment = u16::from_be_bytes([f0, f1]) & 0x3fff;
    if fragment & 0x1fff != 0 {
        return Err(Exit::Pass(PassReason::LaterFragment));
    }
    Ok(Ip {
        src: Addr4::from_word(src),
        dst: Addr4::from_word(dst),
        protocol,
        ttl,
        length,
        l4: ETHERNET + header_length,
        fragment: fragment != 0,
    })
}

/// The IPv6 header (RFC 8200), and the fragment header if there is one.
#[inline(always)]
pub fn ipv6(frame: Frame) -> Result<Ip<Addr6>, Exit> {
    let head: Window<HEAD_V6> = frame.window(0).ok_or(MALFORMED)?;
    let [first, second] = head.words::<2, ETHERNET>();
    let ([version_class, ..], [l0, l1, next_header, hop_limit]) = (first.to_ne_bytes(), second.to_ne_bytes());
    let length = size_of::<Ipv6>() as u32 + u32::from(u16::from_be_bytes([l0, l1]));
    if version_class >> 4 != 6 || !fits(frame, length) {
        return Err(MALFORMED);
    }
    let mut ip = Ip {
        src: Addr6::from_any(head.words::<4, IPV6_SOURCE>()),
        dst: Addr6::from_any(head.words::<4, IPV6_DESTINATION>()),
        protocol: next_header,
        ttl: hop_limit,
        length,
        l4: HEAD_V6,
        fragment: false,
    };
    if ip.protocol == IPV6_FRAGMENT {
        let header: Window<{ size_of::<Ipv6Fragment>() }> = frame.window(ip.l4).ok_or(MALFORMED)?;
        let header: Ipv6Fragment = header.read::<_, 0>();
        if header.offset_more.get() & 0xfff8 != 0 {
            return Err(Exit::Pass(PassReason::LaterFragment));
        }
        ip.protocol = header.next_header;
        ip.l4 += size_of::<Ipv6Fragment>();
        ip.fragment = true;
    }
    if IPV6_EXTENSIONS.contains(&ip.protocol) {
        return Err(Exit::Pass(PassReason::Ipv6Extension));
    }
    Ok(ip)
}

/// Where the source address lies behind the start of the frame.
pub const IPV6_SOURCE: usize = ETHERNET + 8;
/// Where the destination address lies behind the start of the frame.
pub const IPV6_DESTINATION: usize = ETHERNET + 24;

/// Whether the frame holds as much as the IP header claims. It may hold more: Ethernet pads short frames.
#[inline(always)]
fn fits(frame: Frame, length: u32) -> bool {
    let length = ETHERNET + length as usize;
    length <= frame.length() || length <= frame.whole_length()
}

/// Ports and flags of a TCP header (RFC 9293) that is there in full.
#[inline(always)]
fn tcp(frame: Frame, offset: usize, length: u32) -> Result<L4, Exit> {
    const HEADER: usize = size_of::<Tcp>();
    let header: Window<HEADER> = frame.window(offset).ok_or(MALFORMED)?;
    let [data_offset, flags] = header.read::<u16, 12>().to_ne_bytes();
    let header_length = u32::from(data_offset >> 4) * 4;
    if header_length < HEADER as u32 || header_length > length {
        return Err(MALFORMED);
    }
    let [ports] = header.words::<1, 0>();
    Ok(L4 {
        ports,
        flags: TcpFlags(flags),
    })
}

/// Ports of a UDP header (RFC 768) whose length agrees with IP's.
#[inline(always)]
fn udp<A>(frame: Frame, ip: &Ip<A>, length: u32) -> Result<L4, Exit> {
    const HEADER: usize = size_of::<Udp>();
    let header: Window<HEADER> = frame.window(ip.l4).ok_or(MALFORMED)?;
    let [ports, rest] = header.words::<2, 0>();
    let [l0, l1, ..] = rest.to_ne_bytes();
    let claimed = u32::from(u16::from_be_bytes([l0, l1]));
    if length < HEADER as u32 || claimed < HEADER as u32 || (claimed > length && !ip.fragment) {
        return Err(MALFORMED);
    }
    Ok(L4 {
        ports,
        flags: TcpFlags(0),
    })
}
