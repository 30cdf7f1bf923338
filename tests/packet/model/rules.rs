//! What the packet path does with a packet, plainly.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    abi::Mode,
    reason::{DropReason, PassReason},
};

use super::{
    answer::{back, refuse, reset, told},
    fate::{Expected, Left},
    phase::{Phase, after, is_replaceable, nonsense, opens},
    read::{self, Headers, Key, Parsed, headers},
    rewrite::{SOURCES, identify, other_family, readdress, translatable, translate, wrapped},
    tags::{server_vlans, untagged, with_priority, without_priority},
    wire::{ETHERNET, TCP, UDP, number, put},
};
use crate::{
    frames::L4,
    lab::{BACK_MAC, BACKEND_IF, CLIENT_IF, Case, FIRST_PORT, Lab, Server, Service},
    vlan::{Tag, tagged},
};

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
    /// The identification that was chosen, unless it stays.
    id: Option<u32>,
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
        if self.case(flow).mode.sees_replies() && self.flows[flow].reply.is_none() {
            self.learn(flow, out);
        }
        if self.crosses(flow) {
            *frame = self.translated(flow, &packet, frame)?;
            return self.leaves(flow, &packet.key, arrival, frame);
        }
        fits(self.case(flow), packet.ttl, packet.length)?;
        let mut id = None;
        if packet.piece.is_fragment() {
            let sent = untagged(out).and_then(|(out, _)| read::headers(&out));
            id = Some(sent.map_or(0, |sent| sent.piece.id)).filter(|_| self.case(flow).mode.sees_replies());
            let datagram = Datagram {
                ports: (packet.key.from.port(), packet.key.to.port()),
                next: ETHERNET + packet.length - packet.l4,
                id,
            };
            self.datagrams.insert(fragment_key(&headers), datagram);
        }
        match self.case(flow).mode {
            Mode::FULL_NAT | Mode::NAT => translate(frame, &packet, self.new_addresses(flow, &packet.key))?,
            _ => self.goes_one_way(flow, &packet, frame),
        }
        if let Some(id) = id {
            identify(frame, packet.piece.header, id);
        }
        self.leaves(flow, &packet.key, arrival, frame)
    }

    /// As it came, or wrapped.
    fn goes_one_way(&self, flow: usize, packet: &Parsed, frame: &mut Vec<u8>) {
        let case = self.case(flow);
        if case.tunnel() {
            *frame = wrapped(case, frame, packet, self.server(flow));
        }
    }

    /// A packet's ports. What is cut short is the kernel's, unless it is a trick on a service.
    fn parse(&self, frame: &[u8], headers: &Headers) -> Result<Parsed, Left> {
        let length = (ETHERNET + headers.length).checked_sub(headers.l4);
        let fragment = headers.piece.is_fragment() && [TCP, UDP].contains(&headers.protocol);
        if fragment && !headers.piece.is_sound(length.unwrap_or(0)) {
            return Err(Left::Passed(PassReason::Malformed));
        }
        let parsed = read::parse(frame, headers);
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
        // A flow between families that took the ports of the one that the first fragment was of has no fragments.
        let within = |flow: &usize| !self.crosses(*flow);
        let Some(flow) = self.by_key.get(&key).copied().filter(within) else {
            return Err(unknown);
        };
        if let Err(left) = fits(self.case(flow), headers.ttl, headers.length) {
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
        if let Some(id) = datagram.id {
            let (from, to) = self.new_addresses(flow, &key);
            readdress(frame, from.ip(), to.ip());
            identify(frame, headers.piece.header, id);
        } else {
            self.goes_one_way(flow, &headers.packet(key), frame);
        }
        self.leaves(flow, &key, arrival, frame)
    }

    /// The flow of a packet, after that packet.
    fn find(&mut self, packet: &Parsed, arrival: Arrival<'_>, frame: &[u8]) -> Result<Option<usize>, Left> {
        let Some(index) = self.by_key.get(&packet.key).copied() else {
            return Ok(None);
        };
        let mode = self.case(index).mode;
        let flow = &mut self.flows[index];
        let from_client = packet.key == flow.request;
        if from_client && is_replaceable(flow.phase, mode) && opens(packet.flags) {
            let (request, reply) = (flow.request, flow.reply);
            self.by_key.remove(&request);
            reply.map(|key| self.by_key.remove(&key));
            return Ok(None);
        }
        flow.phase = after(flow.phase, mode, from_client, packet);
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
        let case = self.services[service].case;
        let crosses = crosses(case, servers[server], packet.key.to);
        if crosses && packet.piece.is_fragment() {
            return Err(Left::Dropped(DropReason::FragmentMixed));
        }
        if crosses {
            may_go_on(packet.ttl, packet.length, across(packet))?;
        } else {
            fits(case, packet.ttl, packet.length)?;
        }
        if case.mode.sees_replies() {
            translatable(frame, packet, crosses)?;
        }
        let reply = (case.mode == Mode::NAT).then_some(Key {
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
        let Ok(sent) = headers(&out).and_then(|headers| read::parse(&out, &headers)) else {
            return;
        };
        let flow = &self.flows[index];
        let (service, source) = (&self.services[flow.service], sent.key.from);
        let towards = service.servers[flow.server].address;
        let ours = (0..SOURCES).any(|place| service.case.like(towards).source(place) == source.ip());
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

    fn case(&self, flow: usize) -> Case {
        self.services[self.flows[flow].service].case
    }

    fn server(&self, flow: usize) -> Server {
        let flow = &self.flows[flow];
        self.services[flow.service].servers[flow.server]
    }

    fn crosses(&self, flow: usize) -> bool {
        crosses(self.case(flow), self.server(flow), self.flows[flow].request.to)
    }

    /// The packet with the other family's header.
    fn translated(&self, flow: usize, packet: &Parsed, frame: &[u8]) -> Result<Vec<u8>, Left> {
        may_go_on(packet.ttl, packet.length, across(packet))?;
        other_family(frame, packet, self.new_addresses(flow, &packet.key))
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
    fn way_on(&self, number: usize, key: &Key) -> ([u8; 12], u32, Vec<Tag>) {
        let flow = &self.flows[number];
        if *key != flow.request {
            return flow.client.clone();
        }
        let arm = if self.case(number).one_arm {
            self.interfaces.0
        } else {
            self.interfaces.1
        };
        let server = self.server(number);
        let mut macs = [0; 12];
        put(&mut macs, 0, &server.mac);
        put(&mut macs, 6, &BACK_MAC);
        (macs, arm, server_vlans(server))
    }

    fn leaves(&self, flow: usize, key: &Key, arrival: Arrival<'_>, frame: &mut Vec<u8>) -> Result<Left, Left> {
        let (macs, interface, vlans) = self.way_on(flow, key);
        put(frame, 0, &macs);
        *frame = tagged(frame, &with_priority(&vlans, arrival.tags));
        let mode = self.case(flow).mode;
        Ok(if interface == arrival.interface {
            Left::Back(mode)
        } else {
            Left::Across(mode)
        })
    }
}

/// Of every interface.
const MTU: usize = 1500;

/// Whether a packet may go on, as its own or within another.
fn fits(case: Case, ttl: u8, length: usize) -> Result<(), Left> {
    // A frame that gets other MAC addresses makes no hop.
    let ttl = if case.mode == Mode::L2_DSR { u8::MAX } else { ttl };
    may_go_on(ttl, length, MTU - case.overhead())
}

fn may_go_on(ttl: u8, length: usize, mtu: usize) -> Result<(), Left> {
    if ttl <= 1 {
        return Err(Left::Passed(PassReason::TtlExpired));
    }
    if length > mtu {
        return Err(Left::Told(DropReason::ExceedsMtu, mtu));
    }
    Ok(())
}

/// Whether a flow's packets change their family. In a tunnel they do not, whatever the family of the tunnel is.
fn crosses(case: Case, server: Server, vip: SocketAddr) -> bool {
    case.mode.sees_replies() && server.address.is_ipv4() != vip.is_ipv4()
}

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
