//! Counters per backend, and the sweep that counts flows.

use std::ops::ControlFlow;

use lb_common::{
    abi::Mode,
    flow::Tick,
    net::{Be16, TCP},
    reason::DropReason,
};
use lb_userspace::{
    datapath::{BackendCounters, Datapath as _, FlowEntry, FlowPlace, FlowTables as _},
    model::Protocol,
};

use crate::{
    frames::{ACK, FIN},
    lab::{Case, Lab, Setup, Table},
};

#[test]
fn packets_bytes_and_flows_are_counted_exactly() {
    let mut lab = Lab::new();
    for case in Case::all() {
        let service = lab.serve(case, &Setup::of(1));
        let server = service.servers[0];
        let mut expected = BackendCounters::default();
        assert_eq!(lab.counters(server), expected);
        for port in 0..5 {
            let request = service.request(4000 + port);
            let flow = lab.forward(&service, &request);
            expected.opened += 1;
            expected.packets_in += 1;
            expected.bytes_in += request.bytes().len() as u64;
            for size in [0, 700, 1300] {
                let mut more = request.clone().payload(&vec![1; size]);
                if case.protocol == Protocol::Tcp {
                    more = more.flags(ACK);
                }
                lab.forward(&service, &more);
                expected.packets_in += 1;
                expected.bytes_in += more.bytes().len() as u64;
                if case.mode.sees_replies() {
                    lab.answer(&service, &request, flow, ACK);
                    let reply = service.reply(&service.forwarded(&request, flow.0, flow.1), ACK);
                    expected.packets_out += 1;
                    expected.bytes_out += reply.bytes().len() as u64;
                }
            }
        }
        assert_eq!(lab.counters(server), expected, "{case:?}");
        // What is not forwarded is not counted.
        if case.mode != Mode::L2_DSR {
            lab.run(&service.request(4000).with(|p| p.ttl = 1));
        }
        lab.run(&service.request(4000).payload(&[0; 1600]));
        assert_eq!(lab.counters(server), expected, "{case:?}");
        lab.datapath.clear_backend_counters(server.index).unwrap();
        assert_eq!(lab.counters(server), BackendCounters::default());
    }
}

#[test]
fn the_sweep_counts_flows_by_backend() {
    let mut lab = Lab::new();
    let tcp = lab.serve(Case::PLAIN, &Setup::of(2));
    let six = Case::all()
        .into_iter()
        .find(|case| case.family == crate::lab::Family::V6 && case.protocol == Protocol::Udp);
    let udp = lab.serve(six.unwrap(), &Setup::of(1));
    for port in 0..10 {
        let request = tcp.request(4000 + port);
        let flow = lab.forward(&tcp, &request);
        if port < 4 {
            lab.establish(&tcp, &request, flow);
        }
        if port < 2 {
            lab.forward(&tcp, &request.clone().flags(FIN | ACK));
            lab.answer(&tcp, &request, flow, FIN | ACK);
        }
        if port < 3 {
            lab.forward(&udp, &udp.request(4000 + port));
        }
    }
    let [a, b] = [tcp.servers[0].index, tcp.servers[1].index];
    let c = udp.servers[0].index;
    let sweep = lab.datapath.flow_tables().sweep().unwrap();
    assert_eq!((sweep.flows, sweep.half_open), ([4, 0, 0], [6, 3]));
    assert_eq!(sweep.present, [(a, 5), (b, 5), (c, 3)].into());
    assert_eq!(
        sweep.active,
        [(a, 4), (b, 4), (c, 3)].into(),
        "closing flows are not active"
    );
    assert_eq!(sweep.expired, 0);
}

/// Sets when the entries of a client port's flow expire, in ticks from now.
fn expire(lab: &Lab, table: Table, client_port: u16, ticks: i32) {
    let expires = Tick(lab.datapath.flow_tables().now().unwrap().0.wrapping_add_signed(ticks));
    let mut table = lab.table_v4(table);
    let entries: Vec<_> = table.iter().map(Result::unwrap).collect();
    let port = Be16::new(client_port);
    for (key, mut flow) in entries {
        if key.protocol() == TCP && (key.src_port == port || flow.rewrite.dst_port == port) {
            flow.expires = expires;
            table.insert(key, flow, 0).unwrap();
        }
    }
}

#[test]
fn the_sweep_removes_what_expired_some_seconds_ago() {
    for table in [Table::HalfOpen, Table::Established] {
        sweep_of(table);
    }
}

fn sweep_of(table: Table) {
    let counts = |flows: u64| match table {
        Table::Established => ([flows, 0, 0], [0, 0]),
        Table::HalfOpen => ([0, 0, 0], [flows, 0]),
    };
    let mut lab = Lab::new();
    let service = lab.serve(Case::PLAIN, &Setup::of(1));
    let requests = [4000, 4001, 4002].map(|port| service.request(port));
    let flows = requests.clone().map(|request| lab.forward(&service, &request));
    let server = service.servers[0].index;
    if table == Table::Established {
        for (request, flow) in requests.iter().zip(flows) {
            lab.establish(&service, request, flow);
        }
    }
    assert_eq!(lab.table_v4(table).keys().count(), 6);
    // The first is long gone; a packet may still be at work on the second.
    expire(&lab, table, 4000, -10_000);
    expire(&lab, table, 4001, -100);
    let sweep = lab.datapath.flow_tables().sweep().unwrap();
    assert_eq!((sweep.expired, (sweep.flows, sweep.half_open)), (1, counts(1)));
    assert_eq!(
        (sweep.present.get(&server), sweep.active.get(&server)),
        (Some(&1), Some(&1))
    );
    assert_eq!(lab.table_v4(table).keys().count(), 4, "both entries are gone");
    let sweep = lab.datapath.flow_tables().sweep().unwrap();
    let found = (sweep.expired, (sweep.flows, sweep.half_open));
    assert_eq!(found, (0, counts(1)), "counted once");
    lab.answer(&service, &requests[2], flows[2], ACK);
    for request in &requests[..2] {
        assert_ne!(lab.forward(&service, request), flows[0]);
    }
    let sweep = lab.datapath.flow_tables().sweep().unwrap();
    assert_eq!(sweep.flows[0] + sweep.half_open[0], 3);
}

#[test]
fn flows_are_listed_with_all_their_addresses() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let (server, source) = lab.forward(&service, &request);
        let flows: Vec<_> = lab.flows().into_iter().filter(|flow| flow.vip == service.vip).collect();
        let [flow] = flows[..] else {
            panic!("one flow, once: {flows:?}")
        };
        assert_eq!((flow.client, flow.backend), (request.from, server.index), "{case:?}");
        // What the flow's packets say, where replies do not come by, is what they said before.
        let (source, to) = if case.mode.sees_replies() {
            (source, server.address)
        } else {
            (request.from, request.to)
        };
        assert_eq!((flow.source, flow.backend_address), (source, to), "{case:?}");
    }
}

#[test]
fn flows_are_ended_by_choice_with_both_entries() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let requests = [4000, 4001, 4002].map(|port| service.request(port));
        let flows = requests.clone().map(|request| lab.forward(&service, &request));
        lab.establish(&service, &requests[0], flows[0]);
        lab.establish(&service, &requests[1], flows[1]);
        let doomed = |flow: &FlowEntry| flow.vip == service.vip && flow.client.port() != 4001;
        assert_eq!(lab.datapath.flow_tables().kill(&doomed).unwrap(), 2, "{case:?}");
        let left = lab.flows().into_iter().filter(|flow| flow.vip == service.vip);
        assert_eq!(left.map(|flow| flow.client.port()).collect::<Vec<_>>(), [4001]);
        assert_eq!(lab.forward(&service, &requests[1].clone().flags_if_tcp(ACK)), flows[1]);
        // What their servers still send is nobody's.
        let stale = service
            .reply(&service.forwarded(&requests[0], flows[0].0, flows[0].1), ACK)
            .bytes();
        let out = lab.run_on(crate::lab::BACKEND_IF, &stale);
        assert_eq!(out.frame, stale, "{case:?}");
        if case.protocol == Protocol::Tcp {
            lab.refused(&requests[0].clone().flags(ACK), DropReason::NoFlow);
        }
    }
}

#[test]
fn flows_are_listed_in_pages_each_once() {
    let mut lab = Lab::new();
    let service = lab.serve(
        Case::PLAIN,
        &Setup {
            source_ports: 20_000,
            ..Setup::default()
        },
    );
    let ports = 1000..4000;
    for port in ports.clone() {
        lab.run(&service.request(port));
    }
    let tables = lab.datapath.flow_tables();
    let (mut seen, mut pages, mut from) = (Vec::new(), 0, Some(FlowPlace::default()));
    while let Some(place) = from {
        from = tables
            .walk(place, &mut |flow| {
                seen.push(flow.client.port());
                ControlFlow::Break(())
            })
            .unwrap();
        pages += 1;
    }
    seen.sort_unstable();
    assert!(pages > 1, "a page is a batch");
    assert!(seen.into_iter().eq(ports));
}
