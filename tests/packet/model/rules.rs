//! What the packet path does with a packet, plainly.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    abi::Mode,
    reason::{DropReason, PassReason},
};

use super::wire::{ETHERNET, TCP, UDP, address, endpoint, long_number, number, octets, put, updated};
use crate::{
    frames::{ACK, FIN, L4, Packet, RST, SYN, Tcp},
    icmp::Icmp,
    lab::{BACK_MAC, BACKEND_IF, CLIENT_IF, FIRST_PORT, Lab, Server, Service, Verdict},
    vlan::{Tag, tagged},
};

/// How a packet left.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Left {
    Passed(PassReason),
    Dropped(DropReason),
    /// Answered with RST, by the interface that it came in on.
    Refused(DropReason),
    /// Answered with ICMP, which says what would fit, by the interface that it came in on.
    Told(DropReason, usize),
    /// By the interface that it came in on.
    Back,
    /// By another.
    Across,
}

/// How a packet left, and as what.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) left: Left,
    pub(super) frame: Vec<u8>,
}

impl Expected {
    pub(super) fn verdict(&self) -> Verdict {
        match self.left {
            Left::Passed(_) => Verdict::Pass,
            Left::Dropped(_) => Verdict::Drop,
            Left::Refused(_) | Left::Told(..) | Left::Back => Verdict::Tx,
            Left::Across => Verdict::Redirect,
        }
    }

    /// The reason that is counted.
    pub(super) fn counter(&self) -> Option<usize> {
        match self.left {
            Left::Passed(reason) => Some(reason.counter() as usize),
            Left::Dropped(reason) | Left::Refused(reason) | Left::Told(reason, _) => Some(reason.counter() as usize),
            Left::Back | Left::Across => None,
        }
    }
}

/// A packet's addresses, ports and protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    protocol: u8,
}

impl Key {
    pub(super) fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    SynSeen,
    /// What the client acknowledges next.
    SynAnswered(u32),
    Established,
    ClientFin,
    BackendFin,
    Closing,
    Udp,
}

/// A flow, whichever way its packets go.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    /// The client's packets, as they come in.
    pub(super) request: Key,
    /// The server's packets, as they come in. Unknown while no packet showed the source port that was chosen.
    pub(super) reply: Option<Key>,
    pub(super) service: usize,
    server: usize,
    phase: Phase,
    /// Where the client's last packet came from: the MAC addresses of a frame to it, the interface, the VLANs.
    client: ([u8; 12], u32, Vec<Tag>),
}

/// What is read of a packet.
struct Parsed {
    key: Key,
    flags: u8,
    /// TCP's sequence and acknowledgement number.
    numbers: (u32, u32),
    ttl: u8,
    /// Of the IP packet.
    length: usize,
    piece: Piece,
    l4: usize,
}

/// Where a payload stands in the packet that it is a fragment of.
#[derive(Debug, Clone, Copy, Default)]
struct Piece {
    id: u32,
    offset: usize,
    more: bool,
    /// Where IPv6's fragment header is.
    header: usize,
}

impl Piece {
    fn is_fragment(self) -> bool {
        self.offset > 0 || self.more
    }

    fn is_sound(self, length: usize) -> bool {
        length > 0 && (!self.more || length.is_multiple_of(8)) && self.offset + length <= 0xffff
    }
}

/// What the headers before TCP or UDP say.
struct Headers {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    ttl: u8,
    /// Of the IP packet.
    length: usize,
    l4: usize,
    piece: Piece,
}

/// What fragments have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FragmentKey {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    protocol: u8,
}

/// What the first fragment told.
#[derive(Debug, Clone, Copy)]
struct Datagram {
    ports: (u16, u16),
    /// What came without a gap.
    next: usize,
    /// The identification that was chosen.
    id: u32,
}

/// A frame as it came in.
#[derive(Clone, Copy)]
struct Arrival<'a> {
    interface: u32,
    tags: &'a [Tag],
}

/// The packet path, as it should be.
pub(super) struct Model<'a> {
    services: &'a [Service],
    tickets: Vec<u64>,
    /// Interfaces towards clients and towards servers.
    interfaces: (u32, u32),
    pub(super) flows: Vec<Flow>,
    by_key: HashMap<Key, usize>,
    datagrams: HashMap<FragmentKey, Datagram>,
}

impl<'a> Model<'a> {
    pub(super) fn new(lab: &Lab, services: &'a [Service], tickets: &[u64]) -> Self {
        Self {
            services,
            tickets: tickets.to_vec(),
            interfaces: (lab.ifindex(CLIENT_IF), lab.ifindex(BACKEND_IF)),
            flows: Vec::new(),
            by_key: HashMap::new(),
            datagrams: HashMap::new(),
        }
    }

    /// What becomes of a frame. `out` is what the packet path made of it, of which the model takes only the source
    /// port that was chosen, after a check that it might be chosen.
    pub(super) fn packet(&mut self, interface: u32, frame: &[u8], out: &[u8]) -> Expected {
        let (plain, tags) = match untagged(frame) {
            Ok(read) => read,
            Err(left) => {
                let frame = frame.to_vec();
                return Expected { left, frame };
            }
        };
        let arrival = Arrival { interface, tags: &tags };
        let mut sent = plain.clone();
        let left = match self.way(arrival, &mut sent, out) {
            Ok(left) => left,
            Err(left) => left,
        };
        match left {
            Left::Refused(_) => sent = tagged(&reset(&plain), &tags),
            Left::Told(_, mtu) => sent = tagged(&told(&plain, mtu), &tags),
            Left::Passed(_) => sent = frame.to_vec(),
            _ => {}
        }
        Expected { left, frame: sent }
    }

    fn way(&mut self, arrival: Arrival<'_>, frame: &mut Vec<u8>, out: &[u8]) -> Result<Left, Left> {
        let headers = headers(frame)?;
        if headers.piece.offset > 0 {
            return self.later_fragment(&headers, arrival, frame);
        }
        let packet = self.parse(frame, &headers)?;
        let known = self.by_key.get(&packet.key);
        if known.is_some_and(|flow| self.crosses(*flow)) && packet.piece.is_fragment() {
            return Err(Left::Dropped(DropReason::FragmentMixed));
        }
        let flow = match self.find(&packet, arrival, frame)? {
            Some(flow) => flow,
            None => self.open(&packet, arrival, frame)?,
        };
        if self.flows[flow].reply.is_none() {
            self.learn(flow, out);
        }
        if self.crosses(flow) {
            *frame = self.translated(flow, &packet, frame)?;
            return self.leaves(flow, &packet.key, arrival, frame);
        }
        Self::fits(packet.ttl, packet.length, MTU)?;
        if !packet.piece.is_fragment() {
            translate(frame, &packet, self.new_addresses(flow, &packet.key))?;
            return self.leaves(flow, &packet.key, arrival, frame);
        }
        let sent = untagged(out).and_then(|(out, _)| self::headers(&out));
        let datagram = Datagram {
            ports: (packet.key.from.port(), packet.key.to.port()),
            next: ETHERNET + packet.length - packet.l4,
            id: sent.map_or(0, |sent| sent.piece.id),
        };
        self.datagrams.insert(fragment_key(&headers), datagram);
        translate(frame, &packet, self.new_addresses(flow, &packet.key))?;
        identify(frame, packet.piece.header, datagram.id);
        self.leaves(flow, &packet.key, arrival, frame)
    }

    /// A packet's ports. What is cut short is the kernel's, unless it is a trick on a service.
    fn parse(&self, frame: &[u8], headers: &Headers) -> Result<Parsed, Left> {
        let length = (ETHERNET + headers.length).checked_sub(headers.l4);
        let fragment = headers.piece.is_fragment() && [TCP, UDP].contains(&headers.protocol);
        if fragment && !headers.piece.is_sound(length.unwrap_or(0)) {
            return Err(Left::Passed(PassReason::Malformed));
        }
        let parsed = parse(frame, headers);
        if parsed.is_err() && fragment && headers.protocol == TCP && length >= Some(4) {
            let port = number(frame, headers.l4 + 2);
            let vip = SocketAddr::new(headers.dst, port);
            if self
                .services
                .iter()
                .any(|s| s.vip == vip && matches!(s.request(1).l4, L4::Tcp(_)))
            {
                return Err(Left::Dropped(DropReason::FragmentTiny));
            }
        }
        parsed
    }

    /// A fragment without ports.
    fn later_fragment(&mut self, headers: &Headers, arrival: Arrival<'_>, frame: &mut Vec<u8>) -> Result<Left, Left> {
        let ours = self.services.iter().any(|service| service.vip.ip() == headers.dst);
        let unknown = Left::Passed(if ours {
            PassReason::FragmentBeforeFirst
        } else {
            PassReason::LaterFragment
        });
        let Some(datagram) = self.datagrams.get(&fragment_key(headers)).copied() else {
            return Err(unknown);
        };
        let length = (ETHERNET + headers.length).saturating_sub(headers.l4);
        if !headers.piece.is_sound(length) {
            return Err(Left::Passed(PassReason::Malformed));
        }
        let key = Key {
            from: SocketAddr::new(headers.src, datagram.ports.0),
            to: SocketAddr::new(headers.dst, datagram.ports.1),
            protocol: headers.protocol,
        };
        let Some(flow) = self.by_key.get(&key).copied() else {
            return Err(unknown);
        };
        if let Err(left) = Self::fits(headers.ttl, headers.length, MTU) {
            // No ICMP about fragments other than the first; IPv6 knows no such rule.
            let silent = headers.src.is_ipv4() && matches!(left, Left::Told(..));
            return Err(if silent {
                Left::Dropped(DropReason::ExceedsMtu)
            } else {
                left
            });
        }
        if headers.piece.offset < datagram.next {
            return Err(Left::Dropped(DropReason::FragmentOverlap));
        }
        if headers.piece.offset == datagram.next
            && let Some(datagram) = self.datagrams.get_mut(&fragment_key(headers))
        {
            datagram.next += length;
        }
        let (from, to) = self.new_addresses(flow, &key);
        readdress(frame, from.ip(), to.ip());
        identify(frame, headers.piece.header, datagram.id);
        self.leaves(flow, &key, arrival, frame)
    }

    /// The flow of a packet, after that packet.
    fn find(&mut self, packet: &Parsed, arrival: Arrival<'_>, frame: &[u8]) -> Result<Option<usize>, Left> {
        let Some(index) = self.by_key.get(&packet.key).copied() else {
            return Ok(None);
        };
        let flow = &mut self.flows[index];
        let from_client = packet.key == flow.request;
        if from_client && flow.phase == Phase::Closing && opens(packet.flags) {
            let (request, reply) = (flow.request, flow.reply);
            self.by_key.remove(&request);
            reply.map(|key| self.by_key.remove(&key));
            return Ok(None);
        }
        flow.phase = after(flow.phase, from_client, packet);
        if from_client {
            flow.client = (back(frame), arrival.interface, without_priority(arrival.tags));
        }
        Ok(Some(index))
    }

    /// A new flow, if the packet may open one.
    fn open(&mut self, packet: &Parsed, arrival: Arrival<'_>, frame: &[u8]) -> Result<usize, Left> {
        let is_tcp = packet.key.protocol == TCP;
        let for_service = |s: &Service| s.vip == packet.key.to && matches!(s.request(1).l4, L4::Tcp(_)) == is_tcp;
        let Some(service) = self.services.iter().position(for_service) else {
            return Err(Left::Passed(PassReason::NotAService));
        };
        if is_tcp && !opens(packet.flags) {
            return Err(if nonsense(packet.flags) {
                Left::Dropped(DropReason::BadTcpFlags)
            } else {
                refuse(DropReason::NoFlow, packet)
            });
        }
        let servers = &self.services[service].servers;
        let server = (self.tickets[service] % servers.len() as u64) as usize;
        self.tickets[service] += 1;
        // No flow is made for what cannot be forwarded.
        let crosses = servers[server].address.is_ipv4() != packet.key.to.is_ipv4();
        if crosses && packet.piece.is_fragment() {
            return Err(Left::Dropped(DropReason::FragmentMixed));
        }
        Self::fits(packet.ttl, packet.length, if crosses { across(packet) } else { MTU })?;
        translatable(frame, packet, crosses)?;
        let reply = (self.services[service].case.mode == Mode::NAT).then_some(Key {
            from: servers[server].address,
            to: packet.key.from,
            protocol: packet.key.protocol,
        });
        let flow = Flow {
            request: packet.key,
            reply,
            service,
            server,
            phase: if is_tcp { Phase::SynSeen } else { Phase::Udp },
            client: (back(frame), arrival.interface, without_priority(arrival.tags)),
        };
        self.flows.push(flow);
        let index = self.flows.len() - 1;
        self.by_key.insert(packet.key, index);
        reply.map(|key| self.by_key.insert(key, index));
        Ok(index)
    }

    /// Takes over the source that the packet path chose, if it sent something and might choose that.
    fn learn(&mut self, index: usize, out: &[u8]) {
        let Ok((out, _)) = untagged(out) else { return };
        let Ok(sent) = headers(&out).and_then(|headers| parse(&out, &headers)) else {
            return;
        };
        let flow = &self.flows[index];
        let (service, source) = (&self.services[flow.service], sent.key.from);
        let towards = service.servers[flow.server].address;
        let ours = (0..2).any(|place| service.case.like(towards).source(place) == source.ip());
        let reply = Key {
            from: service.servers[flow.server].address,
            to: source,
            protocol: flow.request.protocol,
        };
        let range = FIRST_PORT..FIRST_PORT + 30_000;
        if ours && range.contains(&source.port()) && !self.by_key.contains_key(&reply) {
            self.flows[index].reply = Some(reply);
            self.by_key.insert(reply, index);
        }
    }

    /// Rewrites the packet as its flow says.
    /// Whether a flow's server is of the other family.
    fn crosses(&self, flow: usize) -> bool {
        let flow = &self.flows[flow];
        let server = self.services[flow.service].servers[flow.server];
        server.address.is_ipv4() != flow.request.to.is_ipv4()
    }

    /// The packet with the other family's header.
    fn translated(&self, flow: usize, packet: &Parsed, frame: &[u8]) -> Result<Vec<u8>, Left> {
        Self::fits(packet.ttl, packet.length, across(packet))?;
        other_family(frame, packet, self.new_addresses(flow, &packet.key))
    }

    /// Whether a packet may go on.
    fn fits(ttl: u8, length: usize, mtu: usize) -> Result<(), Left> {
        if ttl <= 1 {
            return Err(Left::Passed(PassReason::TtlExpired));
        }
        if length > mtu {
            return Err(Left::Told(DropReason::ExceedsMtu, mtu));
        }
        Ok(())
    }

    fn new_addresses(&self, flow: usize, key: &Key) -> (SocketAddr, SocketAddr) {
        let flow = &self.flows[flow];
        if *key == flow.request {
            // A packet that is sent shows the source; if it shows a wrong one, what is expected here is wrong as well.
            let reply = flow.reply.unwrap_or(*key);
            (reply.to, reply.from)
        } else {
            (flow.request.to, flow.request.from)
        }
    }

    /// MAC addresses, the interface, and the VLANs.
    fn way_on(&self, flow: usize, key: &Key) -> ([u8; 12], u32, Vec<Tag>) {
        let flow = &self.flows[flow];
        let service = &self.services[flow.service];
        if *key != flow.request {
            return flow.client.clone();
        }
        let arm = if service.case.one_arm {
            self.interfaces.0
        } else {
            self.interfaces.1
        };
        let server = service.servers[flow.server];
        let mut macs = [0; 12];
        put(&mut macs, 0, &server.mac);
        put(&mut macs, 6, &BACK_MAC);
        (macs, arm, server_vlans(server))
    }

    fn leaves(&self, flow: usize, key: &Key, arrival: Arrival<'_>, frame: &mut Vec<u8>) -> Result<Left, Left> {
        let (macs, interface, vlans) = self.way_on(flow, key);
        put(frame, 0, &macs);
        *frame = tagged(frame, &with_priority(&vlans, arrival.tags));
        Ok(if interface == arrival.interface {
            Left::Back
        } else {
            Left::Across
        })
    }
}

/// Of every interface.
const MTU: usize = 1500;

fn fragment_key(headers: &Headers) -> FragmentKey {
    FragmentKey {
        src: headers.src,
        dst: headers.dst,
        id: headers.piece.id,
        protocol: headers.protocol,
    }
}

/// The largest packet that fits with the other family's header.
fn across(packet: &Parsed) -> usize {
    let header = if packet.key.to.is_ipv4() { 40 } else { 20 };
    MTU + packet.l4 - ETHERNET - header
}

/// The VLANs of a server: every third has one, every third but one two.
pub(super) fn server_vlans(server: Server) -> Vec<Tag> {
    match server.index % 3 {
        0 => Vec::new(),
        1 => vec![(0x8100, 7)],
        _ => vec![(0x88a8, 4000), (0x8100, 1)],
    }
}

/// The frame without its tags, or why it is the kernel's with them.
fn untagged(frame: &[u8]) -> Result<(Vec<u8>, Vec<Tag>), Left> {
    let (mut at, mut tags) = (12, Vec::new());
    while frame.len() >= at + 2 && [0x8100, 0x88a8].contains(&number(frame, at)) {
        if tags.len() == 2 {
            return Err(Left::Passed(PassReason::VlanTagged));
        }
        if frame.len() < at + 6 {
            return Err(Left::Passed(PassReason::Malformed));
        }
        tags.push((number(frame, at), number(frame, at + 2)));
        at += 4;
    }
    if !tags.is_empty() && ![0x0800, 0x86dd].contains(&number(frame, at)) {
        return Err(Left::Passed(PassReason::NotIp));
    }
    if !tags.is_empty() && frame.len() < at + 2 {
        return Err(Left::Passed(PassReason::Malformed));
    }
    Ok(([&frame[..12], &frame[at..]].concat(), tags))
}

fn without_priority(tags: &[Tag]) -> Vec<Tag> {
    tags.iter().map(|(tpid, tci)| (*tpid, tci & 0x0fff)).collect()
}

/// A frame keeps the priority that it came with, its outer tag's.
fn with_priority(tags: &[Tag], came_with: &[Tag]) -> Vec<Tag> {
    let priority = came_with.first().map_or(0, |(_, tci)| tci & 0xf000);
    tags.iter().map(|(tpid, tci)| (*tpid, tci | priority)).collect()
}

const MALFORMED: Left = Left::Passed(PassReason::Malformed);

/// Reads the headers before TCP or UDP, or says why the packet is the kernel's.
fn headers(frame: &[u8]) -> Result<Headers, Left> {
    let v4 = match number(frame, 12) {
        0x0800 => true,
        0x86dd => false,
        _ => return Err(Left::Passed(PassReason::NotIp)),
    };
    let headers = ip_headers(frame, ETHERNET, v4)?;
    if ETHERNET + headers.length > frame.len() {
        return Err(MALFORMED);
    }
    let headers = past_extensions(frame, headers)?;
    let icmp_error = v4 && headers.protocol == 1 && !headers.piece.is_fragment();
    if icmp_error {
        return Err(icmp(frame, &headers));
    }
    let odd = headers.piece.is_fragment() || !v4 && headers.l4 > ETHERNET + 40;
    if odd && headers.piece.offset == 0 && ![TCP, UDP].contains(&headers.protocol) {
        return Err(Left::Passed(PassReason::NotTcpOrUdp));
    }
    Ok(headers)
}

/// An IP header at an offset.
fn ip_headers(frame: &[u8], ip: usize, v4: bool) -> Result<Headers, Left> {
    if frame.len() < ip + if v4 { 20 } else { 40 } || frame[ip] >> 4 != if v4 { 4 } else { 6 } {
        return Err(MALFORMED);
    }
    if v4 {
        let (words, flags_offset) = (usize::from(frame[ip] & 15), number(frame, ip + 6));
        if words < 5 {
            return Err(MALFORMED);
        }
        return Ok(Headers {
            src: address(frame, ip + 12, true),
            dst: address(frame, ip + 16, true),
            protocol: frame[ip + 9],
            ttl: frame[ip + 8],
            length: usize::from(number(frame, ip + 2)),
            l4: ip + words * 4,
            piece: Piece {
                id: number(frame, ip + 4).into(),
                offset: usize::from(flags_offset & 0x1fff) * 8,
                more: flags_offset & 0x2000 != 0,
                header: 0,
            },
        });
    }
    Ok(Headers {
        src: address(frame, ip + 8, false),
        dst: address(frame, ip + 24, false),
        protocol: frame[ip + 6],
        ttl: frame[ip + 7],
        length: 40 + usize::from(number(frame, ip + 4)),
        l4: ip + 40,
        piece: Piece::default(),
    })
}

/// Along the extension headers of IPv6, eight at most and not too far.
fn past_extensions(frame: &[u8], mut headers: Headers) -> Result<Headers, Left> {
    const REFUSED: Left = Left::Passed(PassReason::Ipv6Extension);
    if headers.src.is_ipv4() {
        return Ok(headers);
    }
    let mut count = 0;
    while headers.piece.offset == 0 && [0, 43, 44, 51, 60, 135, 139, 140].contains(&headers.protocol) {
        let at = headers.l4;
        count += 1;
        if at > 2047 || count > 8 {
            return Err(REFUSED);
        }
        if frame.len() < at + 8 {
            return Err(MALFORMED);
        }
        headers.l4 += match headers.protocol {
            44 => {
                headers.piece = Piece {
                    id: long_number(frame, at + 4),
                    offset: usize::from(number(frame, at + 2) & 0xfff8),
                    more: frame[at + 3] & 1 != 0,
                    header: at,
                };
                8
            }
            43 if frame[at + 3] != 0 => return Err(REFUSED),
            0 | 43 | 60 => (usize::from(frame[at + 1]) + 1) * 8,
            _ => return Err(REFUSED),
        };
        headers.protocol = frame[at];
    }
    if headers.l4 > 2047 { Err(REFUSED) } else { Ok(headers) }
}

/// An ICMP message of IPv4. The dice throw none that quotes a packet of a flow.
fn icmp(frame: &[u8], headers: &Headers) -> Left {
    let l4 = headers.l4;
    if frame.len() < l4 + 8 {
        return MALFORMED;
    }
    if ![3, 11, 12].contains(&frame[l4]) {
        return Left::Passed(PassReason::NotTcpOrUdp);
    }
    match ip_headers(frame, l4 + 8, true) {
        Ok(quote) if quote.l4 + 8 <= frame.len().min(ETHERNET + headers.length) => Left::Passed(PassReason::IcmpNoFlow),
        _ => MALFORMED,
    }
}

/// Reads ports and flags, or says why the packet is the kernel's.
fn parse(frame: &[u8], headers: &Headers) -> Result<Parsed, Left> {
    let Headers {
        src,
        dst,
        protocol,
        ttl,
        length,
        l4,
        piece,
    } = *headers;
    let l4_length = (ETHERNET + length).checked_sub(l4).ok_or(MALFORMED)?;
    let flags = match protocol {
        TCP => {
            if frame.len() < l4 + 20 {
                return Err(MALFORMED);
            }
            let header = usize::from(frame[l4 + 12] >> 4) * 4;
            if header < 20 || header > l4_length {
                return Err(MALFORMED);
            }
            frame[l4 + 13]
        }
        UDP => {
            if frame.len() < l4 + 8 {
                return Err(MALFORMED);
            }
            let claimed = usize::from(number(frame, l4 + 4));
            if l4_length < 8 || claimed < 8 || (claimed > l4_length && !piece.is_fragment()) {
                return Err(MALFORMED);
            }
            0
        }
        _ => return Err(Left::Passed(PassReason::NotTcpOrUdp)),
    };
    let at = |ip, port| SocketAddr::new(ip, number(frame, port));
    Ok(Parsed {
        key: Key {
            from: at(src, l4),
            to: at(dst, l4 + 2),
            protocol,
        },
        flags,
        numbers: if protocol == TCP {
            (long_number(frame, l4 + 4), long_number(frame, l4 + 8))
        } else {
            (0, 0)
        },
        ttl,
        length,
        piece,
        l4,
    })
}

/// Whether a packet has the checksum that has to change with its addresses. Without one, none gets from one family to the other.
fn translatable(frame: &[u8], packet: &Parsed, crosses: bool) -> Result<(), Left> {
    let required = crosses || packet.key.to.is_ipv6();
    if packet.key.protocol == UDP && required && number(frame, packet.l4 + 6) == 0 {
        return Err(Left::Dropped(DropReason::UdpChecksumMissing));
    }
    Ok(())
}

/// New addresses and ports, one hop less to live, checksums to match.
fn translate(frame: &mut [u8], packet: &Parsed, (from, to): (SocketAddr, SocketAddr)) -> Result<(), Left> {
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
fn readdress(frame: &mut [u8], from: IpAddr, to: IpAddr) {
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
fn identify(frame: &mut [u8], header: usize, id: u32) {
    if header > 0 {
        put(frame, header + 4, &id.to_be_bytes());
        return;
    }
    let (old, new) = (frame[ETHERNET + 4..ETHERNET + 6].to_vec(), id.to_be_bytes());
    let sum = updated(number(frame, ETHERNET + 10), &old, &new[2..]);
    put(frame, ETHERNET + 4, &new[2..]);
    put(frame, ETHERNET + 10, &sum.to_be_bytes());
}

/// What the sender of a packet that does not fit is told.
fn told(frame: &[u8], mtu: usize) -> Vec<u8> {
    let headers = headers(frame).expect("what does not fit was read");
    let mac = |at: usize| <[u8; 6]>::try_from(&frame[at..at + 6]).unwrap();
    let v4 = headers.src.is_ipv4();
    Icmp {
        src_mac: mac(0),
        dst_mac: mac(6),
        from: headers.dst,
        to: headers.src,
        ttl: 64,
        tos: if v4 { 0xc0 } else { 0 },
        kind: if v4 { 3 } else { 2 },
        code: if v4 { 4 } else { 0 },
        word: u32::try_from(mtu).unwrap().to_be_bytes(),
        body: frame[ETHERNET..ETHERNET + if v4 { 544 } else { 1232 }].to_vec(),
        outer: None,
    }
    .bytes()
}

/// The packet with the other family's header.
fn other_family(frame: &[u8], packet: &Parsed, (from, to): (SocketAddr, SocketAddr)) -> Result<Vec<u8>, Left> {
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

/// A refusal as the protocol allows: TCP is answered, unless with RST to RST.
fn refuse(reason: DropReason, packet: &Parsed) -> Left {
    if packet.key.protocol == TCP && packet.flags & RST == 0 && !packet.piece.is_fragment() {
        Left::Refused(reason)
    } else {
        Left::Dropped(reason)
    }
}

/// The RST that answers a segment.
fn reset(frame: &[u8]) -> Vec<u8> {
    let packet = headers(frame).and_then(|headers| parse(frame, &headers));
    let packet = packet.expect("what is refused was read");
    let header = usize::from(frame[packet.l4 + 12] >> 4) * 4;
    let payload = (ETHERNET + packet.length).saturating_sub(packet.l4 + header);
    let mac = |at: usize| <[u8; 6]>::try_from(&frame[at..at + 6]).unwrap();
    let segment = Packet {
        src_mac: mac(6),
        dst_mac: mac(0),
        from: packet.key.from,
        to: packet.key.to,
        ttl: packet.ttl,
        tos: 0,
        id: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ip_options: Vec::new(),
        l4: L4::Tcp(Tcp {
            flags: packet.flags,
            seq: long_number(frame, packet.l4 + 4),
            ack: long_number(frame, packet.l4 + 8),
            window: 0,
            urgent: 0,
            options: Vec::new(),
        }),
        payload: vec![0; payload],
        trailer: Vec::new(),
        outer: None,
    };
    segment.reset().bytes()
}

/// MAC addresses of a frame back to where this one came from.
fn back(frame: &[u8]) -> [u8; 12] {
    let mut macs = [0; 12];
    put(&mut macs, 0, &frame[6..12]);
    put(&mut macs, 6, &frame[0..6]);
    macs
}

fn opens(flags: u8) -> bool {
    flags & (SYN | ACK | FIN | RST) == SYN
}

fn nonsense(flags: u8) -> bool {
    flags & (SYN | ACK | FIN | RST) == 0 || (flags & SYN != 0 && flags & (FIN | RST) != 0)
}

fn after(phase: Phase, from_client: bool, packet: &Parsed) -> Phase {
    let ((seq, ack), flags) = (packet.numbers, packet.flags);
    let (fin, rst) = (flags & FIN != 0, flags & RST != 0);
    match phase {
        Phase::Udp | Phase::Closing => phase,
        Phase::SynSeen | Phase::SynAnswered(_) if !from_client => match flags & (SYN | ACK | RST) {
            both if both == SYN | ACK => Phase::SynAnswered(seq.wrapping_add(1)),
            _ if rst => Phase::Closing,
            _ => phase,
        },
        // Even if it refuses: that may be the answer of an older connection.
        Phase::SynSeen => phase,
        Phase::SynAnswered(_) if rst => Phase::Closing,
        Phase::SynAnswered(answer) => {
            let complete = flags & ACK != 0 && flags & SYN == 0 && ack.wrapping_sub(answer) < 65_536;
            match (complete, fin) {
                (false, _) => phase,
                (true, false) => Phase::Established,
                (true, true) => Phase::ClientFin,
            }
        }
        _ if rst => Phase::Closing,
        Phase::BackendFin if fin && from_client => Phase::Closing,
        Phase::ClientFin if fin && !from_client => Phase::Closing,
        _ if fin && from_client => Phase::ClientFin,
        _ if fin => Phase::BackendFin,
        _ => phase,
    }
}
