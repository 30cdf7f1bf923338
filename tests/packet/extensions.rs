//! IPv6 extension headers between the IP header and the ports: carried, as far as they let the ports be seen.

use lb_common::reason::{DropReason, PassReason};
use lb_userspace::model::Protocol;

use crate::{
    frames::{ACK, SYN},
    lab::{BACKEND_IF, CLIENT_IF, Case, Family, Lab, Setup, Verdict},
};

/// Number, and bytes from the second on.
type Extension = (u8, &'static [u8]);

/// A hop-by-hop header of padding, destination options of 16 bytes, a route that has been followed, an atomic fragment.
const HOP_BY_HOP: Extension = (0, &[0, 1, 4, 0, 0, 0, 0]);
const DESTINATION: Extension = (60, &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
const FOLLOWED: Extension = (43, &[0, 4, 0, 0, 0, 0, 0]);
const ATOMIC: Extension = (44, &[0, 0, 0, 0, 0, 0, 9]);

fn ipv6() -> Vec<Case> {
    Case::all()
        .into_iter()
        .filter(|case| case.family == Family::V6)
        .collect()
}

#[test]
fn extension_headers_are_carried() {
    let mut lab = Lab::new();
    let chains: [&[Extension]; 8] = [
        &[HOP_BY_HOP],
        &[DESTINATION],
        &[FOLLOWED],
        &[ATOMIC],
        &[HOP_BY_HOP, DESTINATION, FOLLOWED, ATOMIC],
        &[HOP_BY_HOP, DESTINATION, FOLLOWED, ATOMIC, DESTINATION],
        &[DESTINATION; 7],
        &[DESTINATION; 8],
    ];
    for case in ipv6() {
        let verdict = if case.one_arm { Verdict::Tx } else { Verdict::Redirect };
        let service = lab.serve(
            case,
            &Setup {
                source_ports: 1000,
                ..Setup::default()
            },
        );
        for chain in chains {
            let port = 4000 + chain.len() as u16 * 256 + u16::from(chain[0].0);
            let request = service.request(port);
            // It opens the flow.
            let opening = lab.run_on(CLIENT_IF, &request.bytes_with_extensions(chain));
            assert_eq!(opening.verdict, verdict, "{case:?} {chain:?} {:?}", lab.reasons());
            let (server, source) = lab.forward(&service, &request);
            let forwarded = service.forwarded(&request, server, source);
            assert_eq!(
                opening.frame,
                forwarded.bytes_with_extensions(chain),
                "{case:?} {chain:?}"
            );
            // It belongs to one there is, both ways if replies come by.
            let more = lab.run_on(CLIENT_IF, &request.bytes_with_extensions(chain));
            assert_eq!(more.frame, forwarded.bytes_with_extensions(chain));
            if !case.mode.sees_replies() {
                continue;
            }
            let reply = service.reply(&forwarded, SYN | ACK);
            let back = if case.one_arm { CLIENT_IF } else { BACKEND_IF };
            let out = lab.run_on(back, &reply.bytes_with_extensions(chain));
            assert_eq!(out.verdict, verdict);
            assert_eq!(
                out.frame,
                service.answered(&reply, &request).bytes_with_extensions(chain)
            );
        }
    }
}

#[test]
fn what_hides_the_ports_or_binds_the_addresses_is_the_kernels() {
    let mut lab = Lab::new();
    for case in ipv6().into_iter().filter(|case| !case.one_arm) {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        lab.forward(&service, &request);
        let nine = [DESTINATION; 9];
        let long: Vec<u8> = [&[255, 1, 4][..], &[0; 2044]].concat();
        let chains: [&[(u8, &[u8])]; 8] = [
            &nine,
            // A route still to be followed: the packet is for another host in the end.
            &[(43, &[0, 4, 1, 0, 0, 0, 0])],
            // Authentication, mobility, host identity, shim6.
            &[(51, &[4, 0, 0, 0, 0, 0, 0])],
            &[(135, &[0, 0, 0, 0, 0, 0, 0])],
            &[(139, &[0, 0, 0, 0, 0, 0, 0])],
            &[(140, &[0, 0, 0, 0, 0, 0, 0])],
            &[HOP_BY_HOP, (51, &[4, 0, 0, 0, 0, 0, 0])],
            // Two kilobytes of options, and then some.
            &[(60, &long), DESTINATION],
        ];
        for chain in chains {
            for packet in [request.clone(), service.request(4001)] {
                lab.untouched(&packet.bytes_with_extensions(chain), PassReason::Ipv6Extension);
            }
        }
    }
}

#[test]
fn headers_that_end_early_are_the_kernels() {
    let mut lab = Lab::new();
    for case in ipv6().into_iter().filter(|case| !case.one_arm) {
        let service = lab.serve(case, &Setup::default());
        let whole = service.request(4000).bytes_with_extensions(&[HOP_BY_HOP, DESTINATION]);
        for length in 54..whole.len() {
            lab.untouched(&whole[..length], PassReason::Malformed);
        }
        // A header that claims to be longer than the packet.
        let mut frame = whole.clone();
        frame[55] = 200;
        lab.untouched(&frame, PassReason::Malformed);
    }
}

#[test]
fn connections_are_refused_past_extension_headers() {
    let mut lab = Lab::new();
    for case in ipv6().into_iter().filter(|case| !case.one_arm) {
        let service = lab.serve(case, &Setup::default());
        let other = service.request(4000).with(|p| p.to.set_port(22));
        lab.untouched(&other.bytes_with_extensions(&[DESTINATION]), PassReason::NotAService);
        if case.protocol == Protocol::Udp {
            continue;
        }
        let stray = service.request(4000).flags(ACK);
        let before = lab.dropped(DropReason::NoFlow);
        let out = lab.run_on(CLIENT_IF, &stray.bytes_with_extensions(&[DESTINATION]));
        assert_eq!(
            (out.verdict, out.frame),
            (Verdict::Tx, stray.reset().bytes()),
            "{case:?}"
        );
        assert_eq!(lab.dropped(DropReason::NoFlow), before + 1);
    }
}
