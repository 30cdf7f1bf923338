//! Flows whose replies do not come by: `l2-dsr`, `ipip`, `gue`.

use lb_common::{
    abi::{Mode, OnDown},
    flow::refresh_step,
    reason::DropReason,
};
use lb_userspace::{datapath::FlowTables as _, model::Protocol};

use crate::{
    frames::{ACK, FIN, L4, RST, SYN, UdpChecksum},
    lab::{Case, DISTINCT, Family, LONG, Lab, Setup, Table, assert_same},
};

fn tcp() -> impl Iterator<Item = Case> {
    Case::one_way()
        .into_iter()
        .filter(|case| case.protocol == Protocol::Tcp)
}

fn entries(lab: &Lab) -> usize {
    [Table::HalfOpen, Table::Established]
        .map(|table| lab.table_v4(table).keys().count() + lab.table_v6(table).keys().count())
        .iter()
        .sum()
}

#[test]
fn a_flow_has_one_entry() {
    let mut lab = Lab::new();
    for case in Case::one_way() {
        let service = lab.serve(case, &Setup::default());
        let before = entries(&lab);
        let request = service.request(4000);
        let flow = lab.forward(&service, &request);
        assert_eq!(entries(&lab), before + 1, "{case:?}");
        // A new link is written at once, which elsewhere restores what is missing.
        let moved = request.with(|p| p.src_mac[5] = 99);
        assert_eq!(lab.forward(&service, &moved), flow);
        assert_eq!(entries(&lab), before + 1, "{case:?}");
    }
}

#[test]
fn the_client_alone_opens_and_closes() {
    let mut lab = Lab::new();
    let setup = Setup {
        timeouts: DISTINCT,
        ..Setup::default()
    };
    for case in tcp() {
        let service = lab.serve(case, &setup);
        let request = service.request(4000);
        let flow = lab.forward(&service, &request);
        for (flags, phase, timeout) in [
            (SYN, "syn-seen", DISTINCT.syn),
            (ACK, "established", DISTINCT.established),
            (FIN | ACK, "client-fin", DISTINCT.fin),
            (ACK, "client-fin", DISTINCT.fin),
            (RST, "closing", DISTINCT.closing),
        ] {
            assert_eq!(lab.forward(&service, &request.clone().flags(flags)), flow);
            assert_eq!(lab.phase(&request), phase, "{case:?}");
            let now = lab.datapath.flow_tables().now().unwrap();
            let flows = lab.flows();
            let found = flows.iter().find(|flow| flow.vip == service.vip).unwrap();
            let left = found.expires.remaining(now);
            let most = i32::try_from(timeout + refresh_step(timeout)).unwrap();
            let least = i32::try_from(timeout).unwrap() - 10_000;
            assert!((least..=most).contains(&left), "{phase}: {left} of {timeout}");
        }
        assert_eq!(lab.counters(flow.0).closed, 1, "{case:?}");
    }
}

/// It goes the way that its turn gives it, since the other connection is over for its client.
#[test]
fn a_port_used_again_opens_a_new_flow() {
    let mut lab = Lab::new();
    for case in tcp() {
        let service = lab.serve(case, &Setup::default());
        for (number, last) in [FIN | ACK, RST].into_iter().enumerate() {
            let request = service.request(4000 + number as u16);
            let old = lab.forward(&service, &request);
            lab.forward(&service, &request.clone().flags(ACK));
            assert_eq!(
                lab.forward(&service, &request),
                old,
                "an established one is not replaced"
            );
            lab.forward(&service, &request.clone().flags(last));
            let new = lab.forward(&service, &request);
            assert_ne!(new.0, old.0, "{case:?}");
            assert_eq!(lab.phase(&request), "syn-seen");
            let closed: u64 = service.servers.iter().map(|server| lab.counters(*server).closed).sum();
            assert_eq!(closed, number as u64 + 1, "{case:?}");
        }
    }
}

#[test]
fn a_flow_expires_and_a_packet_in_time_keeps_it() {
    let mut lab = Lab::new();
    let flows: Vec<_> = Case::one_way()
        .into_iter()
        .map(|case| {
            let service = lab.serve(case, &Setup::default());
            let [kept, left] = [4000, 4001].map(|port| service.request(port));
            let flow = lab.forward(&service, &kept);
            lab.forward(&service, &left);
            (service, kept, left, flow)
        })
        .collect();
    for _ in 0..3 {
        lab.pass(LONG / 2);
        for (service, kept, _, flow) in &flows {
            assert_eq!(lab.forward(service, kept), *flow, "{:?}", service.case);
        }
    }
    for (service, _, left, _) in &flows {
        let there = lab.flows().into_iter().filter(|flow| flow.vip == service.vip).count();
        assert_eq!(there, 1, "{:?}", service.case);
        if service.case.protocol == Protocol::Tcp {
            lab.refused(&left.clone().flags(ACK), DropReason::NoFlow);
        }
    }
}

/// The sweep counts flows by their client's entry, which is all there is.
#[test]
fn the_sweep_counts_flows() {
    let mut lab = Lab::new();
    for case in Case::one_way() {
        let service = lab.serve(case, &Setup::default());
        let flows = [4000, 4001, 4002].map(|port| lab.forward(&service, &service.request(port)));
        let sweep = lab.datapath.flow_tables().sweep().unwrap();
        for server in &service.servers {
            let expected = flows.iter().filter(|flow| flow.0 == *server).count() as u64;
            assert_eq!(sweep.active.get(&server.index), Some(&expected), "{case:?}");
            assert_eq!(sweep.present.get(&server.index), Some(&expected), "{case:?}");
        }
    }
}

/// Whatever is in the IP packet: only the MAC addresses are written, and nothing but them is needed.
#[test]
fn in_l2_dsr_the_ip_packet_is_not_touched() {
    let mut lab = Lab::new();
    for case in Case::all().into_iter().filter(|case| case.mode == Mode::L2_DSR) {
        let service = lab.serve(case, &Setup::default());
        for (number, ttl) in [0, 1, 2, 255].into_iter().enumerate() {
            let mut request = service.request(4000 + number as u16).with(|p| p.ttl = ttl);
            if let L4::Udp(checksum) = &mut request.l4 {
                *checksum = UdpChecksum::Zero;
            }
            let flow = lab.forward(&service, &request);
            let again = request.clone().with(|p| p.trailer = vec![0xee; 7]);
            assert_eq!(lab.forward(&service, &again), flow, "{case:?}");
            // A checksum that is wrong is the backend's to find.
            let mut frame = request.bytes();
            let at = frame.len() - 1;
            frame[at] ^= 0xff;
            let out = lab.run_on(crate::lab::CLIENT_IF, &frame);
            assert_eq!(out.frame[12..], frame[12..], "{case:?}");
        }
    }
}

#[test]
fn udp_without_a_checksum_is_carried_over_ipv6() {
    let mut lab = Lab::new();
    for case in Case::one_way() {
        if case.protocol != Protocol::Udp || case.family != Family::V6 {
            continue;
        }
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000).with(|p| p.l4 = L4::Udp(UdpChecksum::Zero));
        let flow = lab.forward(&service, &request);
        assert_eq!(lab.forward(&service, &request), flow, "{case:?}");
    }
}

/// The flow of another CPU's packet, or of a change of the backends, has no entry for replies that could be mistaken.
#[test]
fn a_backend_that_is_gone_is_answered_for() {
    let mut lab = Lab::new();
    for case in tcp() {
        for on_down in [OnDown::RESET, OnDown::MOVE, OnDown::KEEP] {
            let setup = Setup {
                on_down,
                ..Setup::default()
            };
            let service = lab.serve(case, &setup);
            let request = service.request(4000);
            let flow = lab.forward(&service, &request);
            lab.change(flow.0, |backend| backend.state = lb_common::abi::BackendState::DOWN);
            let later = request.flags(ACK);
            if on_down == OnDown::KEEP {
                assert_eq!(lab.forward(&service, &later), flow, "{case:?}");
            } else {
                lab.refused(&later, DropReason::BackendDown);
                lab.refused(&later, DropReason::NoFlow);
            }
        }
    }
}

#[test]
fn what_a_server_sends_back_this_way_is_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::one_way() {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        lab.forward(&service, &request);
        let reply = request.clone().with(|p| {
            std::mem::swap(&mut p.from, &mut p.to);
        });
        let out = lab.run_on(crate::lab::BACKEND_IF, &reply.bytes());
        assert_eq!(out.verdict, crate::lab::Verdict::Pass, "{case:?}");
        assert_same(&out.frame, &reply);
    }
}
