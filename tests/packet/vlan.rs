//! VLAN tags: off on the way in, on again on the way out, with those of the link that a frame leaves by.

use lb_common::{
    abi::{Mode, Vlans},
    reason::{DropReason, PassReason},
};
use lb_userspace::{datapath::loader::Features, model::Protocol};

use crate::{
    frames::{ACK, Packet, SYN},
    lab::{CLIENT_IF, Case, FEATURES, Lab, Server, Service, Setup, Verdict},
    run::Outcome,
};

pub(crate) const ON: Features = Features {
    vlans: true,
    ..FEATURES
};

/// Kind of tag, and priority (PCP and DEI) with the VLAN's number.
pub(crate) type Tag = (u16, u16);

const NONE: &[Tag] = &[];
const ONE: &[Tag] = &[(0x8100, 0x0064)];
const URGENT: &[Tag] = &[(0x8100, 0xb064)];
const PRIORITY_ONLY: &[Tag] = &[(0x8100, 0xe000)];
const PROVIDER: &[Tag] = &[(0x88a8, 0x0fff)];
const QINQ: &[Tag] = &[(0x88a8, 0x07d0), (0x8100, 0x000a)];
const URGENT_QINQ: &[Tag] = &[(0x88a8, 0x77d0), (0x8100, 0x300a)];
const TWICE: &[Tag] = &[(0x8100, 0x0001), (0x8100, 0x0ffe)];
const ALL: [&[Tag]; 8] = [NONE, ONE, URGENT, PRIORITY_ONLY, PROVIDER, QINQ, URGENT_QINQ, TWICE];

/// The frame with tags, outer first.
pub(crate) fn tagged(frame: &[u8], tags: &[Tag]) -> Vec<u8> {
    let words = tags
        .iter()
        .flat_map(|(tpid, tci)| [tpid.to_be_bytes(), tci.to_be_bytes()].concat());
    frame[..12]
        .iter()
        .copied()
        .chain(words)
        .chain(frame[12..].iter().copied())
        .collect()
}

/// The tags that a link with these VLANs gives to a frame which came with that priority.
fn with_priority(tags: &[Tag], priority: u16) -> Vec<Tag> {
    tags.iter()
        .map(|(tpid, tci)| (*tpid, tci & 0x0fff | priority))
        .collect()
}

/// The priority of a frame: its outer tag's.
fn priority(tags: &[Tag]) -> u16 {
    tags.first().map_or(0, |(_, tci)| tci & 0xf000)
}

pub(crate) fn vlans(tags: &[Tag]) -> Vlans {
    tags.iter().rev().fold(Vlans::NONE, |vlans, (tpid, tci)| {
        vlans.within(*tpid, tci & 0x0fff).unwrap()
    })
}

/// A service whose servers are in VLANs.
fn serve(lab: &mut Lab, case: Case, tags: &[Tag]) -> Service {
    let service = lab.serve(
        case,
        &Setup {
            backends: 1,
            ..Setup::default()
        },
    );
    lab.change(service.servers[0], |backend| backend.link.vlans = vlans(tags));
    service
}

fn assert_out(out: &Outcome, case: Case, expected: &Packet, tags: &[Tag]) {
    let way = if case.one_arm { Verdict::Tx } else { Verdict::Redirect };
    assert_eq!(out.verdict, way, "{case:?}");
    let bytes = tagged(&expected.bytes(), tags);
    assert_eq!(out.frame, bytes, "{case:?}, {tags:04x?}: {expected:?}");
}

/// Sends a request with tags, which must leave to the one server with its VLANs' tags. Gives the source.
fn request(
    lab: &mut Lab,
    service: &Service,
    packet: &Packet,
    came: &[Tag],
    link: &[Tag],
) -> (Server, std::net::SocketAddr) {
    let out = lab.run_on(CLIENT_IF, &tagged(&packet.bytes(), came));
    let server = service.servers[0];
    let plain = strip(&out.frame, link.len());
    let source = crate::frames::source(&plain);
    let tags = with_priority(link, priority(came));
    assert_out(&out, service.case, &service.forwarded(packet, server, source), &tags);
    (server, source)
}

fn strip(frame: &[u8], tags: usize) -> Vec<u8> {
    [&frame[..12], &frame[12 + 4 * tags..]].concat()
}

#[test]
fn requests_get_the_tags_of_the_servers_and_replies_those_of_the_client() {
    let mut lab = Lab::featuring(ON);
    for case in [Case::PLAIN, Case::UDP].into_iter().chain(one_armed()) {
        for (number, link) in [NONE, ONE, PROVIDER, QINQ, TWICE].into_iter().enumerate() {
            let service = serve(&mut lab, case, link);
            for (client, came) in ALL.into_iter().enumerate() {
                let packet = service.request(4000 + (number * 10 + client) as u16);
                // The first packet, by way of the program that opens flows, and the next.
                let flow = request(&mut lab, &service, &packet, came, link);
                assert_eq!(request(&mut lab, &service, &packet, came, link), flow, "one flow");
                let reply = service.reply(&service.forwarded(&packet, flow.0, flow.1), SYN | ACK);
                for back in [link, &with_priority(link, 0x6000)] {
                    let interface = if case.one_arm {
                        CLIENT_IF
                    } else {
                        crate::lab::BACKEND_IF
                    };
                    let out = lab.run_on(interface, &tagged(&reply.bytes(), back));
                    let tags = with_priority(came, priority(back));
                    assert_out(&out, case, &service.answered(&reply, &packet), &tags);
                }
            }
        }
    }
}

fn one_armed() -> impl Iterator<Item = Case> {
    Case::all()
        .into_iter()
        .filter(|case| case.one_arm && case.mode == Mode::FULL_NAT)
}

#[test]
fn replies_follow_the_client_into_another_vlan() {
    let mut lab = Lab::featuring(ON);
    for case in Case::two_arms().into_iter().filter(|case| case.mode.sees_replies()) {
        let service = serve(&mut lab, case, NONE);
        let packet = service.request(4000);
        let flow = request(&mut lab, &service, &packet, ONE, NONE);
        for came in [QINQ, NONE, TWICE, ONE] {
            let packet = if case.protocol == Protocol::Tcp {
                packet.clone().flags(ACK)
            } else {
                packet.clone()
            };
            assert_eq!(request(&mut lab, &service, &packet, came, NONE), flow);
            let reply = service.reply(&service.forwarded(&packet, flow.0, flow.1), ACK);
            let out = lab.run_reply(case, &reply);
            assert_out(&out, case, &service.answered(&reply, &packet), came);
        }
    }
}

#[test]
fn a_resets_tags_are_those_of_the_segment_it_answers() {
    let mut lab = Lab::featuring(ON);
    for case in Case::tcp() {
        let service = lab.serve(case, &Setup::default());
        let segment = service.request(4000).flags(ACK);
        for came in ALL {
            let before = lab.dropped(DropReason::NoFlow);
            let out = lab.run_on(CLIENT_IF, &tagged(&segment.bytes(), came));
            assert_eq!(out.verdict, Verdict::Tx);
            assert_eq!(
                out.frame,
                tagged(&segment.reset().bytes(), came),
                "{case:?}, {came:04x?}"
            );
            assert_eq!(lab.dropped(DropReason::NoFlow), before + 1);
        }
    }
}

#[test]
fn what_is_not_forwarded_keeps_its_tags() {
    let mut lab = Lab::featuring(ON);
    for case in Case::two_arms().into_iter().filter(|case| case.mode.sees_replies()) {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        lab.forward(&service, &request);
        let other_port = request.clone().with(|p| p.to.set_port(22));
        let hops_gone = request.clone().with(|p| p.ttl = 1);
        let later = request.bytes();
        for tags in ALL.into_iter().skip(1) {
            // A reason from each program: the one that opens flows, the one for tagged frames.
            lab.untouched(&tagged(&other_port.bytes(), tags), PassReason::NotAService);
            lab.untouched(&tagged(&hops_gone.bytes(), tags), PassReason::TtlExpired);
            let cut = tagged(&later[..later.len() - 1], tags);
            lab.untouched(&cut, PassReason::Malformed);
            let mut arp = later.clone();
            arp[12..14].copy_from_slice(&[0x08, 0x06]);
            lab.untouched(&tagged(&arp, tags), PassReason::NotIp);
        }
        let three = [ONE, QINQ].concat();
        lab.untouched(&tagged(&later, &three), PassReason::VlanTagged);
        for length in 14..22 {
            lab.untouched(&tagged(&later, TWICE)[..length], PassReason::Malformed);
        }
    }
}

/// The tags of a frame go from program to program in a cell that the next frame finds again.
#[test]
fn an_untagged_frame_has_no_tags_whatever_came_before() {
    let mut lab = Lab::featuring(ON);
    for case in Case::two_arms() {
        let service = serve(&mut lab, case, NONE);
        for port in 4000..4010 {
            let other_port = service.request(port).with(|p| p.to.set_port(22));
            lab.untouched(&tagged(&other_port.bytes(), QINQ), PassReason::NotAService);
            lab.untouched(&other_port.bytes(), PassReason::NotAService);
            let packet = service.request(port);
            let flow = lab.forward(&service, &packet);
            lab.answer(&service, &packet, flow, SYN | ACK);
        }
    }
}

#[test]
fn without_vlans_tagged_frames_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::all() {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        lab.forward(&service, &request);
        for tags in ALL.into_iter().skip(1) {
            lab.untouched(&tagged(&request.bytes(), tags), PassReason::VlanTagged);
        }
    }
}

#[test]
fn metadata_before_a_tagged_frame_stay() {
    let mut lab = Lab::featuring(ON);
    let service = lab.serve(Case::PLAIN, &Setup::default());
    let ifindex = lab.ifindex(CLIENT_IF);
    let passing = tagged(&service.request(1).with(|p| p.to.set_port(22)).bytes(), QINQ);
    for metadata in [4, 8, 32] {
        let metadata = vec![0xab; metadata];
        let out = crate::lab::run(lab.program(), ifindex, &metadata, &passing);
        assert_eq!((out.verdict, out.frame), (Verdict::Pass, passing.clone()));
        let request = tagged(&service.request(2).bytes(), ONE);
        let out = crate::lab::run(lab.program(), ifindex, &metadata, &request);
        assert_eq!(out.verdict, Verdict::Redirect);
    }
}
