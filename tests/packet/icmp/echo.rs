//! Echo requests to VIPs.

use super::*;

#[test]
fn echo_requests_are_the_kernels_unless_it_may_not_have_the_vip() {
    use lb_userspace::datapath::Datapath as _;
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let kind = if case.family == Family::V4 { 8 } else { 128 };
        let request = Icmp {
            src_mac: CLIENT_MAC,
            dst_mac: FRONT_MAC,
            from: case.client(0).ip(),
            to: service.vip.ip(),
            ttl: 3,
            tos: 0x10,
            kind,
            code: 0,
            word: [0x12, 0x34, 0, 1],
            body: (0..200).collect(),
            outer: None,
        };
        lab.untouched(&request.bytes(), PassReason::NotTcpOrUdp);
        lab.datapath.answer_echo(service.vip.ip(), true).unwrap();
        let reply = Icmp {
            src_mac: FRONT_MAC,
            dst_mac: CLIENT_MAC,
            from: request.to,
            to: request.from,
            ttl: 64,
            kind: if case.family == Family::V4 { 0 } else { 129 },
            ..request.clone()
        };
        let out = lab.run_on(CLIENT_IF, &request.bytes());
        assert_eq!(out.verdict, Verdict::Tx, "{case:?}");
        assert_same(&out.frame, &reply, "an echo");
        // Never for other addresses.
        let other = Icmp {
            to: case.ip(1, 250),
            ..request.clone()
        };
        lab.untouched(&other.bytes(), PassReason::NotTcpOrUdp);
        // Not once it is no VIP any more.
        lab.datapath.remove_service(service.id()).unwrap();
        lab.untouched(&request.bytes(), PassReason::NotTcpOrUdp);
    }
}

#[test]
fn echo_replies_are_limited() {
    use lb_userspace::datapath::Datapath as _;
    let mut lab = Lab::with(lb_userspace::model::Limits {
        icmp_per_second: 10,
        ..crate::lab::LIMITS
    });
    let service = lab.serve(Case::PLAIN, &Setup::default());
    lab.datapath.answer_echo(service.vip.ip(), true).unwrap();
    let request = Icmp {
        src_mac: CLIENT_MAC,
        dst_mac: FRONT_MAC,
        from: Case::PLAIN.client(0).ip(),
        to: service.vip.ip(),
        ttl: 3,
        tos: 0,
        kind: 8,
        code: 0,
        word: [0; 4],
        body: vec![1; 8],
        outer: None,
    };
    let verdicts: Vec<_> = (0..50)
        .map(|_| lab.run_on(CLIENT_IF, &request.bytes()).verdict)
        .collect();
    assert_eq!(verdicts[0], Verdict::Tx);
    assert!(verdicts.contains(&Verdict::Drop));
    assert!(lab.dropped(DropReason::IcmpRateLimited) > 0);
}
