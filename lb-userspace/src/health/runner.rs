//! One task per distinct target, which checks it at its interval and tells of changes.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Semaphore, mpsc::UnboundedSender, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    machine::{Machine, Transition},
    probe::{self, NetworkProber, Prober},
    room,
};
use crate::{
    api::{HealthReport, HealthState},
    model::{HealthTarget, Probe},
};

/// A target changed its state.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthEvent {
    /// Which.
    pub target: HealthTarget,
    /// From which state to which.
    pub transition: Transition,
    /// Its health just after that.
    pub report: HealthReport,
}

/// Runs the checks of all targets. Dropping it ends them.
///
/// Must be used within a tokio runtime.
#[derive(Debug)]
pub struct HealthRunner<P: Prober = NetworkProber> {
    asking: Arc<Asking<P>>,
    events: UnboundedSender<HealthEvent>,
    running: HashMap<HealthTarget, Running>,
}

/// What all checks share.
#[derive(Debug)]
struct Asking<P> {
    prober: P,
    /// For those that are under way.
    room: Semaphore,
}

#[derive(Debug)]
struct Running {
    task: JoinHandle<()>,
    report: watch::Receiver<HealthReport>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthRunner<NetworkProber> {
    /// A runner without targets, which checks over the network, so many at a time. Every change of state goes to `events` at
    /// once.
    #[must_use]
    pub fn new(events: UnboundedSender<HealthEvent>, at_a_time: usize) -> Self {
        Self::with_prober(NetworkProber, events, at_a_time)
    }
}

impl<P: Prober> HealthRunner<P> {
    /// A runner that checks with a prober of the caller's.
    #[must_use]
    pub fn with_prober(prober: P, events: UnboundedSender<HealthEvent>, at_a_time: usize) -> Self {
        let room = Semaphore::new(at_a_time.clamp(1, room::MOST));
        Self {
            asking: Arc::new(Asking { prober, room }),
            events,
            running: HashMap::new(),
        }
    }

    /// Checks these targets from now on, and no others. Targets that are checked already go on undisturbed, with the state
    /// that they have; a new one starts from the state given with it, if one is known from an adopted packet path. Targets
    /// without a probe are not run, and a target that comes twice is checked once.
    ///
    /// Events of a target that is removed may still be under way: the receiver must pass over targets that it does not know.
    pub fn set_targets(&mut self, wanted: impl IntoIterator<Item = (HealthTarget, Option<HealthState>)>) {
        let mut before = std::mem::take(&mut self.running);
        for (target, initial) in wanted {
            if target.check.probe == Probe::None || self.running.contains_key(&target) {
                continue;
            }
            let running = before
                .remove(&target)
                .unwrap_or_else(|| self.start(target.clone(), initial));
            self.running.insert(target, running);
        }
        // What is left in `before` ends here.
    }

    /// Ends the checks of some targets and begins with others, as [`Self::set_targets`] does, at no cost of those that stay.
    pub fn change_targets(
        &mut self,
        gone: &[HealthTarget],
        new: impl IntoIterator<Item = (HealthTarget, Option<HealthState>)>,
    ) {
        for target in gone {
            self.running.remove(target);
        }
        for (target, initial) in new {
            if target.check.probe != Probe::None && !self.running.contains_key(&target) {
                let running = self.start(target.clone(), initial);
                self.running.insert(target, running);
            }
        }
    }

    /// The health of a target; nothing for one that is not checked.
    #[must_use]
    pub fn snapshot(&self, target: &HealthTarget) -> Option<HealthReport> {
        self.running.get(target).map(|running| running.report.borrow().clone())
    }

    fn start(&self, target: HealthTarget, initial: Option<HealthState>) -> Running {
        let machine = Machine::new(&target.check, initial, SystemTime::now());
        let (sender, report) = watch::channel(machine.report());
        let task = run(Arc::clone(&self.asking), target, machine, sender, self.events.clone());
        Running {
            task: tokio::spawn(task),
            report,
        }
    }
}

/// Checks one target until it is aborted, or nobody listens any more.
async fn run<P: Prober>(
    asking: Arc<Asking<P>>,
    target: HealthTarget,
    mut machine: Machine,
    report: watch::Sender<HealthReport>,
    events: UnboundedSender<HealthEvent>,
) {
    let random = RandomState::new();
    let mut next = Instant::now() + jitter(target.check.start_jitter, random.hash_one(target.address));
    let mut first = true;
    loop {
        sleep_until(next).await;
        // Its time does not run while it waits for its turn.
        let Ok(turn) = asking.room.acquire().await else { return };
        let result = probe::check(&asking.prober, &target).await;
        drop(turn);
        let transition = machine.record(result, SystemTime::now());
        report.send_replace(machine.report());
        if let Some(transition) = transition {
            let event = HealthEvent {
                target: target.clone(),
                transition,
                report: machine.report(),
            };
            if events.send(event).is_err() {
                return;
            }
        }
        // From planned start to planned start, so that checks do not drift; a check that overran is followed by the next
        // one at once, and those that it missed are not made up for.
        let mut delay = machine.delay();
        if std::mem::take(&mut first) && !target.check.start_jitter.is_zero() {
            // First checks are close together, so that a start is quick; from then on the whole interval is made use of.
            delay = jitter(delay, random.hash_one(&target));
        }
        next = (next + delay).max(Instant::now());
    }
}

/// A part of `up_to`, chosen by a random number.
fn jitter(up_to: Duration, random: u64) -> Duration {
    let fraction = random as f64 / u64::MAX as f64;
    up_to.mul_f64(fraction).min(up_to)
}

#[cfg(test)]
mod tests;
