//! Frames that are larger than a page: the driver hands them over in several buffers, of which the program reaches the first.

use lb_common::reason::{DropReason, PassReason};
use lb_userspace::model::Protocol;

use crate::{
    frames::{ACK, ETHERNET, SYN},
    lab::{CLIENT_IF, Case, Family, Lab, Setup, assert_same},
};

/// Lengths of payload: within a page, around what the first buffer of a test run holds, jumbo frames, and what fits IP.
const SIZES: [usize; 8] = [3000, 3400, 3520, 4096, 4200, 8900, 20_000, 65_000];

fn setup() -> Setup {
    Setup {
        mtu: 65_535,
        ..Setup::default()
    }
}

#[test]
fn large_packets_are_forwarded_both_ways_whole() {
    let mut lab = Lab::new();
    // Replies are measured by the interface that they leave by.
    lab.set_mtu(CLIENT_IF, 65_535);
    for case in Case::all() {
        let service = lab.serve(case, &setup());
        let request = service.request(4000);
        let flow = lab.forward(&service, &request);
        for size in SIZES {
            let payload: Vec<u8> = (0..size).map(|at| (at * 7 % 251) as u8).collect();
            let large = request.clone().payload(&payload);
            let large = if case.protocol == Protocol::Tcp {
                large.flags(ACK)
            } else {
                large
            };
            assert_eq!(lab.forward(&service, &large), flow, "{case:?}, {size}");
            if case.mode.sees_replies() {
                let reply = service
                    .reply(&service.forwarded(&request, flow.0, flow.1), ACK)
                    .payload(&payload);
                let out = lab.run_reply(case, &reply);
                assert_same(&out.frame, &service.answered(&reply, &request));
            }
        }
    }
}

#[test]
fn a_large_datagram_may_open_a_flow() {
    let mut lab = Lab::new();
    for case in Case::udp() {
        let service = lab.serve(case, &setup());
        let request = service.request(4000).payload(&[0x5a; 9000]);
        let flow = lab.forward(&service, &request);
        lab.answer(&service, &request, flow, SYN | ACK);
        let server = lab.counters(flow.0);
        assert_eq!(
            (server.packets_in, server.bytes_in),
            (1, request.bytes().len() as u64),
            "all buffers count: {case:?}"
        );
    }
}

#[test]
fn a_large_packet_that_claims_more_than_there_is_is_the_kernels() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &setup());
        let whole = service.request(4000).payload(&[1; 9000]).bytes();
        let at = ETHERNET + if case.family == Family::V4 { 2 } else { 4 };
        let length = u16::from_be_bytes([whole[at], whole[at + 1]]);
        let mut more = whole.clone();
        more[at..at + 2].copy_from_slice(&(length + 1).to_be_bytes());
        lab.untouched(&more, PassReason::Malformed);
        lab.untouched(&whole[..whole.len() - 1], PassReason::Malformed);
    }
}

/// What the reset does not need is cut off, all buffers but the first.
#[test]
fn a_large_segment_of_no_connection_is_answered_with_rst() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        let service = lab.serve(case, &setup());
        for size in SIZES {
            let segment = service.request(4000).flags(ACK).payload(&vec![1; size]);
            lab.refused(&segment, DropReason::NoFlow);
        }
    }
}

#[test]
fn large_packets_of_others_pass_whole() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &setup());
        let other = service.request(4000).payload(&[1; 9000]).with(|p| p.to.set_port(22));
        lab.untouched(&other.bytes(), PassReason::NotAService);
    }
}

#[test]
fn what_the_mtu_does_not_allow_is_dropped_at_any_size() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(
            case,
            &Setup {
                mtu: 9000,
                ..Setup::default()
            },
        );
        let fill = |size: usize| {
            let empty = service.request(7300).payload(b"").bytes().len() - ETHERNET;
            service.request(7300).payload(&vec![1; size - empty])
        };
        let most = 9000 - case.overhead();
        lab.forward(&service, &fill(most));
        lab.told(&fill(most + 1), DropReason::ExceedsMtu);
    }
}
