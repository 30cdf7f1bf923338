//! Packets of random numbers. The number zero is the plainest choice everywhere, because that is where shrinking leads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    read::Key,
    rules::Model,
    wire::{ETHERNET, put},
};
use crate::{
    frames::{ACK, FIN, L4, PSH, Packet, RST, SYN, Tcp, UdpChecksum},
    lab::{BACKEND_IF, CLIENT_IF, OTHER_IF, Service},
    service::{ANSWER, BACK_MAC, CLIENT_MAC, FRONT_MAC},
    vlan::{Tag, tagged},
};

/// Random numbers for one packet.
pub(super) const THROW: usize = 32;

/// Choices that random numbers make.
pub(super) struct Dice<'a> {
    numbers: std::slice::Iter<'a, u8>,
}

impl<'a> Dice<'a> {
    pub(super) fn new(throw: &'a [u8; THROW]) -> Self {
        Self { numbers: throw.iter() }
    }

    fn next(&mut self) -> usize {
        self.numbers.next().copied().unwrap_or(0).into()
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.next() % choices.len()].clone()
    }

    /// In one of so many cases, but not at zero.
    fn seldom(&mut self, one_of: usize) -> bool {
        self.next() % one_of == one_of - 1
    }

    /// A frame, and the interface that it comes in by.
    pub(super) fn frame(mut self, model: &Model<'_>, services: &[Service], sequence: u32) -> (&'static str, Vec<u8>) {
        let mut service = &services[self.next() % services.len()];
        // Among so many services, chance alone would seldom meet a client again.
        let mut from = None;
        if !self.next().is_multiple_of(4) && !model.flows.is_empty() {
            let flow = &model.flows[self.next() % model.flows.len()];
            (service, from) = (&services[flow.service], Some(flow.request.from));
        }
        // Most are of a flow; some find that it has ended.
        let replies: Vec<Key> = model.flows.iter().filter_map(|flow| flow.reply).collect();
        let (interface, mut packet) = match (self.next() % 8, replies.len()) {
            (4..=6, 1..) => {
                let reply = self.of(&replies);
                self.reply(reply)
            }
            (7, _) => (CLIENT_IF, self.stray(service, sequence)),
            _ => (CLIENT_IF, self.request(service, from, sequence)),
        };
        self.vary(&mut packet);
        let mut frame = packet.bytes();
        if packet.from.is_ipv6() && self.seldom(16) {
            frame = self.extended(&packet);
        }
        self.mutate(&mut frame);
        if self.seldom(4) {
            frame = self.in_vlans(&frame);
        }
        let elsewhere = self.seldom(12);
        (if elsewhere { OTHER_IF } else { interface }, frame)
    }

    /// A packet of a client, of one that has a flow if it is given.
    fn request(&mut self, service: &Service, from: Option<SocketAddr>, sequence: u32) -> Packet {
        let port = 4000 + (self.next() % 4) as u16;
        let mut packet = service.request(port);
        packet.from.set_ip(client(packet.from.ip(), sequence, self.next() % 2));
        packet.from = from.unwrap_or(packet.from);
        self.segment(&mut packet, SYN);
        packet
    }

    /// A packet of a client to something that is no service.
    fn stray(&mut self, service: &Service, sequence: u32) -> Packet {
        let mut packet = self.request(service, None, sequence);
        match self.next() % 3 {
            0 => packet.to.set_port(22),
            1 => std::mem::swap(&mut packet.from, &mut packet.to),
            _ => packet.to.set_ip(client(packet.to.ip(), sequence, 7)),
        }
        packet
    }

    /// A server's packet.
    fn reply(&mut self, key: Key) -> (&'static str, Packet) {
        let l4 = if key.is_tcp() {
            L4::Tcp(Tcp {
                flags: ACK,
                seq: ANSWER,
                ack: 0x0102_0305,
                window: 512,
                urgent: 0,
                options: Vec::new(),
            })
        } else {
            L4::Udp(UdpChecksum::Computed)
        };
        let mut packet = Packet {
            src_mac: [2, 0, 0, 0, 0xbe, 1],
            dst_mac: BACK_MAC,
            from: key.from,
            to: key.to,
            ttl: 64,
            tos: 0,
            id: 7,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ip_options: Vec::new(),
            l4,
            payload: b"answer!".to_vec(),
            trailer: Vec::new(),
            outer: None,
        };
        self.segment(&mut packet, SYN | ACK);
        (self.of(&[BACKEND_IF, CLIENT_IF]), packet)
    }

    /// TCP flags, of which those that open come first.
    fn segment(&mut self, packet: &mut Packet, first: u8) {
        let flags = match self.next() {
            any @ 240.. => (any * 7) as u8,
            some => [
                first,
                ACK,
                first,
                PSH | ACK,
                FIN | ACK,
                RST,
                SYN,
                RST | ACK,
                0,
                SYN | FIN,
            ][some % 10],
        };
        match &mut packet.l4 {
            L4::Tcp(tcp) => tcp.flags = flags,
            L4::Udp(checksum) if flags == RST => *checksum = UdpChecksum::Zero,
            L4::Udp(_) => {}
        }
    }

    /// What may differ in any packet.
    fn vary(&mut self, packet: &mut Packet) {
        packet.ttl = self.of(&[packet.ttl, 64, 2, 255, 63, 128, 65, 3, 100, 200, 1, 0]);
        packet.tos = self.next() as u8;
        let length = self.of(&[11, 0, 1, 40, 512, 1400, 1448, 1460, 1472, 1900]);
        packet.payload = (0..length).map(|i: usize| (i * 31) as u8).collect();
        match self.next() {
            250.. => packet.more_fragments = true,
            244.. => packet.fragment_offset = self.of(&[185, 6]),
            _ => {}
        }
        if packet.from.is_ipv4() && self.seldom(8) {
            packet.ip_options = self.of(&[
                vec![1; 4],
                vec![0x94, 4, 0, 0],
                vec![7, 39, 4].into_iter().chain([0; 37]).collect(),
            ]);
        }
        if self.seldom(6) {
            packet.trailer = vec![0xee; 1 + self.next() % 30];
        }
        if self.seldom(10) {
            // The client moved to another router.
            (packet.src_mac, packet.dst_mac) = self.of(&[(CLIENT_MAC, FRONT_MAC), ([2, 9, 9, 9, 9, 9], FRONT_MAC)]);
        }
    }

    fn extended(&mut self, packet: &Packet) -> Vec<u8> {
        let (hop_by_hop, options): (u8, &[u8]) = (0, &[0, 1, 4, 0, 0, 0, 0]);
        let first_fragment: &[u8] = &[0, 0, 1, 0, 0, 0, 9];
        let atomic_fragment: &[u8] = &[0, 0, 0, 0, 0, 0, 9];
        let later_fragment: &[u8] = &[0, 5, 0x38, 0, 0, 0, 9];
        let chains: [&[(u8, &[u8])]; 6] = [
            &[(hop_by_hop, options)],
            &[(44, first_fragment)],
            &[(44, atomic_fragment)],
            &[(44, later_fragment)],
            &[(60, options), (43, &[0, 0, 0, 0, 0, 0, 0])],
            &[(44, atomic_fragment), (60, options)],
        ];
        packet.bytes_with_extensions(chains[self.next() % chains.len()])
    }

    /// With tags, and seldom with too many of them or cut within.
    fn in_vlans(&mut self, frame: &[u8]) -> Vec<u8> {
        let tag = |dice: &mut Self| {
            (
                dice.of(&[0x8100, 0x88a8]),
                dice.of(&[1, 0, 0x0fff, 0xe001, 0x1064, 0xffff]),
            )
        };
        let tags: Vec<Tag> = (0..self.of(&[1, 2, 1, 2, 1, 2, 1, 3])).map(|_| tag(self)).collect();
        let mut frame = tagged(frame, &tags);
        if self.seldom(40) {
            frame.truncate(ETHERNET + self.next() % 12);
        }
        frame
    }

    /// Changed bytes, mostly in the headers; a cut or a lengthened frame.
    fn mutate(&mut self, frame: &mut Vec<u8>) {
        if self.seldom(4) {
            for _ in 0..=self.next() % 3 {
                let at = self.next() % frame.len().min(90);
                let value = self.of(&[0, 0xff, 1, 0x45, 0x4f, 0x60, 0x06, 0x11, 0x80]);
                put(frame, at, &[value]);
            }
        }
        if self.seldom(10) {
            let length = ETHERNET + self.next() % 100;
            frame.resize(length, 0xa5);
        }
    }
}

/// A client of a sequence, of the family of `like`.
fn client(like: IpAddr, sequence: u32, number: usize) -> IpAddr {
    let host = sequence * 8 + number as u32;
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(0x0b00_0000 + host).into(),
        IpAddr::V6(_) => Ipv6Addr::from((0x2001_0db8_ffff << 80) + u128::from(host)).into(),
    }
}
