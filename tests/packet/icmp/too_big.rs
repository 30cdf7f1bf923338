//! What does not fit the way on is answered with an error.

use super::*;

#[test]
fn what_does_not_fit_is_answered() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::of(1));
        for (mtu, quoted_v4, quoted_v6) in [(1000, 544, 512), (1300, 544, 1232), (600, 544, 512)] {
            lab.change(service.servers[0], |backend| backend.mtu = mtu);
            let fits = mtu - u32::try_from(case.overhead()).unwrap();
            let body: Vec<u8> = (0..1350usize).map(|n| (n * 13) as u8).collect();
            let keep = if mtu == 1300 { 1350 } else { 1050 };
            for dont_fragment in [true, false] {
                let request = service
                    .request(4000)
                    .payload(&body[..keep])
                    .with(|p| p.dont_fragment = dont_fragment);
                let before = lab.dropped(DropReason::ExceedsMtu);
                let out = lab.run(&request);
                assert_eq!(out.verdict, Verdict::Tx, "{case:?} {:?}", lab.reasons());
                assert_eq!(lab.dropped(DropReason::ExceedsMtu), before + 1);
                let (kind, code, length) = match case.family {
                    Family::V4 => (3, 4, quoted_v4),
                    Family::V6 => (2, 0, quoted_v6),
                };
                let answer = Icmp {
                    src_mac: FRONT_MAC,
                    dst_mac: CLIENT_MAC,
                    from: service.vip.ip(),
                    to: request.from.ip(),
                    ttl: 64,
                    tos: if case.family == Family::V4 { 0xc0 } else { 0 },
                    kind,
                    code,
                    word: fits.to_be_bytes(),
                    body: quote(&request, length),
                    outer: None,
                };
                assert_same(&out.frame, &answer, &format!("{case:?} {mtu}"));
                assert!(out.frame.len() - ETHERNET <= if case.family == Family::V4 { 576 } else { 1280 });
            }
        }
    }
}

/// The interfaces have an MTU of 1500; the packet path looks at it from 1400 bytes on.
#[test]
fn answers_that_do_not_fit_are_answered() {
    let mut lab = Lab::new();
    for case in Case::both_ways() {
        let talk = Conversation::new(&mut lab, case, 100);
        let fill = |size: usize| {
            let empty = talk.reply.clone().payload(b"").bytes().len() - ETHERNET;
            talk.reply.clone().payload(&vec![0x77; size - empty])
        };
        for size in [1399, 1400, 1401, 1500] {
            let reply = fill(size);
            let out = lab.run_on(BACKEND_IF, &reply.bytes());
            assert_eq!(out.verdict, Verdict::Redirect, "{case:?}: {size}");
            crate::lab::assert_same(&out.frame, &talk.service.answered(&reply, &talk.sent));
        }
        let reply = fill(1501);
        let out = lab.run_on(BACKEND_IF, &reply.bytes());
        assert_eq!(out.verdict, Verdict::Tx, "{case:?} {:?}", lab.reasons());
        let v4 = case.family == Family::V4;
        let answer = Icmp {
            src_mac: BACK_MAC,
            dst_mac: talk.server.mac,
            from: reply.to.ip(),
            to: reply.from.ip(),
            ttl: 64,
            tos: if v4 { 0xc0 } else { 0 },
            kind: if v4 { 3 } else { 2 },
            code: if v4 { 4 } else { 0 },
            word: 1500u32.to_be_bytes(),
            body: quote(&reply, if v4 { 544 } else { 1232 }),
            outer: None,
        };
        assert_same(&out.frame, &answer, &format!("{case:?}"));
    }
}

#[test]
fn answers_about_size_are_limited() {
    let mut lab = Lab::with(lb_userspace::model::Limits {
        icmp_per_second: 10,
        ..crate::lab::LIMITS
    });
    for case in Case::two_arms() {
        let service = lab.serve(
            case,
            &Setup {
                mtu: 1000,
                ..Setup::default()
            },
        );
        let request = service.request(4000).payload(&[1; 1000]);
        let before = (
            lab.dropped(DropReason::ExceedsMtu),
            lab.dropped(DropReason::IcmpRateLimited),
        );
        let verdicts: Vec<_> = (0..50).map(|_| lab.run(&request).verdict).collect();
        let silent = verdicts.iter().filter(|verdict| **verdict == Verdict::Drop).count() as u64;
        assert!(silent > 0, "{verdicts:?}");
        assert_eq!(lab.dropped(DropReason::ExceedsMtu), before.0 + 50, "every one of them");
        assert_eq!(lab.dropped(DropReason::IcmpRateLimited), before.1 + silent);
    }
}
