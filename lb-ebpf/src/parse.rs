//! From a frame to a flow key. Nothing is changed here; what cannot be read is the kernel's business.

use lb_common::{
    abi::FlowKey,
    flow::TcpFlags,
    net::{Addr4, Addr6, Address, Be16, TCP, UDP},
    network_types::eth::EtherType,
    reason::PassReason,
    wire::{ETHERNET, IPV6_ADDRESSES, Ipv4, Ipv6, Ipv6Fragment, Ports, Tcp, Udp},
};

use crate::{Exit, family::Family, packet::Frame};

const ETHERTYPE: usize = 12;
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

/// What the stages need to know of a packet.
pub struct Packet<F: Family> {
    pub key: FlowKey<F::Addr>,
    pub flags: TcpFlags,
    pub ttl: u8,
    pub length: u32,
    pub l4: usize,
    pub fragment: bool,
}

const MALFORMED: Exit = Exit::Pass(PassReason::Malformed);

/// What the frame carries.
#[inline(always)]
pub fn ethertype(frame: Frame) -> Result<EtherType, Exit> {
    const IPV4: u16 = EtherType::Ipv4 as u16;
    const IPV6: u16 = EtherType::Ipv6 as u16;
    match frame.read::<Be16>(ETHERTYPE).ok_or(MALFORMED)?.word() {
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
    let (ports, flags) = match ip.protocol {
        TCP => tcp(frame, ip.l4, l4_length)?,
        UDP => udp(frame, &ip, l4_length)?,
        _ => return Err(Exit::Pass(PassReason::NotTcpOrUdp)),
    };
    Ok(Packet {
        key: FlowKey::new((ip.src, ports.src), (ip.dst, ports.dst), ip.protocol),
        flags,
        ttl: ip.ttl,
        length: ip.length,
        l4: ip.l4,
        fragment: ip.fragment,
    })
}

/// The IPv4 header (RFC 791); options are skipped.
#[inline(always)]
pub fn ipv4(frame: Frame) -> Result<Ip<Addr4>, Exit> {
    let header: Ipv4 = frame.read(ETHERNET).ok_or(MALFORMED)?;
    let header_length = usize::from(header.version_ihl & 0x0f) * 4;
    let length = u32::from(header.length.get());
    if header.version_ihl >> 4 != 4 || header_length < size_of::<Ipv4>() || !fits(frame, length) {
        return Err(MALFORMED);
    }
    let fragment = header.fragment.get() & 0x3fff;
    if fragment & 0x1fff != 0 {
        return Err(Exit::Pass(PassReason::LaterFragment));
    }
    Ok(Ip {
        src: Addr4::from_words(header.rest.src),
        dst: Addr4::from_words(header.rest.dst),
        protocol: header.rest.protocol,
        ttl: header.rest.ttl,
        length,
        l4: ETHERNET + header_length,
        fragment: fragment != 0,
    })
}

/// The IPv6 header (RFC 8200), and the fragment header if there is one.
#[inline(always)]
pub fn ipv6(frame: Frame) -> Result<Ip<Addr6>, Exit> {
    let header: Ipv6 = frame.read(ETHERNET).ok_or(MALFORMED)?;
    let src = frame.read_words(ETHERNET + IPV6_ADDRESSES).ok_or(MALFORMED)?;
    let dst = frame.read_words(ETHERNET + IPV6_ADDRESSES + 16).ok_or(MALFORMED)?;
    let length = size_of::<Ipv6>() as u32 + u32::from(header.length.get());
    let [version_class, _] = header.version_class_flow;
    if version_class.get() >> 12 != 6 || !fits(frame, length) {
        return Err(MALFORMED);
    }
    let mut ip = Ip {
        src: Addr6::from_any(src),
        dst: Addr6::from_any(dst),
        protocol: header.next_header,
        ttl: header.hop_limit,
        length,
        l4: ETHERNET + size_of::<Ipv6>(),
        fragment: false,
    };
    if ip.protocol == IPV6_FRAGMENT {
        let fragment: Ipv6Fragment = frame.read(ip.l4).ok_or(MALFORMED)?;
        if fragment.offset_more.get() & 0xfff8 != 0 {
            return Err(Exit::Pass(PassReason::LaterFragment));
        }
        ip.protocol = fragment.next_header;
        ip.l4 += size_of::<Ipv6Fragment>();
        ip.fragment = true;
    }
    if IPV6_EXTENSIONS.contains(&ip.protocol) {
        return Err(Exit::Pass(PassReason::Ipv6Extension));
    }
    Ok(ip)
}

/// Whether the frame holds as much as the IP header claims. It may hold more: Ethernet pads short frames.
#[inline(always)]
fn fits(frame: Frame, length: u32) -> bool {
    ETHERNET + length as usize <= frame.length()
}

/// Ports and flags of a TCP header (RFC 9293) that is there in full.
#[inline(always)]
fn tcp(frame: Frame, offset: usize, length: u32) -> Result<(Ports, TcpFlags), Exit> {
    const HEADER: u32 = size_of::<Tcp>() as u32;
    let tcp: Tcp = frame.read(offset).ok_or(MALFORMED)?;
    let header_length = u32::from(tcp.data_offset >> 4) * 4;
    if header_length < HEADER || header_length > length {
        return Err(MALFORMED);
    }
    Ok((tcp.ports, TcpFlags(tcp.flags)))
}

/// Ports of a UDP header (RFC 768) whose length agrees with IP's.
#[inline(always)]
fn udp<A>(frame: Frame, ip: &Ip<A>, length: u32) -> Result<(Ports, TcpFlags), Exit> {
    const HEADER: u32 = size_of::<Udp>() as u32;
    let udp: Udp = frame.read(ip.l4).ok_or(MALFORMED)?;
    let claimed = u32::from(udp.length.get());
    if length < HEADER || claimed < HEADER || (claimed > length && !ip.fragment) {
        return Err(MALFORMED);
    }
    Ok((udp.ports, TcpFlags(0)))
}
