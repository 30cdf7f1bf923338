//! Copies of flows: packets go by them, and never by one whose flow ended, moved, or was another's.

use std::net::SocketAddr;

use lb_common::{
    abi::{BackendState, OnDown},
    net,
    reason::DropReason,
};
use lb_userspace::{
    datapath::{FlowEntry, FlowTables as _},
    model::Limits,
};

use crate::{
    frames::{ACK, FIN, Packet, SYN},
    lab::{Case, LIMITS, Lab, Server, Service, Setup, Table},
    twins::Ends,
};

/// A flow whose next packet, either way, finds a copy.
#[track_caller]
fn copied(lab: &mut Lab, service: &Service, port: u16) -> (Packet, (Server, SocketAddr)) {
    let first = service.request(port);
    let flow = lab.forward(service, &first);
    lab.establish(service, &first, flow);
    let request = first.flags_if_tcp(ACK);
    for _ in 0..2 {
        assert_eq!(lab.forward(service, &request), flow);
        lab.answer(service, &request, flow, ACK);
    }
    (request, flow)
}

/// Removes both entries of a flow, as the kernel does when a table is full: it tells nobody.
fn evict(lab: &Lab, service: &Service, request: &Packet, flow: (Server, SocketAddr)) {
    Ends::request(Table::Established, service, request).evict(lab);
    if service.case.mode.sees_replies() {
        Ends::reply(Table::Established, service, flow).evict(lab);
    }
}

fn has_cache() -> bool {
    cfg!(target_arch = "x86_64")
}

#[test]
fn packets_of_established_flows_go_by_copies() {
    if !has_cache() {
        println!("not tried: there is a flow cache on x86-64 only");
        return;
    }
    // Large enough for no two of these flows to have the same place.
    let mut lab = Lab::with(Limits {
        flows_ipv4: 1 << 16,
        flows_ipv6: 1 << 16,
        ..LIMITS
    });
    for case in Case::all() {
        let service = lab.serve(case, &Setup::default());
        let (request, flow) = copied(&mut lab, &service, 4000);
        evict(&lab, &service, &request, flow);
        assert_eq!(lab.forward(&service, &request), flow, "{case:?}: without the entry");
        lab.answer(&service, &request, flow, ACK);
        assert!(!Ends::request(Table::Established, &service, &request).exists(&lab));
    }
}

#[test]
fn who_claims_the_port_of_an_evicted_flow_gets_its_replies() {
    let mut lab = Lab::new();
    let setup = Setup {
        source_ports: 1,
        sources: 1,
        backends: 1,
        ..Setup::default()
    };
    for case in Case::full_nat() {
        let service = lab.serve(case, &setup);
        let (old, flow) = copied(&mut lab, &service, 4000);
        evict(&lab, &service, &old, flow);
        let request = service.request(5000);
        let other = lab.forward(&service, &request);
        assert_eq!(other, flow, "{case:?}: the same source port");
        lab.answer(&service, &request, other, SYN | ACK);
    }
}

#[test]
fn a_connection_by_the_ports_of_an_evicted_one_is_its_own() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        let service = lab.serve(case, &Setup::default());
        let (old, flow) = copied(&mut lab, &service, 4000);
        evict(&lab, &service, &old, flow);
        let request = service.request(4000);
        let next = lab.forward(&service, &request);
        assert_ne!(next, flow, "{case:?}: the next in turn");
        lab.establish(&service, &request, next);
        assert_eq!(lab.forward(&service, &request.clone().flags(ACK)), next);
    }
}

#[test]
fn a_connection_that_follows_a_closed_one_is_its_own() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        let service = lab.serve(case, &Setup::default());
        let (request, flow) = copied(&mut lab, &service, 4000);
        lab.forward(&service, &request.clone().flags(FIN | ACK));
        lab.answer(&service, &request, flow, FIN | ACK);
        lab.forward(&service, &request);
        let syn = service.request(4000);
        let next = lab.forward(&service, &syn);
        assert_ne!(next, flow, "{case:?}");
        lab.establish(&service, &syn, next);
        assert_eq!(lab.forward(&service, &request), next);
    }
}

#[test]
fn flows_that_are_killed_leave_no_copy() {
    let mut lab = Lab::new();
    for case in Case::tcp_both_ways() {
        let service = lab.serve(case, &Setup::default());
        let (request, _) = copied(&mut lab, &service, 4000);
        let (other, kept) = copied(&mut lab, &service, 4001);
        let doomed = |flow: &FlowEntry| flow.vip == service.vip && flow.client.port() == 4000;
        assert_eq!(lab.datapath.flow_tables().kill(&doomed).unwrap(), 1, "{case:?}");
        lab.refused(&request, DropReason::NoFlow);
        assert_eq!(lab.forward(&service, &other), kept);
    }
}

#[test]
fn a_backend_that_is_down_gets_nothing_by_a_copy() {
    let mut lab = Lab::new();
    let setup = Setup {
        on_down: OnDown::RESET,
        ..Setup::default()
    };
    for case in Case::tcp_both_ways() {
        let service = lab.serve(case, &setup);
        let (request, (server, _)) = copied(&mut lab, &service, 4000);
        lab.change(server, |backend| backend.state = BackendState::DOWN);
        lab.refused(&request, DropReason::BackendDown);
    }
}

#[test]
fn a_backend_that_follows_another_by_its_index_gets_none_of_its_flows() {
    let mut lab = Lab::new();
    for case in Case::tcp_both_ways() {
        let service = lab.serve(case, &Setup::default());
        let (request, (server, source)) = copied(&mut lab, &service, 4000);
        evict(&lab, &service, &request, (server, source));
        let address = case.server(99, 9);
        lab.change(server, |backend| backend.address = net::to_any(address));
        lab.refused(&request, DropReason::NoFlow);
    }
}

#[test]
fn replies_follow_a_client_that_moves_at_once() {
    let mut lab = Lab::new();
    for case in Case::both_ways() {
        let service = lab.serve(case, &Setup::default());
        let (request, flow) = copied(&mut lab, &service, 4000);
        let mut elsewhere = request.clone();
        (elsewhere.src_mac, elsewhere.dst_mac) = ([2, 0, 0, 0, 9, 9], [2, 0, 0, 0, 8, 9]);
        for packet in [&elsewhere, &request, &elsewhere] {
            assert_eq!(lab.forward(&service, packet), flow, "{case:?}");
            lab.answer(&service, packet, flow, ACK);
        }
    }
}
