//! Slow start: who returned, and when.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::outlook::{Outlook, World};
use crate::model::{Service, ServiceId};

/// A share that is climbing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Climb {
    /// Since when, as [`World::running`] counts.
    pub(super) since: Duration,
    /// How long it had climbed by then, under an earlier daemon.
    pub(super) before: Duration,
}

impl Climb {
    /// How long it has climbed.
    pub(super) const fn elapsed(self, running: Duration) -> Duration {
        running.saturating_sub(self.since).saturating_add(self.before)
    }

    /// When it will have climbed so long.
    pub(super) fn when(self, elapsed: Duration) -> Duration {
        (self.since + elapsed).saturating_sub(self.before)
    }
}

/// A share that was climbing when the state was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedClimb {
    service: ServiceId,
    backend: SocketAddr,
    /// Milliseconds that it had climbed.
    elapsed_ms: u64,
    /// When that was, in seconds since the Unix epoch.
    at: u64,
}

/// What is climbing, to be saved.
pub(super) fn save(world: &World, running: Duration, today: u64) -> Vec<SavedClimb> {
    let saved = |((service, backend), climb): (&(ServiceId, SocketAddr), &Climb)| SavedClimb {
        service: *service,
        backend: *backend,
        elapsed_ms: u64::try_from(climb.elapsed(running).as_millis()).unwrap_or(u64::MAX),
        at: today,
    };
    world.returned.iter().map(saved).collect()
}

/// Goes on where an earlier daemon left off; the time in between counts.
pub(super) fn restore(world: &mut World, saved: Vec<SavedClimb>, today: u64) {
    for one in saved {
        let climb = Climb {
            since: world.running,
            before: Duration::from_millis(one.elapsed_ms) + Duration::from_secs(today.saturating_sub(one.at)),
        };
        world.returned.insert((one.service, one.backend), climb);
    }
}

/// Backends whose share will climb when they take flows: those that were out, and those that joined a service which
/// was there already. What a start finds has its share at once, and so has what only waits for its first check.
#[derive(Debug, Default)]
pub(super) struct Climbs {
    cold: BTreeSet<(ServiceId, SocketAddr)>,
}

impl Climbs {
    /// Takes note of what has become of a service; says whether a share begins to climb now.
    pub(super) fn note(
        &mut self,
        service: &Service,
        now: &Outlook,
        before: Option<&Outlook>,
        world: &mut World,
    ) -> bool {
        let mut begins = false;
        for (address, candidate) in &now.candidates {
            let key = (service.id, *address);
            let joined = before.is_some_and(|o| o.candidates.iter().all(|(a, _)| a != address));
            if joined || (!candidate.takes_flows() && !candidate.undecided) {
                self.cold.insert(key);
            }
            if !candidate.takes_flows() {
                // One that only waits for a first check or next hop goes on with its climb.
                if !candidate.undecided {
                    world.returned.remove(&key);
                }
            } else if self.cold.remove(&key) && !service.scheduling.slow_start.is_zero() {
                let climb = Climb {
                    since: world.running,
                    before: Duration::ZERO,
                };
                world.returned.insert(key, climb);
                begins = true;
            }
        }
        let running = world.running;
        let over = |climb: Climb| climb.elapsed(running) >= service.scheduling.slow_start;
        world
            .returned
            .retain(|(id, _), climb| *id != service.id || !over(*climb));
        begins
    }

    /// A service is gone.
    pub(super) fn forget(&mut self, id: ServiceId, world: &mut World) {
        self.cold.retain(|(service, _)| *service != id);
        world.returned.retain(|(service, _), _| *service != id);
    }
}
