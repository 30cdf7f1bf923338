//! ICMP errors about packets of flows between families: the other end gets them in its own family, about the packet that it
//! sent (RFC 7915, sections 4.2 and 5.2).

mod forwarded;
mod kinds;
mod left_alone;

use std::net::SocketAddr;

use lb_common::{
    abi::ServiceFlags,
    reason::{DropReason, PassReason},
};
use lb_userspace::{datapath::Datapath as _, model::Protocol};

use crate::{
    frames::{ACK, ETHERNET, Mac, Packet, SYN},
    icmp::{Icmp, assert_same, quote},
    lab::{CLIENT_IF, Case, Family, LONG, Lab, Server, Service, Setup, Verdict},
    mixed::{answer, cases, forward, other, reply_to, serve, serve_from, translated, way},
    outer::{Kind, interface},
    service::{BACK_MAC, CLIENT_MAC, FRONT_MAC},
};

/// Where a TCP checksum begins.
const TCP_CHECKSUM: usize = 16;
const NOTHING: [u8; 4] = [0; 4];

/// An MTU, or a pointer of IPv6.
const fn word(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// Of the size of packets: what senders act on.
fn too_big(family: Family) -> (Kind, Kind) {
    match family {
        Family::V4 => ((3, 4, word(1400)), (2, 0, word(1420))),
        Family::V6 => ((2, 0, word(1400)), (3, 4, word(1380))),
    }
}

/// Errors about one side's packets.
#[derive(Clone)]
struct Side {
    case: Case,
    /// What they come in by.
    interface: &'static str,
    /// What comes in, and what goes out; without a quote.
    comes: Icmp,
    goes: Icmp,
    /// The packet as `lb` sent it, and as its sender did.
    quoted: Packet,
    sent: Packet,
}

impl Side {
    /// The family that they come in.
    fn family(&self) -> Family {
        if self.comes.from.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// The family that they go on in.
    fn other(&self) -> Family {
        if self.goes.from.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// What comes in, quoting so many bytes of TCP or UDP, and what goes out.
    fn about(&self, (says, told): (Kind, Kind), length: usize) -> (Icmp, Icmp) {
        let (mut comes, mut goes) = (self.comes.clone(), self.goes.clone());
        (comes.kind, comes.code, comes.word) = says;
        (goes.kind, goes.code, goes.word) = told;
        let (before, after) = (self.family().header(), self.other().header());
        comes.body = quote(&self.quoted, before + length);
        goes.body = quote(&self.sent, after + length);
        if self.case.protocol == Protocol::Tcp && length == TCP_CHECKSUM + 1 {
            // Half of a checksum cannot be worked out, and stays.
            goes.body[after + TCP_CHECKSUM] = comes.body[before + TCP_CHECKSUM];
        }
        (comes, goes)
    }

    /// One that is translated.
    fn good(&self) -> (Icmp, Icmp) {
        self.about(too_big(self.family()), 100)
    }

    #[track_caller]
    fn is_translated(&self, lab: &mut Lab, (comes, goes): (&Icmp, &Icmp), what: &str) {
        let out = lab.run_on(self.interface, &comes.bytes());
        let case = self.case;
        assert_eq!(
            out.verdict,
            way(case),
            "{case:?}, {what}: {comes:?} {:?}",
            lab.reasons()
        );
        assert_same(&out.frame, goes, &format!("{case:?}, {what}"));
    }

    #[track_caller]
    fn is_left_alone(&self, lab: &mut Lab, comes: &Icmp, reason: PassReason) {
        lab.untouched_on(self.interface, &comes.bytes(), reason);
    }
}

/// A flow, and the errors about its packets.
struct Talk {
    service: Service,
    request: Packet,
    flow: (Server, SocketAddr),
    /// About what went to the client, and about what went to the server.
    sides: [Side; 2],
}

impl Talk {
    fn new(lab: &mut Lab, case: Case, payload: usize) -> Self {
        let service = serve(lab, case, &Setup::default());
        let body: Vec<u8> = (0..payload).map(|n| (n * 7) as u8).collect();
        Self::of(lab, &service, service.request(4000).payload(&body))
    }

    fn of(lab: &mut Lab, service: &Service, request: Packet) -> Self {
        let flow = forward(lab, service, &request);
        Self::with(service, request, flow)
    }

    fn with(service: &Service, request: Packet, flow: (Server, SocketAddr)) -> Self {
        let (server, source) = flow;
        let forwarded = service.forwarded(&request, server, source);
        let reply = reply_to(service, &request, flow, SYN | ACK).payload(&request.payload);
        let answered = service.answered(&reply, &request);
        let case = service.case;
        // A router knows nothing of where identification and fragmenting came from.
        let seen = |packet: &Packet| {
            translated(packet.clone()).with(|p| (p.ttl, p.id, p.dont_fragment, p.tos) = (5, 0x1234, false, 0x2e))
        };
        let sent = |packet: &Packet| translated(packet.clone()).with(|p| (p.ttl, p.tos) = (5, 0x2e));
        let message = |macs: (Mac, Mac), from, to| Icmp {
            src_mac: macs.0,
            dst_mac: macs.1,
            from,
            to,
            ttl: 60,
            tos: 0x48,
            kind: 0,
            code: 0,
            word: NOTHING,
            body: Vec::new(),
            outer: None,
        };
        let fresh = |macs, from: SocketAddr, to: SocketAddr| Icmp {
            ttl: 64,
            tos: if from.is_ipv4() { 0xc0 } else { 0 },
            ..message(macs, from.ip(), to.ip())
        };
        let of_client = Side {
            case,
            interface: CLIENT_IF,
            comes: message((CLIENT_MAC, FRONT_MAC), case.ip(77, 7), service.vip.ip()),
            goes: fresh((BACK_MAC, server.mac), source, server.address),
            quoted: seen(&answered),
            sent: sent(&reply),
        };
        let of_server = Side {
            case,
            interface: interface(case),
            comes: message((server.mac, BACK_MAC), other(case).ip(77, 7), source.ip()),
            goes: fresh((FRONT_MAC, CLIENT_MAC), service.vip, request.from),
            quoted: seen(&forwarded),
            sent: sent(&request),
        };
        Self {
            service: service.clone(),
            request,
            flow,
            sides: [of_client, of_server],
        }
    }
}

/// Cases with two arms.
fn two_arms() -> Vec<Case> {
    cases().into_iter().filter(|case| !case.one_arm).collect()
}
