//! ICMP errors about packets of flows, from routers on either side: the other end gets them, about the packet that it sent.
//! What is expected is put together by etherparse from the fields, never from what the packet path did.

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
fn quote(packet: &Packet, length: usize) -> Vec<u8> {
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

#[test]
fn errors_reach_the_other_end_about_its_own_packet() {
    let mut lab = Lab::new();
    for case in Case::all() {
        let talk = Conversation::new(&mut lab, case, 600);
        let verdict = if case.one_arm { Verdict::Tx } else { Verdict::Redirect };
        for error in errors(case.family) {
            for length in lengths(case, 528) {
                for (interface, comes, mut goes) in talk.both(error, length) {
                    if case.protocol == Protocol::Tcp && length == case.ip_header() + 17 {
                        // Half of a checksum cannot be worked out, and stays.
                        goes.body[length - 1] = comes.body[length - 1];
                    }
                    let out = lab.run_on(interface, &comes.bytes());
                    assert_eq!(out.verdict, verdict, "{case:?} {comes:?} {:?}", lab.reasons());
                    assert_same(&out.frame, &goes, &format!("{case:?}, {error:?}, {length} bytes"));
                }
            }
        }
    }
}

/// Path MTU discovery and "port unreachable" of a backend whose replies go straight to the client: what the router wrote
/// is what the backend reads.
#[test]
fn errors_about_replies_that_do_not_come_by_reach_the_backend_as_they_came() {
    let mut lab = Lab::new();
    for case in Case::one_way() {
        let talk = Conversation::new(&mut lab, case, 1000);
        for error in errors(case.family) {
            let before = lab.counters(talk.server);
            let (comes, _) = talk.towards_backend(error, 528);
            let frame = comes.bytes();
            let out = lab.run_on(CLIENT_IF, &frame);
            assert_eq!(out.verdict, Verdict::Redirect, "{case:?} {:?}", lab.reasons());
            assert_eq!(out.frame[..6], talk.server.mac, "{case:?}");
            let came = Icmp {
                ttl: if case.tunnel() { comes.ttl - 1 } else { comes.ttl },
                ..comes
            };
            assert_eq!(
                out.frame[ETHERNET + case.overhead()..],
                came.bytes()[ETHERNET..],
                "{case:?}, {error:?}"
            );
            if case.tunnel() {
                let (server, source) = talk.service.way_of(&out.frame);
                assert_eq!(
                    (server, source),
                    (talk.server, talk.source),
                    "the tunnel of the flow: {case:?}"
                );
            }
            assert_eq!(lab.counters(talk.server).packets_in, before.packets_in + 1, "{case:?}");
        }
    }
}

#[track_caller]
pub(crate) fn assert_same(frame: &[u8], expected: &Icmp, what: &str) {
    let bytes = expected.bytes();
    if frame != bytes {
        let at = frame.iter().zip(&bytes).position(|(a, b)| a != b);
        panic!("{what}: frames differ from byte {at:?} on\nexpected {bytes:02x?}\n     got {frame:02x?}");
    }
}

/// The arithmetic of carries shows only with many addresses, ports and payloads.
#[test]
fn checksums_hold_for_many_errors() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(
            case,
            &Setup {
                source_ports: 5000,
                ..Setup::default()
            },
        );
        for port in (1..60_000).step_by(397) {
            let sent = service.request(port).payload(&port.wrapping_mul(31_321).to_be_bytes());
            let talk = Conversation::of(&mut lab, &service, sent);
            for (interface, comes, goes) in talk.both(errors(case.family)[0], 60) {
                let out = lab.run_on(interface, &comes.bytes());
                assert_eq!(out.verdict, Verdict::Redirect);
                assert_same(&out.frame, &goes, &format!("{case:?}, port {port}"));
            }
        }
    }
}

#[test]
fn a_quoted_udp_checksum_of_zero_stays_zero() {
    let mut lab = Lab::new();
    for mode in [Mode::FULL_NAT, Mode::NAT] {
        let mut talk = Conversation::new(&mut lab, Case { mode, ..Case::UDP }, 40);
        for packet in [&mut talk.sent, &mut talk.forwarded, &mut talk.reply, &mut talk.answered] {
            packet.l4 = L4::Udp(UdpChecksum::Zero);
        }
        for (interface, comes, goes) in talk.both((3, 3, [0; 4]), 68) {
            assert_same(&lab.run_on(interface, &comes.bytes()).frame, &goes, "zero");
        }
    }
}

#[test]
fn options_of_the_quoted_packet_are_looked_past() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let mut talk = Conversation::new(&mut lab, case, 40);
        match case.family {
            Family::V4 => {
                for packet in [&mut talk.sent, &mut talk.forwarded, &mut talk.reply, &mut talk.answered] {
                    packet.ip_options = vec![1, 1, 1, 1, 1, 1, 1, 0];
                }
                for (interface, comes, goes) in talk.both((11, 0, [0; 4]), 68) {
                    assert_same(&lab.run_on(interface, &comes.bytes()).frame, &goes, "options");
                }
            }
            Family::V6 => {
                let options: (u8, &[u8]) = (60, &[0, 1, 4, 0, 0, 0, 0]);
                for (interface, mut comes, mut goes) in talk.both((3, 0, [0; 4]), 68) {
                    let (before, after) = if interface == CLIENT_IF {
                        (&talk.answered, &talk.reply)
                    } else {
                        (&talk.forwarded, &talk.sent)
                    };
                    comes.body =
                        before.clone().with(|p| p.ttl = 3).bytes_with_extensions(&[options])[ETHERNET..].to_vec();
                    goes.body =
                        after.clone().with(|p| p.ttl = 3).bytes_with_extensions(&[options])[ETHERNET..].to_vec();
                    assert_same(&lab.run_on(interface, &comes.bytes()).frame, &goes, "options");
                }
            }
        }
    }
}

#[test]
fn errors_do_not_change_a_flow() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let talk = Conversation::new(&mut lab, case, 100);
        let before: Vec<_> = lab.flows().iter().map(|f| format!("{f:?}")).collect();
        for error in errors(case.family) {
            for (interface, comes, _) in talk.both(error, 100) {
                lab.run_on(interface, &comes.bytes());
            }
        }
        let after: Vec<_> = lab.flows().iter().map(|f| format!("{f:?}")).collect();
        assert_eq!(before, after, "{case:?}");
    }
}

#[test]
fn errors_about_no_flow_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let talk = Conversation::new(&mut lab, case, 100);
        let error = errors(case.family)[0];
        for (interface, comes, _) in talk.both(error, 100) {
            let with = |change: &dyn Fn(&mut Icmp)| {
                let mut icmp = comes.clone();
                change(&mut icmp);
                icmp.bytes()
            };
            let l4 = case.ip_header();
            // Another port, another address, another protocol, to somebody else than it is about.
            lab.untouched_on(interface, &with(&|i| i.body[l4 + 1] ^= 1), PassReason::IcmpNoFlow);
            lab.untouched_on(interface, &with(&|i| i.body[l4 - 1] ^= 1), PassReason::IcmpNoFlow);
            let protocol = if case.family == Family::V4 { 9 } else { 6 };
            lab.untouched_on(interface, &with(&|i| i.body[protocol] = 132), PassReason::IcmpNoFlow);
            lab.untouched_on(interface, &with(&|i| i.to = case.ip(3, 3)), PassReason::IcmpNoFlow);
            // About an error, which nobody should have sent.
            let icmp = if case.family == Family::V4 { 1 } else { 58 };
            lab.untouched_on(interface, &with(&|i| i.body[protocol] = icmp), PassReason::IcmpNoFlow);
            // About a later fragment, which names no port.
            if case.family == Family::V4 {
                lab.untouched_on(interface, &with(&|i| i.body[7] = 1), PassReason::IcmpNoFlow);
            }
            // Other messages, whatever they carry.
            for kind in [0, 5, 13, 133, 134, 135, 136, 137, 143] {
                let other = if case.family == Family::V4 {
                    kind % 20
                } else {
                    kind | 0x80
                };
                if [3, 11, 12, 8, 128].contains(&other) {
                    continue;
                }
                lab.untouched_on(interface, &with(&|i| i.kind = other), PassReason::NotTcpOrUdp);
            }
        }
    }
}

/// Against the direction: a client cannot end its neighbour's connection by quoting what the backend sent.
#[test]
fn an_error_must_quote_what_its_receiver_sent() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let talk = Conversation::new(&mut lab, case, 100);
        let (mut comes, _) = talk.towards_backend(errors(case.family)[0], 100);
        comes.body = quote(&talk.sent, 100);
        lab.untouched_on(CLIENT_IF, &comes.bytes(), PassReason::IcmpNoFlow);
    }
}

#[test]
fn errors_that_quote_too_little_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let talk = Conversation::new(&mut lab, case, 100);
        for length in 0..case.ip_header() + 8 {
            for (interface, comes, _) in talk.both(errors(case.family)[0], length) {
                lab.untouched_on(interface, &comes.bytes(), PassReason::Malformed);
                // Padding behind the packet is no quote.
                let mut padded = comes.bytes();
                padded.resize(padded.len() + 60, 0);
                lab.untouched_on(interface, &padded, PassReason::Malformed);
            }
        }
    }
}

#[test]
fn errors_with_no_hop_left_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let talk = Conversation::new(&mut lab, case, 100);
        for (interface, mut comes, mut goes) in talk.both(errors(case.family)[0], 100) {
            comes.ttl = 1;
            if case.mode == Mode::L2_DSR {
                // It makes no hop.
                goes.ttl = 1;
                assert_same(&lab.run_on(interface, &comes.bytes()).frame, &goes, "the last hop");
                continue;
            }
            lab.untouched_on(interface, &comes.bytes(), PassReason::TtlExpired);
        }
    }
}

/// None is told about an error, however large it is: two that did not fit could keep each other busy.
#[test]
fn errors_that_do_not_fit_are_dropped_in_silence() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let talk = Conversation::new(&mut lab, case, 600);
        lab.change(talk.server, |backend| backend.mtu = 500);
        for error in errors(case.family) {
            let (comes, _) = talk.towards_backend(error, 480);
            let before = lab.dropped(DropReason::ExceedsMtu);
            let out = lab.run_on(CLIENT_IF, &comes.bytes());
            assert_eq!(out.verdict, Verdict::Drop, "{case:?}, {error:?} {:?}", lab.reasons());
            assert_eq!(lab.dropped(DropReason::ExceedsMtu), before + 1, "{case:?}");
        }
    }
}

#[test]
fn errors_in_fragments_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms().into_iter().filter(|case| case.family == Family::V4) {
        let talk = Conversation::new(&mut lab, case, 100);
        for (interface, comes, _) in talk.both(errors(case.family)[0], 100) {
            let mut first = comes.bytes();
            first[ETHERNET + 6] = 0x20;
            lab.untouched_on(interface, &first, PassReason::NotTcpOrUdp);
            let mut later = comes.bytes();
            later[ETHERNET + 7] = 9;
            let reason = if interface == CLIENT_IF {
                PassReason::FragmentBeforeFirst
            } else {
                PassReason::LaterFragment
            };
            lab.untouched_on(interface, &later, reason);
        }
    }
}

#[test]
fn echo_requests_are_the_kernels_unless_it_may_not_have_the_vip() {
    use lb_userspace::datapath::Datapath as _;
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let kind = if case.family == Family::V4 { 8 } else { 128 };
        let request = Icmp {
            src_mac: CLIENT_MAC,
            dst_mac: FRONT_MAC,
            from: case.client(0).ip(),
            to: service.vip.ip(),
            ttl: 3,
            tos: 0x10,
            kind,
            code: 0,
            word: [0x12, 0x34, 0, 1],
            body: (0..200).collect(),
            outer: None,
        };
        lab.untouched(&request.bytes(), PassReason::NotTcpOrUdp);
        lab.datapath.answer_echo(service.vip.ip(), true).unwrap();
        let reply = Icmp {
            src_mac: FRONT_MAC,
            dst_mac: CLIENT_MAC,
            from: request.to,
            to: request.from,
            ttl: 64,
            kind: if case.family == Family::V4 { 0 } else { 129 },
            ..request.clone()
        };
        let out = lab.run_on(CLIENT_IF, &request.bytes());
        assert_eq!(out.verdict, Verdict::Tx, "{case:?}");
        assert_same(&out.frame, &reply, "an echo");
        // Never for other addresses.
        let other = Icmp {
            to: case.ip(1, 250),
            ..request.clone()
        };
        lab.untouched(&other.bytes(), PassReason::NotTcpOrUdp);
        // Not once it is no VIP any more.
        lab.datapath.remove_service(service.id()).unwrap();
        lab.untouched(&request.bytes(), PassReason::NotTcpOrUdp);
    }
}

#[test]
fn echo_replies_are_limited() {
    use lb_userspace::datapath::Datapath as _;
    let mut lab = Lab::with(lb_userspace::model::Limits {
        icmp_per_second: 10,
        ..crate::lab::LIMITS
    });
    let service = lab.serve(Case::PLAIN, &Setup::default());
    lab.datapath.answer_echo(service.vip.ip(), true).unwrap();
    let request = Icmp {
        src_mac: CLIENT_MAC,
        dst_mac: FRONT_MAC,
        from: Case::PLAIN.client(0).ip(),
        to: service.vip.ip(),
        ttl: 3,
        tos: 0,
        kind: 8,
        code: 0,
        word: [0; 4],
        body: vec![1; 8],
        outer: None,
    };
    let verdicts: Vec<_> = (0..50)
        .map(|_| lab.run_on(CLIENT_IF, &request.bytes()).verdict)
        .collect();
    assert_eq!(verdicts[0], Verdict::Tx);
    assert!(verdicts.contains(&Verdict::Drop));
    assert!(lab.dropped(DropReason::IcmpRateLimited) > 0);
}

#[test]
fn what_does_not_fit_is_answered() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::of(1));
        for (mtu, quoted_v4, quoted_v6) in [(1000, 544, 512), (1300, 544, 1232), (600, 544, 512)] {
            lab.change(service.servers[0], |backend| backend.mtu = mtu);
            let fits = mtu - u32::try_from(case.overhead()).unwrap();
            let body: Vec<u8> = (0..1350usize).map(|n| (n * 13) as u8).collect();
            let keep = if mtu == 1300 { 1350 } else { 1050 };
            for dont_fragment in [true, false] {
                let request = service
                    .request(4000)
                    .payload(&body[..keep])
                    .with(|p| p.dont_fragment = dont_fragment);
                let before = lab.dropped(DropReason::ExceedsMtu);
                let out = lab.run(&request);
                assert_eq!(out.verdict, Verdict::Tx, "{case:?} {:?}", lab.reasons());
                assert_eq!(lab.dropped(DropReason::ExceedsMtu), before + 1);
                let (kind, code, length) = match case.family {
                    Family::V4 => (3, 4, quoted_v4),
                    Family::V6 => (2, 0, quoted_v6),
                };
                let answer = Icmp {
                    src_mac: FRONT_MAC,
                    dst_mac: CLIENT_MAC,
                    from: service.vip.ip(),
                    to: request.from.ip(),
                    ttl: 64,
                    tos: if case.family == Family::V4 { 0xc0 } else { 0 },
                    kind,
                    code,
                    word: fits.to_be_bytes(),
                    body: quote(&request, length),
                    outer: None,
                };
                assert_same(&out.frame, &answer, &format!("{case:?} {mtu}"));
                assert!(out.frame.len() - ETHERNET <= if case.family == Family::V4 { 576 } else { 1280 });
            }
        }
    }
}

/// The interfaces have an MTU of 1500; the packet path looks at it from 1400 bytes on.
#[test]
fn answers_that_do_not_fit_are_answered() {
    let mut lab = Lab::new();
    for case in Case::both_ways() {
        let talk = Conversation::new(&mut lab, case, 100);
        let fill = |size: usize| {
            let empty = talk.reply.clone().payload(b"").bytes().len() - ETHERNET;
            talk.reply.clone().payload(&vec![0x77; size - empty])
        };
        for size in [1399, 1400, 1401, 1500] {
            let reply = fill(size);
            let out = lab.run_on(BACKEND_IF, &reply.bytes());
            assert_eq!(out.verdict, Verdict::Redirect, "{case:?}: {size}");
            crate::lab::assert_same(&out.frame, &talk.service.answered(&reply, &talk.sent));
        }
        let reply = fill(1501);
        let out = lab.run_on(BACKEND_IF, &reply.bytes());
        assert_eq!(out.verdict, Verdict::Tx, "{case:?} {:?}", lab.reasons());
        let v4 = case.family == Family::V4;
        let answer = Icmp {
            src_mac: BACK_MAC,
            dst_mac: talk.server.mac,
            from: reply.to.ip(),
            to: reply.from.ip(),
            ttl: 64,
            tos: if v4 { 0xc0 } else { 0 },
            kind: if v4 { 3 } else { 2 },
            code: if v4 { 4 } else { 0 },
            word: 1500u32.to_be_bytes(),
            body: quote(&reply, if v4 { 544 } else { 1232 }),
            outer: None,
        };
        assert_same(&out.frame, &answer, &format!("{case:?}"));
    }
}

#[test]
fn answers_about_size_are_limited() {
    let mut lab = Lab::with(lb_userspace::model::Limits {
        icmp_per_second: 10,
        ..crate::lab::LIMITS
    });
    for case in Case::two_arms() {
        let service = lab.serve(
            case,
            &Setup {
                mtu: 1000,
                ..Setup::default()
            },
        );
        let request = service.request(4000).payload(&[1; 1000]);
        let before = (
            lab.dropped(DropReason::ExceedsMtu),
            lab.dropped(DropReason::IcmpRateLimited),
        );
        let verdicts: Vec<_> = (0..50).map(|_| lab.run(&request).verdict).collect();
        let silent = verdicts.iter().filter(|verdict| **verdict == Verdict::Drop).count() as u64;
        assert!(silent > 0, "{verdicts:?}");
        assert_eq!(lab.dropped(DropReason::ExceedsMtu), before.0 + 50, "every one of them");
        assert_eq!(lab.dropped(DropReason::IcmpRateLimited), before.1 + silent);
    }
}
