//! Errors that are none of a flow's: the kernel gets them as they came.

use super::*;

#[test]
fn errors_about_no_flow_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let talk = Conversation::new(&mut lab, case, 100);
        let error = errors(case.family)[0];
        for (interface, comes, _) in talk.both(error, 100) {
            let with = |change: &dyn Fn(&mut Icmp)| {
                let mut icmp = comes.clone();
                change(&mut icmp);
                icmp.bytes()
            };
            let l4 = case.ip_header();
            // Another port, another address, another protocol, to somebody else than it is about.
            lab.untouched_on(interface, &with(&|i| i.body[l4 + 1] ^= 1), PassReason::IcmpNoFlow);
            lab.untouched_on(interface, &with(&|i| i.body[l4 - 1] ^= 1), PassReason::IcmpNoFlow);
            let protocol = if case.family == Family::V4 { 9 } else { 6 };
            lab.untouched_on(interface, &with(&|i| i.body[protocol] = 132), PassReason::IcmpNoFlow);
            lab.untouched_on(interface, &with(&|i| i.to = case.ip(3, 3)), PassReason::IcmpNoFlow);
            // About an error, which nobody should have sent.
            let icmp = if case.family == Family::V4 { 1 } else { 58 };
            lab.untouched_on(interface, &with(&|i| i.body[protocol] = icmp), PassReason::IcmpNoFlow);
            // About a later fragment, which names no port.
            if case.family == Family::V4 {
                lab.untouched_on(interface, &with(&|i| i.body[7] = 1), PassReason::IcmpNoFlow);
            }
            // Other messages, whatever they carry.
            for kind in [0, 5, 13, 133, 134, 135, 136, 137, 143] {
                let other = if case.family == Family::V4 {
                    kind % 20
                } else {
                    kind | 0x80
                };
                if [3, 11, 12, 8, 128].contains(&other) {
                    continue;
                }
                lab.untouched_on(interface, &with(&|i| i.kind = other), PassReason::NotTcpOrUdp);
            }
        }
    }
}

/// Against the direction: a client cannot end its neighbour's connection by quoting what the backend sent.
#[test]
fn an_error_must_quote_what_its_receiver_sent() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let talk = Conversation::new(&mut lab, case, 100);
        let (mut comes, _) = talk.towards_backend(errors(case.family)[0], 100);
        comes.body = quote(&talk.sent, 100);
        lab.untouched_on(CLIENT_IF, &comes.bytes(), PassReason::IcmpNoFlow);
    }
}

#[test]
fn errors_that_quote_too_little_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let talk = Conversation::new(&mut lab, case, 100);
        for length in 0..case.ip_header() + 8 {
            for (interface, comes, _) in talk.both(errors(case.family)[0], length) {
                lab.untouched_on(interface, &comes.bytes(), PassReason::Malformed);
                // Padding behind the packet is no quote.
                let mut padded = comes.bytes();
                padded.resize(padded.len() + 60, 0);
                lab.untouched_on(interface, &padded, PassReason::Malformed);
            }
        }
    }
}

#[test]
fn errors_with_no_hop_left_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let talk = Conversation::new(&mut lab, case, 100);
        for (interface, mut comes, mut goes) in talk.both(errors(case.family)[0], 100) {
            comes.ttl = 1;
            if case.mode == Mode::L2_DSR {
                // It makes no hop.
                goes.ttl = 1;
                assert_same(&lab.run_on(interface, &comes.bytes()).frame, &goes, "the last hop");
                continue;
            }
            lab.untouched_on(interface, &comes.bytes(), PassReason::TtlExpired);
        }
    }
}

/// None is told about an error, however large it is: two that did not fit could keep each other busy.
#[test]
fn errors_that_do_not_fit_are_dropped_in_silence() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let talk = Conversation::new(&mut lab, case, 600);
        lab.change(talk.server, |backend| backend.mtu = 500);
        for error in errors(case.family) {
            let (comes, _) = talk.towards_backend(error, 480);
            let before = lab.dropped(DropReason::ExceedsMtu);
            let out = lab.run_on(CLIENT_IF, &comes.bytes());
            assert_eq!(out.verdict, Verdict::Drop, "{case:?}, {error:?} {:?}", lab.reasons());
            assert_eq!(lab.dropped(DropReason::ExceedsMtu), before + 1, "{case:?}");
        }
    }
}

#[test]
fn errors_in_fragments_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms().into_iter().filter(|case| case.family == Family::V4) {
        let talk = Conversation::new(&mut lab, case, 100);
        for (interface, comes, _) in talk.both(errors(case.family)[0], 100) {
            let mut first = comes.bytes();
            first[ETHERNET + 6] = 0x20;
            lab.untouched_on(interface, &first, PassReason::NotTcpOrUdp);
            let mut later = comes.bytes();
            later[ETHERNET + 7] = 9;
            let reason = if interface == CLIENT_IF {
                PassReason::FragmentBeforeFirst
            } else {
                PassReason::LaterFragment
            };
            lab.untouched_on(interface, &later, reason);
        }
    }
}
