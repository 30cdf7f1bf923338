//! Where packets leave: clients that move, next hops that change, interfaces that go.

use lb_common::{abi::Link, net::MacAddr, reason::DropReason};
use lb_userspace::{
    datapath::{Datapath as _, loader::Features},
    model::{Protocol, XdpMode},
};

use crate::{
    frames::{ACK, SYN},
    lab::{
        self, BACK_MAC, BACKEND_IF, CLIENT_IF, Case, FEATURES, LIMITS, Lab, OTHER_IF, Setup, Verdict, assert_same, run,
    },
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
    for case in Case::all()
        .into_iter()
        .filter(|case| case.one_arm && case.mode.sees_replies())
    {
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
            backend.link = Link::new(MacAddr::new(server.mac), MacAddr::new(BACK_MAC), ifindex);
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

/// Where XDP_TX gets stuck, frames go back by redirect: forwarded ones and RSTs.
#[test]
fn with_redirect_back_nothing_leaves_by_tx() {
    let mut lab = Lab::new();
    let features = Features {
        redirect_back: true,
        ..FEATURES
    };
    let ifindex = lab.ifindex(CLIENT_IF);
    let mut flows = Vec::new();
    for case in Case::all().into_iter().filter(|case| case.one_arm) {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let (server, source) = lab.forward(&service, &request);
        flows.push((service, request, server, source));
    }
    let mut redirecting = lab::open_with(&lab.bpffs, LIMITS, features).unwrap();
    for (service, request, server, source) in flows {
        let case = service.case;
        let out = run(redirecting.program().unwrap(), ifindex, &[], &request.bytes());
        assert_eq!(out.verdict, Verdict::Redirect, "{case:?}");
        assert_same(&out.frame, &service.forwarded(&request, server, source));
        if case.protocol == Protocol::Tcp {
            let stray = service.request(4001).flags(ACK);
            let out = run(redirecting.program().unwrap(), ifindex, &[], &stray.bytes());
            assert_eq!(out.verdict, Verdict::Redirect, "{case:?}");
            assert_same(&out.frame, &stray.reset());
        }
    }
}

#[test]
fn an_interface_can_be_attached_again_at_once() {
    let mut lab = Lab::new();
    for round in 0..20 {
        lab.datapath.detach(CLIENT_IF).unwrap();
        let attached = lab.datapath.attach(CLIENT_IF, XdpMode::Native);
        assert!(attached.is_ok_and(|attachment| attachment.native), "round {round}");
    }
    lab.datapath.destroy().unwrap();
    lab.datapath = lab::open(&lab.bpffs, LIMITS).unwrap();
    for interface in [CLIENT_IF, OTHER_IF, BACKEND_IF] {
        lab.datapath.attach(interface, XdpMode::Native).unwrap();
    }
}
