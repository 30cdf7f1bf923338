//! Fragments: a packet cut by its sender goes to one backend, whole.

use etherparse::{Ipv4HeaderSlice, Ipv6FragmentHeader};
use lb_common::reason::{DropReason, PassReason};
use lb_userspace::model::Protocol;

use crate::{
    frames::{ACK, ETHERNET, Packet, SYN},
    lab::{BACKEND_IF, CLIENT_IF, Case, Family, Lab, Service, Setup, Verdict},
};

/// The fragments of a packet, cut behind these multiples of 8 bytes of what may be cut, under an identification.
pub(crate) fn cut(packet: &Packet, id: u32, cuts: &[usize]) -> Vec<Vec<u8>> {
    let whole = packet.bytes();
    let header = ETHERNET
        + if packet.from.is_ipv4() {
            20 + packet.ip_options.len()
        } else {
            40
        };
    let (head, body) = whole.split_at(header);
    let starts = [&[0], cuts].concat();
    let ends = [cuts, &[body.len()]].concat();
    starts
        .into_iter()
        .zip(ends)
        .map(|(start, end)| piece(head, &body[start..end], id, start, end < body.len()))
        .collect()
}

/// One fragment: the headers, checksums computed by etherparse, and some of the body.
fn piece(head: &[u8], body: &[u8], id: u32, offset: usize, more: bool) -> Vec<u8> {
    let (ethernet, ip) = head.split_at(ETHERNET);
    let header = if ip[0] >> 4 == 4 {
        let mut header = Ipv4HeaderSlice::from_slice(ip).unwrap().to_header();
        header.identification = id as u16;
        header.dont_fragment = false;
        header.more_fragments = more;
        header.fragment_offset = etherparse::IpFragOffset::try_new(u16::try_from(offset / 8).unwrap()).unwrap();
        header.set_payload_len(body.len()).unwrap();
        header.header_checksum = header.calc_header_checksum();
        header.to_bytes().to_vec()
    } else {
        let mut header = ip.to_vec();
        let fragment = Ipv6FragmentHeader::new(
            etherparse::IpNumber(ip[6]),
            etherparse::IpFragOffset::try_new(u16::try_from(offset / 8).unwrap()).unwrap(),
            more,
            id,
        );
        header[6] = 44;
        header[4..6].copy_from_slice(&u16::try_from(8 + body.len()).unwrap().to_be_bytes());
        header.extend_from_slice(&fragment.to_bytes());
        header
    };
    [ethernet, &header, body].concat()
}

/// The identification that a fragment left with.
fn id_of(frame: &[u8]) -> u32 {
    if frame[ETHERNET] >> 4 == 4 {
        u16::from_be_bytes([frame[ETHERNET + 4], frame[ETHERNET + 5]]).into()
    } else {
        u32::from_be_bytes(frame[ETHERNET + 44..ETHERNET + 48].try_into().unwrap())
    }
}

/// A datagram that is worth cutting.
fn long(service: &Service, port: u16) -> Packet {
    let body: Vec<u8> = (0..3000usize).map(|n| (n * 31) as u8).collect();
    let packet = service.request(port).payload(&body);
    match service.case.protocol {
        Protocol::Tcp => packet.flags(SYN),
        Protocol::Udp => packet,
    }
}

const CUTS: &[usize] = &[1400, 2000, 2960];

/// What leaves of a client's packet that came cut, under an identification: fragments of the forwarded packet, each wrapped
/// where that is.
pub(crate) fn cut_on_the_way(forwarded: &Packet, id: u32, cuts: &[usize]) -> Vec<Vec<u8>> {
    let fragments = cut(&forwarded.clone().with(|p| p.outer = None), id, cuts);
    match forwarded.outer {
        Some(outer) => fragments.iter().map(|fragment| outer.around(fragment, 0)).collect(),
        None => fragments,
    }
}

/// The identification of a client's packet as the backend sees it: another one, but where the client's address is kept
/// with all of the IP header.
fn id_on_the_way(case: Case, sent: u32, out: &[u8]) -> u32 {
    if case.mode.sees_replies() { id_of(out) } else { sent }
}

/// Sends fragments that must be forwarded, and gives what left.
#[track_caller]
fn through(lab: &mut Lab, interface: &str, frames: &[Vec<u8>], case: Case) -> Vec<Vec<u8>> {
    let verdict = if case.one_arm { Verdict::Tx } else { Verdict::Redirect };
    frames
        .iter()
        .map(|frame| {
            let out = lab.run_on(interface, frame);
            assert_eq!(out.verdict, verdict, "{case:?}: {:?}", lab.reasons());
            out.frame
        })
        .collect()
}

/// The server and source of a flow, by a small packet of it.
fn flow_of(lab: &mut Lab, service: &Service, port: u16) -> (crate::lab::Server, std::net::SocketAddr) {
    let small = service.request(port);
    lab.forward(
        service,
        &match service.case.protocol {
            Protocol::Tcp => small.flags(SYN),
            Protocol::Udp => small,
        },
    )
}

#[test]
fn fragments_go_to_one_backend_and_fit_together() {
    let mut lab = Lab::new();
    for case in Case::all() {
        let service = lab.serve(case, &Setup::default());
        let request = long(&service, 4000);
        let out = through(&mut lab, CLIENT_IF, &cut(&request, 0xbeef, CUTS), case);
        let (server, source) = flow_of(&mut lab, &service, 4000);
        let forwarded = service.forwarded(&request, server, source);
        let id = id_on_the_way(case, 0xbeef, &out[0]);
        assert_eq!(out, cut_on_the_way(&forwarded, id, CUTS), "{case:?}");
        if !case.mode.sees_replies() {
            continue;
        }
        // Answers as well, with IPv4 options.
        let back = if case.one_arm { CLIENT_IF } else { BACKEND_IF };
        let mut reply = service.reply(&forwarded, SYN | ACK);
        if case.family == Family::V4 {
            reply.ip_options = vec![1, 1, 1, 0];
        }
        reply.payload = request.payload.clone();
        let out = through(&mut lab, back, &cut(&reply, 0xbeef, CUTS), case);
        let answered = service.answered(&reply, &request);
        assert_eq!(out, cut(&answered, id_of(&out[0]), CUTS), "{case:?}");
    }
}

/// Those of one-way modes have the addresses of their senders, and keep their identifications.
#[test]
fn fragments_of_several_senders_are_told_apart() {
    let mut lab = Lab::new();
    for case in Case::both_ways() {
        let service = lab.serve(
            case,
            &Setup {
                backends: 1,
                sources: 1,
                ..Setup::default()
            },
        );
        let mut ids = Vec::new();
        for port in 5000..5020 {
            // The same identification every time, and the same client's with a packet that comes twice.
            for _ in 0..2 {
                let out = through(&mut lab, CLIENT_IF, &cut(&long(&service, port), 7, CUTS), case);
                let id = id_of(&out[0]);
                assert!(
                    out.iter().all(|frame| id_of(frame) == id),
                    "one packet, one identification"
                );
                ids.push(id);
            }
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 40, "{case:?}");
    }
}

/// Without its tunnel, every fragment that the backend gets is the client's but for the hop, and all go to one backend.
#[test]
fn a_cut_datagram_reaches_one_backend_as_it_was_cut() {
    let mut lab = Lab::new();
    for case in Case::one_way() {
        let service = lab.serve(case, &Setup::default());
        for port in 5000..5008 {
            let request = long(&service, port);
            let out = through(&mut lab, CLIENT_IF, &cut(&request, 7, CUTS), case);
            let sent = request.with(|p| p.ttl -= u8::from(case.tunnel()));
            for (frame, fragment) in out.iter().zip(cut(&sent, 7, CUTS)) {
                assert_eq!(frame[..12], out[0][..12], "{case:?}: one backend");
                assert_eq!(
                    frame[ETHERNET + case.overhead()..],
                    fragment[ETHERNET..],
                    "{case:?}: the client's"
                );
            }
            if case.tunnel() {
                let ways: Vec<_> = out.iter().map(|frame| service.way_of(frame)).collect();
                assert!(ways.iter().all(|way| *way == ways[0]), "{case:?}: one tunnel");
            }
        }
    }
}

#[test]
fn later_fragments_may_come_in_any_order() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        for (port, order) in (4000..).zip([[0, 1, 3, 2], [0, 2, 1, 3], [0, 3, 1, 2], [0, 3, 2, 1]]) {
            let request = long(&service, port);
            let frames = cut(&request, port.into(), CUTS);
            let frames: Vec<_> = order.iter().map(|n| frames[*n].clone()).collect();
            let out = through(&mut lab, CLIENT_IF, &frames, case);
            let (server, source) = flow_of(&mut lab, &service, port);
            let id = id_on_the_way(case, port.into(), &out[0]);
            let expected = cut_on_the_way(&service.forwarded(&request, server, source), id, CUTS);
            let expected: Vec<_> = order.iter().map(|n| expected[*n].clone()).collect();
            assert_eq!(out, expected, "{case:?}: {order:?}");
        }
    }
}

#[test]
fn a_fragment_before_the_first_is_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let frames = cut(&long(&service, 4000), 1, CUTS);
        for frame in &frames[1..] {
            lab.untouched(frame, PassReason::FragmentBeforeFirst);
        }
        through(&mut lab, CLIENT_IF, &frames, case);
        // Of another packet, and of another protocol.
        let other = cut(&long(&service, 4000), 2, CUTS);
        lab.untouched(&other[1], PassReason::FragmentBeforeFirst);
        // To an address that is no VIP.
        let elsewhere = long(&service, 4000).with(|p| p.to.set_ip(case.ip(9, 9)));
        lab.untouched(&cut(&elsewhere, 1, CUTS)[1], PassReason::LaterFragment);
        lab.untouched_on(BACKEND_IF, &cut(&elsewhere, 1, CUTS)[1], PassReason::LaterFragment);
    }
}

#[test]
fn fragments_that_overlap_are_dropped() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let request = long(&service, 4000);
        let frames = cut(&request, 1, CUTS);
        through(&mut lab, CLIENT_IF, &frames[..2], case);
        let header = ETHERNET + case.ip_header();
        let whole = request.bytes();
        let (head, body) = whole.split_at(header);
        // Into the ports, behind them, into the last that came, and the same once more.
        for start in [8, 16, 1392, 1400, 1992] {
            let overlap = piece(head, &body[start..start + 64], 1, start, true);
            let before = lab.dropped(DropReason::FragmentOverlap);
            assert_eq!(
                lab.run_on(CLIENT_IF, &overlap).verdict,
                Verdict::Drop,
                "{case:?}: {start}"
            );
            assert_eq!(lab.dropped(DropReason::FragmentOverlap), before + 1);
        }
        through(&mut lab, CLIENT_IF, &frames[2..], case);
    }
}

/// RFC 1858: flags that stand in the second fragment would get past whoever looks at the first.
#[test]
fn first_fragments_that_cut_the_tcp_header_are_dropped() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        let service = lab.serve(case, &Setup::default());
        for size in [8, 16, 24, 32] {
            let tiny = &cut(&long(&service, 4000), 1, &[size])[0];
            let before = lab.dropped(DropReason::FragmentTiny);
            assert_eq!(lab.run_on(CLIENT_IF, tiny).verdict, Verdict::Drop, "{case:?}: {size}");
            assert_eq!(lab.dropped(DropReason::FragmentTiny), before + 1);
            let elsewhere = long(&service, 4000).with(|p| p.to.set_port(22));
            lab.untouched(&cut(&elsewhere, 1, &[size])[0], PassReason::Malformed);
        }
        // The whole header, options included, is enough.
        through(
            &mut lab,
            CLIENT_IF,
            &cut(&long(&service, 4000), 1, &[40, 1400, 2800]),
            case,
        );
    }
}

#[test]
fn fragments_that_cannot_be_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let request = long(&service, 4000);
        let whole = request.bytes();
        let (head, body) = whole.split_at(ETHERNET + case.ip_header());
        // Not the last, and not a multiple of 8.
        lab.untouched(&piece(head, &body[..1001], 1, 0, true), PassReason::Malformed);
        through(&mut lab, CLIENT_IF, &[piece(head, &body[..1000], 1, 0, true)], case);
        lab.untouched(&piece(head, &body[..1001], 1, 1000, true), PassReason::Malformed);
        // Beyond what a packet can hold.
        lab.untouched(&piece(head, &body[..100], 1, 65_528, false), PassReason::Malformed);
    }
}

#[test]
fn fragments_of_nobodys_flow_are_handled_as_packets_are() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        let service = lab.serve(case, &Setup::default());
        let stray = &cut(&long(&service, 4000).flags(ACK), 1, CUTS)[0];
        let before = lab.dropped(DropReason::NoFlow);
        assert_eq!(
            lab.run_on(CLIENT_IF, stray).verdict,
            Verdict::Drop,
            "no RST about a part: {case:?}"
        );
        assert_eq!(lab.dropped(DropReason::NoFlow), before + 1);
        let other = long(&service, 4000).with(|p| p.to.set_port(22));
        lab.untouched(&cut(&other, 1, CUTS)[0], PassReason::NotAService);
    }
}

#[test]
fn large_fragments_are_answered_if_they_are_the_first() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(
            case,
            &Setup {
                mtu: 1300,
                ..Setup::default()
            },
        );
        let frames = cut(&long(&service, 4000), 1, &[1400, 2800]);
        let before = lab.dropped(DropReason::ExceedsMtu);
        assert_eq!(lab.run_on(CLIENT_IF, &frames[0]).verdict, Verdict::Tx, "{case:?}");
        assert_eq!(lab.dropped(DropReason::ExceedsMtu), before + 1);
        let small = cut(&long(&service, 4000), 2, &[1000, 2800]);
        through(&mut lab, CLIENT_IF, &small[..1], case);
        let verdict = if case.family == Family::V4 {
            Verdict::Drop
        } else {
            Verdict::Tx
        };
        assert_eq!(lab.run_on(CLIENT_IF, &small[1]).verdict, verdict, "{case:?}");
    }
}

/// A fragment header alone makes no fragment (RFC 6946): such packets are carried as they are.
#[test]
fn atomic_fragments_are_whole_packets() {
    let mut lab = Lab::new();
    for case in Case::two_arms().into_iter().filter(|case| case.family == Family::V6) {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let out = through(&mut lab, CLIENT_IF, &cut(&request, 99, &[]), case);
        let (server, source) = flow_of(&mut lab, &service, 4000);
        assert_eq!(
            out,
            cut_on_the_way(&service.forwarded(&request, server, source), 99, &[]),
            "{case:?}"
        );
    }
}
