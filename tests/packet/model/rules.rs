//! What the packet path does with a packet, plainly.

use std::{collections::HashMap, net::SocketAddr};

use lb_common::{
    abi::Mode,
    reason::{DropReason, PassReason},
};

use super::wire::{ETHERNET, TCP, UDP, address, endpoint, long_number, number, octets, put, updated};
use crate::{
    frames::{ACK, FIN, L4, Packet, RST, SYN, Tcp},
    lab::{BACK_MAC, BACKEND_IF, CLIENT_IF, FIRST_PORT, Lab, Service, Verdict},
};

/// How a packet left.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Left {
    Passed(PassReason),
    Dropped(DropReason),
    /// Answered with RST, by the interface that it came in on.
    Refused(DropReason),
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
            Left::Refused(_) | Left::Back => Verdict::Tx,
            Left::Across => Verdict::Redirect,
        }
    }

    /// The reason that is counted.
    pub(super) fn counter(&self) -> Option<usize> {
        match self.left {
            Left::Passed(reason) => Some(reason.counter() as usize),
            Left::Dropped(reason) | Left::Refused(reason) => Some(reason.counter() as usize),
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
    /// Where the client's last packet came from: the MAC addresses of a frame to it, and the interface.
    client: ([u8; 12], u32),
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
    fragment: bool,
    l4: usize,
}

/// The packet path, as it should be.
pub(super) struct Model<'a> {
    services: &'a [Service],
    tickets: Vec<u64>,
    /// Interfaces towards clients and towards servers.
    interfaces: (u32, u32),
    pub(super) flows: Vec<Flow>,
    by_key: HashMap<Key, usize>,
}

impl<'a> Model<'a> {
    pub(super) fn new(lab: &Lab, services: &'a [Service], tickets: &[u64]) -> Self {
        Self {
            services,
            tickets: tickets.to_vec(),
            interfaces: (lab.ifindex(CLIENT_IF), lab.ifindex(BACKEND_IF)),
            flows: Vec::new(),
            by_key: HashMap::new(),
        }
    }

    /// What becomes of a frame. `out` is what the packet path made of it, of which the model takes only the source
    /// port that was chosen, after a check that it might be chosen.
    pub(super) fn packet(&mut self, interface: u32, frame: &[u8], out: &[u8]) -> Expected {
        let mut sent = frame.to_vec();
        let left = match self.way(interface, &mut sent, out) {
            Ok(left) => left,
            Err(left) => left,
        };
        match left {
            Left::Refused(_) => sent = reset(frame),
            Left::Passed(_) => sent = frame.to_vec(),
            _ => {}
        }
        Expected { left, frame: sent }
    }

    fn way(&mut self, interface: u32, frame: &mut [u8], out: &[u8]) -> Result<Left, Left> {
        let packet = parse(frame)?;
        let flow = match self.find(&packet, interface, frame)? {
            Some(flow) => flow,
            None => self.open(&packet, interface, frame)?,
        };
        if self.flows[flow].reply.is_none() {
            self.learn(flow, out);
        }
        self.deliver(flow, &packet, interface, frame)
    }

    /// The flow of a packet, after that packet.
    fn find(&mut self, packet: &Parsed, interface: u32, frame: &[u8]) -> Result<Option<usize>, Left> {
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
            flow.client = (back(frame), interface);
        }
        Ok(Some(index))
    }

    /// A new flow, if the packet may open one.
    fn open(&mut self, packet: &Parsed, interface: u32, frame: &[u8]) -> Result<usize, Left> {
        let is_tcp = packet.key.protocol == TCP;
        let for_service = |s: &Service| s.vip == packet.key.to && matches!(s.request(1).l4, L4::Tcp(_)) == is_tcp;
        let Some(service) = self.services.iter().position(for_service) else {
            return Err(Left::Passed(PassReason::NotAService));
        };
        if packet.fragment {
            return Err(Left::Dropped(DropReason::Fragment));
        }
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
        passable(packet, true)?;
        translatable(frame, packet)?;
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
            client: (back(frame), interface),
        };
        self.flows.push(flow);
        let index = self.flows.len() - 1;
        self.by_key.insert(packet.key, index);
        reply.map(|key| self.by_key.insert(key, index));
        Ok(index)
    }

    /// Takes over the source that the packet path chose, if it sent something and might choose that.
    fn learn(&mut self, index: usize, out: &[u8]) {
        let Ok(sent) = parse(out) else { return };
        let flow = &self.flows[index];
        let (service, source) = (&self.services[flow.service], sent.key.from);
        let ours = (0..2).any(|place| service.case.source(place) == source.ip());
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
    fn deliver(&self, flow: usize, packet: &Parsed, interface: u32, frame: &mut [u8]) -> Result<Left, Left> {
        let flow = &self.flows[flow];
        let service = &self.services[flow.service];
        let server = service.servers[flow.server];
        let from_client = packet.key == flow.request;
        passable(packet, from_client)?;
        let new = if from_client {
            // A packet that is sent shows the source; if it shows a wrong one, what is expected here is wrong as well.
            let reply = flow.reply.unwrap_or(packet.key);
            (reply.to, reply.from)
        } else {
            (flow.request.to, flow.request.from)
        };
        translate(frame, packet, new)?;
        let (macs, leaves_by) = if from_client {
            let arm = if service.case.one_arm {
                self.interfaces.0
            } else {
                self.interfaces.1
            };
            let mut macs = [0; 12];
            put(&mut macs, 0, &server.mac);
            put(&mut macs, 6, &BACK_MAC);
            (macs, arm)
        } else {
            flow.client
        };
        put(frame, 0, &macs);
        Ok(if leaves_by == interface {
            Left::Back
        } else {
            Left::Across
        })
    }
}

/// Reads a packet, or says why it is the kernel's.
fn parse(frame: &[u8]) -> Result<Parsed, Left> {
    const MALFORMED: Left = Left::Passed(PassReason::Malformed);
    let v4 = match number(frame, 12) {
        0x0800 => true,
        0x86dd => false,
        _ => return Err(Left::Passed(PassReason::NotIp)),
    };
    let ip = ETHERNET;
    if frame.len() < ip + if v4 { 20 } else { 40 } {
        return Err(MALFORMED);
    }
    let mut fragment = false;
    let (length, mut l4, mut protocol, ttl, src, dst) = if v4 {
        let (words, length) = (usize::from(frame[ip] & 15), usize::from(number(frame, ip + 2)));
        if frame[ip] >> 4 != 4 || words < 5 || ip + length > frame.len() {
            return Err(MALFORMED);
        }
        let offset = number(frame, ip + 6);
        if offset & 0x1fff != 0 {
            return Err(Left::Passed(PassReason::LaterFragment));
        }
        fragment = offset & 0x2000 != 0;
        (length, ip + words * 4, frame[ip + 9], frame[ip + 8], ip + 12, ip + 16)
    } else {
        let length = 40 + usize::from(number(frame, ip + 4));
        if frame[ip] >> 4 != 6 || ip + length > frame.len() {
            return Err(MALFORMED);
        }
        (length, ip + 40, frame[ip + 6], frame[ip + 7], ip + 8, ip + 24)
    };
    if !v4 && protocol == 44 {
        if frame.len() < l4 + 8 {
            return Err(MALFORMED);
        }
        if number(frame, l4 + 2) & 0xfff8 != 0 {
            return Err(Left::Passed(PassReason::LaterFragment));
        }
        fragment = true;
        protocol = frame[l4];
        l4 += 8;
    }
    if !v4 && [0, 43, 60, 51, 135, 139, 140].contains(&protocol) {
        return Err(Left::Passed(PassReason::Ipv6Extension));
    }
    let l4_length = (ip + length).checked_sub(l4).ok_or(MALFORMED)?;
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
            if l4_length < 8 || claimed < 8 || (claimed > l4_length && !fragment) {
                return Err(MALFORMED);
            }
            0
        }
        _ => return Err(Left::Passed(PassReason::NotTcpOrUdp)),
    };
    let at = |ip, port| SocketAddr::new(address(frame, ip, v4), number(frame, port));
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
        fragment,
        l4,
    })
}

/// Whether a packet may go on, and fits.
fn passable(packet: &Parsed, from_client: bool) -> Result<(), Left> {
    if packet.ttl <= 1 {
        return Err(Left::Passed(PassReason::TtlExpired));
    }
    if packet.fragment {
        return Err(Left::Dropped(DropReason::Fragment));
    }
    if from_client && packet.length > 1500 {
        return Err(Left::Dropped(DropReason::ExceedsMtu));
    }
    Ok(())
}

/// Whether a packet has the checksum that has to change with its addresses.
fn translatable(frame: &[u8], packet: &Parsed) -> Result<(), Left> {
    if packet.key.protocol == UDP && packet.key.to.is_ipv6() && number(frame, packet.l4 + 6) == 0 {
        return Err(Left::Dropped(DropReason::UdpChecksumMissing));
    }
    Ok(())
}

/// New addresses and ports, one hop less to live, checksums to match.
fn translate(frame: &mut [u8], packet: &Parsed, (from, to): (SocketAddr, SocketAddr)) -> Result<(), Left> {
    let (ip, l4) = (ETHERNET, packet.l4);
    let Key {
        from: old_from,
        to: old_to,
        protocol,
    } = packet.key;
    let at = l4 + if protocol == TCP { 16 } else { 6 };
    let checksum = number(frame, at);
    translatable(frame, packet)?;
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
    if from.is_ipv4() {
        let before = frame[ip + 8..ip + 20].to_vec();
        frame[ip + 8] -= 1;
        put(frame, ip + 12, &octets(from.ip()));
        put(frame, ip + 16, &octets(to.ip()));
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
        put(frame, ip + 8, &octets(from.ip()));
        put(frame, ip + 24, &octets(to.ip()));
    }
    Ok(())
}

/// A refusal as the protocol allows: TCP is answered, unless with RST to RST.
fn refuse(reason: DropReason, packet: &Parsed) -> Left {
    if packet.key.protocol == TCP && packet.flags & RST == 0 {
        Left::Refused(reason)
    } else {
        Left::Dropped(reason)
    }
}

/// The RST that answers a segment.
fn reset(frame: &[u8]) -> Vec<u8> {
    let packet = parse(frame).expect("what is refused was read");
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
