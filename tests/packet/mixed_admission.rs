//! What decides about new flows holds for those between families too: rules, limits, clients that stay, datagrams by
//! themselves.

use std::collections::BTreeSet;

use lb_common::{
    abi::{Rule, ServiceFlags},
    reason::DropReason,
};
use lb_userspace::model::{Limits, Protocol};

use crate::{
    frames::{ACK, RST, SYN},
    lab::{Case, LIMITS, Lab, Service, Setup},
    mixed::{answer, cases, forward, serve, serve_from, tcp},
    service::LONG,
};

/// A service with two servers of each family, of which each may have so many flows.
fn limited(lab: &mut Lab, case: Case, limit: u32) -> Service {
    let setup = Setup {
        backends: 4,
        source_ports: 1000,
        ..Setup::default()
    };
    let service = serve_from(lab, case, &setup, 2);
    lab.limit(&service, limit);
    service
}

#[test]
fn every_rule_minds_the_limits_of_both_families() {
    let mut lab = Lab::new();
    for case in cases() {
        for rule in [
            Rule::ROUND_ROBIN,
            Rule::SOURCE_HASH,
            Rule::MAGLEV,
            Rule::LEAST_CONN,
            Rule::LEAST_CONN_OF_TWO,
        ] {
            let service = limited(&mut lab, case, 5);
            let slots: Vec<u32> = service.servers.iter().map(|s| s.index).collect();
            let _rotation = lab.schedule_by(&service, rule, &slots);
            for port in 0..20 {
                let _flow = forward(&mut lab, &service, &service.request(1000 + port));
            }
            assert_eq!(lab.actives(&service.servers), [5; 4], "{case:?} {rule:?}");
            lab.turned_away(&service.request(2000), DropReason::BackendsFull);
            let _flow = forward(&mut lab, &service, &service.request(1000));
        }
    }
}

#[test]
fn a_flow_that_ends_makes_room() {
    let mut lab = Lab::new();
    for case in tcp() {
        let service = serve(&mut lab, case, &Setup::default());
        for server in service.servers.clone() {
            lab.change(server, |backend| backend.limit = 1);
        }
        let request = service.request(1000);
        let flow = forward(&mut lab, &service, &request);
        answer(&mut lab, &service, &request, flow, SYN | ACK);
        let _flow = forward(&mut lab, &service, &service.request(1001));
        lab.refused(&service.request(1002), DropReason::BackendsFull);
        let _same = forward(&mut lab, &service, &request.clone().flags(ACK));
        let _over = forward(&mut lab, &service, &request.flags(RST | ACK));
        let (next, _) = forward(&mut lab, &service, &service.request(1003));
        assert_eq!(next, flow.0, "{case:?}");
    }
}

#[test]
fn clients_stay_with_a_backend_of_the_other_family() {
    let mut lab = Lab::new();
    for case in cases() {
        let setup = Setup {
            backends: 3,
            affinity: LONG,
            ..Setup::default()
        };
        let service = serve(&mut lab, case, &setup);
        for server in service.servers.clone() {
            lab.change(server, |backend| backend.takes_new = 1);
        }
        let (server, _) = forward(&mut lab, &service, &service.request(1000));
        for port in 1001..1007 {
            assert_eq!(
                forward(&mut lab, &service, &service.request(port)).0,
                server,
                "{case:?}"
            );
        }
    }
}

fn one_packet(lab: &mut Lab, case: Case) -> Service {
    let setup = Setup {
        backends: 3,
        flags: ServiceFlags::ONE_PACKET,
        ..Setup::default()
    };
    serve(lab, case, &setup)
}

fn udp() -> impl Iterator<Item = Case> {
    cases().into_iter().filter(|case| case.protocol == Protocol::Udp)
}

#[test]
fn each_datagram_is_scheduled_by_itself() {
    let mut lab = Lab::new();
    for case in udp() {
        let service = one_packet(&mut lab, case);
        let request = service.request(4000);
        let flows: Vec<_> = (0..9).map(|_| forward(&mut lab, &service, &request)).collect();
        for (turn, flow) in flows.iter().enumerate() {
            assert_eq!(flow.0, service.servers[turn % 3], "{case:?}");
            answer(&mut lab, &service, &request, *flow, 0);
        }
        let sources: BTreeSet<_> = flows.iter().map(|(server, from)| (server.index, *from)).collect();
        assert_eq!(sources.len(), 9, "{case:?}: each has a source of its own");
        assert!(lab.flows().iter().all(|flow| flow.vip != service.vip), "{case:?}");
        assert_eq!(lab.actives(&service.servers), [0; 3], "{case:?}");
        let counters = lab.counters(service.servers[0]);
        assert_eq!((counters.opened, counters.closed), (3, 3), "{case:?}");
    }
}

#[test]
fn many_replies_to_one_datagram_arrive() {
    let mut lab = Lab::new();
    for case in udp() {
        let service = one_packet(&mut lab, case);
        let request = service.request(4000);
        let flow = forward(&mut lab, &service, &request);
        for _ in 0..6 {
            lab.pass(LONG / 2);
            answer(&mut lab, &service, &request, flow, 0);
        }
        let (next, _) = forward(&mut lab, &service, &request);
        assert_eq!(next, service.servers[1], "{case:?}: no flow came of them");
    }
}

#[test]
fn beyond_the_limit_of_new_flows_none_is_opened() {
    let limits = Limits {
        new_flows_per_core: 1,
        ..LIMITS
    };
    let mut lab = Lab::with(limits);
    for case in cases() {
        let service = serve(&mut lab, case, &Setup::default());
        let opened = |lab: &Lab| service.servers.iter().map(|s| lab.counters(*s).opened).sum::<u64>();
        let before = lab.dropped(DropReason::NewFlowLimit);
        for port in 0..200 {
            let _out = lab.run(&service.request(3000 + port));
        }
        let refused = lab.dropped(DropReason::NewFlowLimit) - before;
        assert!(refused >= 150, "{case:?}: {refused}");
        assert_eq!(opened(&lab) + refused, 200, "{case:?}");
    }
}
