//! Services on several ports, on all ports of a VIP, and over both protocols.

use std::net::SocketAddr;

use lb_common::reason::{DropReason, PassReason};
use lb_userspace::{
    datapath::Datapath as _,
    model::{Protocol, ServiceId},
};

use crate::{
    frames::{ACK, SYN},
    lab::{Case, Lab, Service, Setup},
};

/// The same service, asked for at another port.
fn at(service: &Service, port: u16) -> Service {
    let vip = SocketAddr::new(service.vip.ip(), port);
    Service { vip, ..service.clone() }
}

/// Port 0 stands for all ports.
fn publish(lab: &mut Lab, service: &Service, port: u16) {
    lab.datapath
        .set_service(at(service, port).id(), Setup::default().entry(service.index))
        .unwrap();
}

#[test]
fn every_port_of_a_range_leads_to_one_schedule() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let first = service.vip.port();
        for port in first + 1..first + 3 {
            publish(&mut lab, &service, port);
        }
        let mut servers = Vec::new();
        for port in [first, first + 2, first + 1, first] {
            let service = at(&service, port);
            let request = service.request(4000 + u16::try_from(servers.len()).unwrap());
            let flow = lab.forward(&service, &request);
            lab.answer(&service, &request, flow, SYN | ACK);
            servers.push(flow.0);
        }
        assert_eq!(
            (servers[0], servers[1]),
            (servers[2], servers[3]),
            "in turn, over all ports"
        );
        assert_ne!(servers[0], servers[1]);
        let outside = at(&service, first + 3).request(4000);
        lab.untouched(&outside.bytes(), PassReason::NotAService);
    }
}

#[test]
fn a_service_on_all_ports_takes_those_that_no_other_has() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let other = lab.serve(case, &Setup::default());
        let all = lab.serve(case, &Setup::of(1));
        lab.datapath.remove_service(all.id()).unwrap();
        let all = Service { vip: other.vip, ..all };
        publish(&mut lab, &all, 0);
        let [low, high] = [1, 65535].map(|port| at(&all, port));
        // In mode `nat`, one client port at two ports of the VIP would be one connection at the backend.
        let requests = [low.request(4000), high.request(4010)];
        for (service, request) in [&low, &high].into_iter().zip(&requests) {
            let flow = lab.forward(service, request);
            lab.answer(service, request, flow, SYN | ACK);
        }
        // The other service's own port is its own.
        lab.forward(&other, &other.request(4001));
        // A flow stays where it is when its port gets a service of its own; the next one is that service's.
        publish(&mut lab, &other, 65535);
        let [_, mut later] = requests;
        if case.protocol == Protocol::Tcp {
            later = later.flags(ACK);
        }
        lab.forward(&high, &later);
        lab.forward(&at(&other, 65535), &high.request(4002));
        lab.datapath.remove_service(at(&other, 65535).id()).unwrap();
        lab.forward(&high, &high.request(4003));
        // Another address is nobody's, and so is this one without the service.
        let mut elsewhere = all.clone();
        elsewhere.vip.set_ip(case.ip(2, 2));
        lab.untouched(&elsewhere.request(4000).bytes(), PassReason::NotAService);
        lab.datapath.remove_service(at(&all, 0).id()).unwrap();
        lab.untouched(&low.request(4004).bytes(), PassReason::NotAService);
        lab.datapath.remove_service(other.id()).unwrap();
    }
}

#[test]
fn a_packet_of_no_flow_is_told_so_on_any_port() {
    let mut lab = Lab::new();
    let service = lab.serve(Case::PLAIN, &Setup::default());
    publish(&mut lab, &service, 0);
    lab.refused(&at(&service, 1).request(4000).flags(ACK), DropReason::NoFlow);
}

#[test]
fn both_protocols_may_lead_to_one_service() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        let tcp = lab.serve(case, &Setup::default());
        let udp = Service {
            case: Case {
                protocol: Protocol::Udp,
                ..case
            },
            ..tcp.clone()
        };
        lab.datapath
            .set_service(udp.id(), Setup::default().entry(udp.index))
            .unwrap();
        let one = lab.forward(&tcp, &tcp.request(4000));
        let two = lab.forward(&udp, &udp.request(4000));
        assert_ne!(one.0, two.0, "in turn, over both protocols");
        lab.answer(&tcp, &tcp.request(4000), one, SYN | ACK);
        lab.answer(&udp, &udp.request(4000), two, 0);
    }
}

#[test]
fn all_ports_that_lead_to_a_service_are_found_again() {
    let mut lab = Lab::new();
    let service = lab.serve(Case::PLAIN, &Setup::default());
    for port in [0, 9000, 9001] {
        publish(&mut lab, &service, port);
    }
    let services = lab.datapath.contents().unwrap().services.into_iter();
    let found: Vec<(ServiceId, u32)> = services.map(|(id, entry)| (id, entry.index)).collect();
    let mut ports = [0, service.vip.port(), 9000, 9001];
    ports.sort_unstable();
    assert_eq!(found, ports.map(|port| (at(&service, port).id(), service.index)));
}
