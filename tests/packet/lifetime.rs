//! The life of a flow: TCP phases, timeouts, and what comes after its end.

use lb_common::{
    flow::{Timeouts, refresh_step},
    reason::{DropReason, PassReason},
};
use lb_userspace::{datapath::FlowTables as _, model::Protocol};

use crate::{
    frames::{ACK, FIN, Packet, RST, SYN},
    lab::{BACKEND_IF, Case, DISTINCT, LONG, Lab, Server, Service, Setup},
};

/// A connection, and its way to the backend.
struct Connection {
    service: Service,
    request: Packet,
    flow: (Server, std::net::SocketAddr),
}

impl Connection {
    fn open(lab: &mut Lab, case: Case, timeouts: Timeouts) -> Self {
        let service = lab.serve(
            case,
            &Setup {
                timeouts,
                ..Setup::default()
            },
        );
        let request = service.request(4000);
        let flow = lab.forward(&service, &request);
        Self { service, request, flow }
    }

    /// With a complete handshake.
    fn established(lab: &mut Lab, case: Case, timeouts: Timeouts) -> Self {
        let tcp = Self::open(lab, case, timeouts);
        lab.establish(&tcp.service, &tcp.request, tcp.flow);
        tcp
    }

    #[track_caller]
    fn client(&self, lab: &mut Lab, flags: u8) -> &'static str {
        assert_eq!(
            lab.forward(&self.service, &self.request.clone().flags(flags)),
            self.flow
        );
        lab.phase(&self.request)
    }

    #[track_caller]
    fn backend(&self, lab: &mut Lab, flags: u8) -> &'static str {
        lab.answer(&self.service, &self.request, self.flow, flags);
        lab.phase(&self.request)
    }
}

#[test]
fn a_connection_opens_and_closes() {
    let mut lab = Lab::new();
    for case in Case::tcp_both_ways() {
        let tcp = Connection::open(&mut lab, case, DISTINCT);
        assert_eq!(lab.phase(&tcp.request), "syn-seen");
        assert_eq!(tcp.backend(&mut lab, SYN | ACK), "syn-answered");
        assert_eq!(tcp.client(&mut lab, SYN), "syn-answered", "it did not get the answer");
        assert_eq!(tcp.backend(&mut lab, SYN | ACK), "syn-answered");
        assert_eq!(tcp.client(&mut lab, ACK), "established");
        assert_eq!(tcp.backend(&mut lab, ACK), "established");
        assert_eq!(tcp.client(&mut lab, FIN | ACK), "client-fin");
        assert_eq!(tcp.client(&mut lab, FIN | ACK), "client-fin", "retransmitted");
        assert_eq!(tcp.backend(&mut lab, ACK), "client-fin", "the backend goes on sending");
        assert_eq!(tcp.backend(&mut lab, FIN | ACK), "closing");
        assert_eq!(tcp.client(&mut lab, ACK), "closing");
        assert_eq!(lab.counters(tcp.flow.0).closed, 1, "counted once");
    }
}

#[test]
fn a_backend_may_finish_first() {
    let mut lab = Lab::new();
    for case in Case::tcp_both_ways() {
        let tcp = Connection::established(&mut lab, case, DISTINCT);
        assert_eq!(tcp.backend(&mut lab, FIN | ACK), "backend-fin");
        assert_eq!(tcp.client(&mut lab, ACK), "backend-fin");
        assert_eq!(tcp.client(&mut lab, FIN | ACK), "closing");
    }
}

#[test]
fn a_reset_from_either_side_closes() {
    let mut lab = Lab::new();
    for case in Case::tcp_both_ways() {
        let tcp = Connection::established(&mut lab, case, DISTINCT);
        assert_eq!(lab.phase(&tcp.request), "established");
        assert_eq!(tcp.client(&mut lab, RST), "closing");
        let tcp = Connection::open(&mut lab, case, DISTINCT);
        assert_eq!(tcp.backend(&mut lab, RST | ACK), "closing", "connection refused");
        assert_eq!(lab.counters(tcp.flow.0).closed, 1);
    }
}

/// It answers what an older connection through the same ports left behind; the SYN comes again.
#[test]
fn a_clients_reset_during_the_handshake_does_not_end_the_flow() {
    let mut lab = Lab::new();
    for case in Case::tcp_both_ways() {
        let tcp = Connection::open(&mut lab, case, DISTINCT);
        assert_eq!(tcp.backend(&mut lab, ACK), "syn-seen");
        assert_eq!(tcp.client(&mut lab, RST), "syn-seen");
        assert_eq!(tcp.client(&mut lab, SYN), "syn-seen");
        assert_eq!(lab.counters(tcp.flow.0).closed, 0);
        assert_eq!(tcp.backend(&mut lab, SYN | ACK), "syn-answered");
        assert_eq!(tcp.client(&mut lab, RST), "closing", "it wants no connection");
        assert_eq!(lab.counters(tcp.flow.0).closed, 1);
    }
}

#[test]
fn both_entries_get_the_timeout_of_their_phase() {
    let mut lab = Lab::new();
    for case in Case::tcp_both_ways() {
        let tcp = Connection::open(&mut lab, case, DISTINCT);
        let expect = |lab: &mut Lab, timeout: u32| {
            let now = lab.datapath.flow_tables().now().unwrap();
            let flow = lab
                .flows()
                .into_iter()
                .find(|flow| flow.client == tcp.request.from && flow.vip == tcp.request.to);
            let left = flow.unwrap().expires.remaining(now);
            // As late as packets may come that do not move it.
            let most = i32::try_from(timeout + refresh_step(timeout)).unwrap();
            let least = i32::try_from(timeout).unwrap() - 10_000;
            assert!((least..=most).contains(&left), "{left} of {timeout}");
            // The reply's entry carries the flow alone.
            tcp.backend(lab, ACK);
        };
        expect(&mut lab, DISTINCT.syn);
        tcp.backend(&mut lab, SYN | ACK);
        expect(&mut lab, DISTINCT.syn);
        tcp.client(&mut lab, ACK);
        expect(&mut lab, DISTINCT.established);
        tcp.client(&mut lab, FIN | ACK);
        expect(&mut lab, DISTINCT.fin);
        tcp.backend(&mut lab, FIN | ACK);
        expect(&mut lab, DISTINCT.closing);
    }
}

#[test]
fn a_fresh_syn_on_a_closing_flow_opens_a_new_one() {
    let mut lab = Lab::new();
    for case in Case::tcp_both_ways() {
        let tcp = Connection::established(&mut lab, case, DISTINCT);
        tcp.client(&mut lab, FIN | ACK);
        tcp.backend(&mut lab, FIN | ACK);
        let again = lab.forward(&tcp.service, &tcp.request);
        assert_ne!(again, tcp.flow, "another turn, another source port");
        assert_eq!(lab.phase(&tcp.request), "syn-seen");
        lab.answer(&tcp.service, &tcp.request, again, SYN | ACK);
        let opened: u64 = tcp
            .service
            .servers
            .iter()
            .map(|server| lab.counters(*server).opened)
            .sum();
        let closed: u64 = tcp
            .service
            .servers
            .iter()
            .map(|server| lab.counters(*server).closed)
            .sum();
        assert_eq!((opened, closed), (2, 1), "{case:?}");
        // What the old connection's backend still sends is nobody's now.
        let stale = tcp
            .service
            .reply(&tcp.service.forwarded(&tcp.request, tcp.flow.0, tcp.flow.1), ACK)
            .bytes();
        let before = lab.passed(PassReason::NotAService);
        let out = lab.run_on(BACKEND_IF, &stale);
        assert_eq!((out.frame, lab.passed(PassReason::NotAService)), (stale, before + 1));
    }
}

#[test]
fn a_syn_on_a_half_closed_or_live_flow_does_not_replace_it() {
    let mut lab = Lab::new();
    for case in Case::tcp_both_ways() {
        let tcp = Connection::established(&mut lab, case, DISTINCT);
        assert_eq!(tcp.client(&mut lab, SYN), "established");
        tcp.backend(&mut lab, FIN | ACK);
        assert_eq!(tcp.client(&mut lab, SYN), "backend-fin");
    }
}

#[test]
fn an_expired_connection_is_reset_and_replaced_by_a_syn() {
    let mut lab = Lab::new();
    for case in Case::tcp_both_ways() {
        let tcp = Connection::open(&mut lab, case, DISTINCT);
        lab.pass(DISTINCT.syn + 1);
        lab.refused(&tcp.request.clone().flags(ACK), DropReason::NoFlow);
        assert!(
            lab.flows().iter().all(|flow| flow.vip != tcp.service.vip),
            "an expired flow is no flow"
        );
        let stale = tcp
            .service
            .reply(&tcp.service.forwarded(&tcp.request, tcp.flow.0, tcp.flow.1), ACK)
            .bytes();
        let out = lab.run_on(BACKEND_IF, &stale);
        assert_eq!(out.frame, stale, "a reply of an expired flow is the kernel's");
        let again = lab.forward(&tcp.service, &tcp.request);
        assert_ne!(again, tcp.flow, "{case:?}");
        lab.answer(&tcp.service, &tcp.request, again, SYN | ACK);
        assert_eq!(lab.phase(&tcp.request), "syn-answered");
    }
}

#[test]
fn an_expired_udp_flow_is_decided_anew() {
    let mut lab = Lab::new();
    for case in Case::two_arms()
        .into_iter()
        .filter(|case| case.protocol == Protocol::Udp)
    {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let flow = lab.forward(&service, &request);
        assert_eq!(lab.phase(&request), "udp-new");
        lab.pass(LONG + 1);
        let again = lab.forward(&service, &request);
        assert_ne!(again.0, flow.0, "{case:?}");
        lab.answer(&service, &request, again, 0);
    }
}

#[test]
fn traffic_in_either_direction_keeps_a_flow_alive() {
    let mut lab = Lab::new();
    let flows: Vec<_> = [Case::PLAIN, Case::UDP]
        .into_iter()
        .map(|case| {
            let service = lab.serve(case, &Setup::default());
            let (one, other) = (service.request(4000), service.request(4001));
            let flows = (lab.forward(&service, &one), lab.forward(&service, &other));
            (service, (one, flows.0), (other, flows.1))
        })
        .collect();
    for _ in 0..6 {
        lab.pass(LONG / 3);
        for (service, (one, one_flow), (other, other_flow)) in &flows {
            assert_eq!(lab.forward(service, one), *one_flow);
            lab.answer(service, other, *other_flow, ACK);
        }
    }
    for (service, _, (other, other_flow)) in &flows {
        assert_eq!(lab.forward(service, other), *other_flow, "replies alone kept it");
    }
}
