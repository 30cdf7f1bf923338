//! What keeps a flow from the backend that its scheduler would choose: clients that stay, limits, datagrams by themselves.

use std::collections::BTreeSet;

use lb_common::{
    abi::{BackendState, Mode, Rotation, Rule, ServiceFlags},
    reason::DropReason,
};
use lb_userspace::{datapath::Datapath as _, model::Protocol};

use crate::{
    frames::{ACK, Packet, RST},
    lab::{Case, Lab, Service, Setup},
    service::LONG,
};

/// A service of three backends whose clients stay.
fn staying(lab: &mut Lab, case: Case, affinity: u32) -> Service {
    let setup = Setup {
        backends: 3,
        affinity,
        ..Setup::default()
    };
    let service = lab.serve(case, &setup);
    for server in service.servers.clone() {
        lab.change(server, |backend| backend.takes_new = 1);
    }
    service
}

fn other_client(service: &Service, host: u8, port: u16) -> Packet {
    let mut request = service.request(port);
    request.from.set_ip(service.case.ip(200, host));
    request
}

#[test]
fn clients_stay_with_their_backend() {
    let mut lab = Lab::new();
    for case in Case::all() {
        let service = staying(&mut lab, case, LONG);
        let (server, _) = lab.forward(&service, &service.request(1000));
        for port in 1001..1010 {
            assert_eq!(lab.forward(&service, &service.request(port)).0, server, "{case:?}");
        }
        let others: BTreeSet<u32> = (20..26)
            .map(|host| lab.forward(&service, &other_client(&service, host, 1000)).0.index)
            .collect();
        assert_eq!(others.len(), 3, "{case:?}: other clients take their turns");
        // Another service is another matter.
        let second = staying(&mut lab, case, LONG);
        let _flow = lab.forward(&second, &other_client(&second, 77, 1000));
        let (there, _) = lab.forward(&second, &second.request(1000));
        assert_eq!(there, second.servers[1]);
    }
}

#[test]
fn clients_leave_a_backend_that_takes_no_new_flows() {
    type Spoil = fn(&mut lb_common::abi::Backend);
    let spoils: [Spoil; 4] = [
        |backend| backend.takes_new = 0,
        |backend| backend.state = BackendState::DOWN,
        |backend| backend.limit = 1,
        |backend| backend.service = 63,
    ];
    let mut lab = Lab::new();
    for case in Case::full_nat() {
        for spoil in spoils {
            let service = staying(&mut lab, case, LONG);
            let (server, _) = lab.forward(&service, &service.request(1000));
            lab.change(server, spoil);
            let left: Vec<u32> = service
                .servers
                .iter()
                .filter(|s| **s != server)
                .map(|s| s.index)
                .collect();
            lab.schedule(&service, &left);
            let (next, _) = lab.forward(&service, &service.request(1001));
            assert_ne!(next, server, "{case:?}");
            for port in 1002..1006 {
                assert_eq!(
                    lab.forward(&service, &service.request(port)).0,
                    next,
                    "{case:?}: and stay there"
                );
            }
        }
    }
}

#[test]
fn a_stay_ends_when_its_time_is_over() {
    let mut lab = Lab::new();
    let service = staying(&mut lab, Case::PLAIN, 1);
    let (server, _) = lab.forward(&service, &service.request(1000));
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_ne!(lab.forward(&service, &service.request(1001)).0, server);
}

/// A service of which each backend may have so many flows.
fn limited(lab: &mut Lab, case: Case, backends: u32, limit: u32) -> Service {
    let setup = Setup {
        backends,
        source_ports: 1000,
        ..Setup::default()
    };
    let service = lab.serve(case, &setup);
    lab.limit(&service, limit);
    service
}

#[test]
fn full_backends_are_passed_over() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        for rule in [
            Rule::ROUND_ROBIN,
            Rule::SOURCE_HASH,
            Rule::MAGLEV,
            Rule::LEAST_CONN,
            Rule::LEAST_CONN_OF_TWO,
        ] {
            let service = limited(&mut lab, case, 4, 5);
            let slots: Vec<u32> = service.servers.iter().map(|s| s.index).collect();
            let _rotation = lab.schedule_by(&service, rule, &slots);
            for port in 0..20 {
                let _flow = lab.forward(&service, &service.request(1000 + port));
            }
            assert_eq!(lab.actives(&service.servers), [5; 4], "{case:?} {rule:?}");
            lab.turned_away(&service.request(2000), DropReason::BackendsFull);
            // Flows that exist go on.
            let _flow = lab.forward(&service, &service.request(1000));
        }
    }
}

#[test]
fn a_flow_that_ends_makes_room() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        let service = limited(&mut lab, case, 2, 1);
        let flow = lab.forward(&service, &service.request(1000));
        let server = flow.0;
        lab.establish(&service, &service.request(1000), flow);
        let _flow = lab.forward(&service, &service.request(1001));
        lab.refused(&service.request(1002), DropReason::BackendsFull);
        let _over = lab.forward(&service, &service.request(1000).flags(ACK));
        let _over = lab.forward(&service, &service.request(1000).flags(RST | ACK));
        assert_eq!(lab.forward(&service, &service.request(1003)).0, server, "{case:?}");
    }
}

#[test]
fn the_next_tier_takes_what_spills_over() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        for rule in [Rule::ROUND_ROBIN, Rule::MAGLEV, Rule::LEAST_CONN] {
            let service = limited(&mut lab, case, 4, 3);
            let indices: Vec<u32> = service.servers.iter().map(|s| s.index).collect();
            let spill = lab.rotation(rule, &indices[2..]);
            lab.datapath.set_spill(service.index, spill).unwrap();
            let _rotation = lab.schedule_by(&service, rule, &indices[..2]);
            for port in 0..6 {
                let (server, _) = lab.forward(&service, &service.request(1000 + port));
                assert!(indices[..2].contains(&server.index), "{case:?} {rule:?}");
            }
            for port in 6..12 {
                let (server, _) = lab.forward(&service, &service.request(1000 + port));
                assert!(indices[2..].contains(&server.index), "{case:?} {rule:?}");
            }
            assert_eq!(lab.actives(&service.servers), [3; 4]);
            lab.turned_away(&service.request(2000), DropReason::BackendsFull);
            lab.datapath.set_spill(service.index, Rotation::default()).unwrap();
        }
    }
}

fn datagrams() -> Vec<Case> {
    Case::all()
        .into_iter()
        .filter(|case| case.protocol == Protocol::Udp)
        .collect()
}

fn one_packet(lab: &mut Lab, case: Case) -> Service {
    let setup = Setup {
        backends: 3,
        flags: ServiceFlags::ONE_PACKET,
        ..Setup::default()
    };
    lab.serve(case, &setup)
}

#[test]
fn each_datagram_is_scheduled_by_itself() {
    let mut lab = Lab::new();
    for case in datagrams() {
        let service = one_packet(&mut lab, case);
        let request = service.request(4000);
        let flows: Vec<_> = (0..9).map(|_| lab.forward(&service, &request)).collect();
        for (turn, flow) in flows.iter().enumerate() {
            assert_eq!(flow.0, service.servers[turn % 3], "{case:?}");
            lab.answer(&service, &request, *flow, 0);
        }
        let sources: BTreeSet<_> = flows
            .iter()
            .collect::<Vec<_>>()
            .into_iter()
            .map(|(s, from)| (s.index, *from))
            .collect();
        let expected = if case.mode == Mode::FULL_NAT { 9 } else { 3 };
        assert_eq!(
            sources.len(),
            expected,
            "{case:?}: in full-nat each has a source of its own"
        );
        assert!(
            lab.flows().iter().all(|flow| flow.vip != service.vip),
            "{case:?}: no flow is kept"
        );
        assert_eq!(lab.actives(&service.servers), [0; 3], "{case:?}");
        assert_eq!(lab.counters(service.servers[0]).opened, 3);
        assert_eq!(lab.counters(service.servers[0]).closed, 3);
    }
}

/// Replies go on for as long as they come, and never make the other direction's entry.
#[test]
fn many_replies_to_one_datagram_arrive() {
    let mut lab = Lab::new();
    for case in datagrams() {
        let service = one_packet(&mut lab, case);
        let request = service.request(4000);
        let flow = lab.forward(&service, &request);
        for _ in 0..6 {
            lab.pass(LONG / 2);
            lab.answer(&service, &request, flow, 0);
        }
        assert_eq!(lab.forward(&service, &request).0, service.servers[1], "{case:?}");
    }
}
