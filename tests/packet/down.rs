//! Backends that are down, removed, or not there at all.

use lb_common::{
    abi::{BackendState, OnDown, Rotation},
    reason::DropReason,
};
use lb_userspace::{datapath::Datapath as _, model::Protocol};

use crate::{
    frames::{ACK, FIN, PSH, Packet, RST, SYN},
    lab::{Case, Lab, Server, Service, Setup, Verdict},
};

/// Each state in which a backend's flows do not simply go on.
const GONE: [BackendState; 3] = [BackendState::DOWN, BackendState::REMOVED, BackendState::FREE];

/// A service with a flow to a backend that has just gone, as the controller makes it go: schedule first, then state.
fn orphan(lab: &mut Lab, case: Case, on_down: OnDown, state: BackendState) -> (Service, Packet, Server) {
    let service = lab.serve(
        case,
        &Setup {
            on_down,
            ..Setup::default()
        },
    );
    let request = service.request(4000);
    let (server, source) = lab.forward(&service, &request);
    lab.answer(&service, &request, (server, source), SYN | ACK);
    let rest: Vec<_> = service
        .servers
        .iter()
        .map(|s| s.index)
        .filter(|index| *index != server.index)
        .collect();
    lab.schedule(&service, &rest);
    lab.change(server, |backend| backend.state = state);
    (service, request, server)
}

fn later(request: &Packet, case: Case) -> Packet {
    if case.protocol == Protocol::Tcp {
        request.clone().with(|p| p.tcp().ack = 0x0bad_cafe).flags(ACK | PSH)
    } else {
        request.clone()
    }
}

#[test]
fn reset_answers_a_connection_with_rst_once_and_forgets_it() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        for state in GONE {
            let (service, request, server) = orphan(&mut lab, case, OnDown::RESET, state);
            lab.refused(&later(&request, case), DropReason::BackendDown);
            assert_eq!(lab.counters(server).closed, 1);
            lab.refused(&later(&request, case), DropReason::NoFlow);
            assert_ne!(
                lab.forward(&service, &request).0,
                server,
                "the client connects anew at once"
            );
        }
    }
}

#[test]
fn a_syn_towards_a_backend_that_is_gone_goes_to_another() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        for on_down in [OnDown::RESET, OnDown::MOVE] {
            let (service, request, server) = orphan(&mut lab, case, on_down, BackendState::DOWN);
            let flow = lab.forward(&service, &request);
            assert_ne!(flow.0, server, "{case:?}");
            lab.answer(&service, &request, flow, SYN | ACK);
        }
    }
}

#[test]
fn a_connection_cannot_move_and_is_reset() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        let (_, request, _) = orphan(&mut lab, case, OnDown::MOVE, BackendState::DOWN);
        lab.refused(&later(&request, case), DropReason::BackendDown);
    }
}

#[test]
fn datagrams_move_to_another_backend() {
    let mut lab = Lab::new();
    for case in Case::two_arms()
        .into_iter()
        .filter(|case| case.protocol == Protocol::Udp)
    {
        for state in GONE {
            let (service, request, server) = orphan(&mut lab, case, OnDown::MOVE, state);
            let flow = lab.forward(&service, &request);
            assert_ne!(flow.0, server, "{case:?}");
            lab.answer(&service, &request, flow, 0);
            assert_eq!(lab.forward(&service, &request), flow, "and stay there");
        }
    }
}

#[test]
fn datagrams_of_a_reset_flow_are_dropped_once() {
    let mut lab = Lab::new();
    for case in Case::two_arms()
        .into_iter()
        .filter(|case| case.protocol == Protocol::Udp)
    {
        let (service, request, server) = orphan(&mut lab, case, OnDown::RESET, BackendState::DOWN);
        lab.ignored(&request, DropReason::BackendDown);
        assert_ne!(lab.forward(&service, &request).0, server, "{case:?}");
    }
}

#[test]
fn keep_goes_on_with_the_backend() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        for state in [BackendState::DOWN, BackendState::REMOVED] {
            let (service, request, server) = orphan(&mut lab, case, OnDown::KEEP, state);
            for _ in 0..3 {
                let flow = lab.forward(&service, &later(&request, case));
                assert_eq!(flow.0, server, "{case:?}");
                lab.answer(&service, &request, flow, ACK);
            }
            assert_ne!(lab.forward(&service, &service.request(4001)).0, server);
        }
    }
}

#[test]
fn what_a_backend_that_is_down_still_sends_reaches_the_client() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        let request = service.request(4000);
        let flow = lab.forward(&service, &request);
        lab.change(flow.0, |backend| backend.state = BackendState::DOWN);
        lab.answer(&service, &request, flow, ACK);
    }
}

#[test]
fn a_backend_that_is_back_up_keeps_the_flows_that_nobody_noticed() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let (service, request, server) = orphan(&mut lab, case, OnDown::RESET, BackendState::DOWN);
        lab.change(server, |backend| backend.state = BackendState::UP);
        assert_eq!(lab.forward(&service, &later(&request, case)).0, server);
    }
}

#[test]
fn resets_have_the_numbers_that_the_client_expects() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        let service = lab.serve(case, &Setup::default());
        for (number, flags) in [ACK, ACK | PSH, FIN | ACK, SYN | ACK, FIN, FIN | PSH]
            .into_iter()
            .enumerate()
        {
            for payload in [0, 1, 1300] {
                let mut segment = service
                    .request(5000 + number as u16)
                    .flags(flags)
                    .payload(&vec![3; payload]);
                segment.tcp().ack = 0xffff_fff0;
                segment.tcp().seq = 0xffff_fffd;
                lab.refused(&segment, DropReason::NoFlow);
            }
        }
        if case.family == crate::lab::Family::V4 {
            let segment = service
                .request(5100)
                .flags(FIN | ACK)
                .with(|p| p.ip_options = vec![1; 40]);
            lab.refused(&segment, DropReason::NoFlow);
        }
        let padded = service.request(5101).flags(ACK).payload(b"").with(|p| {
            p.tcp().options.clear();
            p.trailer = vec![7; 6];
        });
        lab.refused(&padded, DropReason::NoFlow);
    }
}

#[test]
fn a_reset_is_never_answered() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        let service = lab.serve(case, &Setup::default());
        for flags in [RST, RST | ACK] {
            lab.ignored(&service.request(5200).flags(flags), DropReason::NoFlow);
        }
        let (_, request, _) = orphan(&mut lab, case, OnDown::RESET, BackendState::DOWN);
        lab.ignored(&request.flags(RST | ACK), DropReason::BackendDown);
    }
}

#[test]
fn flags_that_make_no_sense_are_dropped() {
    let mut lab = Lab::new();
    for case in Case::tcp() {
        let service = lab.serve(case, &Setup::default());
        for flags in [0, PSH, SYN | FIN, SYN | RST, SYN | FIN | ACK, 0xff] {
            lab.ignored(&service.request(5300).flags(flags), DropReason::BadTcpFlags);
        }
    }
}

#[test]
fn a_service_without_backends_refuses() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::default());
        lab.datapath.set_rotation(service.index, Rotation::default()).unwrap();
        lab.turned_away(&service.request(5400), DropReason::NoBackend);
        assert!(lab.flows().iter().all(|flow| flow.vip != service.vip));
    }
}

#[test]
fn a_reset_goes_back_by_the_interface_that_the_segment_came_in_on() {
    let mut lab = Lab::new();
    let service = lab.serve(Case::PLAIN, &Setup::default());
    let segment = service.request(5500).flags(ACK).bytes();
    for interface in [crate::lab::CLIENT_IF, crate::lab::OTHER_IF, crate::lab::BACKEND_IF] {
        assert_eq!(lab.run_on(interface, &segment).verdict, Verdict::Tx, "{interface}");
    }
}
