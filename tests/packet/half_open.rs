//! Flows that open, apart from those that are established: what forged packets can do, and what they cannot.

use std::{collections::BTreeSet, net::SocketAddr, thread};

use lb_common::{abi::Mode, reason::DropReason};
use lb_userspace::{
    datapath::FlowTables as _,
    model::{Limits, Protocol},
};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    frames::{ACK, Packet, RST, SYN},
    lab::{BACKEND_IF, CLIENT_IF, Case, LIMITS, Lab, Server, Service, Setup, Table, Verdict, run},
    service::ANSWER,
};

/// Tables of the least size that the configuration allows.
const SMALL: Limits = Limits {
    flows_ipv4: 1024,
    flows_ipv6: 1024,
    half_open_ipv4: 1024,
    half_open_ipv6: 1024,
    ..LIMITS
};

const PLENTY: Setup = Setup {
    source_ports: 20_000,
    ..Setup::DEFAULT
};

/// Entries of a case's family in a table.
fn entries(lab: &Lab, case: Case, table: Table) -> usize {
    if case.ip_header() == 20 {
        lab.table_v4(table).keys().count()
    } else {
        lab.table_v6(table).keys().count()
    }
}

/// A first packet of nobody: from another address for each number.
fn forged(service: &Service, number: u16) -> Packet {
    service.request(number).with(|packet| {
        packet.from.set_ip(service.case.ip(201, (number % 250) as u8));
    })
}

#[test]
fn a_flood_evicts_no_established_flow() {
    for case in Case::sample(Case::full_nat()) {
        let mut lab = Lab::with(SMALL);
        let service = lab.serve(case, &PLENTY);
        let mut open = Vec::new();
        for port in 1000..1200 {
            let request = service.request(port);
            let flow = lab.forward(&service, &request);
            lab.establish(&service, &request, flow);
            open.push((request, flow));
        }
        for number in 2000..12_000 {
            assert_eq!(
                lab.run(&forged(&service, number)).verdict,
                Verdict::Redirect,
                "{:?}",
                lab.reasons()
            );
        }
        for (request, flow) in &open {
            let next = request.clone().flags_if_tcp(ACK);
            assert_eq!(lab.forward(&service, &next), *flow, "{case:?}");
            lab.answer(&service, &next, *flow, ACK);
        }
        assert_eq!(
            lab.datapath.flow_tables().sweep().unwrap().flows.iter().sum::<u64>(),
            200,
            "{case:?}"
        );
        // A handshake that is faster than the flood goes on.
        let request = service.request(1500);
        let flow = lab.forward(&service, &request);
        lab.establish(&service, &request, flow);
        assert_eq!(lab.forward(&service, &request.clone().flags_if_tcp(ACK)), flow);
    }
}

/// A connection that has got a SYN, and perhaps its answer.
fn syn(lab: &mut Lab, case: Case, port: u16) -> (Service, Packet, (Server, SocketAddr)) {
    let service = lab.serve(case, &Setup::default());
    let request = service.request(port);
    let flow = lab.forward(&service, &request);
    (service, request, flow)
}

#[test]
fn a_forged_handshake_stays_half_open() {
    for case in Case::sample(Case::tcp_both_ways()) {
        let mut lab = Lab::new();
        let (service, request, flow) = syn(&mut lab, case, 4000);
        // It reaches the backend, which answers with RST if it knows nothing of it.
        assert_eq!(lab.forward(&service, &request.clone().flags(ACK)), flow);
        assert_eq!(lab.phase(&request), "syn-seen", "nobody answered yet");
        lab.answer(&service, &request, flow, SYN | ACK);
        for wrong in [0, ANSWER, ANSWER.wrapping_add(1 << 20), ANSWER.wrapping_sub(1 << 20)] {
            let guess = request.clone().flags(ACK).with(|p| p.tcp().ack = wrong);
            assert_eq!(lab.forward(&service, &guess), flow);
            assert_eq!(lab.phase(&request), "syn-answered", "{wrong:x}");
        }
        assert_eq!(entries(&lab, case, Table::Established), 0);
        assert_eq!(lab.forward(&service, &request.clone().flags(ACK)), flow);
        assert_eq!(lab.phase(&request), "established", "{case:?}");
        assert_eq!(entries(&lab, case, Table::Established), 2, "both entries moved");
        assert_eq!(entries(&lab, case, Table::HalfOpen), 0);
        assert_eq!(lab.counters(flow.0).opened, 1);
    }
}

#[test]
fn a_second_datagram_either_way_establishes_a_flow() {
    for case in Case::both_ways()
        .into_iter()
        .filter(|case| case.protocol == Protocol::Udp)
    {
        for by_server in [false, true] {
            let mut lab = Lab::new();
            let (service, request, flow) = syn(&mut lab, case, 4000);
            assert_eq!(
                (lab.phase(&request), entries(&lab, case, Table::HalfOpen)),
                ("udp-new", 2)
            );
            if by_server {
                lab.answer(&service, &request, flow, 0);
            } else {
                assert_eq!(lab.forward(&service, &request), flow);
            }
            assert_eq!(
                (lab.phase(&request), entries(&lab, case, Table::HalfOpen)),
                ("udp", 0),
                "{case:?}"
            );
            assert_eq!(entries(&lab, case, Table::Established), 2);
            lab.answer(&service, &request, flow, 0);
            assert_eq!(lab.forward(&service, &request), flow);
        }
    }
}

#[test]
fn a_refused_connection_leaves_the_table_of_the_established_alone() {
    for case in Case::tcp_both_ways() {
        let mut lab = Lab::new();
        let (service, request, flow) = syn(&mut lab, case, 4000);
        lab.answer(&service, &request, flow, RST | ACK);
        assert_eq!(
            (lab.phase(&request), entries(&lab, case, Table::Established)),
            ("closing", 0)
        );
        assert_eq!(lab.counters(flow.0).closed, 1);
        let again = lab.forward(&service, &request);
        assert_ne!(again, flow, "{case:?}: the client tries again at once");
    }
}

/// The client's packets and the server's, on several CPUs at once, all at the moment when the flow is established.
#[test]
fn a_flow_that_is_established_on_two_cpus_at_once_keeps_both_entries() {
    let mut lab = Lab::new();
    let (client_if, backend_if) = (lab.ifindex(CLIENT_IF), lab.ifindex(BACKEND_IF));
    for case in Case::full_nat() {
        let service = lab.serve(case, &PLENTY);
        let mut flows = Vec::new();
        for port in 1000..1400 {
            let request = service.request(port);
            let flow = lab.forward(&service, &request);
            if case.protocol == Protocol::Tcp {
                lab.answer(&service, &request, flow, SYN | ACK);
            }
            let next = request.clone().flags_if_tcp(ACK);
            let reply = service.reply(&service.forwarded(&request, flow.0, flow.1), ACK);
            flows.push((next.bytes(), reply.bytes(), request, flow));
        }
        let program = lab.program();
        let verdicts: BTreeSet<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| {
                    let flows = &flows;
                    scope.spawn(move || {
                        let packets = flows.iter().map(|(next, reply, ..)| {
                            let (ifindex, frame) = if thread % 2 == 0 {
                                (client_if, next)
                            } else {
                                (backend_if, reply)
                            };
                            format!("{:?}", run(program, ifindex, &[], frame).verdict)
                        });
                        packets.collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(verdicts, ["Redirect".to_owned()].into(), "{:?}", lab.reasons());
        assert_eq!(entries(&lab, case, Table::HalfOpen), 0, "{case:?}");
        for (_, _, request, flow) in &flows {
            assert_eq!(lab.forward(&service, &request.clone().flags_if_tcp(ACK)), *flow);
            lab.answer(&service, request, *flow, ACK);
        }
        let sum = |count: fn(&lb_userspace::datapath::BackendCounters) -> u64| -> u64 {
            service.servers.iter().map(|server| count(&lab.counters(*server))).sum()
        };
        assert_eq!((sum(|c| c.opened), sum(|c| c.closed)), (400, 0), "{case:?}");
    }
}

#[test]
fn stray_segments_are_refused_as_before() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        let service = lab.serve(case, &Setup::default());
        lab.refused(&service.request(4000).flags(ACK), DropReason::NoFlow);
        assert_eq!(entries(&lab, case, Table::HalfOpen), 0);
    }
}

/// Ties this thread to one CPU: the limit is per core.
fn stay_on_one_cpu() {
    let mut cpus = CpuSet::new();
    cpus.set(0).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
}

/// One flow a second, of which one may come at once.
const ONE_A_SECOND: Limits = Limits {
    new_flows_per_core: 1,
    ..LIMITS
};

#[test]
fn new_flows_beyond_the_limit_are_dropped() {
    stay_on_one_cpu();
    for case in Case::full_nat() {
        let mut lab = Lab::with(ONE_A_SECOND);
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let flow = lab.forward(&service, &request);
        for port in 4001..4010 {
            lab.ignored(&service.request(port), DropReason::NewFlowLimit);
        }
        assert_eq!(entries(&lab, case, Table::HalfOpen), 2, "{case:?}: nothing was stored");
        lab.establish(&service, &request, flow);
        assert_eq!(
            lab.forward(&service, &request.clone().flags_if_tcp(ACK)),
            flow,
            "flows go on"
        );
        let stray = service.request(4001).flags_if_tcp(ACK);
        let reason = if case.protocol == Protocol::Tcp {
            DropReason::NoFlow
        } else {
            DropReason::NewFlowLimit
        };
        lab.turned_away(&stray, reason);
    }
}

/// Where the backend answers the client itself, the packet alone tells the backend.
#[test]
fn new_flows_beyond_the_limit_go_by_their_hash_where_none_need_be_stored() {
    stay_on_one_cpu();
    for case in Case::sample(Case::full_nat()) {
        let case = Case {
            mode: Mode::L2_DSR,
            ..case
        };
        let mut lab = Lab::with(ONE_A_SECOND);
        let setup = Setup::of(8);
        let service = lab.serve(case, &setup);
        lab.run(&service.request(3999));
        let stored = entries(&lab, case, Table::HalfOpen);
        let mut servers = BTreeSet::new();
        // Few enough to be through with before another second has passed.
        for port in 4000..4040 {
            let request = service.request(port);
            let mut server_of = |packet: &Packet| {
                let out = lab.run(packet);
                assert_eq!(out.verdict, Verdict::Redirect, "{case:?}: {:?}", lab.reasons());
                out.frame[..6].to_vec()
            };
            let server = server_of(&request);
            assert_eq!(server_of(&request), server, "repeated");
            assert_eq!(server_of(&request.flags_if_tcp(ACK)), server, "and what follows");
            servers.insert(server);
        }
        assert!(servers.len() > 5, "{case:?}: {}", servers.len());
        assert_eq!(entries(&lab, case, Table::HalfOpen), stored, "nothing was stored");
    }
}
