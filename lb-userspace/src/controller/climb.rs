//! Slow start: who returned, and when.

use std::{collections::BTreeSet, net::SocketAddr};

use super::outlook::{Outlook, World};
use crate::model::{Service, ServiceId};

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
                world.returned.remove(&key);
            } else if self.cold.remove(&key) && !service.scheduling.slow_start.is_zero() {
                world.returned.insert(key, world.running);
                begins = true;
            }
        }
        let running = world.running;
        let over = |since| running.saturating_sub(since) >= service.scheduling.slow_start;
        world
            .returned
            .retain(|(id, _), since| *id != service.id || !over(*since));
        begins
    }

    /// A service is gone.
    pub(super) fn forget(&mut self, id: ServiceId, world: &mut World) {
        self.cold.retain(|(service, _)| *service != id);
        world.returned.retain(|(service, _), _| *service != id);
    }
}
