//! Packets that are broken, odd, or not ours.

use lb_common::reason::PassReason;
use lb_userspace::model::Protocol;

use crate::{
    frames::{ACK, ETHERNET, Packet, SYN},
    lab::{CLIENT_IF, Case, Family, Lab, Service, Setup, Verdict, run},
};

/// A service, a packet that opens a flow, and one of a flow there is.
fn both(lab: &mut Lab, case: Case) -> (Service, [Packet; 2]) {
    let service = lab.serve(case, &Setup::default());
    let old = service.request(4000);
    lab.forward(&service, &old);
    let new = service.request(4001);
    (service, [new, old])
}

/// Where TCP or UDP begins in a frame without options.
fn l4(case: Case) -> usize {
    ETHERNET + case.ip_header()
}

/// Sets the length that the IP header claims.
fn claim(frame: &mut [u8], case: Case, length: usize) {
    let (at, length) = match case.family {
        Family::V4 => (ETHERNET + 2, length),
        Family::V6 => (ETHERNET + 4, length.saturating_sub(40)),
    };
    frame[at..at + 2].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
}

#[test]
fn a_packet_cut_at_any_byte_is_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let (_, packets) = both(&mut lab, case);
        for packet in packets {
            let whole = packet.bytes();
            for length in ETHERNET..whole.len() {
                lab.untouched(&whole[..length], PassReason::Malformed);
            }
        }
    }
}

/// Cut where the IP header says so: the headers before TCP's and UDP's data must be there in full.
#[test]
fn headers_that_end_early_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let (_, packets) = both(&mut lab, case);
        for packet in packets {
            let whole = packet.bytes();
            // The TCP header has 20 bytes of options; UDP's own length is checked against IP's.
            let needed = if case.protocol == Protocol::Tcp {
                l4(case) + 40
            } else {
                whole.len()
            };
            for length in ETHERNET..needed {
                for padded in [false, true] {
                    let mut frame = whole.clone();
                    claim(&mut frame, case, length - ETHERNET);
                    frame.truncate(if padded { whole.len() } else { length.max(ETHERNET + 6) });
                    lab.untouched(&frame, PassReason::Malformed);
                }
            }
        }
    }
}

#[test]
fn wrong_ip_versions_and_header_lengths_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let (_, packets) = both(&mut lab, case);
        for packet in packets {
            let whole = packet.bytes();
            for version in (0..16).filter(|version| *version != whole[ETHERNET] >> 4) {
                let mut frame = whole.clone();
                frame[ETHERNET] = version << 4 | frame[ETHERNET] & 0x0f;
                lab.untouched(&frame, PassReason::Malformed);
            }
            if case.family == Family::V4 {
                for words in 0..5 {
                    let mut frame = whole.clone();
                    frame[ETHERNET] = 0x40 | words;
                    lab.untouched(&frame, PassReason::Malformed);
                }
                // Ports are looked for where the header says that it ends, and other ports are no service's.
                for words in 6..16 {
                    let mut frame = whole.clone();
                    frame[ETHERNET] = 0x40 | words;
                    let out = lab.run_on(CLIENT_IF, &frame);
                    assert_eq!((out.verdict, out.frame), (Verdict::Pass, frame), "IHL {words}");
                }
            }
        }
    }
}

#[test]
fn total_lengths_beyond_the_frame_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let (_, packets) = both(&mut lab, case);
        for packet in packets {
            let mut frame = packet.bytes();
            for excess in [1, 2, 100, 10_000, 60_000] {
                let length = frame.len() - ETHERNET + excess;
                let mut frame = frame.clone();
                claim(&mut frame, case, length);
                lab.untouched(&frame, PassReason::Malformed);
            }
            claim(&mut frame, case, 0);
            lab.untouched(&frame, PassReason::Malformed);
        }
    }
}

#[test]
fn tcp_data_offsets_outside_the_segment_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        let (_, packets) = both(&mut lab, case);
        for packet in packets {
            // Room for eleven words of header and no data.
            let whole = packet.payload(&[0; 4]).bytes();
            for words in 0..16u8 {
                let mut frame = whole.clone();
                frame[l4(case) + 12] = words << 4;
                if (5..=11).contains(&words) {
                    assert_eq!(
                        lab.run_on(CLIENT_IF, &frame).verdict,
                        Verdict::Redirect,
                        "{words} words"
                    );
                } else {
                    lab.untouched(&frame, PassReason::Malformed);
                }
            }
        }
    }
}

#[test]
fn udp_lengths_outside_the_packet_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms()
        .into_iter()
        .filter(|case| case.protocol == Protocol::Udp)
    {
        let (_, packets) = both(&mut lab, case);
        for packet in packets {
            let whole = packet.bytes();
            let length = u16::try_from(whole.len() - l4(case)).unwrap();
            for claimed in (0..8).chain([length + 1, length + 2, 0x8000, u16::MAX]) {
                let mut frame = whole.clone();
                frame[l4(case) + 4..l4(case) + 6].copy_from_slice(&claimed.to_be_bytes());
                lab.untouched(&frame, PassReason::Malformed);
            }
        }
    }
}

#[test]
fn frames_that_are_not_ip_are_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let (_, packets) = both(&mut lab, case);
        for packet in packets {
            let whole = packet.bytes();
            for tag in [[0x81, 0x00], [0x88, 0xa8]] {
                let tagged = [&whole[..12], &tag, &[0, 5], &whole[12..]].concat();
                lab.untouched(&tagged, PassReason::VlanTagged);
            }
            // ARP, MPLS, PPPoE, LLDP, a length of 802.3, and IP's numbers with their bytes exchanged.
            for ethertype in [0x0806u16, 0x8847, 0x8864, 0x88cc, 0x0020, 0x0008, 0xdd86] {
                let mut frame = whole.clone();
                frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
                lab.untouched(&frame, PassReason::NotIp);
            }
            // The other IP version's ethertype before this header.
            let mut frame = whole.clone();
            let other = if case.family == Family::V4 { 0x86ddu16 } else { 0x0800 };
            frame[12..14].copy_from_slice(&other.to_be_bytes());
            lab.untouched(&frame, PassReason::Malformed);
        }
    }
}

#[test]
fn what_is_not_a_services_passes_as_it_came() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let (service, [packet, _]) = both(&mut lab, case);
        let not_ours = [
            packet.clone().with(|p| p.to.set_port(service.vip.port() + 1000)),
            packet.clone().with(|p| p.to.set_port(0)),
            packet.clone().with(|p| p.to.set_ip(case.ip(100, 2))),
            packet.clone().with(|p| std::mem::swap(&mut p.from, &mut p.to)),
            service
                .reply(&packet, ACK | SYN)
                .with(|p| p.from.set_ip(case.ip(20, 1))),
        ];
        for packet in not_ours {
            let packet = packet.with(|p| p.trailer = vec![0x77; 9]);
            lab.untouched(&packet.bytes(), PassReason::NotAService);
        }
        // The same port of the other protocol.
        let other = match case.protocol {
            Protocol::Tcp => Protocol::Udp,
            Protocol::Udp => Protocol::Tcp,
        };
        let mut twisted = Service {
            case: Case {
                protocol: other,
                ..case
            },
            ..service.clone()
        };
        twisted.servers.clear();
        lab.untouched(&twisted.request(4002).bytes(), PassReason::NotAService);
        // Every other transport protocol, with a service's ports behind it.
        let extensions = [0, 43, 44, 51, 60, 135, 139, 140];
        for protocol in (0..=255u8).filter(|number| ![6, 17].contains(number)) {
            if case.family == Family::V6 && extensions.contains(&protocol) {
                continue;
            }
            let mut frame = packet.bytes();
            frame[ETHERNET + if case.family == Family::V4 { 9 } else { 6 }] = protocol;
            lab.untouched(&frame, PassReason::NotTcpOrUdp);
        }
    }
}

#[test]
fn metadata_before_a_frame_change_nothing() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let (service, [new, old]) = both(&mut lab, case);
        let ifindex = lab.ifindex(CLIENT_IF);
        for length in [4, 8, 32] {
            let metadata = vec![0xff; length];
            let other = new.clone().with(|p| p.to.set_port(22)).bytes();
            let out = run(lab.program(), ifindex, &metadata, &other);
            assert_eq!((out.verdict, out.frame), (Verdict::Pass, other));
            let before = lab.run(&old);
            assert_eq!(run(lab.program(), ifindex, &metadata, &old.bytes()), before);
            assert_eq!(
                service.way_of(&before.frame).0.index,
                service.way_of(&lab.run(&old).frame).0.index
            );
            if case.protocol == Protocol::Tcp {
                let stray = new.clone().flags(ACK);
                let out = run(lab.program(), ifindex, &metadata, &stray.bytes());
                assert_eq!((out.verdict, out.frame), (Verdict::Tx, stray.reset().bytes()));
            }
        }
    }
}
