//! Tunnels: the outer headers of `ipip` and `gue`.

use std::collections::BTreeSet;

use lb_common::{
    abi::Mode,
    net::{self, Be16},
    reason::DropReason,
};
use lb_userspace::model::Protocol;

use crate::{
    frames::{ACK, ETHERNET, FIN},
    lab::{CLIENT_IF, Case, Family, Lab, Setup, Verdict, assert_same, run, run_over},
};

/// Where the outer IP header says DSCP and ECN.
fn outer_class(case: Case, frame: &[u8]) -> u8 {
    match case.outer {
        Family::V4 => frame[ETHERNET + 1],
        Family::V6 => frame[ETHERNET] << 4 | frame[ETHERNET + 1] >> 4,
    }
}

/// Receivers choose a queue by the outer addresses, and for `gue` by the ports.
#[test]
fn the_outer_source_varies_by_flow_and_is_steady_within_one() {
    let mut lab = Lab::new();
    for case in Case::tunnels() {
        let setup = Setup {
            backends: 1,
            sources: 16,
            ..Setup::default()
        };
        let service = lab.serve(case, &setup);
        let mut seen = BTreeSet::new();
        for port in 0..256 {
            let request = service.request(1000 + port);
            let (_, source) = lab.forward(&service, &request);
            let later = if case.protocol == Protocol::Tcp {
                request.clone().flags(FIN | ACK)
            } else {
                request.clone()
            };
            let later = later.payload(b"more").with(|p| (p.ttl, p.id, p.tos) = (9, 9, 9));
            assert_eq!(lab.forward(&service, &later).1, source, "{case:?}");
            seen.insert(source);
        }
        let addresses: BTreeSet<_> = seen.iter().map(|source| source.ip()).collect();
        let all: BTreeSet<_> = (0..16).map(|place| case.source(place)).collect();
        assert_eq!(addresses, all, "{case:?}");
        if case.mode == Mode::GUE {
            let ports: BTreeSet<_> = seen.iter().map(|source| source.port()).collect();
            assert!(ports.len() > 240, "{case:?}: {}", ports.len());
        }
    }
}

#[test]
fn one_source_is_one_source() {
    let mut lab = Lab::new();
    for case in Case::tunnels() {
        for sources in [0, 1] {
            let service = lab.serve(
                case,
                &Setup {
                    sources,
                    ..Setup::default()
                },
            );
            for port in 1000..1016 {
                let (_, source) = lab.forward(&service, &service.request(port));
                assert_eq!(source.ip(), case.source(0), "{case:?}");
            }
        }
    }
}

/// By the flow label routers spread flows.
#[test]
fn the_flow_label_varies_by_flow() {
    let mut lab = Lab::new();
    for case in Case::tunnels().into_iter().filter(|case| case.outer == Family::V6) {
        let service = lab.serve(case, &Setup::default());
        let labels: BTreeSet<_> = (1000..1064)
            .map(|port| {
                let out = lab.run(&service.request(port));
                [
                    out.frame[ETHERNET + 1] & 0x0f,
                    out.frame[ETHERNET + 2],
                    out.frame[ETHERNET + 3],
                ]
            })
            .collect();
        assert!(labels.len() > 60, "{case:?}: {}", labels.len());
    }
}

/// The normal mode of RFC 6040: both headers say what came, a mark of congestion above all.
#[test]
fn every_dscp_and_ecn_is_copied() {
    let mut lab = Lab::new();
    for case in Case::tunnels() {
        let service = lab.serve(case, &Setup::default());
        for class in 0..=255 {
            let request = service.request(4000).with(|p| p.tos = class);
            let out = lab.run(&request);
            assert_eq!(outer_class(case, &out.frame), class, "{case:?}");
            let way = service.way_of(&out.frame);
            assert_same(&out.frame, &service.forwarded(&request, way.0, way.1));
        }
    }
}

#[test]
fn the_inner_ttl_goes_down_and_the_outer_begins_anew() {
    let mut lab = Lab::new();
    for case in Case::tunnels() {
        let service = lab.serve(case, &Setup::default());
        for ttl in 2..=255 {
            // Every value of the header checksum's carries, too.
            let request = service
                .request(4000)
                .with(|p| (p.ttl, p.id) = (ttl, u16::from(ttl) * 251));
            lab.forward(&service, &request);
        }
    }
}

/// The length fields and the MTU count the IP packet, not what Ethernet pads it with.
#[test]
fn padding_is_no_part_of_the_packet() {
    let mut lab = Lab::new();
    for case in Case::tunnels() {
        let setup = Setup {
            mtu: 200,
            ..Setup::default()
        };
        let service = lab.serve(case, &setup);
        let padded = service.request(4000).payload(b"").with(|p| p.trailer = vec![0xee; 120]);
        lab.forward(&service, &padded);
    }
}

#[test]
fn the_tunnels_port_is_the_backends() {
    let mut lab = Lab::new();
    for case in Case::tunnels().into_iter().filter(|case| case.mode == Mode::GUE) {
        let service = lab.serve(case, &Setup::of(1));
        lab.forward(&service, &service.request(4000));
        lab.change(service.servers[0], |backend| backend.tunnel_port = Be16::new(5555));
        let out = lab.run(&service.request(4000));
        let at = ETHERNET + case.outer.header() + 2;
        assert_eq!(out.frame[at..at + 2], 5555u16.to_be_bytes(), "{case:?}");
    }
}

/// A server takes off what was put before, as Linux and Katran's decapsulation do: what is inside is the client's packet.
#[test]
fn what_is_inside_is_the_clients_packet() {
    let mut lab = Lab::new();
    for case in Case::tunnels() {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let out = lab.run(&request);
        let inside = &out.frame[ETHERNET + case.overhead()..];
        let sent = request.with(|p| p.ttl -= 1).bytes();
        assert_eq!(inside, &sent[ETHERNET..], "{case:?}");
        // The first four bits tell the variant of GUE and the IP version at once.
        assert_eq!(inside[0] >> 4, if case.family == Family::V4 { 4 } else { 6 });
    }
}

/// Whatever lay before the frame, at every length that it may have had.
#[test]
fn what_lay_before_the_frame_does_not_shine_through() {
    let mut lab = Lab::new();
    for case in Case::tunnels() {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let (server, source) = lab.forward(&service, &request);
        let ifindex = lab.ifindex(CLIENT_IF);
        for metadata in [&[][..], &[0xff; 4], &[0xa5; 28], &[0xff; 32]] {
            let out = run(lab.program(), ifindex, metadata, &request.bytes());
            assert_eq!(out.verdict, Verdict::Redirect);
            assert_same(&out.frame, &service.forwarded(&request, server, source));
        }
    }
}

/// The kernel runs the program over and over on the same frame, and a tunnel to the service itself wraps it until there is
/// no room left.
#[test]
fn a_frame_without_headroom_is_dropped_by_name() {
    for case in Case::tunnels() {
        if case.mode != Mode::GUE || case.protocol != Protocol::Udp || case.family != case.outer {
            continue;
        }
        let mut lab = Lab::new();
        let setup = Setup::of(1);
        let service = lab.serve(case, &setup);
        lab.change(service.servers[0], |backend| {
            backend.address = net::to_any(service.vip.ip());
            backend.tunnel_port = Be16::new(service.vip.port());
        });
        let ifindex = lab.ifindex(CLIENT_IF);
        let frame = service.request(4000).bytes();
        let turns = 16;
        let out = run_over(lab.program(), ifindex, &[], &frame, turns);
        let wrapped = (out.frame.len() - frame.len()) / case.overhead();
        assert!(wrapped > 0, "{case:?}");
        assert_eq!(out.verdict, Verdict::Drop, "{case:?}: {:?}", lab.reasons());
        let refused = u64::from(turns) - wrapped as u64;
        assert_eq!(lab.dropped(DropReason::NoHeadroom), refused, "{case:?}");
        assert_eq!(lab.counters(service.servers[0]).packets_in, wrapped as u64);
    }
}
