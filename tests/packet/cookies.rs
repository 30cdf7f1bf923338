//! SYN cookies: what a SYN is answered with, how the client's acknowledgement becomes a SYN to its backend, and how numbers are
//! translated on the spliced connection then.

use std::net::SocketAddr;

use lb_common::{
    abi::ServiceFlags,
    reason::{DropReason, Note},
};
use lb_userspace::{datapath::Datapath as _, model::Limits};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    frames::{ACK, FIN, L4, PSH, Packet, RST, SYN, Tcp},
    ground::FEATURES,
    icmp::{Icmp, quote},
    lab::{Case, Family, LIMITS, Lab, Outcome, Server, Service, Setup, Table, Verdict, assert_same},
};

const ALWAYS: Setup = Setup {
    flags: ServiceFlags::SYN_COOKIES_ALWAYS,
    ..Setup::DEFAULT
};

/// The client's window in its acknowledgement, and the backend's in its SYN-ACK.
const CLIENT_WINDOW: u16 = 0x7654;
const BACKEND_WINDOW: u16 = 0x4321;
/// Sequence number of the backend's SYN; close below the wrap, so that what follows is beyond it.
const BACKEND_SYN: u32 = 0xffff_ffff;
/// Largest segment in the client's SYN, by the bytes of its option.
const FULL: [u8; 4] = [2, 4, 5, 0xb4];

/// A segment as the packet path makes it: nothing of the frame that it replaces.
fn own(like: &Packet, flags: u8, (seq, ack): (u32, u32), window: u16, options: &[u8]) -> Packet {
    let tcp = Tcp {
        flags,
        seq,
        ack,
        window,
        urgent: 0,
        options: options.to_vec(),
    };
    Packet {
        ttl: 64,
        tos: 0,
        id: 0,
        dont_fragment: true,
        ip_options: Vec::new(),
        l4: L4::Tcp(tcp),
        payload: Vec::new(),
        trailer: Vec::new(),
        ..like.clone()
    }
}

/// The option that tells the largest segment.
fn mss(size: u16) -> Vec<u8> {
    [vec![2, 4], size.to_be_bytes().to_vec()].concat()
}

fn turned(packet: &Packet) -> Packet {
    Packet {
        src_mac: packet.dst_mac,
        dst_mac: packet.src_mac,
        from: packet.to,
        to: packet.from,
        ..packet.clone()
    }
}

fn noted(lab: &Lab, note: Note) -> u64 {
    lab.datapath.reasons().unwrap()[note.counter() as usize]
}

fn entries(lab: &Lab, table: Table) -> usize {
    lab.table_v4(table).keys().count() + lab.table_v6(table).keys().count()
}

/// A client's side of a connection that opens with a cookie.
struct Client {
    service: Service,
    syn: Packet,
    cookie: u32,
}

impl Client {
    /// Sends a SYN, which must be answered with a cookie, checks every byte of that.
    #[track_caller]
    fn connect(lab: &mut Lab, service: &Service, syn: &Packet) -> Self {
        let out = lab.run(syn);
        assert_eq!(out.verdict, Verdict::Tx, "{:?}", lab.reasons());
        let cookie = sequence(&out.frame);
        let size = if service.case.family == Family::V4 { 1360 } else { 1340 };
        let L4::Tcp(tcp) = &syn.l4 else { panic!("TCP") };
        let answer = own(
            &turned(syn),
            SYN | ACK,
            (cookie, tcp.seq.wrapping_add(1)),
            0,
            &mss(size),
        );
        assert_same(&out.frame, &answer);
        Self {
            service: service.clone(),
            syn: syn.clone(),
            cookie,
        }
    }

    /// A segment of the client, `beyond` bytes after its SYN.
    fn segment(&self, flags: u8, beyond: u32, acknowledged: u32) -> Packet {
        self.syn.clone().payload(b"").with(|p| {
            let tcp = p.tcp();
            tcp.flags = flags;
            tcp.seq = tcp.seq.wrapping_add(1).wrapping_add(beyond);
            tcp.ack = self.cookie.wrapping_add(1).wrapping_add(acknowledged);
            tcp.window = CLIENT_WINDOW;
            tcp.options.clear();
        })
    }

    fn ack(&self) -> Packet {
        self.segment(ACK, 0, 0)
    }

    /// Sends what must become the SYN to a backend, checks every byte, and says to whom it goes and from where.
    #[track_caller]
    fn opens(&self, lab: &mut Lab, packet: &Packet, size: u16) -> (Server, SocketAddr) {
        let out = lab.run(packet);
        assert_eq!(out.verdict, Verdict::Redirect, "{:?}", lab.reasons());
        let (server, source) = self.service.way_of(&out.frame);
        assert_same(&out.frame, &self.syn_to(server, source, size));
        (server, source)
    }

    fn syn_to(&self, server: Server, source: SocketAddr, size: u16) -> Packet {
        let L4::Tcp(tcp) = &self.syn.l4 else { panic!("TCP") };
        let forwarded = self.service.forwarded(&self.syn, server, source);
        own(&forwarded, SYN, (tcp.seq, 0), CLIENT_WINDOW, &mss(size))
    }

    /// The backend's answer to that.
    fn syn_ack(&self, server: Server, source: SocketAddr) -> Packet {
        let syn = self.syn_to(server, source, 1460);
        let L4::Tcp(tcp) = &syn.l4 else { panic!("TCP") };
        own(
            &turned(&syn),
            SYN | ACK,
            (BACKEND_SYN, tcp.seq.wrapping_add(1)),
            BACKEND_WINDOW,
            &FULL,
        )
    }

    /// What the client must get for it: a window, and an octet to answer.
    #[track_caller]
    fn nudged(&self, out: &Outcome) {
        let L4::Tcp(tcp) = &self.syn.l4 else { panic!("TCP") };
        let numbers = (self.cookie, tcp.seq.wrapping_add(1));
        let nudge = own(&turned(&self.syn), ACK, numbers, BACKEND_WINDOW, &[]).payload(&[0]);
        assert_eq!(out.verdict, Verdict::Redirect);
        assert_same(&out.frame, &nudge);
    }
}

/// A packet path, and a client that has got a cookie.
#[track_caller]
fn connected(case: Case) -> (Lab, Client) {
    let mut lab = Lab::new();
    let service = lab.serve(case, &ALWAYS);
    let client = Client::connect(&mut lab, &service, &service.request(4000));
    (lab, client)
}

/// The same when it has answered with that, and a backend has got its SYN.
#[track_caller]
fn opened(case: Case) -> (Lab, Client, (Server, SocketAddr)) {
    let (mut lab, client) = connected(case);
    let flow = client.opens(&mut lab, &client.ack(), full(case));
    (lab, client, flow)
}

/// The same after a whole handshake on both sides.
#[track_caller]
fn joined(case: Case) -> (Lab, Client, (Server, SocketAddr)) {
    let (mut lab, client, flow) = opened(case);
    let out = lab.run_reply(case, &client.syn_ack(flow.0, flow.1));
    client.nudged(&out);
    (lab, client, flow)
}

/// The largest size that a cookie for the client's SYN stands for.
fn full(case: Case) -> u16 {
    if case.family == Family::V4 { 1460 } else { 1440 }
}

fn sequence(frame: &[u8]) -> u32 {
    let packet = etherparse::PacketHeaders::from_ethernet_slice(frame).expect("a sound packet");
    packet
        .transport
        .and_then(etherparse::TransportHeader::tcp)
        .expect("TCP")
        .sequence_number
}

#[test]
fn a_syn_is_answered_with_a_cookie_and_not_stored() {
    for case in Case::tcp_both_ways() {
        let mut lab = Lab::new();
        let service = lab.serve(case, &ALWAYS);
        for port in 1000..1050 {
            Client::connect(&mut lab, &service, &service.request(port));
        }
        assert_eq!(noted(&lab, Note::SynCookieSent), 50, "{case:?}");
        assert_eq!(
            (entries(&lab, Table::HalfOpen), entries(&lab, Table::Established)),
            (0, 0)
        );
        assert_eq!(lab.reasons(), [("syn-cookie-sent", 50)], "and nothing else is counted");
    }
}

#[test]
fn both_halves_are_joined_and_numbers_translated() {
    for case in Case::tcp_both_ways() {
        let (mut lab, client, (server, source)) = joined(case);
        let service = client.service.clone();
        assert_eq!(noted(&lab, Note::SynCookieAccepted), 1);
        assert_eq!(
            (entries(&lab, Table::HalfOpen), entries(&lab, Table::Established)),
            (0, 2)
        );
        assert_eq!(lab.phase(&client.syn), "established", "{case:?}");
        assert_eq!(lab.counters(server).opened, 1);
        let L4::Tcp(syn) = &client.syn.l4 else { panic!("TCP") };
        // The client's data, with what it has of the backend's.
        for (beyond, acknowledged) in [(0, 0), (7, 0), (500, 100_000)] {
            let packet = client.segment(ACK | PSH, beyond, acknowledged).payload(b"odd data!");
            let out = lab.run(&packet);
            assert_eq!(out.verdict, Verdict::Redirect);
            let expected = service.forwarded(&packet, server, source);
            let expected = expected.with(|p| p.tcp().ack = BACKEND_SYN.wrapping_add(1).wrapping_add(acknowledged));
            assert_same(&out.frame, &expected);
        }
        // The backend's, and how it ends.
        for (flags, beyond) in [(ACK, 0), (ACK | PSH, 100_000), (FIN | ACK, 100_010), (RST, 100_011)] {
            let reply = turned(&client.syn_to(server, source, 0))
                .payload(b"odd answer!")
                .with(|p| {
                    p.ttl = 50;
                    let tcp = p.tcp();
                    tcp.options.clear();
                    tcp.flags = flags;
                    tcp.seq = BACKEND_SYN.wrapping_add(1).wrapping_add(beyond);
                    tcp.ack = syn.seq.wrapping_add(10);
                });
            let out = lab.run_reply(case, &reply);
            assert_eq!(out.verdict, Verdict::Redirect);
            let expected = service.answered(&reply, &client.syn);
            let expected = expected.with(|p| p.tcp().seq = client.cookie.wrapping_add(1).wrapping_add(beyond));
            assert_same(&out.frame, &expected);
        }
        assert_eq!(lab.phase(&client.syn), "closing");
        // From the same port anew.
        Client::connect(&mut lab, &service, &client.syn);
        assert_eq!(lab.counters(server).closed, 1);
    }
}

#[test]
fn what_is_lost_on_the_way_is_sent_again() {
    for case in Case::tcp_both_ways() {
        let (mut lab, client) = connected(case);
        let service = client.service.clone();
        // The acknowledgement was lost; the client asks for a window, with a number that is one less.
        let probe = client.segment(ACK, 0, 0).with(|p| p.tcp().seq -= 1);
        let flow = client.opens(&mut lab, &probe, full(case));
        // The SYN was lost: whatever the client says next makes it again.
        for packet in [
            &probe,
            &client.ack(),
            &client.segment(FIN | ACK, 0, 0),
            &client.segment(ACK, 0, 0).payload(b"early"),
        ] {
            assert_eq!(client.opens(&mut lab, packet, full(case)), flow);
        }
        // So was the client's first acknowledgement, and it sees another cookie.
        Client::connect(&mut lab, &service, &client.syn);
        assert_eq!(noted(&lab, Note::SynCookieAccepted), 1, "one flow");
        // The backend repeats its answer until it is acknowledged.
        for _ in 0..3 {
            let out = lab.run_reply(case, &client.syn_ack(flow.0, flow.1));
            client.nudged(&out);
        }
        let out = lab.run(&client.ack());
        let expected = service.forwarded(&client.ack(), flow.0, flow.1);
        assert_same(
            &out.frame,
            &expected.with(|p| p.tcp().ack = BACKEND_SYN.wrapping_add(1)),
        );
    }
}

#[test]
fn the_backend_learns_the_segment_size_of_the_client() {
    for case in Case::tcp_both_ways() {
        let mut lab = Lab::new();
        let service = lab.serve(case, &ALWAYS);
        let sizes: &[(u16, u16)] = match case.family {
            Family::V4 => &[
                (100, 536),
                (536, 536),
                (1299, 536),
                (1300, 1300),
                (1440, 1440),
                (1459, 1440),
                (9000, 1460),
            ],
            Family::V6 => &[
                (100, 1220),
                (1220, 1220),
                (1420, 1420),
                (1440, 1440),
                (8939, 1440),
                (8940, 8940),
            ],
        };
        for (port, (announced, told)) in (4000..).zip(sizes) {
            let syn = service.request(port).with(|p| p.tcp().options = mss(*announced));
            let client = Client::connect(&mut lab, &service, &syn);
            client.opens(&mut lab, &client.ack(), *told);
        }
        // None at all.
        let syn = service.request(5000).with(|p| p.tcp().options.clear());
        let client = Client::connect(&mut lab, &service, &syn);
        client.opens(
            &mut lab,
            &client.ack(),
            if case.family == Family::V4 { 536 } else { 1220 },
        );
    }
}

#[test]
fn other_acknowledgements_open_nothing() {
    for case in Case::tcp_both_ways() {
        let mut lab = Lab::new();
        let service = lab.serve(case, &ALWAYS);
        let stray = service.request(3999).flags(ACK);
        lab.refused(&stray, DropReason::NoFlow);
        let client = Client::connect(&mut lab, &service, &service.request(4000));
        for wrong in [4, 5, 1 << 24, u32::MAX - 4] {
            let guess = client.ack().with(|p| p.tcp().ack = p.tcp().ack.wrapping_add(wrong));
            lab.refused(&guess, DropReason::BadSynCookie);
        }
        lab.refused(&client.ack().with(|p| p.from.set_port(4001)), DropReason::BadSynCookie);
        lab.refused(&client.ack().with(|p| p.tcp().seq += 5), DropReason::BadSynCookie);
        lab.ignored(&client.segment(RST | ACK, 0, 0), DropReason::NoFlow);
        assert_eq!(
            (entries(&lab, Table::HalfOpen), entries(&lab, Table::Established)),
            (0, 0)
        );
        client.opens(&mut lab, &client.ack(), full(case));
        lab.ignored(&client.segment(ACK, 0, 1), DropReason::BadSynCookie);
    }
}

#[test]
fn a_backend_that_refuses_is_heard() {
    for case in Case::tcp_both_ways() {
        let (mut lab, client, (server, source)) = opened(case);
        let service = client.service.clone();
        let refusal = client.syn_ack(server, source).with(|p| {
            p.tcp().flags = RST | ACK;
            p.tcp().seq = 0;
            p.tcp().options.clear();
        });
        let out = lab.run_reply(case, &refusal);
        let expected = service.answered(&refusal, &client.syn);
        assert_same(
            &out.frame,
            &expected.with(|p| p.tcp().seq = client.cookie.wrapping_add(1)),
        );
        assert_eq!(lab.phase(&client.syn), "closing", "{case:?}");
    }
}

/// In TIME-WAIT, a backend answers a SYN with the acknowledgement of the connection that was.
#[test]
fn a_backend_that_remembers_another_connection_forgets_it() {
    for case in Case::tcp_both_ways() {
        let (mut lab, client, (server, source)) = opened(case);
        let old = client.syn_ack(server, source).with(|p| {
            p.tcp().flags = ACK;
            p.tcp().ack = 0x1234;
            p.tcp().options.clear();
        });
        for old in [old.clone(), old.with(|p| p.tcp().flags = SYN | ACK)] {
            let out = lab.run_reply(case, &old);
            assert_eq!(out.verdict, Verdict::Tx);
            assert_same(&out.frame, &old.reset());
        }
        assert_eq!(lab.dropped(DropReason::SynCookieUnanswered), 2);
        client.opens(&mut lab, &client.ack(), full(case));
        client.nudged(&lab.run_reply(case, &client.syn_ack(server, source)));
    }
}

#[test]
fn a_client_that_gives_up_takes_its_backend_along() {
    for case in Case::tcp_both_ways() {
        let (mut lab, client, (server, source)) = opened(case);
        let service = client.service.clone();
        let reset = client.segment(RST, 0, 0);
        assert_same(&lab.run(&reset).frame, &service.forwarded(&reset, server, source));
        assert_eq!(lab.phase(&client.syn), "closing");
    }
}

#[test]
fn errors_about_spliced_connections_quote_what_the_backend_sent() {
    for case in Case::tcp_both_ways() {
        let (mut lab, client, (server, source)) = joined(case);
        let service = client.service.clone();
        let sent = turned(&client.syn_to(server, source, 0)).payload(&[7; 64]).with(|p| {
            p.tcp().options.clear();
            (p.tcp().flags, p.tcp().seq) = (ACK, BACKEND_SYN.wrapping_add(1001));
        });
        let got = service.answered(&sent, &client.syn);
        let got = got.with(|p| p.tcp().seq = client.cookie.wrapping_add(1001));
        let (kind, code) = if case.family == Family::V4 { (3, 4) } else { (2, 0) };
        // Whole, and the least that routers quote.
        for length in [usize::MAX, case.ip_header() + 8] {
            let error = Icmp {
                src_mac: client.syn.src_mac,
                dst_mac: client.syn.dst_mac,
                from: case.ip(7, 7),
                to: client.syn.to.ip(),
                ttl: 60,
                tos: 0,
                kind,
                code,
                word: [0, 0, 5, 0x14],
                body: quote(&got, length),
                outer: None,
            };
            let out = lab.run_on(crate::lab::CLIENT_IF, &error.bytes());
            assert_eq!(out.verdict, Verdict::Redirect, "{:?}", lab.reasons());
            let numbers = |frame: &[u8]| {
                let at = frame.len() - error.body.len() + case.ip_header();
                (frame[at..at + 4].to_vec(), frame[at + 4..at + 8].to_vec())
            };
            let ports = [sent.from.port().to_be_bytes(), sent.to.port().to_be_bytes()].concat();
            let seq = BACKEND_SYN.wrapping_add(1001).to_be_bytes().to_vec();
            assert_eq!(numbers(&out.frame), (ports, seq), "{case:?}");
            sound_icmp(&out.frame, case, &error);
        }
    }
}

/// The checksum of an ICMP message, from nothing.
fn sound_icmp(frame: &[u8], case: Case, error: &Icmp) {
    let at = frame.len() - error.body.len();
    let (from, to) = (
        crate::frames::outer_ends(frame).0.ip(),
        crate::frames::outer_ends(frame).1.ip(),
    );
    let again = Icmp {
        src_mac: frame[6..12].try_into().unwrap(),
        dst_mac: frame[..6].try_into().unwrap(),
        from,
        to,
        ttl: error.ttl - 1,
        body: frame[at..].to_vec(),
        ..error.clone()
    };
    assert_eq!(frame, again.bytes(), "{case:?}");
}

/// Ties this thread to one CPU: limits are per core.
fn stay_on_one_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}

#[test]
fn cookies_are_for_floods() {
    stay_on_one_cpu();
    let setup = Setup {
        flags: ServiceFlags::SYN_COOKIES,
        ..Setup::DEFAULT
    };
    // By the limit of their own, and by that of all new flows.
    let limits = [
        Limits {
            syn_cookies_above: 1,
            ..LIMITS
        },
        Limits {
            new_flows_per_core: 1,
            ..LIMITS
        },
    ];
    for case in Case::tcp_both_ways() {
        for limits in limits {
            let mut lab = Lab::with(limits);
            let service = lab.serve(case, &setup);
            let request = service.request(4000);
            let flow = lab.forward(&service, &request);
            lab.establish(&service, &request, flow);
            for port in 4001..4010 {
                let client = Client::connect(&mut lab, &service, &service.request(port));
                client.opens(&mut lab, &client.ack(), full(case));
            }
            assert_eq!(entries(&lab, Table::HalfOpen), 0, "{case:?}");
            assert_eq!(lab.forward(&service, &request.clone().flags(ACK)), flow, "flows go on");
        }
    }
}

#[test]
fn services_without_cookies_are_as_they_were() {
    for case in Case::tcp_both_ways() {
        let mut lab = Lab::new();
        let (with, without) = (lab.serve(case, &ALWAYS), lab.serve(case, &Setup::DEFAULT));
        Client::connect(&mut lab, &with, &with.request(4000));
        let request = without.request(4000);
        let flow = lab.forward(&without, &request);
        lab.establish(&without, &request, flow);
        lab.answer(&without, &request, flow, ACK);
        lab.refused(&without.request(4001).flags(ACK), DropReason::NoFlow);
        let udp = lab.serve(
            Case {
                protocol: lb_userspace::model::Protocol::Udp,
                ..case
            },
            &ALWAYS,
        );
        lab.forward(&udp, &udp.request(4000));
    }
}

#[test]
fn a_kernel_without_cookies_opens_flows() {
    for case in Case::tcp_both_ways() {
        let mut lab = Lab::built(
            LIMITS,
            lb_userspace::datapath::loader::Features {
                syn_cookies: false,
                ..FEATURES
            },
        );
        let service = lab.serve(case, &ALWAYS);
        let request = service.request(4000);
        let flow = lab.forward(&service, &request);
        lab.establish(&service, &request, flow);
    }
}
