//! ICMP errors about the outer packets of tunnels: the client learns of them as of errors about its own packet.

use lb_common::{
    abi::Mode,
    reason::{DropReason, PassReason},
};
use lb_userspace::model::{Limits, Protocol};

use crate::{
    frames::{ACK, ETHERNET, Packet},
    icmp::{Icmp, assert_same},
    lab::{BACKEND_IF, CLIENT_IF, Case, Family, LIMITS, Lab, Server, Service, Setup, TUNNEL_PORT, Verdict},
    service::{BACK_MAC, CLIENT_MAC, FRONT_MAC},
};

/// Type, code and second word of an ICMP message.
pub(crate) type Kind = (u8, u8, [u8; 4]);

/// All tunnels, with one arm and two.
fn tunnels() -> Vec<Case> {
    Case::all().into_iter().filter(|case| case.tunnel()).collect()
}

/// What packets of the backends come in by.
pub(crate) fn interface(case: Case) -> &'static str {
    if case.one_arm { CLIENT_IF } else { BACKEND_IF }
}

fn mtu(bytes: u32) -> [u8; 4] {
    bytes.to_be_bytes()
}

/// That a packet is larger than so many bytes.
fn too_big(family: Family, bytes: u32) -> Kind {
    match family {
        Family::V4 => (3, 4, mtu(bytes)),
        Family::V6 => (2, 0, mtu(bytes)),
    }
}

/// What a sender is told of everything else: the host cannot be reached.
fn unreachable(family: Family) -> Kind {
    match family {
        Family::V4 => (3, 1, [0; 4]),
        Family::V6 => (1, 3, [0; 4]),
    }
}

/// What routers say of the outer packet, and what the sender of the one inside is told.
fn errors(case: Case) -> Vec<(Kind, Kind)> {
    let overhead = u32::try_from(case.overhead()).unwrap();
    let inside = |mtu| too_big(case.family, mtu - overhead);
    let unreachable = unreachable(case.family);
    let mut errors = vec![
        (too_big(case.outer, 1500), inside(1500)),
        (too_big(case.outer, 1400), inside(1400)),
    ];
    match case.outer {
        Family::V4 => {
            for (kind, code) in [(3, 0), (3, 1), (3, 2), (3, 3), (3, 13), (11, 0)] {
                errors.push(((kind, code, [0; 4]), unreachable));
            }
            // The length of a quote before extensions (RFC 4884).
            errors.push(((3, 1, [0, 32, 0, 0]), unreachable));
            errors.push(((3, 4, [0, 32, 5, 0x78]), inside(1400)));
        }
        Family::V6 => {
            for (kind, code) in [(1, 0), (1, 3), (1, 4), (3, 0)] {
                errors.push(((kind, code, [0; 4]), unreachable));
            }
            errors.push(((1, 0, [16, 0, 0, 0]), unreachable));
        }
    }
    errors
}

/// A flow, and a packet of it in its tunnel.
struct Talk {
    case: Case,
    server: Server,
    sent: Packet,
    forwarded: Packet,
    comes: Icmp,
    goes: Icmp,
}

impl Talk {
    fn new(lab: &mut Lab, case: Case, payload: usize) -> Self {
        let service = lab.serve(case, &Setup::default());
        let body: Vec<u8> = (0..payload).map(|n| (n * 7) as u8).collect();
        Self::of(lab, &service, service.request(4000).payload(&body))
    }

    fn of(lab: &mut Lab, service: &Service, sent: Packet) -> Self {
        let (server, source) = lab.forward(service, &sent);
        let forwarded = service.forwarded(&sent, server, source);
        let case = service.case;
        let comes = Icmp {
            src_mac: server.mac,
            dst_mac: BACK_MAC,
            from: case.outer.ip(77, 7),
            to: source.ip(),
            ttl: 60,
            tos: 0xc0,
            kind: 0,
            code: 0,
            word: [0; 4],
            body: Vec::new(),
            outer: None,
        };
        let goes = Icmp {
            src_mac: FRONT_MAC,
            dst_mac: CLIENT_MAC,
            from: service.vip.ip(),
            to: sent.from.ip(),
            ttl: 64,
            tos: if case.family == Family::V4 { 0xc0 } else { 0 },
            ..comes.clone()
        };
        Self {
            case,
            server,
            sent,
            forwarded,
            comes,
            goes,
        }
    }

    /// What comes in, quoting so many bytes of the packet inside, and what the client gets.
    fn about(&self, says: Kind, told: Kind, length: usize) -> (Icmp, Icmp) {
        let mut body = self.forwarded.bytes()[ETHERNET..].to_vec();
        body.truncate(self.case.overhead() + length);
        let mut comes = self.comes.clone();
        (comes.kind, comes.code, comes.word) = says;
        let mut goes = self.goes.clone();
        (goes.kind, goes.code, goes.word) = told;
        goes.body = body[self.case.overhead()..].to_vec();
        comes.body = body;
        (comes, goes)
    }

    /// A message that the client would get.
    fn good(&self) -> Icmp {
        let says = too_big(self.case.outer, 1400);
        self.about(says, says, 100).0
    }
}

#[track_caller]
fn told(lab: &mut Lab, case: Case, (comes, goes): (&Icmp, &Icmp), what: &str) {
    let out = lab.run_on(interface(case), &comes.bytes());
    let verdict = if case.one_arm { Verdict::Tx } else { Verdict::Redirect };
    assert_eq!(out.verdict, verdict, "{case:?}, {what}: {comes:?} {:?}", lab.reasons());
    assert_same(&out.frame, goes, &format!("{case:?}, {what}"));
}

#[test]
fn clients_learn_of_errors_about_outer_packets() {
    let mut lab = Lab::new();
    for case in tunnels() {
        let talk = Talk::new(&mut lab, case, 1000);
        for (says, means) in errors(case) {
            for more in [8, 9, 16, 20, 101, 456] {
                let length = case.ip_header() + more;
                let (comes, goes) = talk.about(says, means, length);
                told(&mut lab, case, (&comes, &goes), &format!("{says:?}, {length} bytes"));
            }
        }
    }
}

/// Of an established flow as of one that opens, and by its own packets only.
#[test]
fn established_flows_are_found_too_and_stay_as_they_were() {
    let mut lab = Lab::new();
    for case in tunnels() {
        let talk = Talk::new(&mut lab, case, 100);
        lab.run(&match case.protocol {
            Protocol::Tcp => talk.sent.clone().flags(ACK),
            Protocol::Udp => talk.sent.clone(),
        });
        let phase = lab.phase(&talk.sent);
        assert!(["established", "udp"].contains(&phase), "{case:?}: {phase}");
        let before: Vec<_> = lab.flows().iter().map(|f| format!("{f:?}")).collect();
        for (says, means) in errors(case) {
            let (comes, goes) = talk.about(says, means, 100);
            told(&mut lab, case, (&comes, &goes), "established");
        }
        let after: Vec<_> = lab.flows().iter().map(|f| format!("{f:?}")).collect();
        assert_eq!(before, after, "{case:?}");
    }
}

/// The arithmetic of carries shows only with many addresses, ports and payloads.
#[test]
fn checksums_hold_for_many_of_them() {
    let mut lab = Lab::new();
    for case in Case::tunnels() {
        let setup = Setup {
            sources: 16,
            ..Setup::default()
        };
        let service = lab.serve(case, &setup);
        let (says, means) = errors(case)[0];
        for port in (1..60_000).step_by(397) {
            let sent = service.request(port).payload(&port.wrapping_mul(31_321).to_be_bytes());
            let talk = Talk::of(&mut lab, &service, sent);
            let (comes, goes) = talk.about(says, means, 60);
            told(&mut lab, case, (&comes, &goes), &format!("port {port}"));
        }
    }
}

/// The quote of a router whose message was damaged on its way is not made whole.
#[test]
fn a_wrong_checksum_stays_wrong() {
    let mut lab = Lab::new();
    for case in Case::tunnels() {
        let talk = Talk::new(&mut lab, case, 100);
        let (says, means) = errors(case)[0];
        let (comes, goes) = talk.about(says, means, 100);
        let (mut damaged, mut expected) = (comes.bytes(), goes.bytes());
        *damaged.last_mut().unwrap() ^= 0x10;
        *expected.last_mut().unwrap() ^= 0x10;
        let out = lab.run_on(BACKEND_IF, &damaged);
        assert_eq!((out.verdict, out.frame), (Verdict::Redirect, expected), "{case:?}");
    }
}

/// IPv6 senders ignore who says that less than 1280 bytes fit.
#[test]
fn ipv6_clients_are_told_no_less_than_what_always_fits() {
    let mut lab = Lab::new();
    for case in Case::tunnels().into_iter().filter(|case| case.family == Family::V6) {
        let talk = Talk::new(&mut lab, case, 1000);
        let (comes, goes) = talk.about(too_big(case.outer, 1300), too_big(case.family, 1280), 200);
        told(&mut lab, case, (&comes, &goes), "1300");
    }
}

/// Routers may quote 8 bytes behind the outer header, which are not enough to know a flow by.
#[test]
fn what_quotes_too_little_is_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::tunnels() {
        let talk = Talk::new(&mut lab, case, 100);
        let says = too_big(case.outer, 1400);
        for length in 0..case.ip_header() + 8 {
            let (comes, _) = talk.about(says, says, length);
            let quoted = comes.body.len() - case.outer.header();
            let reason = if quoted < 8 {
                PassReason::Malformed
            } else {
                PassReason::IcmpNoFlow
            };
            lab.untouched_on(BACKEND_IF, &comes.bytes(), reason);
            // Padding behind the packet is no quote.
            let mut padded = comes.bytes();
            padded.resize(padded.len() + 60, 0);
            lab.untouched_on(BACKEND_IF, &padded, reason);
        }
    }
}

#[test]
fn what_says_nothing_to_the_sender_is_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::tunnels() {
        let talk = Talk::new(&mut lab, case, 100);
        let overhead = u32::try_from(case.overhead()).unwrap();
        let kinds = match case.outer {
            Family::V4 => vec![
                (3, 4, mtu(0)),
                (3, 4, mtu(overhead)),
                (3, 5, [0; 4]),
                (12, 0, [8, 0, 0, 0]),
            ],
            Family::V6 => vec![(2, 0, mtu(0)), (2, 0, mtu(overhead)), (4, 1, mtu(40))],
        };
        for says in kinds {
            let (comes, _) = talk.about(says, says, 100);
            lab.untouched_on(BACKEND_IF, &comes.bytes(), PassReason::IcmpNoFlow);
        }
    }
}

/// Nobody is told of what `lb` did not send.
#[test]
fn errors_about_the_packets_of_others_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::tunnels() {
        let talk = Talk::new(&mut lab, case, 100);
        let good = talk.good();
        let (ip, inside) = (case.outer.header(), case.overhead());
        let mut check = |what: &str, change: &dyn Fn(&mut Icmp)| {
            let mut icmp = good.clone();
            change(&mut icmp);
            assert_ne!(icmp.bytes(), good.bytes(), "{what}");
            lab.untouched_on(BACKEND_IF, &icmp.bytes(), PassReason::IcmpNoFlow);
        };
        let address = if case.outer == Family::V4 { 4 } else { 16 };
        let last_of_source = ip - address - 1;
        check("to somebody else than it is about", &|i| i.to = case.outer.ip(3, 3));
        check("from another source", &|i| {
            i.body[last_of_source] ^= 0x80;
            i.to = match i.to {
                std::net::IpAddr::V4(ip) => std::net::Ipv4Addr::from(u32::from(ip) ^ 0x80).into(),
                std::net::IpAddr::V6(ip) => std::net::Ipv6Addr::from(u128::from(ip) ^ 0x80).into(),
            };
        });
        check("to another backend", &|i| i.body[ip - 1] ^= 1);
        let protocol = if case.outer == Family::V4 { 9 } else { 6 };
        check("of another protocol", &|i| i.body[protocol] = 47);
        check("of the other protocol of IP in IP", &|i| {
            i.body[protocol] = if case.family == Family::V4 { 41 } else { 4 };
        });
        if case.outer == Family::V4 {
            check("a fragment", &|i| i.body[6] |= 0x20);
            check("with options", &|i| i.body[0] = 0x46);
        }
        if case.mode == Mode::GUE {
            check("to another port", &|i| {
                i.body[ip + 2..ip + 4].copy_from_slice(&(TUNNEL_PORT ^ 1).to_be_bytes());
            });
            check("of another variant", &|i| i.body[inside] = 0);
        }
        let l4 = inside + case.ip_header();
        let inner_protocol = inside + if case.family == Family::V4 { 9 } else { 6 };
        check("from another port inside", &|i| i.body[l4 + 1] ^= 1);
        check("to another port inside", &|i| i.body[l4 + 3] ^= 1);
        check("to another VIP", &|i| i.body[l4 - 1] ^= 1);
        check("neither TCP nor UDP inside", &|i| i.body[inner_protocol] = 132);
        if case.family == Family::V4 {
            check("a later fragment inside", &|i| i.body[inside + 7] = 1);
        }
    }
}

/// A flow of another mode has no tunnel, whatever is quoted around its packet.
#[test]
fn flows_without_a_tunnel_are_not_told() {
    let mut lab = Lab::new();
    for case in Case::tunnels() {
        let talk = Talk::new(&mut lab, case, 100);
        lab.change(talk.server, |backend| backend.mode = Mode::L2_DSR);
        lab.untouched_on(BACKEND_IF, &talk.good().bytes(), PassReason::IcmpNoFlow);
    }
}

#[test]
fn no_more_of_them_are_sent_than_allowed() {
    for case in Case::tunnels() {
        let mut lab = Lab::with(Limits {
            icmp_per_second: 0,
            ..LIMITS
        });
        let talk = Talk::new(&mut lab, case, 100);
        let out = lab.run_on(BACKEND_IF, &talk.good().bytes());
        assert_eq!(out.verdict, Verdict::Drop, "{case:?}: {:?}", lab.reasons());
        assert_eq!(lab.dropped(DropReason::IcmpRateLimited), 1);
    }
}
