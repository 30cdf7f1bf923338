use lb_common::abi::Rule;
use proptest::prelude::*;

use super::*;
use crate::{
    controller::execute::execute_action,
    datapath::{Datapath, fake::FakeDatapath},
    model::{Protocol, Scheduler},
    plan::diff,
};

const SMALL: Capacities = Capacities {
    services: 4,
    backends: 12,
    pages: 8,
    sources: 6,
};

fn id(port: u16) -> ServiceId {
    ServiceId {
        vip: ([10, 0, 0, 1], port).into(),
        protocol: Protocol::Tcp,
    }
}

fn backend(last: u8, share: u32, up: bool, source: u8) -> WantedBackend {
    WantedBackend {
        address: ([10, 0, 1, last], 80).into(),
        share: if up && share.is_multiple_of(3) {
            0
        } else if up {
            share
        } else {
            0
        },
        spill: if up && share.is_multiple_of(3) { share } else { 0 },
        sources: (0..source).map(|s| IpAddr::from([10, 0, 2, s])).collect(),
        spread: 1,
        entry: Backend {
            state: if up { BackendState::UP } else { BackendState::DOWN },
            link: lb_common::abi::Link {
                ifindex: 1,
                ..Default::default()
            },
            ..Backend::default()
        },
    }
}

/// A service on so many ports.
fn wanted(
    first: u16,
    ports: u16,
    scheduler: Scheduler,
    moved_only: bool,
    backends: Vec<WantedBackend>,
) -> WantedService {
    let flags = if moved_only { ServiceFlags::MOVED_ONLY } else { 0 };
    WantedService {
        id: id(first),
        keys: (first..first + ports).map(id).collect(),
        entry: Service {
            flags: ServiceFlags(flags),
            ..Service::default()
        },
        filling: Filling {
            scheduler,
            table_size: 61,
        },
        previous_until: Some(Tick(100)),
        backends,
    }
}

fn scheduler() -> impl Strategy<Value = Scheduler> {
    prop::sample::select(vec![
        Scheduler::RoundRobin,
        Scheduler::LeastConn,
        Scheduler::SourceHash,
        Scheduler::Maglev,
    ])
}

/// A step: the service wanted so, or gone; a write that fails perhaps; time that goes by; whether a sweep follows.
#[derive(Debug, Clone)]
struct Step {
    port: u16,
    ports: u16,
    wanted: Option<Vec<WantedBackend>>,
    scheduler: Scheduler,
    moved_only: bool,
    forgets: bool,
    fails_after: Option<usize>,
    wait: u64,
    sweep: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let backends = proptest::collection::btree_map(0u8..5, (0u32..70, any::<bool>(), 0u8..3), 0..5);
    let wanted = backends.prop_map(|all| all.into_iter().map(|(n, (w, up, s))| backend(n, w, up, s)).collect());
    (
        (1u16..6).prop_map(|n| n * 10),
        1u16..5,
        proptest::option::weighted(0.8, wanted),
        proptest::option::weighted(0.3, 0usize..8),
        0u64..150,
        any::<bool>(),
        scheduler(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(port, ports, wanted, fails_after, wait, sweep, scheduler, forgets, moved_only)| Step {
                moved_only,
                scheduler,
                forgets,
                port,
                ports,
                wanted,
                fails_after,
                wait,
                sweep,
            },
        )
}

fn bring_about(fake: &mut FakeDatapath, layout: &mut Layout, draft: &Draft) -> bool {
    diff(&draft.before, &draft.after).into_iter().all(|action| {
        let done = execute_action(fake, &action).is_ok();
        if done {
            layout.wrote(&action);
        }
        done
    })
}

fn sweep(fake: &mut FakeDatapath, layout: &mut Layout, now: Duration) {
    for index in layout.unused(now, |_| false) {
        fake.set_backend(index, Backend::default()).unwrap();
        layout.wrote(&Action::SetBackend {
            index,
            backend: Backend::default(),
        });
        layout.freed(&BTreeSet::from([index]));
    }
    layout.collect_garbage(now);
}

/// The time of tables before the last change is over.
fn forget(fake: &mut FakeDatapath, layout: &mut Layout, now: Duration) {
    for (service, previous) in layout.outdated(Tick(100)) {
        let gone = Action::SetPrevious {
            service,
            previous: Previous::default(),
        };
        execute_action(fake, &gone).unwrap();
        layout.wrote(&gone);
        layout.forgot(service, previous, now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// However services come, change and go, and wherever writes fail: at no write do packets see half a change (the
    /// fake asserts it at each), and what is brought about is what was wanted.
    #[test]
    fn no_packet_sees_half_a_change(steps in proptest::collection::vec(step(), 1..40)) {
        let mut fake = FakeDatapath::default();
        let mut layout = Layout::adopt(Contents::default(), SMALL, Duration::ZERO);
        let mut now = Duration::from_secs(1);
        for Step { port, ports, wanted: wish, scheduler, moved_only, forgets, fails_after, wait, sweep: swept } in steps {
            let id = id(port);
            now += Duration::from_millis(wait);
            fake.state().writes_left = fails_after;
            let draft = match wish {
                Some(backends) => layout.draft(&wanted(port, ports, scheduler, moved_only, backends), now),
                None => Ok(layout.draft_removal(id)),
            };
            if let Ok(draft) = draft {
                let done = bring_about(&mut fake, &mut layout, &draft);
                layout.settle(id, &draft, now);
                if done {
                    let mut got = layout.cut(id);
                    got.rotations.retain(|_, r| !r.is_empty() || !got.services.is_empty());
                    prop_assert_eq!(&got.services, &draft.after.services);
                    prop_assert_eq!(&got.rotations, &draft.after.rotations);
                    prop_assert_eq!(&got.spills, &draft.after.spills);
                    prop_assert_eq!(&got.previous, &draft.after.previous);
                    prop_assert_eq!(&got.pages, &draft.after.pages);
                    prop_assert_eq!(&got.backends, &draft.after.backends);
                }
            }
            fake.state().writes_left = None;
            if forgets {
                forget(&mut fake, &mut layout, now);
            }
            if swept {
                sweep(&mut fake, &mut layout, now);
            }
            // A new daemon finds the same.
            let found = fake.contents().unwrap();
            prop_assert_eq!(&found.services, &layout.contents.services);
            for (service, previous) in &found.previous {
                prop_assert_eq!(layout.contents.previous.get(service), Some(previous));
            }
            prop_assert_eq!(&found.backends, &layout.contents.backends);
            let adopted = Layout::adopt(found.clone(), SMALL, now);
            prop_assert!(adopted.published().eq(layout.published()), "whose the ports are");
            for (number, page) in &found.pages {
                prop_assert_eq!(layout.contents.pages.get(number), Some(page));
            }
        }
        // Nothing was lost: with all services gone and their flows over, everything is free.
        let ids: Vec<_> = layout.services.keys().copied().collect();
        for id in ids {
            let draft = layout.draft_removal(id);
            prop_assert!(bring_about(&mut fake, &mut layout, &draft));
            layout.settle(id, &draft, now);
        }
        now += Duration::from_secs(1);
        sweep(&mut fake, &mut layout, now);
        let left = fake.contents().unwrap();
        prop_assert_eq!(&left.backends, &BTreeMap::new());
        prop_assert_eq!(layout.pages.available(), u64::from(SMALL.pages));
        prop_assert!(layout.services.is_empty() && layout.members.is_empty());
        prop_assert!((0..SMALL.backends).all(|_| layout.backend_indices.allocate().is_some()));
        prop_assert!((0..SMALL.services).all(|_| layout.service_indices.allocate().is_some()));
    }

    /// A layout that adopts what another left writes nothing for the same wish.
    #[test]
    fn adoption_writes_nothing(
        wishes in proptest::collection::btree_map(1u16..4, (scheduler(), any::<bool>(), proptest::collection::btree_map(0u8..3, (1u32..9, any::<bool>(), 0u8..3), 0..3)), 1..3),
    ) {
        let mut fake = FakeDatapath::default();
        let mut layout = Layout::adopt(Contents::default(), SMALL, Duration::ZERO);
        let now = Duration::ZERO;
        let wanted: Vec<_> = wishes.into_iter().map(|(port, (scheduler, moved_only, backends))| {
            let backends = backends.into_iter().map(|(n, (w, up, s))| backend(n, w, up, s)).collect();
            wanted(port * 10, port, scheduler, moved_only, backends)
        }).collect();
        for service in &wanted {
            let draft = layout.draft(service, now).unwrap();
            prop_assert!(bring_about(&mut fake, &mut layout, &draft));
            layout.settle(service.id, &draft, now);
        }
        let mut second = Layout::adopt(fake.contents().unwrap(), SMALL, now);
        for service in &wanted {
            let draft = second.draft(service, now).unwrap();
            prop_assert_eq!(diff(&draft.before, &draft.after), []);
        }
    }
}

#[test]
fn a_removed_backend_that_comes_back_has_its_index_again() {
    let mut fake = FakeDatapath::default();
    let mut layout = Layout::adopt(Contents::default(), SMALL, Duration::ZERO);
    let mut want = |backends: Vec<WantedBackend>| {
        let wanted = wanted(1, 1, Scheduler::RoundRobin, false, backends);
        let draft = layout.draft(&wanted, Duration::ZERO).unwrap();
        assert!(bring_about(&mut fake, &mut layout, &draft));
        layout.settle(id(1), &draft, Duration::ZERO);
        layout.unused(Duration::from_secs(9), |_| false)
    };
    assert_eq!(want(vec![backend(1, 1, true, 0), backend(2, 1, true, 0)]), [0; 0]);
    assert_eq!(want(vec![backend(1, 1, true, 0)]), [1]);
    assert_eq!(want(vec![backend(1, 1, true, 0), backend(2, 1, true, 0)]), [0; 0]);
}

/// A weight, a scheduler: whatever changes, one rotation flips, and the table that goes is kept for the time that is set.
#[test]
fn a_table_that_goes_counts_for_a_while() {
    let mut fake = FakeDatapath::default();
    let mut layout = Layout::adopt(Contents::default(), SMALL, Duration::ZERO);
    let pool = |weight| vec![backend(1, 1, true, 0), backend(2, weight, true, 0)];
    let mut want = |layout: &mut Layout, scheduler, weight| {
        let draft = layout
            .draft(&wanted(1, 1, scheduler, false, pool(weight)), Duration::ZERO)
            .unwrap();
        assert!(bring_about(&mut fake, layout, &draft));
        layout.settle(id(1), &draft, Duration::ZERO);
        let log = fake.take_log();
        assert_eq!(
            log.iter().filter(|a| matches!(a, Action::SetRotation { .. })).count(),
            1,
            "{log:?}"
        );
        (layout.contents.rotations[&0], layout.contents.previous.get(&0).copied())
    };
    assert_eq!(want(&mut layout, Scheduler::RoundRobin, 1).1, None);
    let (first, none) = want(&mut layout, Scheduler::Maglev, 1);
    assert_eq!(
        (first.rule(), first.len(), none),
        (Rule::MAGLEV, 61, None),
        "turns are nothing to go back to"
    );
    let (second, kept) = want(&mut layout, Scheduler::Maglev, 2);
    assert_eq!(kept.map(|p| (p.rotation, p.until)), Some((first, Tick(100))));
    let (least, kept) = want(&mut layout, Scheduler::LeastConn, 2);
    assert_eq!((least.rule(), least.len()), (Rule::LEAST_CONN, 2));
    assert_eq!(kept.map(|p| p.rotation), Some(second));
    assert_eq!(layout.outdated(Tick(99)), []);
    assert_eq!(layout.outdated(Tick(100)).len(), 1);
}

/// Slots that move have marks until the window is over and no flow goes elsewhere; the table that says where flows from before go
/// holds for all changes in between; and a new daemon finds both.
#[test]
fn slots_that_move_are_marked() {
    let mut fake = FakeDatapath::default();
    let mut layout = Layout::adopt(Contents::default(), SMALL, Duration::ZERO);
    let marks = |layout: &Layout| {
        let rotation = layout.contents.rotations[&0];
        let slots = slots::order_of(rotation, &layout.contents.pages).unwrap();
        slots.into_iter().filter(|slot| direct::is_moved(*slot)).count()
    };
    let mut want = |layout: &mut Layout, weights: [u32; 3]| {
        let pool = (1..)
            .zip(weights)
            .map(|(n, weight)| backend(n, weight, weight > 0, 0))
            .collect();
        let wanted = wanted(1, 1, Scheduler::Maglev, true, pool);
        let draft = layout.draft(&wanted, Duration::ZERO).unwrap();
        assert!(bring_about(&mut fake, layout, &draft));
        layout.settle(id(1), &draft, Duration::ZERO);
        let previous = layout.contents.previous.get(&0).map(|p| p.rotation);
        previous.map(|rotation| slots::order_of(rotation, &layout.contents.pages).unwrap())
    };
    assert_eq!(want(&mut layout, [1, 1, 1]), None);
    assert_eq!(marks(&layout), 0, "a new service has no flows");
    let first = slots::order_of(layout.contents.rotations[&0], &layout.contents.pages).unwrap();
    assert_eq!(want(&mut layout, [1, 1, 0]), Some(first.clone()));
    let one = marks(&layout);
    assert!((10..40).contains(&one), "{one} of 61");
    assert_eq!(
        want(&mut layout, [1, 0, 0]),
        Some(first.clone()),
        "what it was without marks"
    );
    let two = marks(&layout);
    assert!(two > one && two < 61, "{two} of 61");
    assert!(layout.marked(Tick(99)).is_empty(), "the window lasts");
    // A new daemon goes on with what it finds.
    let found = fake.contents().unwrap();
    let mut layout = Layout::adopt(found, SMALL, Duration::ZERO);
    let mut want = |layout: &mut Layout, weights: [u32; 3]| {
        let pool = (1..)
            .zip(weights)
            .map(|(n, weight)| backend(n, weight, weight > 0, 0))
            .collect();
        let draft = layout
            .draft(&wanted(1, 1, Scheduler::Maglev, true, pool), Duration::ZERO)
            .unwrap();
        let writes = diff(&draft.before, &draft.after).len();
        assert!(bring_about(&mut fake, layout, &draft));
        layout.settle(id(1), &draft, Duration::ZERO);
        writes
    };
    assert_eq!(want(&mut layout, [1, 0, 0]), 0, "nothing is written for the same wish");
    assert!(want(&mut layout, [1, 1, 1]) > 0);
    let previous = layout.contents.previous[&0].rotation;
    assert_eq!(slots::order_of(previous, &layout.contents.pages), Some(first.clone()));
    assert_eq!(marks(&layout), two);
    // The window is over; of two slots, flows go elsewhere.
    let marked = layout.marked(Tick(100));
    let (id, _, table) = &marked[&0];
    assert_eq!(*id, self::id(1));
    let two: BTreeSet<u32> = (0..61)
        .filter(|at| direct::is_moved(table.slots[*at as usize]))
        .take(2)
        .collect();
    let draft = layout.draft_marks(*id, &two, Duration::ZERO).unwrap();
    assert!(bring_about(&mut fake, &mut layout, &draft));
    layout.settle(self::id(1), &draft, Duration::ZERO);
    assert_eq!(marks(&layout), 2);
    assert_eq!(table.clone().plain().slots, first, "the table is the same otherwise");
}
