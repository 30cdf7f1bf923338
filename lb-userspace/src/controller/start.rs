//! The start: adopt, attach, publish. And the end: leave nothing behind.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use lb_common::abi::BackendState;
use tokio::sync::mpsc;

use super::{
    Controller, ControllerError,
    events::Internal,
    outlook::KnownHop,
    ports::{Health, Network},
    vips::{Vip, VipState},
};
use crate::{
    api::HealthState,
    datapath::Datapath,
    model::{HealthTarget, ServiceId},
    plan::{
        diff,
        layout::{address_of, sources_of},
    },
};

impl<D: Datapath, N: Network, H: Health> Controller<D, N, H> {
    /// Brings the packet path to what is wanted. An adopted one serves on all the while.
    pub(super) async fn start(
        &mut self,
        events: &mut mpsc::UnboundedReceiver<Internal>,
    ) -> Result<(), ControllerError> {
        self.adopt_knowledge();
        let result = self.bring_up(events).await;
        if result.is_err() && !self.adopted {
            // Nothing ran before, so nothing is to be left.
            if let Err(error) = self.tear_down().await {
                tracing::warn!("{error}");
            }
        }
        result
    }

    async fn bring_up(&mut self, events: &mut mpsc::UnboundedReceiver<Internal>) -> Result<(), ControllerError> {
        self.attach_all()?;
        self.count_addresses();
        let addresses = self.backend_addresses();
        let hops = Self::look_up(&self.network, addresses).await;
        self.note_hops(hops);
        self.retarget();
        self.remove_leftovers()?;
        let ids: Vec<ServiceId> = self.desired.services.iter().map(|s| s.id).collect();
        self.publish_or_retry(&ids);
        self.ensure_vips();
        if !self.adopted {
            self.wait_for_vips(events).await?;
        }
        self.save();
        Ok(())
    }

    /// What the maps tell about health, ways and the serving tiers, so that nothing changes before there is news.
    fn adopt_knowledge(&mut self) {
        if self.adopted {
            tracing::info!("adopting the packet path that is running");
        }
        let mut health: HashMap<HealthTarget, HealthState> = HashMap::new();
        let mut holding = BTreeMap::new();
        for service in &self.desired.services {
            let in_rotation = self.layout.in_rotation(service.id);
            for backend in &service.backends {
                let Some((index, entry)) = self.layout.backend(service.id, backend.address) else {
                    continue;
                };
                if in_rotation.contains(&index) {
                    holding.insert(service.id, backend.tier);
                }
                let state = match entry.state {
                    BackendState::UP => HealthState::Up,
                    BackendState::DOWN => HealthState::Down,
                    _ => continue,
                };
                let known = health.entry(service.health_target(backend)).or_insert(state);
                if state == HealthState::Up {
                    *known = state;
                }
            }
        }
        self.world.health = health;
        self.holding = holding;
        let contents = self.layout.contents();
        for entry in contents.backends.values().filter(|b| b.link.ifindex != 0) {
            let Some(address) = address_of(entry) else { continue };
            let known = KnownHop {
                link: entry.link,
                mtu: entry.mtu,
                source: sources_of(contents, entry).first().copied(),
            };
            self.world.known.insert(address.ip(), known);
        }
    }

    /// Services that are not wanted any more, and what a removal that was cut short left.
    fn remove_leftovers(&mut self) -> Result<(), ControllerError> {
        let unwanted: Vec<ServiceId> = self
            .layout
            .published()
            .filter(|id| self.desired.by_id(*id).is_none())
            .collect();
        for id in &unwanted {
            tracing::info!("removing service {id}, which is not wanted any more");
        }
        self.publish_or_retry(&unwanted);
        let draft = self.layout.draft_orphans();
        for action in diff(&draft.before, &draft.after) {
            self.write(&action)?;
        }
        let now = self.now();
        self.layout.settle_orphans(&draft, now);
        Ok(())
    }

    /// At a first start, a VIP that cannot be had is told at once; when no service can be served, that is an error.
    async fn wait_for_vips(&mut self, events: &mut mpsc::UnboundedReceiver<Internal>) -> Result<(), ControllerError> {
        while self.vips.values().any(|v| matches!(v.state, VipState::Adding)) {
            match events.recv().await {
                Some(event) => self.on_internal(event),
                None => break,
            }
        }
        let served = self.desired.services.iter().any(|s| !self.is_withheld(s));
        let errors: Vec<&str> = self.vips.values().filter_map(Vip::error).collect();
        if served || errors.is_empty() {
            return Ok(());
        }
        Err(ControllerError::Vips(errors.join("; ")))
    }

    /// Takes everything away, run-time changes included.
    pub(super) async fn detach_for_good(
        &mut self,
        events: &mut mpsc::UnboundedReceiver<Internal>,
    ) -> Result<(), ControllerError> {
        self.finish_vips(events).await;
        self.tear_down().await?;
        self.saver.flush().await;
        self.state_file
            .remove()
            .map_err(|e| ControllerError::Teardown(format!("state file: {e}")))
    }

    /// Takes everything away: addresses first, so that clients turn elsewhere.
    pub(super) async fn tear_down(&mut self) -> Result<(), ControllerError> {
        let mut left = Vec::new();
        let vips: Vec<(IpAddr, String)> = self.own_vips();
        for (vip, interface) in vips {
            left.extend(self.network.remove_vip(vip, &interface).await.err());
        }
        left.extend(self.datapath.destroy().err().map(|e| e.to_string()));
        left.extend(self.network.cleanup_neighbours().await.err());
        if left.is_empty() {
            tracing::info!("the packet path is gone, with its links, maps and addresses");
            return Ok(());
        }
        Err(ControllerError::Teardown(left.join("; ")))
    }
}
