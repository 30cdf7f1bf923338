//! Errors that go on.

use super::*;

#[test]
fn all_that_is_quoted_stays_quoted() {
    let mut lab = Lab::new();
    for case in cases() {
        let talk = Talk::new(&mut lab, case, 600);
        for side in &talk.sides {
            // The checksum of TCP begins at 16: cut before, within and behind it. The last is more than there is.
            for length in [8, 9, 10, 15, 16, 17, 18, 19, 20, 21, 63, 64, 301, 528, 1000] {
                let (comes, goes) = side.about(too_big(side.family()), length);
                side.is_translated(&mut lab, (&comes, &goes), &format!("{length} bytes"));
            }
        }
    }
}

/// The arithmetic of carries shows only with many addresses, ports and payloads.
#[test]
fn checksums_hold_for_many_of_them() {
    let mut lab = Lab::new();
    let setup = Setup {
        source_ports: 5000,
        ..Setup::default()
    };
    for case in two_arms() {
        let service = serve(&mut lab, case, &setup);
        for port in (1..60_000).step_by(397) {
            let request = service.request(port).payload(&port.wrapping_mul(31_321).to_be_bytes());
            let talk = Talk::of(&mut lab, &service, request);
            for side in &talk.sides {
                for length in [8, 18, 41, 60] {
                    let (comes, goes) = side.about(too_big(side.family()), length);
                    side.is_translated(&mut lab, (&comes, &goes), &format!("port {port}, {length} bytes"));
                }
            }
        }
    }
}

/// A checksum that works out as zero was sent as all ones.
#[test]
fn a_quoted_udp_checksum_of_zero_is_quoted_as_all_ones() {
    let mut lab = Lab::new();
    for case in two_arms().into_iter().filter(|case| case.protocol == Protocol::Udp) {
        let service = serve(&mut lab, case, &Setup::default());
        let request = service.request(4000).payload(&[0; 8]);
        let flow = forward(&mut lab, &service, &request);
        for place in 0..2 {
            let plain = &Talk::with(&service, request.clone(), flow).sides[place];
            let at = plain.other().header() + 6;
            let sum = quote(&plain.sent, 200)[at..at + 2].to_vec();
            let request = request.clone().payload(&[sum[0], sum[1], 0, 0, 0, 0, 0, 0]);
            let side = &Talk::with(&service, request, flow).sides[place];
            let (comes, goes) = side.about(too_big(side.family()), 100);
            assert_eq!(goes.body[at..at + 2], [0xff, 0xff], "{case:?}");
            side.is_translated(&mut lab, (&comes, &goes), "all ones");
        }
    }
}

/// Routers take off a hop and do not always make the header's checksum right again: the message's own covers it as it is.
#[test]
fn a_quoted_header_whose_checksum_is_wrong_does_not_spoil_the_message() {
    let mut lab = Lab::new();
    for case in two_arms() {
        let talk = Talk::new(&mut lab, case, 200);
        for side in talk.sides.iter().filter(|side| side.family() == Family::V4) {
            for wrong in [[0, 0], [0xff, 0xff], [0x12, 0x34]] {
                let (mut comes, goes) = side.good();
                comes.body[10..12].copy_from_slice(&wrong);
                side.is_translated(&mut lab, (&comes, &goes), "a wrong checksum within");
            }
        }
    }
}

/// A message that was damaged on its way is not made whole.
#[test]
fn a_wrong_checksum_stays_wrong() {
    let mut lab = Lab::new();
    for case in two_arms() {
        let talk = Talk::new(&mut lab, case, 200);
        for side in &talk.sides {
            let (comes, goes) = side.good();
            let (mut damaged, mut expected) = (comes.bytes(), goes.bytes());
            *damaged.last_mut().unwrap() ^= 0x10;
            *expected.last_mut().unwrap() ^= 0x10;
            let out = lab.run_on(side.interface, &damaged);
            assert_eq!(
                (out.verdict, out.frame),
                (way(case), expected),
                "{case:?}: in the quote"
            );

            let mut damaged = comes.bytes();
            damaged[ETHERNET + side.family().header() + 3] ^= 0x10;
            let out = lab.run_on(side.interface, &damaged);
            let at = ETHERNET + side.other().header() + 2;
            let (mut got, mut expected) = (out.frame, goes.bytes());
            let sums = [&mut got, &mut expected].map(|frame| std::mem::take(&mut frame[at + 1]) & 0xf0);
            assert_ne!(sums[0], sums[1], "{case:?}: it is right");
            (got[at], expected[at]) = (0, 0);
            assert_eq!(got, expected, "{case:?}: all else is translated");
        }
    }
}

/// Options and extension headers of the message itself concerned the hops before.
#[test]
fn options_of_the_message_end() {
    let mut lab = Lab::new();
    for case in two_arms() {
        let talk = Talk::new(&mut lab, case, 200);
        for side in &talk.sides {
            let (comes, goes) = side.good();
            let mut frame = comes.bytes();
            let l4 = ETHERNET + side.family().header();
            if side.family() == Family::V4 {
                frame.splice(l4..l4, [1, 1, 1, 0]);
                frame[ETHERNET] = 0x46;
                frame[ETHERNET + 3] += 4;
                let (header, _) = etherparse::Ipv4Header::from_slice(&frame[ETHERNET..]).unwrap();
                frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
            } else {
                frame.splice(l4..l4, [58, 0, 1, 4, 0, 0, 0, 0]);
                frame[ETHERNET + 6] = 60;
                frame[ETHERNET + 5] += 8;
            }
            let out = lab.run_on(side.interface, &frame);
            assert_eq!(out.verdict, way(case), "{case:?}: {:?}", lab.reasons());
            assert_same(&out.frame, &goes, &format!("{case:?}, options"));
        }
    }
}

/// Ethernet pads short frames, and nothing else is behind a packet.
#[test]
fn padding_behind_the_message_goes_on() {
    let mut lab = Lab::new();
    for case in two_arms() {
        let talk = Talk::new(&mut lab, case, 200);
        for side in &talk.sides {
            for length in [8, 17] {
                let (comes, goes) = side.about(too_big(side.family()), length);
                let [comes, goes] = [comes, goes].map(|icmp| [icmp.bytes(), vec![0xee; 10]].concat());
                let out = lab.run_on(side.interface, &comes);
                assert_eq!((out.verdict, out.frame), (way(case), goes), "{case:?}, {length} bytes");
            }
        }
    }
}

/// Of an established flow as of one that opens.
#[test]
fn errors_do_not_change_a_flow() {
    let mut lab = Lab::new();
    for case in two_arms() {
        let talk = Talk::new(&mut lab, case, 200);
        answer(&mut lab, &talk.service, &talk.request, talk.flow, SYN | ACK);
        let next = talk.request.clone().flags_if_tcp(ACK);
        assert_eq!(forward(&mut lab, &talk.service, &next), talk.flow);
        let phase = lab.phase(&talk.request);
        assert!(["established", "udp"].contains(&phase), "{case:?}: {phase}");
        let before: Vec<_> = lab.flows().iter().map(|f| format!("{f:?}")).collect();
        for side in &talk.sides {
            for kinds in kinds::translations(side.family()) {
                let (comes, goes) = side.about(kinds, 50);
                side.is_translated(&mut lab, (&comes, &goes), &format!("established, {kinds:?}"));
            }
        }
        let after: Vec<_> = lab.flows().iter().map(|f| format!("{f:?}")).collect();
        assert_eq!(before, after, "{case:?}");
    }
}

/// As errors about packets of other flows do.
#[test]
fn they_count_as_packets_of_the_flow() {
    let mut lab = Lab::new();
    for case in two_arms() {
        let talk = Talk::new(&mut lab, case, 200);
        let before = lab.counters(talk.flow.0);
        for side in &talk.sides {
            let (comes, goes) = side.good();
            side.is_translated(&mut lab, (&comes, &goes), "counted");
        }
        let after = lab.counters(talk.flow.0);
        let packets = (
            after.packets_in - before.packets_in,
            after.packets_out - before.packets_out,
        );
        assert_eq!(packets, (1, 1), "{case:?}");
        let bytes = [after.bytes_in - before.bytes_in, after.bytes_out - before.bytes_out];
        let went = talk.sides.map(|side| side.good().1.bytes().len() as u64);
        assert_eq!(bytes, went, "{case:?}");
    }
}

#[test]
fn they_follow_the_client_and_outlive_the_service() {
    let mut lab = Lab::new();
    for case in cases() {
        let mut talk = Talk::new(&mut lab, case, 200);
        let mac = [2, 0, 0, 0, 9, 1];
        let moved = talk.request.clone().with(|p| p.src_mac = mac).flags_if_tcp(ACK);
        assert_eq!(forward(&mut lab, &talk.service, &moved), talk.flow);
        talk.sides[1].goes.dst_mac = mac;
        lab.datapath.remove_service(talk.service.id()).unwrap();
        for side in &talk.sides {
            let (comes, goes) = side.good();
            side.is_translated(&mut lab, (&comes, &goes), "moved");
        }
    }
}

/// Clients of either kind of flow, at one service.
#[test]
fn in_a_pool_of_both_families_each_flow_gets_its_own_errors() {
    let mut lab = Lab::new();
    for case in two_arms() {
        let service = serve_from(&mut lab, case, &Setup::default(), 1);
        let mut between = 0;
        for port in 4000..4004 {
            let request = service.request(port).payload(&[7; 100]);
            let flow = forward(&mut lab, &service, &request);
            let (server, source) = flow;
            if server.address.is_ipv4() != service.vip.is_ipv4() {
                between += 1;
                for side in &Talk::with(&service, request, flow).sides {
                    let (comes, goes) = side.good();
                    side.is_translated(&mut lab, (&comes, &goes), "between families");
                }
                continue;
            }
            // What is quoted to the server of the same family is changed in place.
            let (says, _) = too_big(case.family);
            let reply = service.reply(&service.forwarded(&request, server, source), ACK);
            let (kind, code, word) = says;
            let comes = Icmp {
                src_mac: CLIENT_MAC,
                dst_mac: FRONT_MAC,
                from: case.ip(77, 7),
                to: service.vip.ip(),
                ttl: 60,
                tos: 0x48,
                kind,
                code,
                word,
                body: quote(&service.answered(&reply, &request), 1000),
                outer: None,
            };
            let goes = Icmp {
                src_mac: BACK_MAC,
                dst_mac: server.mac,
                from: source.ip(),
                to: server.address.ip(),
                ttl: 59,
                body: quote(&reply.clone().with(|p| p.ttl -= 1), 1000),
                ..comes.clone()
            };
            let out = lab.run_on(CLIENT_IF, &comes.bytes());
            assert_eq!(out.verdict, way(case), "{case:?}: {:?}", lab.reasons());
            assert_same(&out.frame, &goes, &format!("{case:?}, within its family"));
        }
        assert_eq!(between, 2, "{case:?}");
    }
}

/// There is an entry of the replies, which the server sends as often as it likes, and none of the client.
#[test]
fn the_sender_of_a_lone_datagram_is_told() {
    let mut lab = Lab::new();
    for case in two_arms().into_iter().filter(|case| case.protocol == Protocol::Udp) {
        let setup = Setup {
            flags: ServiceFlags::ONE_PACKET,
            ..Setup::default()
        };
        let service = serve(&mut lab, case, &setup);
        let request = service.request(4000).payload(&[7; 100]);
        let [of_client, of_server] = Talk::of(&mut lab, &service, request).sides;
        let (comes, goes) = of_server.good();
        of_server.is_translated(&mut lab, (&comes, &goes), "a lone datagram");
        of_client.is_left_alone(&mut lab, &of_client.good().0, PassReason::IcmpNoFlow);
    }
}
