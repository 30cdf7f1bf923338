//! Errors about flows.

use lb_userspace::model::Scheduler;

use super::*;
use crate::direct::Direct;

#[test]
fn errors_reach_the_other_end_about_its_own_packet() {
    let mut lab = Lab::new();
    for case in Case::all() {
        let talk = Conversation::new(&mut lab, case, 600);
        let verdict = if case.one_arm { Verdict::Tx } else { Verdict::Redirect };
        for error in errors(case.family) {
            for length in lengths(case, 528) {
                for (interface, comes, mut goes) in talk.both(error, length) {
                    if case.protocol == Protocol::Tcp && length == case.ip_header() + 17 {
                        // Half of a checksum cannot be worked out, and stays.
                        goes.body[length - 1] = comes.body[length - 1];
                    }
                    let out = lab.run_on(interface, &comes.bytes());
                    assert_eq!(out.verdict, verdict, "{case:?} {comes:?} {:?}", lab.reasons());
                    assert_same(&out.frame, &goes, &format!("{case:?}, {error:?}, {length} bytes"));
                }
            }
        }
    }
}

/// Path MTU discovery and "port unreachable" of a backend whose replies go straight to the client: what the router wrote
/// is what the backend reads.
#[test]
fn errors_about_replies_that_do_not_come_by_reach_the_backend_as_they_came() {
    let mut lab = Lab::new();
    for case in Case::one_way() {
        let talk = Conversation::new(&mut lab, case, 1000);
        for error in errors(case.family) {
            let before = lab.counters(talk.server);
            let (comes, _) = talk.towards_backend(error, 528);
            let frame = comes.bytes();
            let out = lab.run_on(CLIENT_IF, &frame);
            assert_eq!(out.verdict, Verdict::Redirect, "{case:?} {:?}", lab.reasons());
            assert_eq!(out.frame[..6], talk.server.mac, "{case:?}");
            let came = Icmp {
                ttl: if case.tunnel() { comes.ttl - 1 } else { comes.ttl },
                ..comes
            };
            assert_eq!(
                out.frame[ETHERNET + case.overhead()..],
                came.bytes()[ETHERNET..],
                "{case:?}, {error:?}"
            );
            if case.tunnel() {
                let (server, source) = talk.service.way_of(&out.frame);
                assert_eq!(
                    (server, source),
                    (talk.server, talk.source),
                    "the tunnel of the flow: {case:?}"
                );
            }
            assert_eq!(lab.counters(talk.server).packets_in, before.packets_in + 1, "{case:?}");
        }
    }
}

/// The same of flows that are stored nowhere.
#[test]
fn errors_about_flows_that_are_not_stored_find_the_backend_by_the_hash() {
    let mut lab = Lab::new();
    for case in Case::one_way() {
        for scheduler in [Scheduler::SourceHash, Scheduler::Maglev] {
            let direct = Direct::new(&mut lab, case, scheduler);
            for port in 4000..4004 {
                let sent = direct.service.request(port);
                let talk = Conversation::of(&mut lab, &direct.service, sent);
                for error in errors(case.family) {
                    let (comes, goes) = talk.towards_backend(error, 80);
                    let out = lab.run_on(CLIENT_IF, &comes.bytes());
                    assert_eq!(out.verdict, Verdict::Redirect, "{case:?} {:?}", lab.reasons());
                    assert_same(&out.frame, &goes, &format!("{case:?}, {error:?}"));
                }
            }
            assert_eq!(direct.stored(&lab), 0, "{case:?}");
        }
    }
}

/// The arithmetic of carries shows only with many addresses, ports and payloads.
#[test]
fn checksums_hold_for_many_errors() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(
            case,
            &Setup {
                source_ports: 5000,
                ..Setup::default()
            },
        );
        for port in (1..60_000).step_by(397) {
            let sent = service.request(port).payload(&port.wrapping_mul(31_321).to_be_bytes());
            let talk = Conversation::of(&mut lab, &service, sent);
            for (interface, comes, goes) in talk.both(errors(case.family)[0], 60) {
                let out = lab.run_on(interface, &comes.bytes());
                assert_eq!(out.verdict, Verdict::Redirect);
                assert_same(&out.frame, &goes, &format!("{case:?}, port {port}"));
            }
        }
    }
}

#[test]
fn a_quoted_udp_checksum_of_zero_stays_zero() {
    let mut lab = Lab::new();
    for mode in [Mode::FULL_NAT, Mode::NAT] {
        let mut talk = Conversation::new(&mut lab, Case { mode, ..Case::UDP }, 40);
        for packet in [&mut talk.sent, &mut talk.forwarded, &mut talk.reply, &mut talk.answered] {
            packet.l4 = L4::Udp(UdpChecksum::Zero);
        }
        for (interface, comes, goes) in talk.both((3, 3, [0; 4]), 68) {
            assert_same(&lab.run_on(interface, &comes.bytes()).frame, &goes, "zero");
        }
    }
}

#[test]
fn options_of_the_quoted_packet_are_looked_past() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let mut talk = Conversation::new(&mut lab, case, 40);
        match case.family {
            Family::V4 => {
                for packet in [&mut talk.sent, &mut talk.forwarded, &mut talk.reply, &mut talk.answered] {
                    packet.ip_options = vec![1, 1, 1, 1, 1, 1, 1, 0];
                }
                for (interface, comes, goes) in talk.both((11, 0, [0; 4]), 68) {
                    assert_same(&lab.run_on(interface, &comes.bytes()).frame, &goes, "options");
                }
            }
            Family::V6 => {
                let options: (u8, &[u8]) = (60, &[0, 1, 4, 0, 0, 0, 0]);
                for (interface, mut comes, mut goes) in talk.both((3, 0, [0; 4]), 68) {
                    let (before, after) = if interface == CLIENT_IF {
                        (&talk.answered, &talk.reply)
                    } else {
                        (&talk.forwarded, &talk.sent)
                    };
                    comes.body =
                        before.clone().with(|p| p.ttl = 3).bytes_with_extensions(&[options])[ETHERNET..].to_vec();
                    goes.body =
                        after.clone().with(|p| p.ttl = 3).bytes_with_extensions(&[options])[ETHERNET..].to_vec();
                    assert_same(&lab.run_on(interface, &comes.bytes()).frame, &goes, "options");
                }
            }
        }
    }
}

#[test]
fn errors_do_not_change_a_flow() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let talk = Conversation::new(&mut lab, case, 100);
        let before: Vec<_> = lab.flows().iter().map(|f| format!("{f:?}")).collect();
        for error in errors(case.family) {
            for (interface, comes, _) in talk.both(error, 100) {
                lab.run_on(interface, &comes.bytes());
            }
        }
        let after: Vec<_> = lab.flows().iter().map(|f| format!("{f:?}")).collect();
        assert_eq!(before, after, "{case:?}");
    }
}
