//! Who may start when: as many as wanted, at the times of the schedule.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::prctl;
use tokio::sync::Semaphore;

use super::schedule::Schedule;

/// The pacer looks at least so often whether the run is over.
const LOOK: Duration = Duration::from_millis(50);

/// Hands out the starts of a run.
#[derive(Debug)]
pub(super) struct Gate {
    limit: Option<u64>,
    next: AtomicU64,
    paced: Option<Paced>,
}

#[derive(Debug)]
struct Paced {
    schedule: Schedule,
    due: Semaphore,
    over: AtomicBool,
}

/// The right to start one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    /// When it was due, since the start of the run; nothing without a schedule.
    pub(super) due: Option<Duration>,
}

impl Gate {
    /// A gate for so many, at that rate.
    pub(super) fn new(limit: Option<u64>, rate: Option<f64>) -> Arc<Self> {
        Arc::new(Self {
            limit,
            next: AtomicU64::new(0),
            paced: rate.map(|rate| Paced {
                schedule: Schedule::new(rate),
                due: Semaphore::new(0),
                over: AtomicBool::new(false),
            }),
        })
    }

    /// Waits until one is due. `None`: there have been enough.
    pub(super) async fn ticket(&self) -> Option<Ticket> {
        if let Some(paced) = &self.paced {
            // A closed semaphore means that the run is over.
            paced.due.acquire().await.ok()?.forget();
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if self.limit.is_some_and(|limit| number >= limit) {
            return None;
        }
        let due = self.paced.as_ref().map(|paced| paced.schedule.due(number));
        Some(Ticket { due })
    }

    /// How many ought to have started after this time.
    pub(super) fn due_by(&self, elapsed: Duration) -> Option<u64> {
        let due = self.paced.as_ref()?.schedule.due_by(elapsed);
        Some(self.limit.map_or(due, |limit| due.min(limit)))
    }

    /// Keeps the schedule from a thread of its own: the runtime's timers know milliseconds only.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn keep_time(self: &Arc<Self>, start: Instant) -> io::Result<()> {
        let gate = Arc::clone(self);
        thread::Builder::new()
            .name("pace".to_owned())
            .spawn(move || gate.pace(start))
            .map(drop)
    }

    fn pace(&self, start: Instant) {
        let Some(paced) = &self.paced else { return };
        // Without it, sleeps end 50 microseconds late; with a refusal, they go on doing so.
        let _slack_as_before = prctl::set_timerslack(1);
        let mut released = 0;
        while !paced.over.load(Ordering::Relaxed) {
            let due = paced.schedule.due_by(start.elapsed());
            let new = due.saturating_sub(released);
            paced
                .due
                .add_permits(usize::try_from(new).unwrap_or(0).min(Semaphore::MAX_PERMITS / 2));
            released = due;
            let next = paced.schedule.due(released).saturating_sub(start.elapsed());
            thread::sleep(next.min(LOOK));
        }
    }

    /// Lets nobody start any more.
    pub(super) fn close(&self) {
        if let Some(paced) = &self.paced {
            paced.over.store(true, Ordering::Relaxed);
            paced.due.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn exactly_as_many_as_wanted_start() {
        let gate = Gate::new(Some(3), None);
        for _ in 0..3 {
            assert_eq!(gate.ticket().await, Some(Ticket { due: None }));
        }
        assert_eq!(gate.ticket().await, None);
        assert_eq!(gate.ticket().await, None);
    }

    #[tokio::test]
    async fn with_a_rate_starts_come_when_they_are_due() {
        let gate = Gate::new(Some(3), Some(1000.0));
        let start = Instant::now();
        gate.keep_time(start).unwrap();
        for n in 0..3 {
            let ticket = gate.ticket().await.unwrap();
            assert_eq!(ticket.due, Some(Duration::from_millis(n)));
            assert!(start.elapsed() >= Duration::from_millis(n));
        }
        assert_eq!(gate.ticket().await, None);
        assert_eq!(gate.due_by(Duration::from_secs(1)), Some(3));
        gate.close();
        assert_eq!(gate.ticket().await, None);
    }
}
