//! Forwarding: what is rewritten, and that nothing else is.

use lb_common::{abi::Mode, reason::DropReason};

use crate::{
    frames::{ACK, L4, SYN, UdpChecksum},
    lab::{BACKEND_IF, CLIENT_IF, Case, FIRST_PORT, Family, Lab, Setup, Verdict, assert_same},
};

#[test]
fn requests_and_replies_are_rewritten_and_nothing_else() {
    let mut lab = Lab::new();
    for case in Case::all() {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let (server, source) = lab.forward(&service, &request);
        if matches!(case.mode, Mode::NAT | Mode::L2_DSR) {
            assert_eq!(source, request.from, "the client's address is kept: {case:?}");
        } else {
            assert!(
                [case.source(0), case.source(1)].contains(&source.ip()),
                "{case:?}: {source}"
            );
            let ports = match case.mode {
                Mode::FULL_NAT => FIRST_PORT..=FIRST_PORT + 99,
                Mode::GUE => 49_152..=65_535,
                _ => 0..=0,
            };
            assert!(ports.contains(&source.port()), "{case:?}: {source}");
        }
        lab.answer(&service, &request, (server, source), SYN | ACK);
        for more in service.variants(4000) {
            assert_eq!(lab.forward(&service, &more), (server, source), "{case:?}");
            lab.answer(&service, &more, (server, source), ACK);
        }
    }
}

#[test]
fn each_client_has_its_own_flow() {
    let mut lab = Lab::new();
    for case in Case::both_ways() {
        let service = lab.serve(case, &Setup::default());
        let clients: Vec<_> = (5000..5020).map(|port| service.request(port)).collect();
        let seen: Vec<_> = clients.iter().map(|request| lab.forward(&service, request)).collect();
        for (request, flow) in clients.iter().zip(&seen) {
            lab.answer(&service, request, *flow, SYN | ACK);
            let (server, source) = lab.forward(&service, request);
            assert_eq!((server.index, source), (flow.0.index, flow.1), "{case:?}");
        }
        let mut pairs: Vec<_> = seen.iter().map(|(server, source)| (server.address, *source)).collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(
            pairs.len(),
            clients.len(),
            "no two flows share addresses and ports towards a server"
        );
    }
}

#[test]
fn ipv4_options_are_carried() {
    let mut lab = Lab::new();
    for case in Case::two_arms().into_iter().filter(|case| case.family == Family::V4) {
        let service = lab.serve(case, &Setup::default());
        for words in 1..=10u16 {
            let mut request = service.request(6000 + words);
            // "No operation" over and over, ended.
            request.ip_options = vec![1; usize::from(words) * 4 - 1];
            request.ip_options.push(0);
            let flow = lab.forward(&service, &request);
            lab.answer(&service, &request, flow, SYN | ACK);
        }
    }
}

#[test]
fn ethernet_padding_behind_short_packets_is_carried() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(7000).payload(b"").with(|p| p.trailer = vec![0xee; 18]);
        let flow = lab.forward(&service, &request);
        lab.answer(&service, &request, flow, SYN | ACK);
    }
}

#[test]
fn a_missing_udp_checksum_over_ipv4_stays_missing() {
    let mut lab = Lab::new();
    for case in Case::udp().into_iter().filter(|case| case.family == Family::V4) {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(7100).with(|p| p.l4 = L4::Udp(UdpChecksum::Zero));
        let flow = lab.forward(&service, &request);
        lab.answer(&service, &request, flow, 0);
    }
}

/// A checksum that works out as zero is sent as all ones, since zero says "none" (RFC 768).
#[test]
fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
    let mut lab = Lab::new();
    for case in Case::udp().into_iter().filter(|case| case.mode.sees_replies()) {
        let service = lab.serve(case, &Setup::default());
        let at = 14 + case.ip_header() + 6;
        let request = service.request(7200).payload(&[0; 8]);
        let (server, source) = lab.forward(&service, &request);
        // A word of payload that makes the sum behind the rewrite all ones.
        let forwarded = service.forwarded(&request, server, source).bytes();
        let request = request.payload(&[forwarded[at], forwarded[at + 1], 0, 0, 0, 0, 0, 0]);
        let out = lab.run(&request);
        assert_eq!(&out.frame[at..at + 2], &[0xff, 0xff], "{case:?}");
        assert_same(&out.frame, &service.forwarded(&request, server, source));
        let reply = service
            .reply(&service.forwarded(&request, server, source), 0)
            .payload(&[0; 8]);
        let answered = service.answered(&reply, &request).bytes();
        let reply = reply.payload(&[answered[at], answered[at + 1], 0, 0, 0, 0, 0, 0]);
        let out = lab.run_reply(case, &reply);
        assert_eq!(&out.frame[at..at + 2], &[0xff, 0xff], "{case:?}");
        assert_same(&out.frame, &service.answered(&reply, &request));
    }
}

/// The arithmetic of carries shows only with many addresses, ports and payloads.
#[test]
fn checksums_hold_for_many_flows() {
    let mut lab = Lab::new();
    let setup = Setup {
        source_ports: 40_000,
        ..Setup::default()
    };
    for case in Case::two_arms() {
        let service = lab.serve(case, &setup);
        for port in (1..60_000).step_by(251) {
            let request = service.request(port).payload(&port.wrapping_mul(31_321).to_be_bytes());
            let flow = lab.forward(&service, &request);
            lab.answer(&service, &request, flow, SYN | ACK);
        }
    }
}

#[test]
fn a_packet_that_fits_the_mtu_exactly_goes() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(
            case,
            &Setup {
                mtu: 600,
                ..Setup::default()
            },
        );
        let fill = |size: usize| {
            let empty = service.request(7300).payload(b"").bytes().len() - 14;
            service.request(7300).payload(&vec![1; size - empty])
        };
        let most = 600 - case.overhead();
        lab.told(&fill(most + 1), DropReason::ExceedsMtu);
        assert!(
            lab.flows().iter().all(|flow| flow.vip != service.vip),
            "{case:?}: no flow for what cannot be forwarded"
        );
        let flow = lab.forward(&service, &fill(most));
        lab.told(&fill(most + 1), DropReason::ExceedsMtu);
        assert_eq!(lab.forward(&service, &fill(most)), flow, "{case:?}");
        let opened: u64 = service.servers.iter().map(|server| lab.counters(*server).opened).sum();
        assert_eq!(opened, 1, "{case:?}");
    }
}

#[test]
fn a_ttl_of_two_is_the_last_that_is_forwarded() {
    let mut lab = Lab::new();
    for case in Case::two_arms().into_iter().filter(|case| case.mode != Mode::L2_DSR) {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(7400).with(|p| p.ttl = 2);
        let flow = lab.forward(&service, &request);
        for ttl in [0, 1] {
            let request = request.clone().with(|p| p.ttl = ttl);
            let out = lab.run(&request);
            assert_eq!((out.verdict, out.frame), (Verdict::Pass, request.bytes()), "{case:?}");
            if !case.mode.sees_replies() {
                continue;
            }
            let reply = service.reply(&service.forwarded(&service.request(7400), flow.0, flow.1), SYN | ACK);
            let reply = reply.with(|p| p.ttl = ttl).bytes();
            let out = lab.run_on(BACKEND_IF, &reply);
            assert_eq!((out.verdict, out.frame), (Verdict::Pass, reply), "{case:?}");
        }
    }
}

#[test]
fn a_service_that_is_taken_away_keeps_its_flows() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let old = service.request(7500);
        let flow = lab.forward(&service, &old);
        lab_remove(&mut lab, &service);
        lab.forward(&service, &old);
        lab.answer(&service, &old, flow, SYN | ACK);
        let new = service.request(7501).bytes();
        let out = lab.run_on(CLIENT_IF, &new);
        assert_eq!((out.verdict, out.frame), (Verdict::Pass, new), "{case:?}");
    }
}

fn lab_remove(lab: &mut Lab, service: &crate::lab::Service) {
    use lb_userspace::datapath::Datapath as _;
    lab.datapath.remove_service(service.id()).unwrap();
}
