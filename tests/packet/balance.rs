//! Round-robin: who takes the next flow.

use std::{
    collections::BTreeMap,
    hint,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use lb_common::schedule::SmoothWrr;
use lb_userspace::model::Protocol;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    frames::{ACK, destination, source},
    lab::{CLIENT_IF, Case, Lab, Setup, Verdict, run},
};

fn shares(taken: impl IntoIterator<Item = u32>) -> BTreeMap<u32, u64> {
    let mut shares = BTreeMap::new();
    for index in taken {
        *shares.entry(index).or_default() += 1;
    }
    shares
}

#[test]
fn equal_backends_differ_by_at_most_one_at_any_time() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::of(3));
        let mut counts = [0u32; 3];
        for port in 0..100 {
            let (server, _) = lab.forward(&service, &service.request(1000 + port));
            let place = service
                .servers
                .iter()
                .position(|other| other.index == server.index)
                .unwrap();
            counts[place] += 1;
            assert!(
                counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1,
                "{case:?}: {counts:?}"
            );
        }
    }
}

#[test]
fn weights_are_kept_in_their_smooth_order() {
    let mut lab = Lab::new();
    for case in [Case::PLAIN, Case::UDP] {
        let service = lab.serve(case, &Setup::of(3));
        let slots: Vec<_> = SmoothWrr::new(&[5, 1, 1], &mut [0; 3])
            .take(7)
            .map(|i| service.servers[i].index)
            .collect();
        lab.schedule(&service, &slots);
        for (turn, expected) in slots.iter().cycle().take(70).enumerate() {
            let (server, _) = lab.forward(&service, &service.request(1000 + turn as u16));
            assert_eq!(server.index, *expected, "flow {turn}");
        }
    }
}

#[test]
fn a_schedule_of_many_pages_is_walked_to_its_end() {
    let mut lab = Lab::new();
    let service = lab.serve(Case::PLAIN, &Setup::of(2));
    // One slot of 200 for the first, and that in the last page.
    let mut slots = [service.servers[1].index; 200];
    slots[199] = service.servers[0].index;
    lab.schedule(&service, &slots);
    let taken: Vec<_> = (0..200)
        .map(|turn| lab.forward(&service, &service.request(1000 + turn)).0.index)
        .collect();
    assert_eq!(taken, slots);
}

#[test]
fn cpus_share_one_cursor() {
    const FLOWS: u16 = 500;
    let mut lab = Lab::new();
    let setup = Setup {
        backends: 3,
        source_ports: 4000,
        ..Setup::default()
    };
    for case in [Case::PLAIN, Case::UDP] {
        let service = lab.serve(case, &setup);
        let ifindex = lab.ifindex(CLIENT_IF);
        let program = lab.program();
        let mine = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let cpus: Vec<_> = (0..CpuSet::count())
            .filter(|cpu| mine.is_set(*cpu).unwrap())
            .take(4)
            .collect();
        let start = Barrier::new(cpus.len());
        let outcomes: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = cpus
                .iter()
                .enumerate()
                .map(|(number, cpu)| {
                    let (service, start) = (&service, &start);
                    scope.spawn(move || {
                        let mut set = CpuSet::new();
                        set.set(*cpu).unwrap();
                        sched_setaffinity(Pid::from_raw(0), &set).unwrap();
                        let first = 1024 + number as u16 * FLOWS;
                        let frames: Vec<_> = (first..first + FLOWS)
                            .map(|port| service.request(port).bytes())
                            .collect();
                        start.wait();
                        frames
                            .iter()
                            .map(|frame| run(program, ifindex, &[], frame))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(
            outcomes.iter().all(|out| out.verdict == Verdict::Redirect),
            "{:?}",
            lab.reasons()
        );
        let taken = shares(outcomes.iter().map(|out| service.way_of(&out.frame).0.index));
        assert_eq!(taken.len(), 3);
        assert!(
            taken.values().max().unwrap() - taken.values().min().unwrap() <= 1,
            "{taken:?}"
        );
        let mut pairs: Vec<_> = outcomes
            .iter()
            .map(|out| (source(&out.frame), destination(&out.frame)))
            .collect();
        pairs.sort_unstable();
        pairs.dedup();
        assert_eq!(pairs.len(), outcomes.len(), "every flow has a source of its own");
        for server in &service.servers {
            assert_eq!(lab.counters(*server).opened, taken[&server.index]);
        }
    }
}

/// Waits until all have arrived, awake: a thread that sleeps wakes too late to meet another within a microsecond.
fn meet(arrived: &AtomicUsize, all: usize) {
    arrived.fetch_add(1, Ordering::AcqRel);
    let mut turns = 0;
    while arrived.load(Ordering::Acquire) < all {
        turns += 1;
        if turns % 1000 == 0 {
            thread::yield_now();
        }
        hint::spin_loop();
    }
}

/// The first packets of one flow at the same time on several CPUs open one flow, whose replies come back.
#[test]
fn a_flow_that_opens_on_two_cpus_at_once_is_one_flow() {
    let mut lab = Lab::new();
    // With one backend, both CPUs choose the same; with two, never.
    for (case, backends) in Case::two_arms().into_iter().flat_map(|case| [(case, 1), (case, 2)]) {
        let setup = Setup {
            backends,
            source_ports: 5000,
            ..Setup::default()
        };
        let service = lab.serve(case, &setup);
        let requests: Vec<_> = (0..400).map(|number| service.request(10_000 + number)).collect();
        let frames: Vec<_> = requests.iter().map(|request| request.bytes()).collect();
        let ifindex = lab.ifindex(CLIENT_IF);
        let program = lab.program();
        let arrived = AtomicUsize::new(0);
        let outcomes: Vec<_> = thread::scope(|scope| {
            let threads = [0, 1].map(|cpu| {
                let (frames, arrived) = (&frames, &arrived);
                scope.spawn(move || {
                    let mut set = CpuSet::new();
                    set.set(cpu).unwrap();
                    // On a machine with one CPU the two take turns.
                    let _ = sched_setaffinity(Pid::from_raw(0), &set);
                    let mut outcomes = Vec::new();
                    for (turn, frame) in frames.iter().enumerate() {
                        meet(arrived, 2 * (turn + 1));
                        outcomes.push(run(program, ifindex, &[], frame));
                    }
                    outcomes
                })
            });
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert!(
            outcomes.iter().all(|out| out.verdict == Verdict::Redirect),
            "{:?}",
            lab.reasons()
        );
        for request in &requests {
            let flow = lab.forward(&service, request);
            lab.answer(&service, request, flow, ACK);
        }
        let opened: u64 = service.servers.iter().map(|server| lab.counters(*server).opened).sum();
        assert_eq!(opened, requests.len() as u64, "{case:?}");
    }
}

#[test]
fn a_retransmitted_first_packet_stays_where_it_was() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::of(3));
        let request = service.request(2000);
        let flow = lab.forward(&service, &request);
        for _ in 0..5 {
            assert_eq!(lab.forward(&service, &request), flow, "{case:?}");
        }
        assert_eq!(lab.counters(flow.0).opened, 1);
    }
}

#[test]
fn another_schedule_changes_new_flows_only() {
    let mut lab = Lab::new();
    for case in Case::two_arms() {
        let service = lab.serve(case, &Setup::of(2));
        let [first, second] = [service.servers[0], service.servers[1]];
        lab.schedule(&service, &[first.index]);
        let old = service.request(3000);
        let flow = lab.forward(&service, &old);
        assert_eq!(flow.0, first);
        lab.schedule(&service, &[second.index]);
        assert_eq!(lab.forward(&service, &old), flow, "{case:?}");
        let later = if case.protocol == Protocol::Tcp {
            old.clone().flags(ACK)
        } else {
            old
        };
        assert_eq!(lab.forward(&service, &later), flow, "{case:?}");
        for port in 3001..3010 {
            assert_eq!(lab.forward(&service, &service.request(port)).0, second, "{case:?}");
        }
    }
}
