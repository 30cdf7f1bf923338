//! Where packets leave: clients that move, next hops that change, interfaces that go.

use lb_common::{abi::Link, net::MacAddr, reason::DropReason};
use lb_userspace::{
    datapath::Datapath as _,
    model::{Protocol, XdpMode},
};

use crate::{
    frames::{ACK, SYN},
    lab::{BACK_MAC, BACKEND_IF, CLIENT_IF, Case, Lab, OTHER_IF, Setup, Verdict, assert_same},
};

#[test]
fn replies_follow_the_clients_mac_address() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let flow = lab.forward(&service, &request);
        lab.answer(&service, &request, flow, SYN | ACK);
        for number in 1..4 {
            let moved = request.clone().with(|p| {
                p.src_mac = [2, 0, 0, 0, 9, number];
                p.dst_mac = [2, 0, 0, 0, 8, number];
            });
            let moved = if case.protocol == Protocol::Tcp {
                moved.flags(ACK)
            } else {
                moved
            };
            assert_eq!(lab.forward(&service, &moved), flow, "{case:?}");
            lab.answer(&service, &moved, flow, ACK);
        }
    }
}

#[test]
fn replies_follow_the_clients_interface() {
    let mut lab = Lab::new();
    for case in Case::all().into_iter().filter(|case| case.one_arm) {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let flow = lab.forward(&service, &request);
        let reply = service.reply(&service.forwarded(&request, flow.0, flow.1), ACK);
        assert_eq!(lab.run_on(CLIENT_IF, &reply.bytes()).verdict, Verdict::Tx);
        let out = lab.run_on(OTHER_IF, &request.bytes());
        assert_eq!(
            out.verdict,
            Verdict::Redirect,
            "from another interface to the server's: {case:?}"
        );
        let out = lab.run_on(CLIENT_IF, &reply.bytes());
        assert_eq!(out.verdict, Verdict::Redirect, "back to the other interface: {case:?}");
        assert_same(&out.frame, &service.answered(&reply, &request));
        // To that one and no other: it is missed when it is gone.
        lab.datapath.detach(OTHER_IF).unwrap();
        let before = lab.dropped(DropReason::InterfaceGone);
        assert_eq!(lab.run_on(CLIENT_IF, &reply.bytes()).verdict, Verdict::Drop);
        assert_eq!(lab.dropped(DropReason::InterfaceGone), before + 1);
        lab.datapath.attach(OTHER_IF, XdpMode::Native).unwrap();
        assert_eq!(lab.run_on(CLIENT_IF, &reply.bytes()).verdict, Verdict::Redirect);
    }
}

#[test]
fn a_new_next_hop_serves_the_flows_there_are() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let (mut server, source) = lab.forward(&service, &request);
        server.mac = [2, 0, 0, 0, 0xbe, 0xee];
        let ifindex = lab.ifindex(CLIENT_IF);
        lab.change(server, |backend| {
            backend.link = Link {
                remote: MacAddr::new(server.mac),
                local: MacAddr::new(BACK_MAC),
                ifindex,
            };
        });
        let out = lab.run(&request);
        assert_eq!(out.verdict, Verdict::Tx, "{case:?}");
        assert_same(&out.frame, &service.forwarded(&request, server, source));
    }
}

#[test]
fn an_interface_without_the_packet_path_is_no_way_out() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        lab.forward(&service, &request);
        lab.datapath.detach(BACKEND_IF).unwrap();
        lab.ignored(&request, DropReason::InterfaceGone);
        lab.datapath.attach(BACKEND_IF, XdpMode::Native).unwrap();
        lab.forward(&service, &request);
    }
}
