//! From a frame to a flow key. Nothing is changed here; what cannot be read is the kernel's business.

use lb_common::{
    abi::FlowKey,
    flow::TcpFlags,
    fragment::Piece,
    net::{self, Addr4, Addr6, Address, Be16, TCP, UDP},
    network_types::eth::EtherType,
    reason::{DropReason, PassReason},
    vlan,
    wire::{self, ETHERNET, Ipv4, Ipv6, Ipv6Fragment, TCP_CHECKSUM, Tcp, UDP_CHECKSUM, Udp},
};

use crate::{
    Exit, Stage,
    family::Family,
    features, kernel,
    maps::Forget,
    packet::{Frame, Window},
};

/// Bytes of Ethernet and IPv4 header.
pub const HEAD_V4: usize = ETHERNET + size_of::<Ipv4>();
/// Bytes of Ethernet and IPv6 header.
pub const HEAD_V6: usize = ETHERNET + size_of::<Ipv6>();

/// Where the number of what follows lies in the Ethernet header.
pub const ETHERTYPE: usize = 12;

/// Where the sender's MAC address lies in it.
const SENDER: usize = 6;

/// What the IP header says.
pub struct Ip<A> {
    pub src: A,
    pub dst: A,
    /// The transport protocol; before [`Family::walk`] perhaps an extension header.
    pub protocol: u8,
    pub ttl: u8,
    /// Bytes of the IP packet, header included.
    pub length: u32,
    /// Offset in the frame of what follows.
    pub l4: usize,
    /// Where it stands in the packet that it is a fragment of.
    pub piece: Piece,
}

/// What the TCP or UDP header says.
struct L4 {
    /// Both ports, as they lie in the packet.
    ports: u32,
    flags: TcpFlags,
    places: L4Places,
}

/// What of a TCP or UDP header is rewritten.
#[derive(Clone, Copy)]
pub struct L4Places {
    pub ports: Window<4>,
    pub checksum: Window<2>,
}

/// What of a packet is rewritten. They are known from parsing it, and good until the frame's start or end moves.
#[derive(Clone, Copy)]
pub struct Places<F: Family> {
    /// Ethernet and IP header.
    pub head: F::Head,
    pub l4: L4Places,
}

/// What the stages need to know of a packet.
#[derive(Clone, Copy)]
pub struct Packet<F: Family> {
    pub key: FlowKey<F::Addr>,
    pub flags: TcpFlags,
    pub ttl: u8,
    pub length: u32,
    /// Offset of the TCP or UDP header in the frame.
    pub l4: usize,
}

/// What was read of a packet, after it lay in memory: the verifier is to see again that the headers are in reach.
#[inline(always)]
pub fn again<F: Family>(packet: &Packet<F>, piece: &Piece) -> (Packet<F>, Piece) {
    let packet = Packet {
        key: packet.key,
        flags: packet.flags,
        ttl: packet.ttl,
        length: packet.length,
        l4: packet.l4 & MAX_HEADERS,
    };
    let piece = Piece {
        header: piece.header & MAX_HEADERS,
        ..*piece
    };
    (packet, piece)
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
        other if vlan::is_tag(other) => Err(tagged()),
        _ => Err(Exit::Pass(PassReason::NotIp)),
    }
}

/// Frames with VLAN tags are another program's, or nobody's.
#[inline(always)]
fn tagged() -> Exit {
    if features::vlans() {
        Exit::Divert(Stage::Tagged)
    } else {
        Exit::Pass(PassReason::VlanTagged)
    }
}

/// The first twelve bytes of a frame back to where this one came from: the same bytes, read in another order.
#[inline(always)]
pub fn way_back(ethernet: Window<ETHERNET>) -> [u32; 3] {
    let [start] = ethernet.words::<1, SENDER>();
    let middle = net::join(ethernet.read::<u16, { SENDER + 4 }>(), ethernet.read::<u16, 0>());
    let [end] = ethernet.words::<1, 2>();
    [start, middle, end]
}

/// Whether these are those. Piece by piece: of arrays LLVM makes twice the instructions.
#[inline(always)]
pub fn leads_back(ethernet: Window<ETHERNET>, [start, middle, end]: [u32; 3]) -> bool {
    let [sender_end, own_start] = net::split(middle);
    ethernet.words::<1, SENDER>() == [start]
        && ethernet.read::<u16, { SENDER + 4 }>() == sender_end
        && ethernet.read::<u16, 0>() == own_start
        && ethernet.words::<1, 2>() == [end]
}

/// Addresses, ports, flags of a plain packet: TCP or UDP right behind an IP header without options. [`Stage::Odd`] sees to others.
#[inline(always)]
pub fn packet<F: Family>(frame: Frame) -> Result<(Packet<F>, Places<F>), Exit> {
    let head = F::head(frame).ok_or(MALFORMED)?;
    let mut ip = F::parse(frame, head)?;
    if ip.piece.is_fragment() || F::odd(ip.protocol) {
        return Err(Exit::Divert(Stage::Odd));
    }
    if ip.l4 != F::HEAD {
        let options = payload(&ip).map(|_| Exit::Divert(Stage::Odd));
        return Err(options.unwrap_or(MALFORMED));
    }
    // As it is anyway: so that the compiler knows.
    ip.l4 = F::HEAD;
    let (packet, l4) = transport_and_places::<F>(frame, &ip)?;
    Ok((packet, Places { head, l4 }))
}

/// The headers before the transport header.
#[inline(always)]
pub fn headers<F: Family>(frame: Frame) -> Result<Ip<F::Addr>, Exit> {
    let head = F::head(frame).ok_or(MALFORMED)?;
    F::walk(frame, F::parse(frame, head)?)
}

/// The same of any packet that can be read.
#[inline(always)]
pub fn any_packet<F: Family>(frame: Frame) -> Result<(Packet<F>, Piece), Exit> {
    let ip = headers::<F>(frame)?;
    Ok((transport::<F>(kernel::anew(frame), &ip)?, ip.piece))
}

/// Ports and flags.
#[inline(always)]
pub fn transport<F: Family>(frame: Frame, ip: &Ip<F::Addr>) -> Result<Packet<F>, Exit> {
    transport_and_places::<F>(frame, ip).map(|(packet, _)| packet)
}

#[inline(always)]
fn transport_and_places<F: Family>(frame: Frame, ip: &Ip<F::Addr>) -> Result<(Packet<F>, L4Places), Exit> {
    let l4_length = payload(ip).ok_or(MALFORMED)?;
    let l4 = match ip.protocol {
        TCP => tcp(frame, ip.l4, l4_length)?,
        UDP => udp(frame, ip, l4_length)?,
        _ => return Err(Exit::Pass(PassReason::NotTcpOrUdp)),
    };
    let (src_port, dst_port) = split(l4.ports);
    let packet = Packet {
        key: FlowKey::new((ip.src, src_port), (ip.dst, dst_port), ip.protocol),
        flags: l4.flags,
        ttl: ip.ttl,
        length: ip.length,
        l4: ip.l4,
    };
    Ok((packet, l4.places))
}

/// Bytes behind the IP headers.
#[inline(always)]
pub fn payload<A>(ip: &Ip<A>) -> Option<u32> {
    (ETHERNET as u32 + ip.length).checked_sub(ip.l4 as u32)
}

/// Source and destination port, as the first word of a TCP or UDP header holds them.
#[inline(always)]
pub const fn split(ports: u32) -> (Be16, Be16) {
    let [s0, s1, d0, d1] = ports.to_ne_bytes();
    (Be16::from_wire([s0, s1]), Be16::from_wire([d0, d1]))
}

/// The IPv4 header (RFC 791); options are skipped.
#[inline(always)]
pub fn ipv4(frame: Frame, head: Window<HEAD_V4>) -> Result<Ip<Addr4>, Exit> {
    let [first, second, third] = head.words::<3, ETHERNET>();
    // Both addresses in one load.
    let [src, dst] = net::split_words(head.long::<{ ETHERNET + 12 }>());
    let ip = ipv4_header([first, second, third, src, dst], ETHERNET).ok_or(MALFORMED)?;
    if fits(frame, ip.length) { Ok(ip) } else { Err(MALFORMED) }
}

/// From the words of an IPv4 header at an offset in the frame.
#[inline(always)]
pub fn ipv4_header([first, second, third, src, dst]: [u32; 5], at: usize) -> Option<Ip<Addr4>> {
    let ([version_ihl, _tos, l0, l1], [i0, i1, f0, f1]) = (first.to_ne_bytes(), second.to_ne_bytes());
    let [ttl, protocol, ..] = third.to_ne_bytes();
    let header_length = usize::from(version_ihl & 0x0f) * 4;
    if version_ihl >> 4 != 4 || header_length < size_of::<Ipv4>() {
        return None;
    }
    Some(Ip {
        src: Addr4::from_word(src),
        dst: Addr4::from_word(dst),
        protocol,
        ttl,
        length: u32::from(u16::from_be_bytes([l0, l1])),
        l4: at + header_length,
        piece: Piece::ipv4(u16::from_be_bytes([i0, i1]), u16::from_be_bytes([f0, f1])),
    })
}

/// The IPv6 header (RFC 8200).
#[inline(always)]
pub fn ipv6(frame: Frame, head: Window<HEAD_V6>) -> Result<Ip<Addr6>, Exit> {
    let start = head.words::<2, ETHERNET>();
    // Each address in two loads.
    let [a, b] = net::split_words(head.long::<IPV6_SOURCE>());
    let [c, d] = net::split_words(head.long::<{ IPV6_SOURCE + 8 }>());
    let [e, f] = net::split_words(head.long::<IPV6_DESTINATION>());
    let [g, h] = net::split_words(head.long::<{ IPV6_DESTINATION + 8 }>());
    let addresses = ([a, b, c, d], [e, f, g, h]);
    let ip = ipv6_header(start, addresses, ETHERNET).ok_or(MALFORMED)?;
    if fits(frame, ip.length) { Ok(ip) } else { Err(MALFORMED) }
}

/// From the words of an IPv6 header at an offset in the frame.
#[inline(always)]
pub fn ipv6_header([first, second]: [u32; 2], (src, dst): ([u32; 4], [u32; 4]), at: usize) -> Option<Ip<Addr6>> {
    let ([version_class, ..], [l0, l1, next_header, hop_limit]) = (first.to_ne_bytes(), second.to_ne_bytes());
    if version_class >> 4 != 6 {
        return None;
    }
    Some(Ip {
        src: Addr6::from_any(src),
        dst: Addr6::from_any(dst),
        protocol: next_header,
        ttl: hop_limit,
        length: size_of::<Ipv6>() as u32 + u32::from(u16::from_be_bytes([l0, l1])),
        l4: at + size_of::<Ipv6>(),
        piece: Piece::WHOLE,
    })
}

/// Where the source address lies behind the start of the frame.
pub const IPV6_SOURCE: usize = ETHERNET + 8;
/// Where the destination address lies behind the start of the frame.
pub const IPV6_DESTINATION: usize = ETHERNET + 24;

const IPV6_HOP_BY_HOP: u8 = 0;
const IPV6_ROUTING: u8 = 43;
const IPV6_FRAGMENT: u8 = 44;
const IPV6_AUTHENTICATION: u8 = 51;
const IPV6_DESTINATION_OPTIONS: u8 = 60;
const IPV6_MOBILITY: u8 = 135;
const IPV6_HIP: u8 = 139;
const IPV6_SHIM6: u8 = 140;

/// Whether another header follows one of this number (RFC 8200, IANA).
#[inline(always)]
pub const fn is_ipv6_extension(number: u8) -> bool {
    matches!(
        number,
        IPV6_HOP_BY_HOP
            | IPV6_ROUTING
            | IPV6_FRAGMENT
            | IPV6_AUTHENTICATION
            | IPV6_DESTINATION_OPTIONS
            | IPV6_MOBILITY
            | IPV6_HIP
            | IPV6_SHIM6
    )
}

/// Extension headers that are looked through, at most.
const MAX_EXTENSIONS: u32 = 8;
/// Bytes of headers that are looked through, at most; more than the first segment of any sound packet holds.
const MAX_HEADERS: usize = 0x7ff;

/// Goes along the extension headers to the transport header, or to the fragment header of a later fragment. Options that
/// are to be carried are not looked into.
#[inline(always)]
pub fn ipv6_extensions(frame: Frame, mut ip: Ip<Addr6>) -> Result<Ip<Addr6>, Exit> {
    const REFUSED: Exit = Exit::Pass(PassReason::Ipv6Extension);
    let forget = Forget::new().ok_or(Exit::Drop(DropReason::Internal))?;
    for _ in 0..=MAX_EXTENSIONS {
        let frame = kernel::anew(frame);
        ip.protocol = forget.number(ip.protocol.into()) as u8;
        if ip.l4 > MAX_HEADERS {
            return Err(REFUSED);
        }
        // Bounded in a way that the compiler cannot find superfluous, nor the verifier overlook.
        ip.l4 = forget.number(ip.l4 as u64) as usize & MAX_HEADERS;
        if ip.piece.is_later() || !is_ipv6_extension(ip.protocol) {
            ip.piece.header = forget.number(ip.piece.header as u64) as usize & MAX_HEADERS;
            return Ok(ip);
        }
        let header: Window<{ size_of::<Ipv6Fragment>() }> = frame.window(ip.l4).ok_or(MALFORMED)?;
        let [next_header, length] = header.read::<u16, 0>().to_ne_bytes();
        let [_, segments_left] = header.read::<u16, 2>().to_ne_bytes();
        let length = match ip.protocol {
            IPV6_FRAGMENT => {
                let header: Ipv6Fragment = header.read::<_, 0>();
                let id = forget.number(wire::number(header.id).into()) as u32;
                let offset_more = forget.number(header.offset_more.get().into()) as u16;
                ip.piece = Piece::ipv6(id, offset_more, ip.l4);
                size_of::<Ipv6Fragment>()
            }
            IPV6_ROUTING if segments_left != 0 => return Err(REFUSED),
            IPV6_HOP_BY_HOP | IPV6_ROUTING | IPV6_DESTINATION_OPTIONS => (usize::from(length) + 1) * 8,
            // These bind the addresses that would be rewritten, or speak for hosts that change them.
            _ => return Err(REFUSED),
        };
        ip.protocol = next_header;
        ip.l4 += length;
    }
    Err(REFUSED)
}

/// Whether the frame holds as much as the IP header claims. It may hold more: Ethernet pads short frames.
#[inline(always)]
pub fn fits(frame: Frame, length: u32) -> bool {
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
        places: L4Places {
            ports: header.part::<4, 0>(),
            checksum: header.part::<2, TCP_CHECKSUM>(),
        },
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
    if length < HEADER as u32 || claimed < HEADER as u32 || (claimed > length && !ip.piece.is_fragment()) {
        return Err(MALFORMED);
    }
    Ok(L4 {
        ports,
        flags: TcpFlags(0),
        places: L4Places {
            ports: header.part::<4, 0>(),
            checksum: header.part::<2, UDP_CHECKSUM>(),
        },
    })
}
