//! Flows between families: an IPv6 VIP with IPv4 backends, and the other way round.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    abi::{BackendState, FlowKey, Mode, OnDown},
    net,
    reason::{DropReason, PassReason},
};
use lb_userspace::{
    datapath::{Datapath as _, FlowTables as _},
    model::Protocol,
};

use crate::{
    frames::{ACK, FIN, L4, Packet, RST, SYN, UdpChecksum},
    lab::{CLIENT_IF, Case, Family, LONG, Lab, Server, Service, Setup, Verdict, assert_same},
};

pub(crate) fn other(case: Case) -> Case {
    let family = match case.family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    };
    Case {
        family,
        outer: family,
        ..case
    }
}

pub(crate) fn cases() -> Vec<Case> {
    Case::all()
        .into_iter()
        .filter(|case| case.mode == Mode::FULL_NAT)
        .collect()
}

pub(crate) fn tcp() -> impl Iterator<Item = Case> {
    cases()
        .into_iter()
        .filter(|case| case.protocol == Protocol::Tcp && !case.one_arm)
}

/// A service whose servers from the given one on are of the other family.
pub(crate) fn serve_from(lab: &mut Lab, case: Case, setup: &Setup, first: usize) -> Service {
    let (mut service, backends) = (lab.serve(case, setup), other(case));
    let mut moved = None;
    for (number, server) in service.servers.iter_mut().enumerate().skip(first) {
        let host = u8::try_from(number + 1).unwrap();
        let network = 20 + u8::try_from(service.index).unwrap();
        server.address = SocketAddr::new(backends.ip(network, host), server.address.port());
        let first_source = *moved.get_or_insert_with(|| lab.add_sources(backends, setup.sources));
        lab.change(*server, |backend| {
            backend.address = net::to_any(server.address.ip());
            backend.family = if server.address.is_ipv4() { 4 } else { 6 };
            backend.first_source = first_source;
        });
    }
    service
}

pub(crate) fn serve(lab: &mut Lab, case: Case, setup: &Setup) -> Service {
    serve_from(lab, case, setup, 0)
}

/// What becomes of a packet that went from family to family: what only the old header knew is gone.
pub(crate) fn translated(packet: Packet) -> Packet {
    Packet {
        id: 0,
        dont_fragment: true,
        ip_options: Vec::new(),
        ..packet
    }
}

pub(crate) fn way(case: Case) -> Verdict {
    if case.one_arm { Verdict::Tx } else { Verdict::Redirect }
}

#[track_caller]
pub(crate) fn forward(lab: &mut Lab, service: &Service, packet: &Packet) -> (Server, SocketAddr) {
    let out = lab.run(packet);
    assert_eq!(out.verdict, way(service.case), "{packet:?}\n{:?}", lab.reasons());
    let (server, source) = service.way_of(&out.frame);
    let mut expected = service.forwarded(packet, server, source);
    if server.address.is_ipv4() != packet.to.is_ipv4() {
        expected = translated(expected);
    }
    assert_same(&out.frame, &expected);
    (server, source)
}

/// What the server answers to a request.
pub(crate) fn reply_to(
    service: &Service,
    request: &Packet,
    (server, source): (Server, SocketAddr),
    flags: u8,
) -> Packet {
    service.reply(&translated(service.forwarded(request, server, source)), flags)
}

#[track_caller]
pub(crate) fn answer(lab: &mut Lab, service: &Service, request: &Packet, flow: (Server, SocketAddr), flags: u8) {
    let reply = reply_to(service, request, flow, flags);
    let out = lab.run_reply(service.case, &reply);
    assert_eq!(out.verdict, way(service.case), "{reply:?}\n{:?}", lab.reasons());
    assert_same(&out.frame, &translated(service.answered(&reply, request)));
}

#[test]
fn requests_and_replies_get_the_other_familys_header() {
    let mut lab = Lab::new();
    for case in cases() {
        let service = serve(&mut lab, case, &Setup::default());
        let request = service.request(4000);
        let flow = forward(&mut lab, &service, &request);
        assert!(
            [other(case).source(0), other(case).source(1)].contains(&flow.1.ip()),
            "{case:?}"
        );
        answer(&mut lab, &service, &request, flow, SYN | ACK);
        for more in service.variants(4000) {
            assert_eq!(forward(&mut lab, &service, &more), flow, "{case:?}");
            answer(&mut lab, &service, &more, flow, ACK);
        }
    }
}

#[test]
fn options_end_and_ethernet_padding_goes_on() {
    let mut lab = Lab::new();
    for case in cases() {
        let service = serve(&mut lab, case, &Setup::default());
        let request = service.request(4000).payload(b"").with(|p| p.trailer = vec![0xee; 18]);
        let flow = forward(&mut lab, &service, &request);
        answer(&mut lab, &service, &request, flow, SYN | ACK);
        // Options stand in requests to an IPv4 VIP, and in replies to an IPv6 one.
        for words in 1..=10 {
            let mut options = vec![1; words * 4 - 1];
            options.push(0);
            let request = service.request(5000);
            if case.family == Family::V4 {
                forward(&mut lab, &service, &request.with(|p| p.ip_options = options));
            } else {
                let flow = forward(&mut lab, &service, &request);
                let reply = reply_to(&service, &request, flow, ACK).with(|p| p.ip_options = options);
                let out = lab.run_reply(case, &reply);
                assert_same(&out.frame, &translated(service.answered(&reply, &request)));
            }
        }
    }
}

/// The arithmetic of carries shows only with many addresses, ports and payloads.
#[test]
fn checksums_hold_for_many_flows() {
    let mut lab = Lab::new();
    let setup = Setup {
        source_ports: 40_000,
        ..Setup::default()
    };
    for case in cases().into_iter().filter(|case| !case.one_arm) {
        let service = serve(&mut lab, case, &setup);
        for port in (1..60_000).step_by(251) {
            let request = service.request(port).payload(&port.wrapping_mul(31_321).to_be_bytes());
            let flow = forward(&mut lab, &service, &request);
            answer(&mut lab, &service, &request, flow, SYN | ACK);
        }
    }
}

/// A checksum that works out as zero is sent as all ones.
#[test]
fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
    let mut lab = Lab::new();
    for case in cases()
        .into_iter()
        .filter(|case| case.protocol == Protocol::Udp && !case.one_arm)
    {
        let service = serve(&mut lab, case, &Setup::default());
        let at = 14 + other(case).ip_header() + 6;
        let request = service.request(7200).payload(&[0; 8]);
        let (server, source) = forward(&mut lab, &service, &request);
        let expected = service.forwarded(&request, server, source).bytes();
        let request = request.payload(&[expected[at], expected[at + 1], 0, 0, 0, 0, 0, 0]);
        let out = lab.run(&request);
        assert_eq!(&out.frame[at..at + 2], &[0xff, 0xff], "{case:?}");
        assert_same(&out.frame, &translated(service.forwarded(&request, server, source)));
    }
}

#[test]
fn a_udp_checksum_that_is_missing_cannot_become_ipv6s() {
    let mut lab = Lab::new();
    for case in [Case::UDP, other(Case::UDP)] {
        let service = serve(&mut lab, case, &Setup::default());
        let request = service.request(4000);
        let flow = forward(&mut lab, &service, &request);
        let missing = |p: &mut Packet| p.l4 = L4::Udp(UdpChecksum::Zero);
        if case.family == Family::V4 {
            lab.ignored(&request.clone().with(missing), DropReason::UdpChecksumMissing);
        } else {
            let before = lab.dropped(DropReason::UdpChecksumMissing);
            let reply = reply_to(&service, &request, flow, 0).with(missing);
            assert_eq!(lab.run_reply(case, &reply).verdict, Verdict::Drop);
            assert_eq!(lab.dropped(DropReason::UdpChecksumMissing), before + 1);
        }
    }
}

/// The MTU that an ICMP error announces.
fn announced(frame: &[u8]) -> usize {
    let at = if frame[14] >> 4 == 4 { 14 + 20 + 4 } else { 14 + 40 + 4 };
    u32::from_be_bytes(frame[at..at + 4].try_into().unwrap()) as usize
}

/// The header grows or shrinks by 20 bytes, so what fits one side may not fit the other. Senders are told what would, with the
/// header that they write.
#[test]
fn what_no_longer_fits_is_dropped_and_its_sender_told() {
    let mut lab = Lab::new();
    for case in cases() {
        let setup = Setup {
            mtu: 600,
            ..Setup::default()
        };
        let service = serve(&mut lab, case, &setup);
        let request = service.request(4000);
        let fill = |packet: &Packet, size: usize| {
            let empty = packet.clone().payload(b"").bytes().len() - 14;
            packet.clone().payload(&vec![1; size - empty])
        };
        let largest = 600 + case.ip_header() - other(case).ip_header();
        let flow = forward(&mut lab, &service, &fill(&request, largest));
        let before = lab.dropped(DropReason::ExceedsMtu);
        let out = lab.run(&fill(&request, largest + 1));
        assert_eq!((out.verdict, announced(&out.frame)), (Verdict::Tx, largest), "{case:?}");
        // Towards the client its interface's MTU counts, which is 1500.
        let reply = reply_to(&service, &request, flow, ACK);
        let largest = 1500 + other(case).ip_header() - case.ip_header();
        let fitting = fill(&reply, largest);
        let out = lab.run_reply(case, &fitting);
        assert_eq!(out.verdict, way(case), "{case:?}");
        assert_same(&out.frame, &translated(service.answered(&fitting, &request)));
        let out = lab.run_reply(case, &fill(&reply, largest + 1));
        assert_eq!((out.verdict, announced(&out.frame)), (Verdict::Tx, largest), "{case:?}");
        assert_eq!(lab.dropped(DropReason::ExceedsMtu), before + 2);
    }
}

#[test]
fn what_is_not_forwarded_is_as_it_came() {
    let mut lab = Lab::new();
    for case in cases() {
        let service = serve(&mut lab, case, &Setup::default());
        let request = service.request(4000);
        let flow = forward(&mut lab, &service, &request);
        lab.untouched(&request.clone().with(|p| p.ttl = 1).bytes(), PassReason::TtlExpired);
        let reply = reply_to(&service, &request, flow, ACK).with(|p| p.ttl = 1).bytes();
        let interface = if case.one_arm {
            CLIENT_IF
        } else {
            crate::lab::BACKEND_IF
        };
        let out = lab.run_on(interface, &reply);
        assert_eq!((out.verdict, out.frame), (Verdict::Pass, reply));
        let request = request.payload(&[0; 64]);
        let fragment = match case.family {
            Family::V4 => request.with(|p| p.more_fragments = true).bytes(),
            Family::V6 => request.bytes_with_extensions(&[(44, &[0, 0, 1, 0, 0, 0, 9])]),
        };
        let before = lab.dropped(DropReason::FragmentMixed);
        assert_eq!(lab.run_on(CLIENT_IF, &fragment).verdict, Verdict::Drop);
        assert_eq!(lab.dropped(DropReason::FragmentMixed), before + 1);
    }
}

#[test]
fn connections_live_through_their_phases() {
    let mut lab = Lab::new();
    for case in tcp() {
        let service = serve(&mut lab, case, &Setup::default());
        let request = service.request(4000);
        let flow = forward(&mut lab, &service, &request);
        assert_eq!(lab.phase(&request), "syn-seen");
        answer(&mut lab, &service, &request, flow, SYN | ACK);
        assert_eq!(lab.phase(&request), "syn-answered");
        assert_eq!(forward(&mut lab, &service, &request.clone().flags(ACK)), flow);
        assert_eq!(lab.phase(&request), "established");
        answer(&mut lab, &service, &request, flow, FIN | ACK);
        assert_eq!(lab.phase(&request), "backend-fin");
        forward(&mut lab, &service, &request.clone().flags(FIN | ACK));
        assert_eq!(lab.phase(&request), "closing");
        let again = forward(&mut lab, &service, &request);
        assert_ne!(again.1, flow.1, "a new flow from another port");
        assert_eq!(lab.phase(&request), "syn-seen");
        let counters = [0, 1].map(|n| lab.counters(service.servers[n]));
        assert_eq!(counters.iter().map(|c| c.opened).sum::<u64>(), 2);
        assert_eq!(counters.iter().map(|c| c.closed).sum::<u64>(), 1);
        // Without a flow: as in any service.
        lab.refused(&service.request(4001).flags(ACK), DropReason::NoFlow);
    }
}

#[test]
fn flows_of_a_backend_that_is_down_are_reset_moved_or_kept() {
    let mut lab = Lab::new();
    for case in cases() {
        for on_down in [OnDown::RESET, OnDown::MOVE, OnDown::KEEP] {
            let setup = Setup {
                on_down,
                ..Setup::default()
            };
            let service = serve(&mut lab, case, &setup);
            let request = service.request(4000);
            let flow = forward(&mut lab, &service, &request);
            lab.change(flow.0, |backend| backend.state = BackendState::DOWN);
            let other_server = *service.servers.iter().find(|s| s.index != flow.0.index).unwrap();
            lab.schedule(&service, &[other_server.index]);
            let is_tcp = case.protocol == Protocol::Tcp;
            let next = if is_tcp {
                request.clone().flags(ACK)
            } else {
                request.clone()
            };
            if on_down == OnDown::KEEP {
                assert_eq!(forward(&mut lab, &service, &next), flow);
            } else if is_tcp {
                lab.refused(&next, DropReason::BackendDown);
                assert_eq!(forward(&mut lab, &service, &request).0, other_server, "its next SYN");
            } else if on_down == OnDown::MOVE {
                assert_eq!(forward(&mut lab, &service, &next).0, other_server);
            } else {
                lab.ignored(&next, DropReason::BackendDown);
            }
        }
    }
}

#[test]
fn a_pool_of_both_families_gets_exact_shares() {
    let mut lab = Lab::new();
    for case in cases() {
        let setup = Setup {
            backends: 4,
            ..Setup::default()
        };
        let service = serve_from(&mut lab, case, &setup, 2);
        let mut seen = [0; 4];
        for port in 4000..4040 {
            let request = service.request(port);
            let flow = forward(&mut lab, &service, &request);
            seen[service.servers.iter().position(|s| *s == flow.0).unwrap()] += 1;
            assert_eq!(forward(&mut lab, &service, &request), flow);
        }
        assert_eq!(seen, [10; 4], "{case:?}");
    }
}

/// Replies to either kind of flow are told apart by source address and port alone.
#[test]
fn flows_of_both_kinds_share_the_source_ports_of_a_server() {
    let mut lab = Lab::new();
    let setup = Setup {
        backends: 1,
        sources: 1,
        source_ports: 8,
        ..Setup::default()
    };
    for case in cases().into_iter().filter(|case| !case.one_arm) {
        let mut plain = lab.serve(other(case), &setup);
        let mixed = serve(&mut lab, case, &setup);
        // The same server in both.
        plain.servers[0].address = mixed.servers[0].address;
        let address = net::to_any(mixed.servers[0].address.ip());
        let port = net::Be16::new(mixed.servers[0].address.port());
        lab.change(plain.servers[0], |backend| {
            (backend.address, backend.port) = (address, port)
        });
        let mut flows = Vec::new();
        for client in 0..4 {
            let request = plain.request(4000 + client);
            flows.push(lab.forward(&plain, &request).1);
            let request = mixed.request(4000 + client);
            flows.push(forward(&mut lab, &mixed, &request).1);
        }
        flows.sort_unstable();
        flows.dedup();
        assert_eq!(flows.len(), 8, "{case:?}: each has a port of its own");
        lab.turned_away(&plain.request(5000), DropReason::SourcePortsExhausted);
        lab.turned_away(&mixed.request(5000), DropReason::SourcePortsExhausted);
        for client in 0..4 {
            // The cursor goes on, so another search finds the same ports taken.
            lab.forward(&plain, &plain.request(4000 + client));
            forward(&mut lab, &mixed, &mixed.request(4000 + client));
        }
    }
}

#[test]
fn an_evicted_twin_is_made_anew() {
    let mut lab = Lab::new();
    for case in tcp() {
        let service = serve(&mut lab, case, &Setup::default());
        let request = service.request(4000);
        let flow = forward(&mut lab, &service, &request);
        answer(&mut lab, &service, &request, flow, SYN | ACK);
        let replies = service.reply(&service.forwarded(&request, flow.0, flow.1), ACK);
        remove(&lab, &replies);
        // A change of phase writes to both.
        forward(&mut lab, &service, &request.clone().flags(ACK));
        answer(&mut lab, &service, &request, flow, ACK);
        remove(&lab, &request);
        answer(&mut lab, &service, &request, flow, FIN | ACK);
        assert_eq!(forward(&mut lab, &service, &request.clone().flags(ACK)), flow);
    }
}

fn remove(lab: &Lab, packet: &Packet) {
    let (from, to) = (packet.from, packet.to);
    let ports = [from.port(), to.port()].map(net::Be16::new);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let key = FlowKey::new((src.into(), ports[0]), (dst.into(), ports[1]), net::TCP);
            lab.mixed_v4().remove(&key).unwrap();
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let key = FlowKey::new((src.into(), ports[0]), (dst.into(), ports[1]), net::TCP);
            lab.mixed_v6().remove(&key).unwrap();
        }
        _ => unreachable!(),
    }
}

#[test]
fn a_service_that_is_taken_away_keeps_its_flows() {
    let mut lab = Lab::new();
    for case in cases() {
        let service = serve(&mut lab, case, &Setup::default());
        let request = service.request(4000);
        let flow = forward(&mut lab, &service, &request);
        lab.datapath.remove_service(service.id()).unwrap();
        assert_eq!(forward(&mut lab, &service, &request), flow);
        answer(&mut lab, &service, &request, flow, SYN | ACK);
        lab.untouched(&service.request(4001).bytes(), PassReason::NotAService);
    }
}

#[test]
fn they_are_listed_counted_and_swept() {
    let mut lab = Lab::new();
    let mut clients = Vec::new();
    for case in [Case::PLAIN, other(Case::PLAIN)] {
        let service = serve(&mut lab, case, &Setup::default());
        for port in 4000..4003 {
            let request = service.request(port);
            let (server, source) = forward(&mut lab, &service, &request);
            clients.push((request.from, request.to, source, server.address));
        }
    }
    let mut listed: Vec<_> = lab
        .flows()
        .iter()
        .map(|f| (f.client, f.vip, f.source, f.backend_address))
        .collect();
    listed.sort_unstable();
    clients.sort_unstable();
    assert_eq!(listed, clients);
    let sweep = lab.datapath.flow_tables().sweep().unwrap();
    assert_eq!(sweep.flows, [0, 0, 6]);
    assert_eq!(sweep.active.values().sum::<u64>(), 6);
}

#[test]
fn expired_flows_are_opened_anew() {
    let mut lab = Lab::new();
    for case in cases().into_iter().filter(|case| !case.one_arm) {
        let service = serve(&mut lab, case, &Setup::default());
        let request = service.request(4000);
        let flow = forward(&mut lab, &service, &request);
        lab.pass(LONG + 1);
        let reply = reply_to(&service, &request, flow, ACK);
        let out = lab.run_reply(case, &reply);
        assert_eq!((out.verdict, out.frame), (Verdict::Pass, reply.bytes()), "{case:?}");
        assert_ne!(forward(&mut lab, &service, &request).1, flow.1, "{case:?}");
    }
}

#[test]
fn replies_follow_the_client() {
    let mut lab = Lab::new();
    for case in cases() {
        let service = serve(&mut lab, case, &Setup::default());
        let request = service.request(4000);
        let flow = forward(&mut lab, &service, &request);
        let mut moved = request.clone().with(|p| p.src_mac = [2, 0, 0, 0, 9, 1]);
        if case.protocol == Protocol::Tcp {
            moved = moved.flags(ACK);
        }
        assert_eq!(forward(&mut lab, &service, &moved), flow);
        answer(&mut lab, &service, &moved, flow, ACK);
    }
}

/// An abort ends the flow for both.
#[test]
fn a_reset_closes() {
    let mut lab = Lab::new();
    for case in tcp() {
        let service = serve(&mut lab, case, &Setup::default());
        let request = service.request(4000);
        let flow = forward(&mut lab, &service, &request);
        answer(&mut lab, &service, &request, flow, SYN | ACK);
        forward(&mut lab, &service, &request.clone().flags(ACK));
        answer(&mut lab, &service, &request, flow, RST | ACK);
        assert_eq!(lab.phase(&request), "closing");
    }
}
