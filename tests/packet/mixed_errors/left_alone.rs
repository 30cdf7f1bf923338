//! Errors that are none of such a flow's, or go no further.

use super::*;

/// What does not fit the way on is dropped, and nobody is told: two that did not fit could keep each other busy.
#[test]
fn those_that_no_longer_fit_are_dropped_in_silence() {
    let mut lab = Lab::new();
    for case in cases() {
        let setup = Setup {
            mtu: 2000,
            ..Setup::default()
        };
        let service = serve(&mut lab, case, &setup);
        let request = service.request(4000).payload(&[0x77; 1500]);
        let talk = Talk::of(&mut lab, &service, request);
        lab.change(talk.flow.0, |backend| backend.mtu = 600);
        // Towards the client its interface's MTU counts.
        for (side, mtu) in talk.sides.iter().zip([600, 1500]) {
            let largest = mtu - 2 * side.other().header() - 8;
            for length in [largest - 1, largest] {
                let (comes, goes) = side.about(too_big(side.family()), length);
                side.is_translated(&mut lab, (&comes, &goes), &format!("{length} bytes"));
            }
            let before = lab.dropped(DropReason::ExceedsMtu);
            for more in [1, 2, 20] {
                let (comes, _) = side.about(too_big(side.family()), largest + more);
                let out = lab.run_on(side.interface, &comes.bytes());
                assert_eq!(out.verdict, Verdict::Drop, "{case:?}, {more} {:?}", lab.reasons());
            }
            assert_eq!(lab.dropped(DropReason::ExceedsMtu), before + 3, "{case:?}");
        }
    }
}

#[test]
fn those_with_no_hop_left_are_the_kernels() {
    let mut lab = Lab::new();
    for case in two_arms() {
        let talk = Talk::new(&mut lab, case, 200);
        for side in &talk.sides {
            let (mut comes, goes) = side.good();
            for ttl in [0, 1] {
                comes.ttl = ttl;
                side.is_left_alone(&mut lab, &comes, PassReason::TtlExpired);
            }
            comes.ttl = 2;
            side.is_translated(&mut lab, (&comes, &goes), "the last hop but one");
        }
    }
}

#[test]
fn those_that_quote_too_little_are_the_kernels() {
    let mut lab = Lab::new();
    for case in two_arms() {
        let talk = Talk::new(&mut lab, case, 200);
        for side in &talk.sides {
            let (whole, _) = side.good();
            for length in 0..side.family().header() + 8 {
                let mut comes = whole.clone();
                comes.body.truncate(length);
                side.is_left_alone(&mut lab, &comes, PassReason::Malformed);
                // Padding behind the packet is no quote.
                let mut padded = comes.bytes();
                padded.resize(padded.len() + 60, 0);
                lab.untouched_on(side.interface, &padded, PassReason::Malformed);
            }
        }
    }
}

/// Packets of flows between families have neither options nor extension headers, and are whole.
#[test]
fn what_quotes_no_packet_as_lb_sends_them_is_the_kernels() {
    let mut lab = Lab::new();
    for case in two_arms() {
        let talk = Talk::new(&mut lab, case, 200);
        for side in &talk.sides {
            let (good, _) = side.good();
            let mut check = |what: &str, body: Vec<u8>| {
                assert_ne!(body, good.body, "{what}");
                side.is_left_alone(&mut lab, &Icmp { body, ..good.clone() }, PassReason::IcmpNoFlow);
            };
            let quoted = || side.quoted.clone();
            match side.family() {
                Family::V4 => {
                    check("options", quote(&quoted().with(|p| p.ip_options = vec![1; 4]), 200));
                    check(
                        "more options",
                        quote(&quoted().with(|p| p.ip_options = vec![1; 40]), 200),
                    );
                    check(
                        "the first fragment",
                        quote(&quoted().with(|p| p.more_fragments = true), 200),
                    );
                    check("a later one", quote(&quoted().with(|p| p.fragment_offset = 1), 200));
                }
                Family::V6 => {
                    let options: (u8, &[u8]) = (60, &[0, 1, 4, 0, 0, 0, 0]);
                    let with = |extensions: &[(u8, &[u8])]| {
                        quoted().bytes_with_extensions(extensions)[ETHERNET..ETHERNET + 120].to_vec()
                    };
                    check("options", with(&[options]));
                    check("options twice", with(&[(0, options.1), options]));
                    check("the only fragment", with(&[(44, &[0, 0, 0, 0, 0, 0, 9])]));
                    check("the first fragment", with(&[(44, &[0, 0, 1, 0, 0, 0, 9])]));
                    check("a later one", with(&[(44, &[0, 0, 8, 0, 0, 0, 9])]));
                }
            }
        }
    }
}

#[test]
fn those_about_no_flow_are_the_kernels() {
    let mut lab = Lab::new();
    for case in two_arms() {
        let talk = Talk::new(&mut lab, case, 200);
        for (place, side) in talk.sides.iter().enumerate() {
            let (good, _) = side.good();
            let mut check = |what: &str, change: &dyn Fn(&mut Icmp)| {
                let mut comes = good.clone();
                change(&mut comes);
                assert_ne!(comes.bytes(), good.bytes(), "{what}");
                side.is_left_alone(&mut lab, &comes, PassReason::IcmpNoFlow);
            };
            let family = side.family();
            let l4 = family.header();
            let protocol = if family == Family::V4 { 9 } else { 6 };
            check("from another port", &|i| i.body[l4 + 1] ^= 1);
            check("to another port", &|i| i.body[l4 + 3] ^= 1);
            check("to another address", &|i| i.body[l4 - 1] ^= 1);
            check("to somebody else than it is about", &|i| i.to = family.ip(3, 3));
            check("of another protocol", &|i| {
                i.body[protocol] = if case.protocol == Protocol::Tcp { 17 } else { 6 };
            });
            check("neither TCP nor UDP", &|i| i.body[protocol] = 132);
            check("about a message", &|i| {
                i.body[protocol] = if family == Family::V4 { 1 } else { 58 };
            });
            // Against the direction: nobody ends a neighbour's connection by quoting what the other end sent.
            let opposite = &talk.sides[1 - place];
            check("what the receiver got", &|i| i.body = quote(&opposite.sent, 100));
            check("what the receiver got, to its sender", &|i| {
                i.body = quote(&opposite.sent, 100);
                i.to = opposite.sent.from.ip();
            });
        }
    }
}

#[test]
fn those_about_a_flow_that_expired_are_the_kernels() {
    let mut lab = Lab::new();
    for case in two_arms() {
        let talk = Talk::new(&mut lab, case, 200);
        lab.pass(LONG + 1);
        for side in &talk.sides {
            side.is_left_alone(&mut lab, &side.good().0, PassReason::IcmpNoFlow);
        }
    }
}

/// Nor one whose entries are gone.
#[test]
fn those_about_a_flow_that_is_gone_are_the_kernels() {
    let mut lab = Lab::new();
    for case in two_arms() {
        let talk = Talk::new(&mut lab, case, 200);
        lab.forget_flows();
        for side in &talk.sides {
            side.is_left_alone(&mut lab, &side.good().0, PassReason::IcmpNoFlow);
        }
    }
}
