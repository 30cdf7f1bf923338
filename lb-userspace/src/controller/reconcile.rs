//! From what is wanted to what is written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::time::Instant;

use super::{
    Controller, RETRY_AFTER,
    execute::execute_action,
    outlook::{Outlook, World, outlook},
    ports::{Health, Network},
};
use crate::{
    datapath::{Datapath, DatapathError},
    model::{Service, ServiceId},
    plan::{Action, LayoutError, diff, layout::Draft, ramp},
};

/// Why a service could not be published. What was written up to there is whole for packets.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

impl<D: Datapath, N: Network, H: Health> Controller<D, N, H> {
    /// Brings services to what is wanted of them, removal included. Those that fail are tried again.
    /// Returns when the last schedule was flipped, if one was.
    pub(super) fn publish_or_retry(&mut self, ids: &[ServiceId]) -> Option<Instant> {
        let mut flipped = None;
        for id in ids {
            match self.publish(*id) {
                Ok(at) => flipped = at.or(flipped),
                Err(error) => {
                    if matches!(error, PublishError::Layout(LayoutError::Pages(_))) {
                        // The next attempt finds their room.
                        self.forget_previous(|layout| layout.kept());
                    }
                    let message = error.to_string();
                    if self.dirty.insert(*id, message.clone()).as_ref() != Some(&message) {
                        tracing::error!("service {}: not published: {message}; trying again", self.name_of(*id));
                    }
                    self.retry_at.get_or_insert_with(|| Instant::now() + RETRY_AFTER);
                }
            }
        }
        flipped
    }

    /// Brings one service to what is wanted of it. Returns when its schedule was flipped, if it was.
    ///
    /// # Errors
    /// The first write that failed; those before it stand.
    pub(super) fn publish(&mut self, id: ServiceId) -> Result<Option<Instant>, PublishError> {
        let draft = self.draft(id)?;
        let flipped = match draft {
            Some(draft) => self.bring_about(id, &draft)?,
            None => None,
        };
        self.dirty.remove(&id);
        Ok(flipped)
    }

    /// Does what a draft says, as far as it goes.
    fn bring_about(&mut self, id: ServiceId, draft: &Draft) -> Result<Option<Instant>, DatapathError> {
        let mut flipped = None;
        let mut result = Ok(());
        for action in diff(&draft.before, &draft.after) {
            result = self.write(&action);
            if result.is_err() {
                break;
            }
            if matches!(action, Action::SetRotation { .. }) {
                flipped = Some(Instant::now());
            }
        }
        let now = self.now();
        self.layout.settle(id, draft, now);
        result.map(|()| flipped)
    }

    /// Leaves marks at these slots of a service's table alone. What does not succeed is tried again after the next sweep.
    pub(super) fn publish_marks(&mut self, id: ServiceId, marks: &BTreeSet<u32>) {
        let now = self.now();
        let done = match self.layout.draft_marks(id, marks, now) {
            Ok(draft) => self.bring_about(id, &draft).map_err(PublishError::from),
            Err(error) => Err(error.into()),
        };
        match done {
            Ok(_) => tracing::debug!("service {}: {} slots have marks", self.name_of(id), marks.len()),
            Err(error) => tracing::warn!(
                "service {}: marks stay longer than they need: {error}",
                self.name_of(id)
            ),
        }
    }

    /// What to bring about for a service; nothing while it is withheld.
    fn draft(&mut self, id: ServiceId) -> Result<Option<Draft>, LayoutError> {
        let (now, today) = (self.now(), self.today());
        let Some(service) = self.desired.by_id(id) else {
            self.outlooks.remove(&id);
            self.holding.remove(&id);
            self.climbs.forget(id, &mut self.world);
            return Ok(Some(self.layout.draft_removal(id)));
        };
        let holding = self.holding.get(&id).copied();
        self.world.running = now;
        self.world.today = today;
        self.world.tick = if service.scheduler.by_hash() || self.layout.is_hashed(id) {
            self.flows.now().ok()
        } else {
            None
        };
        let mut outlook = outlook(service, &self.world, &self.config, holding);
        if self
            .climbs
            .note(service, &outlook, self.outlooks.get(&id), &mut self.world)
        {
            outlook = self::outlook(service, &self.world, &self.config, holding);
        }
        self.due = [self.due, next_due(service, &self.world, self.started)]
            .into_iter()
            .flatten()
            .min();
        let withheld = self.is_withheld(service);
        let draft = if withheld {
            None
        } else {
            Some(self.layout.draft(&outlook.wanted, now)?)
        };
        match outlook.tier.holding {
            Some(tier) => self.holding.insert(id, tier),
            None => self.holding.remove(&id),
        };
        self.outlooks.insert(id, outlook);
        Ok(draft)
    }

    /// The shares of backends that returned climb, and drains come to their end.
    pub(super) fn on_due(&mut self) {
        self.due = None;
        (self.world.running, self.world.today) = (self.now(), self.today());
        let changes = |s: &&Arc<Service>| {
            next_due(s, &self.world, self.started).is_some() || changed(s, &self.world, &self.outlooks)
        };
        let ids: Vec<ServiceId> = self.desired.services.iter().filter(changes).map(|s| s.id).collect();
        self.publish_or_retry(&ids);
        // For the next daemon, should this one be killed.
        self.save();
    }

    /// One write, and its note in the layout.
    pub(super) fn write(&mut self, action: &Action) -> Result<(), DatapathError> {
        execute_action(&mut self.datapath, action)?;
        self.layout.wrote(action);
        Ok(())
    }

    /// Tries again what failed.
    pub(super) fn retry(&mut self) {
        self.retry_at = None;
        let ids: Vec<ServiceId> = self.dirty.keys().copied().collect();
        self.publish_or_retry(&ids);
        if self.dirty.is_empty() {
            tracing::info!("the packet path is up to date again");
        }
    }

    /// A service's name, or its address once it is gone.
    pub(super) fn name_of(&self, id: ServiceId) -> String {
        self.desired
            .by_id(id)
            .map_or_else(|| id.to_string(), |s| s.name.clone())
    }
}

/// When something about a service changes by itself: the next step of a slow start, or the end of a drain.
fn next_due(service: &Service, world: &World, started: Instant) -> Option<Instant> {
    let steps = service.backends.iter().filter_map(|b| {
        let climb = *world.returned.get(&(service.id, b.address))?;
        let next = ramp::next(climb.elapsed(world.running), service.scheduling.slow_start)?;
        Some(started + climb.when(next))
    });
    let ends = service.backends.iter().filter(|b| !world.drained(b));
    let ends = ends.filter_map(|b| {
        let left = b.drain_until?.saturating_sub(world.today);
        Some(started + world.running + std::time::Duration::from_secs(left))
    });
    steps.chain(ends).min()
}

/// Whether a service is to be published because time went by.
fn changed(service: &Service, world: &World, outlooks: &BTreeMap<ServiceId, Outlook>) -> bool {
    let climbing = service
        .backends
        .iter()
        .any(|b| world.returned.contains_key(&(service.id, b.address)));
    let ended = |b: &crate::model::Backend| {
        let entry = |w: &&crate::plan::WantedBackend| w.address == b.address;
        let entry = outlooks
            .get(&service.id)
            .and_then(|o| o.wanted.backends.iter().find(entry));
        world.drained(b) && entry.is_some_and(|w| w.entry.state == lb_common::abi::BackendState::UP)
    };
    climbing || service.backends.iter().any(ended)
}
