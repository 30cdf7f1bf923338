//! From what is wanted to what is written.

use tokio::time::Instant;

use super::{
    Controller, RETRY_AFTER,
    execute::execute_action,
    outlook::outlook,
    ports::{Health, Network},
};
use crate::{
    datapath::{Datapath, DatapathError},
    model::ServiceId,
    plan::{Action, LayoutError, diff, layout::Draft},
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
        let mut flipped = None;
        let mut result = Ok(());
        for action in draft.iter().flat_map(|d| diff(&d.before, &d.after)) {
            result = self.write(&action);
            if result.is_err() {
                break;
            }
            if matches!(action, Action::SetRotation { .. }) {
                flipped = Some(Instant::now());
            }
        }
        if let Some(draft) = draft {
            let now = self.now();
            self.layout.settle(id, &draft, now);
        }
        result?;
        self.dirty.remove(&id);
        Ok(flipped)
    }

    /// What to bring about for a service; nothing while it is withheld.
    fn draft(&mut self, id: ServiceId) -> Result<Option<Draft>, LayoutError> {
        let now = self.now();
        let Some(service) = self.desired.by_id(id) else {
            self.outlooks.remove(&id);
            self.holding.remove(&id);
            return Ok(Some(self.layout.draft_removal(id)));
        };
        let holding = self.holding.get(&id).copied();
        let outlook = outlook(service, &self.world, &self.config, holding);
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
