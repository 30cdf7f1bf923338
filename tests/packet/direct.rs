//! Services that store flows only where their slot moved: `l2-dsr`, `ipip` and `gue` with a hash scheduler.

use std::net::SocketAddr;

use lb_common::{
    abi::{BackendState, OnDown, Previous, Rule, ServiceFlags},
    direct::{MOVED, backend_of, is_moved},
    flow::Tick,
    reason::{DropReason, PassReason},
};
use lb_userspace::{
    datapath::{Datapath as _, FlowTables as _},
    model::{Protocol, Scheduler},
    plan::slots::order_of,
};

use crate::{
    fragments::{cut, cut_on_the_way},
    frames::{ACK, FIN, Packet, RST, SYN},
    lab::{self, CLIENT_IF, Case, LIMITS, Lab, Server, Service, Setup, Verdict},
    schedulers::{from_client, predicted, slots},
};

const SETUP: Setup = Setup {
    backends: 4,
    flags: ServiceFlags::MOVED_ONLY,
    ..Setup::DEFAULT
};

/// A service, and the table that it goes by.
pub(crate) struct Direct {
    pub(crate) service: Service,
    rule: Rule,
    slots: Vec<u32>,
}

impl Direct {
    /// One whose slots have not moved.
    pub(crate) fn new(lab: &mut Lab, case: Case, scheduler: Scheduler) -> Self {
        Self::of(lab, case, scheduler, &SETUP)
    }

    fn of(lab: &mut Lab, case: Case, scheduler: Scheduler, setup: &Setup) -> Self {
        let service = lab.serve(case, setup);
        let (rule, slots) = slots(&service, scheduler, &[1; 4]);
        let _rotation = lab.schedule_by(&service, rule, &slots);
        Self { service, rule, slots }
    }

    /// The last server leaves the table; slots that it had are marked. The table before counts for so many ticks.
    fn drain_last(&mut self, lab: &mut Lab, scheduler: Scheduler, window: i32) -> Vec<u32> {
        let (rule, new) = slots(&self.service, scheduler, &[1, 1, 1, 0]);
        let now = lab.datapath.flow_tables().now().unwrap();
        let previous = Previous {
            rotation: lab.rotation(rule, &self.slots),
            until: Tick(now.0.wrapping_add_signed(window)),
            pad: 0,
        };
        lab.datapath.set_previous(self.service.index, previous).unwrap();
        let marked: Vec<u32> = self
            .slots
            .iter()
            .zip(&new)
            .map(|(old, new)| if old == new { *new } else { new | MOVED })
            .collect();
        let _rotation = lab.schedule_by(&self.service, rule, &marked);
        std::mem::replace(&mut self.slots, new)
    }

    fn server(&self, packet: &Packet) -> Server {
        self.of_table(&self.slots, packet)
    }

    fn of_table(&self, slots: &[u32], packet: &Packet) -> Server {
        let index = predicted(self.rule, slots, packet);
        *self
            .service
            .servers
            .iter()
            .find(|server| server.index == index)
            .unwrap()
    }

    fn packets(&self) -> impl Iterator<Item = Packet> {
        (0..60).map(|n| from_client(&self.service, n, 4000 + n))
    }

    fn is_tcp(&self) -> bool {
        self.service.case.protocol == Protocol::Tcp
    }

    /// How many of its flows are stored.
    pub(crate) fn stored(&self, lab: &Lab) -> usize {
        lab.flows().iter().filter(|flow| flow.vip == self.service.vip).count()
    }
}

const BY_HASH: [Scheduler; 2] = [Scheduler::SourceHash, Scheduler::Maglev];

/// Whose replies do not come by, on one arm and on two.
fn cases() -> impl Iterator<Item = Case> {
    Case::all().into_iter().filter(|case| !case.mode.sees_replies())
}

fn both() -> impl Iterator<Item = (Case, Scheduler)> {
    cases().flat_map(|case| BY_HASH.map(|scheduler| (case, scheduler)))
}

#[test]
fn packets_go_where_their_hash_says_and_nothing_is_stored() {
    let mut lab = Lab::new();
    for (case, scheduler) in both() {
        let direct = Direct::new(&mut lab, case, scheduler);
        let mut sent = 0;
        for request in direct.packets() {
            for flags in [SYN, ACK, ACK | FIN, RST] {
                let packet = if direct.is_tcp() {
                    request.clone().flags(flags)
                } else {
                    request.clone()
                };
                let (server, _) = lab.forward(&direct.service, &packet);
                assert_eq!(server, direct.server(&packet), "{case:?} {scheduler}");
                sent += 1;
            }
        }
        assert_eq!(direct.stored(&lab), 0, "{case:?} {scheduler}");
        let counters = direct.service.servers.iter().map(|server| lab.counters(*server));
        let (mut packets, mut opened, mut closed) = (0, 0, 0);
        for counter in counters {
            packets += counter.packets_in;
            opened += counter.opened;
            closed += counter.closed;
        }
        let connections = if direct.is_tcp() { 60 } else { 0 };
        assert_eq!((packets, opened, closed), (sent, connections, connections), "{case:?}");
        assert_eq!(lab.actives(&direct.service.servers), [0; 4], "{case:?}");
    }
}

#[test]
fn a_flow_of_a_slot_that_moved_is_stored() {
    let mut lab = Lab::new();
    for (case, scheduler) in both() {
        let mut direct = Direct::new(&mut lab, case, scheduler);
        let old = direct.drain_last(&mut lab, scheduler, -1);
        let (mut moved, mut opened) = (0, 0);
        for request in direct.packets().take(20) {
            let flow = lab.forward(&direct.service, &request);
            assert_eq!(flow.0, direct.server(&request), "{case:?} {scheduler}");
            opened += 1;
            let before = direct.stored(&lab);
            moved += usize::from(direct.of_table(&old, &request) != flow.0);
            assert_eq!(before, moved, "{case:?} {scheduler}");
            if direct.is_tcp() {
                assert_eq!(lab.forward(&direct.service, &request.clone().flags(ACK)), flow);
            }
            assert_eq!(direct.stored(&lab), moved, "{case:?} {scheduler}");
        }
        assert!((1..opened).contains(&moved), "{moved} of {opened}");
    }
}

/// In the window, what is not known goes to whom it went before; a SYN tells that it opens a connection, a datagram does not.
#[test]
fn a_flow_from_before_goes_on_where_it_went() {
    let mut lab = Lab::new();
    for (case, scheduler) in both() {
        let mut direct = Direct::new(&mut lab, case, scheduler);
        let old = direct.drain_last(&mut lab, scheduler, 1 << 18);
        let moved: Vec<_> = direct
            .packets()
            .filter(|p| direct.of_table(&old, p) != direct.server(p))
            .collect();
        assert!(moved.len() > 3, "{case:?} {scheduler}");
        for (number, packet) in moved.iter().enumerate() {
            let later = packet.clone().flags_if_tcp(ACK);
            let (server, source) = lab.forward(&direct.service, &later);
            assert_eq!(server, direct.of_table(&old, packet), "{case:?} {scheduler}");
            assert_eq!(direct.stored(&lab), number + 1);
            assert_eq!(
                lab.forward(&direct.service, &later),
                (server, source),
                "it is known now"
            );
        }
        if direct.is_tcp() {
            let mut opens = moved[0].clone();
            opens.from.set_port(50_000);
            let (server, _) = lab.forward(&direct.service, &opens);
            assert_eq!(server, direct.server(&opens), "{case:?} {scheduler}");
        }
        // Where that backend is gone, the table that is counts.
        let last = direct.service.servers[3];
        lab.change(last, |backend| backend.state = BackendState::DOWN);
        let again: Vec<_> = direct
            .packets()
            .map(|p| p.with(|p| p.from.set_port(p.from.port() + 1000)))
            .filter(|p| direct.of_table(&old, p) == last)
            .collect();
        for packet in again {
            let later = packet.clone().flags_if_tcp(ACK);
            assert_eq!(
                lab.forward(&direct.service, &later).0,
                direct.server(&packet),
                "{case:?} {scheduler}"
            );
        }
    }
}

#[test]
fn when_the_window_is_over_the_table_that_is_counts() {
    let mut lab = Lab::new();
    for (case, scheduler) in both() {
        let mut direct = Direct::new(&mut lab, case, scheduler);
        let _old = direct.drain_last(&mut lab, scheduler, -1);
        for packet in direct.packets() {
            let later = packet.clone().flags_if_tcp(ACK);
            assert_eq!(
                lab.forward(&direct.service, &later).0,
                direct.server(&packet),
                "{case:?} {scheduler}"
            );
        }
    }
}

/// A backend fails between the check that found it and the new schedule.
#[test]
fn a_backend_that_is_down_gets_nothing() {
    let mut lab = Lab::new();
    for (case, scheduler) in both().filter(|(case, _)| case.protocol == Protocol::Tcp) {
        let direct = Direct::new(&mut lab, case, scheduler);
        let down = direct.service.servers[1];
        lab.change(down, |backend| backend.state = BackendState::DOWN);
        for packet in direct.packets() {
            let later = packet.clone().flags(ACK);
            if direct.server(&packet) == down {
                lab.refused(&later, DropReason::NoFlow);
            } else {
                lab.forward(&direct.service, &later);
            }
        }
        assert_eq!(lab.counters(down).packets_in, 0, "{case:?}");
    }
}

/// With `on-down = "keep"` it gets what it got: of slots that have not moved, and of connections from before.
#[test]
fn a_backend_that_is_kept_goes_on_while_it_is_down() {
    let mut lab = Lab::new();
    let setup = Setup {
        on_down: OnDown::KEEP,
        ..SETUP
    };
    for (case, scheduler) in both().filter(|(case, _)| case.protocol == Protocol::Tcp) {
        let mut direct = Direct::of(&mut lab, case, scheduler, &setup);
        let down = direct.service.servers[3];
        lab.change(down, |backend| backend.state = BackendState::DOWN);
        for packet in direct.packets() {
            let flow = lab.forward(&direct.service, &packet.clone().flags(ACK));
            assert_eq!(flow.0, direct.server(&packet), "{case:?} {scheduler}");
        }
        let old = direct.drain_last(&mut lab, scheduler, 1 << 18);
        for packet in direct.packets() {
            let flow = lab.forward(&direct.service, &packet.clone().flags(ACK));
            assert_eq!(flow.0, direct.of_table(&old, &packet), "{case:?} {scheduler}");
        }
    }
}

#[test]
fn fragments_go_to_one_backend() {
    const CUTS: &[usize] = &[1400, 2000, 2960];
    let mut lab = Lab::new();
    for (case, scheduler) in both() {
        let direct = Direct::new(&mut lab, case, scheduler);
        let body: Vec<u8> = (0..3000usize).map(|n| (n * 31) as u8).collect();
        for (number, request) in direct.packets().take(4).enumerate() {
            let small = request.clone();
            let request = request.payload(&body);
            let id = 0xbe00 + number as u32;
            let verdict = if case.one_arm { Verdict::Tx } else { Verdict::Redirect };
            let out: Vec<_> = cut(&request, id, CUTS)
                .iter()
                .map(|frame| {
                    let out = lab.run_on(CLIENT_IF, frame);
                    assert_eq!(out.verdict, verdict, "{case:?}: {:?}", lab.reasons());
                    out.frame
                })
                .collect();
            let (server, source) = lab.forward(&direct.service, &small);
            assert_eq!(server, direct.server(&request), "{case:?}");
            let forwarded = direct.service.forwarded(&request, server, source);
            assert_eq!(out, cut_on_the_way(&forwarded, id, CUTS), "{case:?}");
        }
        assert_eq!(direct.stored(&lab), 0, "{case:?}");
    }
}

#[test]
fn what_may_not_go_on_does_not() {
    let mut lab = Lab::new();
    for (case, scheduler) in both().filter(|(case, _)| !case.one_arm) {
        let direct = Direct::new(&mut lab, case, scheduler);
        let packet = direct.service.request(4000);
        if case.tunnel() {
            lab.untouched(&packet.clone().with(|p| p.ttl = 1).bytes(), PassReason::TtlExpired);
        } else {
            lab.forward(&direct.service, &packet.clone().with(|p| p.ttl = 1));
        }
        for server in &direct.service.servers {
            lab.change(*server, |backend| backend.mtu = 1300);
        }
        lab.told(&packet.clone().payload(&[7; 1300]), DropReason::ExceedsMtu);
        assert_eq!(direct.stored(&lab), 0, "{case:?}");
    }
}

#[test]
fn what_is_for_nobody_else_is_left_alone() {
    let mut lab = Lab::new();
    for (case, scheduler) in both().filter(|(case, _)| !case.one_arm) {
        let direct = Direct::new(&mut lab, case, scheduler);
        let packet = direct.service.request(4000);
        let other_port = packet.clone().with(|p| p.to.set_port(p.to.port() + 500));
        lab.untouched(&other_port.bytes(), PassReason::NotAService);
        let other_vip = packet
            .clone()
            .with(|p| p.to = SocketAddr::new(case.ip(1, 250), p.to.port()));
        lab.untouched(&other_vip.bytes(), PassReason::NotAService);
        // A service beside it that stores all flows does so.
        let all = lab.serve(case, &Setup::of(2));
        let request = all.request(4000);
        lab.forward(&all, &request);
        assert_eq!(
            lab.flows().iter().filter(|flow| flow.vip == all.vip).count(),
            1,
            "{case:?}"
        );
    }
}

#[test]
fn a_service_that_is_gone_or_stores_all_again_is_not_found_so() {
    let mut lab = Lab::new();
    for (case, scheduler) in both().filter(|(case, _)| !case.one_arm) {
        let direct = Direct::new(&mut lab, case, scheduler);
        let packet = direct.service.request(4000);
        let entry = Setup { flags: 0, ..SETUP }.entry(direct.service.index);
        lab.datapath.set_service(direct.service.id(), entry).unwrap();
        lab.forward(&direct.service, &packet);
        assert_eq!(direct.stored(&lab), 1, "{case:?}");
        let entry = SETUP.entry(direct.service.index);
        lab.datapath.set_service(direct.service.id(), entry).unwrap();
        let other = direct.service.request(4001);
        lab.forward(&direct.service, &other);
        assert_eq!(direct.stored(&lab), 1, "{case:?}");
        lab.datapath.remove_service(direct.service.id()).unwrap();
        lab.untouched(&other.bytes(), PassReason::NotAService);
    }
}

/// The next daemon's program has memory of its own, which is filled before it takes the place of the one before.
#[test]
fn a_new_daemon_knows_the_services() {
    let mut lab = Lab::new();
    let case = Case::one_way()[0];
    let direct = Direct::new(&mut lab, case, Scheduler::Maglev);
    lab.datapath = lab::open(&lab.bpffs, LIMITS).unwrap();
    for packet in direct.packets() {
        assert_eq!(lab.forward(&direct.service, &packet).0, direct.server(&packet));
    }
    assert_eq!(direct.stored(&lab), 0);
}

/// It goes on from the marks, and from the table that says where flows from before go.
#[test]
fn a_new_daemon_finds_marks_and_the_table_before() {
    let mut lab = Lab::new();
    let mut direct = Direct::new(&mut lab, Case::one_way()[0], Scheduler::Maglev);
    let old = direct.drain_last(&mut lab, Scheduler::Maglev, 1 << 18);
    lab.datapath = lab::open(&lab.bpffs, LIMITS).unwrap();
    let found = lab.datapath.contents().unwrap();
    let index = &direct.service.index;
    let slots = order_of(found.rotations[index], &found.pages).unwrap();
    assert!(slots.iter().any(|slot| is_moved(*slot)));
    for (slot, old) in slots.iter().zip(&old) {
        assert_eq!(is_moved(*slot), backend_of(*slot) != *old);
    }
    assert_eq!(order_of(found.previous[index].rotation, &found.pages), Some(old));
}
