//! ICMP errors about packets of flows, from routers on either side: the other end gets them, about the packet that it sent.
//! What is expected is put together by etherparse from the fields, never from what the packet path did.

mod echo;
mod errors;
mod left_alone;
mod too_big;

use std::net::{IpAddr, SocketAddr};

use etherparse::{Icmpv4Header, Icmpv4Type, Icmpv6Type, icmpv4, icmpv6};
use lb_common::{
    abi::Mode,
    reason::{DropReason, PassReason},
};

use lb_userspace::model::Protocol;

use crate::{
    frames::{ACK, ETHERNET, L4, Mac, Outer, Packet, SYN, UdpChecksum},
    lab::{BACKEND_IF, CLIENT_IF, Case, Family, Lab, Server, Service, Setup, Verdict},
    service::{BACK_MAC, CLIENT_MAC, FRONT_MAC},
};

/// An ICMP message by its fields.
#[derive(Debug, Clone)]
pub(crate) struct Icmp {
    pub(crate) src_mac: Mac,
    pub(crate) dst_mac: Mac,
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) ttl: u8,
    /// DSCP and ECN, or traffic class.
    pub(crate) tos: u8,
    pub(crate) kind: u8,
    pub(crate) code: u8,
    /// The second word of the header.
    pub(crate) word: [u8; 4],
    pub(crate) body: Vec<u8>,
    /// What it is wrapped in.
    pub(crate) outer: Option<Outer>,
}

impl Icmp {
    /// The frame, all lengths and checksums computed.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (ethertype, mut ip) = match (self.from, self.to) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let length = u16::try_from(8 + self.body.len()).unwrap();
                let mut header = etherparse::Ipv4Header::new(
                    length,
                    self.ttl,
                    etherparse::IpNumber::ICMP,
                    src.octets(),
                    dst.octets(),
                )
                .unwrap();
                header.dscp = etherparse::IpDscp::try_new(self.tos >> 2).unwrap();
                header.ecn = etherparse::IpEcn::try_new(self.tos & 3).unwrap();
                header.header_checksum = header.calc_header_checksum();
                let icmp = Icmpv4Header::with_checksum(
                    Icmpv4Type::Unknown {
                        type_u8: self.kind,
                        code_u8: self.code,
                        bytes5to8: self.word,
                    },
                    &self.body,
                );
                (
                    [0x08, 0x00],
                    [header.to_bytes().to_vec(), icmp.to_bytes().to_vec()].concat(),
                )
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = etherparse::Ipv6Header {
                    traffic_class: self.tos,
                    payload_length: u16::try_from(8 + self.body.len()).unwrap(),
                    next_header: etherparse::IpNumber::IPV6_ICMP,
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..etherparse::Ipv6Header::default()
                };
                let icmp = Icmpv6Type::Unknown {
                    type_u8: self.kind,
                    code_u8: self.code,
                    bytes5to8: self.word,
                }
                .to_header(src.octets(), dst.octets(), &self.body)
                .unwrap();
                (
                    [0x86, 0xdd],
                    [header.to_bytes().to_vec(), icmp.to_bytes().to_vec()].concat(),
                )
            }
            mixed => panic!("{mixed:?} are of two families"),
        };
        ip.extend_from_slice(&self.body);
        let frame = [&self.dst_mac[..], &self.src_mac, &ethertype, &ip].concat();
        match &self.outer {
            Some(outer) => outer.around(&frame, 0),
            None => frame,
        }
    }
}

/// The kinds of errors: type, code, second word.
fn errors(family: Family) -> Vec<(u8, u8, [u8; 4])> {
    match family {
        Family::V4 => vec![
            (icmpv4::TYPE_DEST_UNREACH, 4, [0, 0, 0x05, 0x14]),
            (icmpv4::TYPE_DEST_UNREACH, 1, [0; 4]),
            (icmpv4::TYPE_DEST_UNREACH, 3, [0; 4]),
            (icmpv4::TYPE_TIME_EXCEEDED, 0, [0; 4]),
            (icmpv4::TYPE_PARAMETER_PROBLEM, 0, [8, 0, 0, 0]),
        ],
        Family::V6 => vec![
            (icmpv6::TYPE_PACKET_TOO_BIG, 0, [0, 0, 0x05, 0x14]),
            (icmpv6::TYPE_DST_UNREACH, 3, [0; 4]),
            (icmpv6::TYPE_TIME_EXCEEDED, 0, [0; 4]),
            (icmpv6::TYPE_PARAMETER_PROBLEM, 1, [0, 0, 0, 40]),
        ],
    }
}

/// What the tunnel of a forwarded packet puts around another packet of its flow.
fn outer_of(forwarded: &Packet, tos: u8) -> Option<Outer> {
    forwarded.outer.map(|outer| Outer { tos, ..outer })
}

/// The IP packet of a frame, as a router saw it that took off a hop or more, cut to so many bytes.
pub(crate) fn quote(packet: &Packet, length: usize) -> Vec<u8> {
    let mut quoted = packet.bytes()[ETHERNET..].to_vec();
    quoted.truncate(length);
    quoted
}

/// A flow with both its packets as each side knows them. A reply that does not come by is the same on both sides.
struct Conversation {
    service: Service,
    server: Server,
    source: SocketAddr,
    /// The client's packet as it sent it, and as the backend gets it.
    sent: Packet,
    forwarded: Packet,
    /// The backend's packet as it sent it, and as the client gets it.
    reply: Packet,
    answered: Packet,
}

impl Conversation {
    fn new(lab: &mut Lab, case: Case, payload: usize) -> Self {
        let service = lab.serve(case, &Setup::default());
        let body: Vec<u8> = (0..payload).map(|n| (n * 7) as u8).collect();
        let sent = service.request(4000).payload(&body);
        Self::of(lab, &service, sent)
    }

    /// The conversation that a packet begins.
    fn of(lab: &mut Lab, service: &Service, sent: Packet) -> Self {
        let (server, source) = lab.forward(service, &sent);
        let forwarded = service.forwarded(&sent, server, source);
        let (reply, answered) = if service.case.mode.sees_replies() {
            let reply = service.reply(&forwarded, SYN | ACK).payload(&sent.payload);
            let answered = service.answered(&reply, &sent);
            (reply, answered)
        } else {
            let reply = service.reply(&sent, SYN | ACK).payload(&sent.payload);
            (reply.clone(), reply)
        };
        Self {
            service: service.clone(),
            server,
            source,
            sent,
            forwarded,
            reply,
            answered,
        }
    }

    fn router(&self) -> IpAddr {
        self.service.case.ip(77, 7)
    }

    /// From a router towards the client, about an answer: what comes in, and what the backend must get.
    fn towards_backend(&self, error: (u8, u8, [u8; 4]), length: usize) -> (Icmp, Icmp) {
        let (kind, code, word) = error;
        let case = self.service.case;
        let comes = Icmp {
            src_mac: CLIENT_MAC,
            dst_mac: FRONT_MAC,
            from: self.router(),
            to: self.service.vip.ip(),
            ttl: 60,
            tos: 0xc0,
            kind,
            code,
            word,
            body: quote(&self.answered.clone().with(|p| p.ttl = 5), length),
            outer: None,
        };
        if !case.mode.sees_replies() {
            // As any packet of the flow, with nothing changed within.
            let outer = outer_of(&self.forwarded, comes.tos);
            let goes = Icmp {
                src_mac: BACK_MAC,
                dst_mac: self.server.mac,
                ttl: if outer.is_some() { 59 } else { 60 },
                outer,
                ..comes.clone()
            };
            return (comes, goes);
        }
        let goes = Icmp {
            src_mac: BACK_MAC,
            dst_mac: self.server.mac,
            from: if case.mode == Mode::FULL_NAT {
                self.source.ip()
            } else {
                self.router()
            },
            to: self.server.address.ip(),
            ttl: 59,
            body: quote(&self.reply.clone().with(|p| p.ttl = 5), length),
            ..comes.clone()
        };
        (comes, goes)
    }

    /// From a router towards the backend, about a request: what comes in, and what the client must get.
    fn towards_client(&self, error: (u8, u8, [u8; 4]), length: usize) -> (Icmp, Icmp) {
        let (kind, code, word) = error;
        let comes = Icmp {
            src_mac: self.server.mac,
            dst_mac: BACK_MAC,
            from: self.router(),
            to: self.source.ip(),
            ttl: 60,
            tos: 0xc0,
            kind,
            code,
            word,
            body: quote(&self.forwarded.clone().with(|p| p.ttl = 5), length),
            outer: None,
        };
        let goes = Icmp {
            src_mac: FRONT_MAC,
            dst_mac: CLIENT_MAC,
            from: self.service.vip.ip(),
            to: self.sent.from.ip(),
            ttl: 59,
            body: quote(&self.sent.clone().with(|p| p.ttl = 5), length),
            ..comes.clone()
        };
        (comes, goes)
    }

    /// Both, by the interfaces that they come in on. Where replies do not come by, neither do errors from the backends' side.
    fn both(&self, error: (u8, u8, [u8; 4]), length: usize) -> Vec<(&'static str, Icmp, Icmp)> {
        let (a, b) = self.towards_backend(error, length);
        if !self.service.case.mode.sees_replies() {
            return vec![(CLIENT_IF, a, b)];
        }
        let (c, d) = self.towards_client(error, length);
        let back = if self.service.case.one_arm {
            CLIENT_IF
        } else {
            BACKEND_IF
        };
        vec![(CLIENT_IF, a, b), (back, c, d)]
    }
}

/// Everything but what an IPv4 header of 20 bytes and 8 bytes more are worth.
fn lengths(case: Case, whole: usize) -> Vec<usize> {
    let header = case.ip_header();
    // The checksum of TCP begins at 16: cut before, within and behind it.
    let mut lengths: Vec<_> = [8, 10, 16, 17, 18, 20, 40, 300].map(|more| header + more).into();
    lengths.push(whole);
    lengths
}

#[track_caller]
pub(crate) fn assert_same(frame: &[u8], expected: &Icmp, what: &str) {
    let bytes = expected.bytes();
    if frame != bytes {
        let at = frame.iter().zip(&bytes).position(|(a, b)| a != b);
        panic!("{what}: frames differ from byte {at:?} on\nexpected {bytes:02x?}\n     got {frame:02x?}");
    }
}
