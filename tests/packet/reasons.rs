//! Every reason by which a packet may leave, each from a state that brings it about.

use std::{collections::BTreeSet, process::Command};

use aya::{EbpfLoader, programs::Xdp};
use lb_common::{
    abi::{BackendState, Mode, Rotation},
    net::{self, Be16},
    reason::{DropReason, PassReason},
};
use lb_userspace::datapath::{
    Datapath as _,
    loader::{self, OBJECT},
};

use crate::{
    fragments,
    frames::{ACK, FIN, L4, Packet, SYN, UdpChecksum},
    icmp::Icmp,
    lab::{CLIENT_IF, Case, Family, Lab, Setup, Verdict, run},
};

/// A packet, and what becomes of it.
struct Row {
    name: &'static str,
    /// Prepares the service of the case at hand and gives the packet. `None`: there is no such case.
    packet: fn(&mut Lab, Case) -> Option<Vec<u8>>,
    reason: Reason,
    /// A TCP sender is told by RST.
    answered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Reason {
    Pass(PassReason),
    Drop(DropReason),
    /// Whoever sent it is told by ICMP.
    Told(DropReason),
}

const ROWS: &[Row] = &[
    Row {
        name: "a VLAN tag",
        packet: |lab, case| {
            let frame = lab.serve(case, &Setup::default()).request(1).bytes();
            Some([&frame[..12], &[0x81, 0, 0, 1], &frame[12..]].concat())
        },
        reason: Reason::Pass(PassReason::VlanTagged),
        answered: false,
    },
    Row {
        name: "ARP",
        packet: |lab, case| {
            let mut frame = lab.serve(case, &Setup::default()).request(1).bytes();
            frame[12..14].copy_from_slice(&[0x08, 0x06]);
            Some(frame)
        },
        reason: Reason::Pass(PassReason::NotIp),
        answered: false,
    },
    Row {
        name: "another transport protocol to the VIP",
        packet: |lab, case| {
            let mut frame = lab.serve(case, &Setup::default()).request(1).bytes();
            frame[if case.family == Family::V4 { 23 } else { 20 }] = 132;
            Some(frame)
        },
        reason: Reason::Pass(PassReason::NotTcpOrUdp),
        answered: false,
    },
    Row {
        name: "cut short",
        packet: |lab, case| {
            let mut frame = lab.serve(case, &Setup::default()).request(1).bytes();
            frame.pop();
            Some(frame)
        },
        reason: Reason::Pass(PassReason::Malformed),
        answered: false,
    },
    Row {
        name: "later fragment",
        packet: |lab, case| {
            let request = lab.serve(case, &Setup::default()).request(1);
            let elsewhere = request.with(|p| p.to.set_ip(case.ip(7, 7)));
            Some(later_fragment(&elsewhere))
        },
        reason: Reason::Pass(PassReason::LaterFragment),
        answered: false,
    },
    Row {
        name: "later fragment to a VIP",
        packet: |lab, case| Some(later_fragment(&lab.serve(case, &Setup::default()).request(1))),
        reason: Reason::Pass(PassReason::FragmentBeforeFirst),
        answered: false,
    },
    Row {
        name: "later fragment over the first",
        packet: |lab, case| {
            let request = lab.serve(case, &Setup::default()).request(1).payload(&[0; 1200]);
            let first = &fragments::cut(&request, 5, &[1000])[0];
            assert_eq!(lab.run_on(CLIENT_IF, first).verdict, Verdict::Redirect);
            Some(fragments::cut(&request, 5, &[504])[1].clone())
        },
        reason: Reason::Drop(DropReason::FragmentOverlap),
        answered: false,
    },
    Row {
        name: "first fragment within the TCP header",
        packet: |lab, case| {
            let request = lab.serve(case, &Setup::default()).request(1);
            is_tcp(case).then(|| fragments::cut(&request, 5, &[16])[0].clone())
        },
        reason: Reason::Drop(DropReason::FragmentTiny),
        answered: false,
    },
    Row {
        name: "ICMP error about nobody's packet",
        packet: |lab, case| {
            let request = lab.serve(case, &Setup::default()).request(1);
            Some(
                Icmp {
                    src_mac: request.src_mac,
                    dst_mac: request.dst_mac,
                    from: case.ip(7, 7),
                    to: request.from.ip(),
                    ttl: 9,
                    tos: 0,
                    kind: 3,
                    code: 1,
                    word: [0; 4],
                    body: request.bytes()[14..].to_vec(),
                    outer: None,
                }
                .bytes(),
            )
        },
        reason: Reason::Pass(PassReason::IcmpNoFlow),
        answered: false,
    },
    Row {
        name: "IPv6 authentication header",
        packet: |lab, case| {
            let request = lab.serve(case, &Setup::default()).request(1);
            (case.family == Family::V6).then(|| request.bytes_with_extensions(&[(51, &[4, 0, 0, 0, 0, 0, 0])]))
        },
        reason: Reason::Pass(PassReason::Ipv6Extension),
        answered: false,
    },
    Row {
        name: "another port of the VIP",
        packet: |lab, case| {
            let request = lab.serve(case, &Setup::default()).request(1);
            Some(request.with(|p| p.to.set_port(22)).bytes())
        },
        reason: Reason::Pass(PassReason::NotAService),
        answered: false,
    },
    Row {
        name: "TTL 1",
        packet: |lab, case| {
            let request = lab.serve(case, &Setup::default()).request(1);
            (case.mode != Mode::L2_DSR).then(|| request.with(|p| p.ttl = 1).bytes())
        },
        reason: Reason::Pass(PassReason::TtlExpired),
        answered: false,
    },
    Row {
        name: "TTL 1 in a flow",
        packet: |lab, case| {
            let service = lab.serve(case, &Setup::default());
            lab.forward(&service, &service.request(1));
            (case.mode != Mode::L2_DSR).then(|| service.request(1).with(|p| p.ttl = 1).bytes())
        },
        reason: Reason::Pass(PassReason::TtlExpired),
        answered: false,
    },
    Row {
        name: "SYN with FIN",
        packet: |lab, case| {
            let request = lab.serve(case, &Setup::default()).request(1);
            is_tcp(case).then(|| request.flags(SYN | FIN).bytes())
        },
        reason: Reason::Drop(DropReason::BadTcpFlags),
        answered: false,
    },
    Row {
        name: "unknown connection",
        packet: |lab, case| {
            let request = lab.serve(case, &Setup::default()).request(1);
            is_tcp(case).then(|| request.flags(ACK).bytes())
        },
        reason: Reason::Drop(DropReason::NoFlow),
        answered: true,
    },
    Row {
        name: "empty schedule",
        packet: |lab, case| {
            let service = lab.serve(case, &Setup::default());
            lab.datapath.set_rotation(service.index, Rotation::default()).unwrap();
            Some(service.request(1).bytes())
        },
        reason: Reason::Drop(DropReason::NoBackend),
        answered: true,
    },
    Row {
        name: "as many flows as every backend may have",
        packet: |lab, case| {
            let service = lab.serve(case, &Setup::default());
            for server in service.servers.clone() {
                lab.change(server, |backend| backend.limit = 1);
                let _flow = lab.forward(&service, &service.request(100 + server.index as u16));
            }
            Some(service.request(1).bytes())
        },
        reason: Reason::Drop(DropReason::BackendsFull),
        answered: true,
    },
    Row {
        name: "flow of a backend that went down",
        packet: |lab, case| {
            let service = lab.serve(case, &Setup::of(1));
            let request = service.request(1);
            lab.forward(&service, &request);
            lab.change(service.servers[0], |backend| backend.state = BackendState::DOWN);
            Some(if is_tcp(case) { request.flags(ACK) } else { request }.bytes())
        },
        reason: Reason::Drop(DropReason::BackendDown),
        answered: true,
    },
    Row {
        name: "no source port left",
        packet: |lab, case| {
            if case.mode != Mode::FULL_NAT {
                return None;
            }
            let setup = Setup {
                backends: 1,
                sources: 1,
                source_ports: 1,
                ..Setup::default()
            };
            let service = lab.serve(case, &setup);
            lab.forward(&service, &service.request(1));
            Some(service.request(2).bytes())
        },
        reason: Reason::Drop(DropReason::SourcePortsExhausted),
        answered: true,
    },
    Row {
        name: "the client's port is taken towards the same server",
        packet: |lab, case| {
            if case.mode != Mode::NAT {
                return None;
            }
            let setup = Setup::of(1);
            let (first, second) = (lab.serve(case, &setup), lab.serve(case, &setup));
            lab.forward(&first, &first.request(1));
            lab.change(second.servers[0], |backend| {
                backend.address = net::to_any(first.servers[0].address.ip());
                backend.port = Be16::new(first.servers[0].address.port());
            });
            Some(second.request(1).bytes())
        },
        reason: Reason::Drop(DropReason::TupleInUse),
        answered: true,
    },
    Row {
        name: "UDP over IPv6 without a checksum",
        packet: |lab, case| {
            let request = lab.serve(case, &Setup::default()).request(1);
            (case.family == Family::V6 && !is_tcp(case) && case.mode.sees_replies())
                .then(|| request.with(|p| p.l4 = L4::Udp(UdpChecksum::Zero)).bytes())
        },
        reason: Reason::Drop(DropReason::UdpChecksumMissing),
        answered: false,
    },
    Row {
        name: "larger than the MTU",
        packet: |lab, case| {
            let service = lab.serve(
                case,
                &Setup {
                    mtu: 1000,
                    ..Setup::default()
                },
            );
            Some(service.request(1).payload(&[0; 1000]).bytes())
        },
        reason: Reason::Told(DropReason::ExceedsMtu),
        answered: false,
    },
    Row {
        name: "next hop behind an interface that is not ours",
        packet: |lab, case| {
            let service = lab.serve(case, &Setup::of(1));
            lab.change(service.servers[0], |backend| backend.link.ifindex = 1);
            Some(service.request(1).bytes())
        },
        reason: Reason::Drop(DropReason::InterfaceGone),
        answered: false,
    },
    Row {
        name: "a slot without a backend",
        packet: |lab, case| {
            let service = lab.serve(case, &Setup::default());
            lab.schedule(&service, &[u32::MAX]);
            Some(service.request(1).bytes())
        },
        reason: Reason::Drop(DropReason::Internal),
        answered: false,
    },
];

/// Held by [`a_full_flow_table_refuses`], `half_open::new_flows_beyond_the_limit_are_dropped`,
/// `tunnels::a_frame_without_headroom_is_dropped_by_name`, `mixed::what_is_not_forwarded_is_as_it_came`, by the limits in
/// [`crate::icmp`], and in [`crate::cookies`].
const ELSEWHERE: [DropReason; 7] = [
    DropReason::FlowTableFull,
    DropReason::NewFlowLimit,
    DropReason::NoHeadroom,
    DropReason::IcmpRateLimited,
    DropReason::FragmentMixed,
    DropReason::BadSynCookie,
    DropReason::SynCookieUnanswered,
];

fn later_fragment(request: &Packet) -> Vec<u8> {
    fragments::cut(&request.clone().payload(&[0; 1200]), 5, &[1000])[1].clone()
}

fn is_tcp(case: Case) -> bool {
    case.protocol == lb_userspace::model::Protocol::Tcp
}

#[test]
fn each_row_leaves_for_its_reason_and_no_other() {
    for case in Case::sample(Case::two_arms()) {
        let mut lab = Lab::new();
        for row in ROWS {
            let Some(frame) = (row.packet)(&mut lab, case) else {
                continue;
            };
            let before = lab.datapath.reasons().unwrap();
            let out = lab.run_on(CLIENT_IF, &frame);
            let mut expected = before;
            let verdict = match row.reason {
                Reason::Pass(reason) => {
                    assert_eq!(out.frame, frame, "{}, {case:?}: as it came", row.name);
                    expected[reason.counter() as usize] += 1;
                    Verdict::Pass
                }
                Reason::Told(reason) => {
                    expected[reason.counter() as usize] += 1;
                    Verdict::Tx
                }
                Reason::Drop(reason) => {
                    expected[reason.counter() as usize] += 1;
                    if row.answered && is_tcp(case) {
                        Verdict::Tx
                    } else {
                        Verdict::Drop
                    }
                }
            };
            assert_eq!(out.verdict, verdict, "{}, {case:?}: {:?}", row.name, lab.reasons());
            assert_eq!(lab.datapath.reasons().unwrap(), expected, "{}, {case:?}", row.name);
        }
    }
}

#[test]
fn every_reason_has_a_row() {
    let named: BTreeSet<_> = ROWS
        .iter()
        .map(|row| match row.reason {
            Reason::Pass(reason) => reason.as_str(),
            Reason::Drop(reason) | Reason::Told(reason) => reason.as_str(),
        })
        .chain(ELSEWHERE.iter().map(|reason| reason.as_str()))
        .collect();
    let passes = PassReason::ALL.iter().map(|reason| reason.as_str());
    let drops = DropReason::ALL.iter().map(|reason| reason.as_str());
    let all: BTreeSet<_> = passes.chain(drops).collect();
    assert_eq!(named, all);
}

/// An LRU table makes room and is hardly ever full, so the program is loaded once more with tables that do not.
#[test]
fn a_full_flow_table_refuses() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let (name, key, value) = match case.family {
            Family::V4 => ("EMBRYONIC_V4", "16", "64"),
            Family::V6 => ("EMBRYONIC_V6", "40", "88"),
        };
        let entries = if case.mode.sees_replies() { "2" } else { "1" };
        let small = lab.bpffs.join(format!("{name}_{}", service.index));
        let status = Command::new("bpftool")
            .args(["map", "create"])
            .arg(&small)
            .args([
                "type", "hash", "key", key, "value", value, "entries", entries, "name", name,
            ])
            .status()
            .expect("bpftool");
        assert!(status.success());
        let mut pinned = EbpfLoader::new();
        for map in [
            "SERVICES_V4",
            "SERVICES_V6",
            "ROTATIONS",
            "SPILLS",
            "PREVIOUS",
            "ACTIVE",
            "AFFINITY_V4",
            "AFFINITY_V6",
            "CURSORS",
            "SLOTS",
            "BACKENDS",
            "SOURCES",
            "SOURCE_CURSORS",
            "DEVICES",
            "BACKEND_STATS",
            "REASONS",
        ] {
            pinned.map_pin_path(map, lab.pin(map));
        }
        // The kernel empties a program map when the last user's handle is closed, unless it is pinned.
        pinned.map_pin_path("STAGES", lab.bpffs.join(format!("STAGES_{}", service.index)));
        // The kernel empties a map of programs once nobody holds it, pinned or open.
        let stages = lab.bpffs.join(format!("STAGES_{}", service.index));
        pinned.map_pin_path("STAGES", &stages);
        let mut ebpf = pinned.map_pin_path(name, &small).load(OBJECT).unwrap();
        loader::link(&mut ebpf).unwrap();
        let program: &Xdp = ebpf.program("lb").unwrap().try_into().unwrap();
        let ifindex = lab.ifindex(CLIENT_IF);
        let first = run(program, ifindex, &[], &service.request(1).bytes()).verdict;
        assert_eq!(first, Verdict::Redirect, "{case:?}: {:?}", lab.reasons());
        let before = lab.dropped(DropReason::FlowTableFull);
        let out = run(program, ifindex, &[], &service.request(2).bytes());
        let expected = if is_tcp(case) { Verdict::Tx } else { Verdict::Drop };
        assert_eq!(out.verdict, expected, "{case:?}: {:?}", lab.reasons());
        assert_eq!(lab.dropped(DropReason::FlowTableFull), before + 1);
        assert_eq!(
            run(program, ifindex, &[], &service.request(1).bytes()).verdict,
            Verdict::Redirect,
            "flows go on"
        );
    }
}
