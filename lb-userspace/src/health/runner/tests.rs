//! The runner by a clock that stands still until all tasks wait.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{sleep, timeout},
};

use super::*;
use crate::{health::probe::Verdict, model::HealthCheck};

const SECOND: Duration = Duration::from_secs(1);

/// Answers as the test says, and notes when it was asked.
#[derive(Debug, Clone)]
struct Fake(Arc<FakeState>);

#[derive(Debug)]
struct FakeState {
    healthy: AtomicBool,
    takes: Mutex<Duration>,
    asked: Mutex<Vec<(SocketAddr, Instant)>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

impl Fake {
    fn new(healthy: bool) -> Self {
        Self(Arc::new(FakeState {
            healthy: healthy.into(),
            takes: Mutex::new(Duration::ZERO),
            asked: Mutex::default(),
            under_way: 0.into(),
            most_under_way: 0.into(),
        }))
    }

    fn set_healthy(&self, healthy: bool) {
        self.0.healthy.store(healthy, Ordering::SeqCst);
    }

    fn takes(&self, duration: Duration) {
        *self.0.takes.lock().unwrap() = duration;
    }

    fn asked(&self) -> Vec<Instant> {
        self.0.asked.lock().unwrap().iter().map(|(_, at)| *at).collect()
    }

    /// Times between the starts of checks.
    fn gaps(&self) -> Vec<Duration> {
        self.asked().windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

/// Counts as under way until it is dropped, by the end of the probe or by a timeout.
struct UnderWay<'a>(&'a AtomicUsize);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Prober for Fake {
    async fn probe(&self, target: &HealthTarget) -> Verdict {
        let state = &self.0;
        state.asked.lock().unwrap().push((target.address, Instant::now()));
        let under_way = state.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        let _guard = UnderWay(&state.under_way);
        state.most_under_way.fetch_max(under_way, Ordering::SeqCst);
        let takes = *state.takes.lock().unwrap();
        if !takes.is_zero() {
            sleep(takes).await;
        }
        if state.healthy.load(Ordering::SeqCst) {
            Ok("connected".into())
        } else {
            Err("connection refused".into())
        }
    }
}

/// Interval 2 s, fast interval 500 ms, timeout 1 s, rise 2, fall 3.
fn target(port: u16) -> HealthTarget {
    HealthTarget {
        address: SocketAddr::from(([192, 0, 2, 1], port)),
        check: HealthCheck {
            start_jitter: Duration::ZERO,
            ..HealthCheck::default()
        },
    }
}

fn runner(fake: &Fake) -> (HealthRunner<Fake>, UnboundedReceiver<HealthEvent>) {
    let (sender, events) = unbounded_channel();
    (HealthRunner::with_prober(fake.clone(), sender, 100), events)
}

async fn next(events: &mut UnboundedReceiver<HealthEvent>) -> HealthEvent {
    timeout(60 * SECOND, events.recv())
        .await
        .expect("an event within a minute")
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_fresh_target_is_up_after_its_first_success() {
    let fake = Fake::new(true);
    let (mut runner, mut events) = runner(&fake);
    runner.set_targets([(target(80), None)]);
    assert_eq!(runner.snapshot(&target(80)).unwrap().state, HealthState::Unknown);
    let started = Instant::now();
    let event = next(&mut events).await;
    assert_eq!(
        event.transition,
        Transition {
            from: HealthState::Unknown,
            to: HealthState::Up
        }
    );
    assert_eq!(event.target, target(80));
    assert_eq!(event.report.last_result.as_deref(), Some("connected"));
    assert_eq!(runner.snapshot(&target(80)).unwrap(), event.report);
    assert!(started.elapsed() < Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_death_is_told_within_interval_times_fall_and_a_recovery_after_rise() {
    let fake = Fake::new(true);
    let (mut runner, mut events) = runner(&fake);
    runner.set_targets([(target(80), Some(HealthState::Up))]);
    // Just after a check, which is the worst moment.
    sleep(Duration::from_millis(4001)).await;
    fake.set_healthy(false);
    let died = Instant::now();
    let event = next(&mut events).await;
    assert_eq!(event.transition.to, HealthState::Down);
    // The next check after 2 s, two more at the fast interval.
    assert!(
        (2990..=3010).contains(&died.elapsed().as_millis()),
        "{:?}",
        died.elapsed()
    );
    assert!(died.elapsed() <= target(80).check.interval * 3);
    fake.set_healthy(true);
    assert_eq!(
        next(&mut events).await.transition,
        Transition {
            from: HealthState::Down,
            to: HealthState::Up
        }
    );
    assert!(events.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn checks_neither_drift_nor_overlap() {
    let fake = Fake::new(true);
    let (mut runner, _events) = runner(&fake);
    fake.takes(Duration::from_millis(300));
    runner.set_targets([(target(80), Some(HealthState::Up))]);
    sleep(100 * SECOND).await;
    let asked = fake.asked();
    assert_eq!(asked.len(), 50);
    // From start to start, however long a check takes.
    assert_eq!(fake.gaps(), vec![2 * SECOND; 49]);
    assert_eq!(fake.0.most_under_way.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_hangs_ends_at_its_timeout_and_the_next_follows_at_once() {
    let fake = Fake::new(true);
    let (mut runner, mut events) = runner(&fake);
    fake.takes(3600 * SECOND);
    runner.set_targets([(target(80), Some(HealthState::Up))]);
    let event = next(&mut events).await;
    assert_eq!(event.report.last_result.as_deref(), Some("timeout after 1 s"));
    // Each check takes its whole timeout, which is longer than the fast interval.
    assert_eq!(fake.gaps(), vec![SECOND; 2]);
    assert_eq!(fake.0.most_under_way.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn targets_that_stay_are_not_disturbed_and_those_that_go_are_asked_no_more() {
    let fake = Fake::new(true);
    let (mut runner, mut events) = runner(&fake);
    runner.set_targets([(target(80), None), (target(81), None)]);
    next(&mut events).await;
    next(&mut events).await;
    sleep(SECOND).await;
    // The state given for a target that is known already does not count.
    runner.set_targets([
        (target(81), Some(HealthState::Down)),
        (target(82), Some(HealthState::Up)),
    ]);
    assert_eq!(runner.snapshot(&target(80)), None);
    assert_eq!(runner.snapshot(&target(81)).unwrap().state, HealthState::Up);
    fake.0.asked.lock().unwrap().clear();
    sleep(Duration::from_millis(3500)).await;
    let asked = fake.0.asked.lock().unwrap().clone();
    let of = |port| asked.iter().filter(|(address, _)| address.port() == port).count();
    assert_eq!((of(80), of(81), of(82)), (0, 2, 2));
    assert!(events.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn shared_targets_are_checked_once_and_those_without_probe_never() {
    let fake = Fake::new(true);
    let (mut runner, _events) = runner(&fake);
    let mut unprobed = target(81);
    unprobed.check.probe = Probe::None;
    runner.set_targets([(target(80), None), (target(80), None), (unprobed.clone(), None)]);
    sleep(SECOND).await;
    assert_eq!(fake.asked().len(), 1);
    assert_eq!(runner.snapshot(&unprobed), None);
}

#[tokio::test(start_paused = true)]
async fn starts_are_spread_over_the_jitter() {
    let fake = Fake::new(true);
    let (mut runner, _events) = runner(&fake);
    let started = Instant::now();
    runner.set_targets((1..=64).map(|port| {
        let mut target = target(port);
        target.check.start_jitter = SECOND;
        (target, None)
    }));
    sleep(Duration::from_millis(1001)).await;
    let mut firsts = HashMap::new();
    for (address, at) in fake.0.asked.lock().unwrap().iter() {
        firsts.entry(*address).or_insert((*at - started).as_millis());
    }
    let mut delays: Vec<u128> = firsts.into_values().collect();
    assert_eq!(delays.len(), 64);
    delays.sort_unstable();
    delays.dedup();
    assert!(delays.len() > 32, "{delays:?}");
}

#[test]
fn jitter_stays_within_its_bound() {
    assert_eq!(jitter(SECOND, 0), Duration::ZERO);
    assert_eq!(jitter(SECOND, u64::MAX), SECOND);
    assert_eq!(jitter(Duration::ZERO, u64::MAX), Duration::ZERO);
    assert!(jitter(Duration::from_hours(168), u64::MAX) <= Duration::from_hours(168));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_runner_ends_its_checks() {
    let fake = Fake::new(true);
    let (mut runner, mut events) = runner(&fake);
    runner.set_targets([(target(80), None)]);
    next(&mut events).await;
    drop(runner);
    let before = fake.asked().len();
    sleep(60 * SECOND).await;
    assert_eq!(fake.asked().len(), before);
    // All senders are gone.
    assert_eq!(events.recv().await, None);
}

/// Ten thousand checks at default intervals are 5,000 a second: in no tenth of a second do many more begin than in another.
#[tokio::test(start_paused = true)]
async fn thousands_of_checks_are_spread_over_their_interval() {
    const TARGETS: u16 = 10_000;
    let fake = Fake::new(true);
    let (mut runner, _events) = runner(&fake);
    let jittered = |port| HealthTarget {
        check: HealthCheck::default(),
        ..target(port)
    };
    let began = Instant::now();
    runner.set_targets((1..=TARGETS).map(|port| (jittered(port), None)));
    sleep(10 * SECOND).await;
    let asked = fake.asked();
    let quick = asked
        .iter()
        .filter(|at| **at - began <= Duration::from_millis(201))
        .count();
    assert!(quick >= usize::from(TARGETS), "first checks do not wait: {quick}");
    let mut tenths = [0; 100];
    for at in asked {
        let tenth = (at - began).as_millis() / 100;
        tenths[usize::try_from(tenth).unwrap().min(99)] += 1;
    }
    // From the third second on.
    let most = tenths[30..].iter().max().unwrap();
    assert!(
        *most < 700,
        "{most} in a tenth of a second, of 500 on average: {tenths:?}"
    );
}

/// Silence of many must not look like the death of all.
#[tokio::test(start_paused = true)]
async fn checks_wait_for_their_turn_and_that_is_no_failure() {
    let fake = Fake::new(true);
    fake.takes(Duration::from_millis(900));
    let (mut runner, _events) = runner(&fake);
    runner.set_targets((1..=1000).map(|port| (target(port), None)));
    sleep(30 * SECOND).await;
    assert_eq!(fake.0.most_under_way.load(Ordering::SeqCst), 100);
    for port in 1..=1000 {
        assert_eq!(runner.snapshot(&target(port)).unwrap().state, HealthState::Up, "{port}");
    }
}
