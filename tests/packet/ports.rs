//! Source ports of `full-nat`, and the tuples of `nat`.

use std::collections::BTreeSet;

use lb_common::{abi::Mode, flow::refresh_step, net, net::Be16, reason::DropReason};
use lb_userspace::model::Protocol;

use crate::{
    frames::{ACK, FIN, SYN},
    lab::{Case, FIRST_PORT, LONG, Lab, Setup},
};

#[test]
fn every_source_address_and_port_is_used_before_any_is_used_again() {
    let mut lab = Lab::new();
    for case in Case::full_nat() {
        let setup = Setup {
            backends: 1,
            sources: 2,
            source_ports: 10,
            ..Setup::default()
        };
        let service = lab.serve(case, &setup);
        let sources: BTreeSet<_> = (0..20)
            .map(|n| lab.forward(&service, &service.request(1000 + n)).1)
            .collect();
        let expected: BTreeSet<_> = [case.source(0), case.source(1)]
            .into_iter()
            .flat_map(|ip| (FIRST_PORT..FIRST_PORT + 10).map(move |port| (ip, port).into()))
            .collect();
        assert_eq!(sources, expected, "{case:?}");
        lab.turned_away(&service.request(1020), DropReason::SourcePortsExhausted);
        for n in 0..20 {
            lab.forward(&service, &service.request(1000 + n));
        }
    }
}

/// Connections that were opened one after the other and stay have ports side by side. Where the cursor comes by again, what
/// is free lies behind them.
#[test]
fn ports_behind_a_long_run_that_is_in_use_are_found() {
    const RUN: u16 = 200;
    const FREE: u16 = 50;
    let mut lab = Lab::new();
    for case in Case::full_nat() {
        let setup = Setup {
            backends: 1,
            sources: 1,
            source_ports: RUN.into(),
            ..Setup::default()
        };
        let service = lab.serve(case, &setup);
        for n in 0..RUN {
            lab.forward(&service, &service.request(1000 + n));
        }
        // The cursor stands in the middle of the run, behind which more ports are free than connections come.
        lab.change(service.servers[0], |backend| {
            backend.first_source_port = Be16::new(FIRST_PORT - RUN / 2);
            backend.source_ports = u32::from(RUN + RUN / 2 + FREE);
        });
        for n in 0..FREE {
            lab.forward(&service, &service.request(2000 + n));
        }
    }
}

#[test]
fn exhaustion_is_refused_counted_and_passes() {
    let mut lab = Lab::new();
    for case in Case::full_nat() {
        let setup = Setup {
            backends: 1,
            sources: 1,
            source_ports: 2,
            ..Setup::default()
        };
        let service = lab.serve(case, &setup);
        let [a, b] = [1000, 1001].map(|port| lab.forward(&service, &service.request(port)));
        assert_ne!(a.1, b.1);
        lab.turned_away(&service.request(1002), DropReason::SourcePortsExhausted);
        lab.pass(LONG + 1);
        let c = lab.forward(&service, &service.request(1002));
        assert!(
            [a.1, b.1].contains(&c.1),
            "{case:?}: a port is free again behind an expired flow"
        );
        lab.answer(&service, &service.request(1002), c, SYN | ACK);
    }
}

#[test]
fn a_connection_that_ended_gives_its_port_back_to_its_successor() {
    let mut lab = Lab::new();
    for case in Case::full_nat()
        .into_iter()
        .filter(|case| case.protocol == Protocol::Tcp)
    {
        let setup = Setup {
            backends: 1,
            sources: 1,
            source_ports: 1,
            ..Setup::default()
        };
        let service = lab.serve(case, &setup);
        let request = service.request(1000);
        let flow = lab.forward(&service, &request);
        lab.answer(&service, &request, flow, FIN | ACK);
        lab.forward(&service, &request.clone().flags(FIN | ACK));
        lab.refused(&service.request(1001), DropReason::SourcePortsExhausted);
        assert_eq!(lab.forward(&service, &request), flow, "{case:?}");
    }
}

#[test]
fn the_highest_port_is_used() {
    let mut lab = Lab::new();
    let setup = Setup {
        backends: 1,
        sources: 1,
        source_ports: 2,
        ..Setup::default()
    };
    let service = lab.serve(Case::PLAIN, &setup);
    lab.change(service.servers[0], |backend| {
        backend.first_source_port = Be16::new(65_534)
    });
    let ports: BTreeSet<_> = [1, 2]
        .map(|port| lab.forward(&service, &service.request(port)).1.port())
        .into();
    assert_eq!(ports, [65_534, 65_535].into());
}

#[test]
fn in_nat_mode_two_vips_cannot_share_a_clients_port_towards_one_server() {
    let mut lab = Lab::new();
    for case in Case::two_arms().into_iter().filter(|case| case.mode == Mode::NAT) {
        let setup = Setup {
            backends: 1,
            ..Setup::default()
        };
        let first = lab.serve(case, &setup);
        let mut second = lab.serve(case, &setup);
        let shared = first.servers[0];
        lab.change(second.servers[0], |backend| {
            backend.address = net::to_any(shared.address.ip());
            backend.port = Be16::new(shared.address.port());
        });
        second.servers[0].address = shared.address;
        let flow = lab.forward(&first, &first.request(1000));
        lab.turned_away(&second.request(1000), DropReason::TupleInUse);
        lab.forward(&second, &second.request(1001));
        lab.answer(&first, &first.request(1000), flow, ACK);
        lab.pass(LONG + refresh_step(LONG) + 1);
        let flow = lab.forward(&second, &second.request(1000));
        lab.answer(&second, &second.request(1000), flow, ACK);
    }
}

/// A service on many ports leaves the client's destination port as it is.
#[test]
fn a_backend_without_a_port_gets_the_one_that_the_client_asked_for() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let mut service = lab.serve(case, &Setup::default());
        for server in &mut service.servers {
            lab.change(*server, |backend| backend.port = Be16::new(0));
            server.address.set_port(service.vip.port());
        }
        for port in 1000..1010 {
            let request = service.request(port);
            let flow = lab.forward(&service, &request);
            lab.answer(&service, &request, flow, SYN | ACK);
            assert_eq!(lab.forward(&service, &request), flow, "{case:?}");
        }
    }
}

/// Each port of a server has all of the source ports: one that is in use towards another port of it is free here.
#[test]
fn the_ports_of_one_server_do_not_share_source_ports() {
    let mut lab = Lab::new();
    for case in Case::full_nat() {
        let setup = Setup {
            backends: 1,
            sources: 1,
            source_ports: 4,
            ..Setup::default()
        };
        let mut services = [lab.serve(case, &setup), lab.serve(case, &setup)];
        let address = services[0].servers[0].address.ip();
        for service in &mut services {
            let port = service.vip.port();
            lab.change(service.servers[0], |backend| {
                backend.address = net::to_any(address);
                backend.port = Be16::new(0);
            });
            service.servers[0].address = (address, port).into();
        }
        for service in &services {
            let sources: BTreeSet<_> = (1000..1004)
                .map(|port| lab.forward(service, &service.request(port)).1)
                .collect();
            assert_eq!(sources.len(), 4, "{case:?}");
            lab.turned_away(&service.request(1004), DropReason::SourcePortsExhausted);
        }
    }
}
