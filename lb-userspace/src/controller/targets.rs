//! What the health checks check, and whose next hops are of interest.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Controller,
    events::Internal,
    ports::{Health, Network},
};
use crate::{
    datapath::Datapath,
    model::{AdminState, HealthTarget, Probe, Service, ServiceId},
    state::Desired,
};

impl<D: Datapath, N: Network, H: Health> Controller<D, N, H> {
    /// Counts the backends at each address.
    pub(super) fn count_addresses(&mut self) {
        let backends = self.desired.services.iter().flat_map(|s| &s.backends);
        let mut counts = HashMap::new();
        for backend in backends {
            *counts.entry(backend.address.ip()).or_default() += 1;
        }
        self.addresses = counts;
    }

    /// Every backend's address, once.
    pub(super) fn backend_addresses(&self) -> BTreeSet<IpAddr> {
        self.addresses.keys().copied().collect()
    }

    /// Tells the health checks what to check, and forgets what is not wanted any more.
    pub(super) fn retarget(&mut self) {
        let mut targets: HashMap<HealthTarget, BTreeSet<ServiceId>> = HashMap::new();
        for service in &self.desired.services {
            for target in targets_of(Some(service)) {
                targets.entry(target).or_default().insert(service.id);
            }
        }
        self.world.health.retain(|target, _| targets.contains_key(target));
        let initial = |t: &HealthTarget| (t.clone(), self.world.health.get(t).copied());
        self.health.set_targets(targets.keys().map(initial).collect());
        self.targets = targets;
        let addresses = &self.addresses;
        self.world.hops.retain(|ip, _| addresses.contains_key(ip));
        self.world.known.retain(|ip, _| addresses.contains_key(ip));
        if addresses.keys().any(|ip| !self.world.hops.contains_key(ip)) {
            self.resolve();
        }
    }

    /// The same, where only these services are others than they were before.
    pub(super) fn retarget_changed(&mut self, before: &Desired, ids: &[ServiceId]) {
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        for id in ids {
            let (was, is) = (targets_of(before.by_id(*id)), targets_of(self.desired.by_id(*id)));
            for target in was.difference(&is) {
                if let Some(services) = self.targets.get_mut(target) {
                    services.remove(id);
                }
                gone.push(target.clone());
            }
            for target in is.difference(&was) {
                self.targets.entry(target.clone()).or_default().insert(*id);
                new.push(target.clone());
            }
        }
        // Another service may check the same.
        gone.retain(|target| self.targets.get(target).is_some_and(BTreeSet::is_empty));
        for target in &gone {
            self.targets.remove(target);
            self.world.health.remove(target);
        }
        if !gone.is_empty() || !new.is_empty() {
            let initial = |t: HealthTarget| (self.world.health.get(&t).copied(), t);
            let new = new.into_iter().map(initial).map(|(state, target)| (target, state));
            let new = new.collect();
            self.health.change_targets(&gone, new);
        }
        for id in ids {
            self.recount(before.by_id(*id), self.desired.clone().by_id(*id));
        }
    }

    /// Backends of a service have come or gone: next hops are forgotten, or looked up, aside.
    fn recount(&mut self, was: Option<&Service>, is: Option<&Service>) {
        let addresses = |service: Option<&Service>| -> Vec<IpAddr> {
            let backends = service.into_iter().flat_map(|s| &s.backends);
            backends.map(|b| b.address.ip()).collect()
        };
        for ip in addresses(is) {
            *self.addresses.entry(ip).or_default() += 1;
        }
        for ip in addresses(was) {
            let count = self.addresses.entry(ip).or_default();
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.addresses.remove(&ip);
                self.world.hops.remove(&ip);
                self.world.known.remove(&ip);
            }
        }
        let unknown = |ip: &IpAddr| !self.world.hops.contains_key(ip);
        let unknown: BTreeSet<IpAddr> = addresses(is).into_iter().filter(unknown).collect();
        if unknown.is_empty() {
            return;
        }
        let (network, internal) = (Arc::clone(&self.network), self.internal.clone());
        tokio::spawn(async move {
            let hops = Self::look_up(&network, unknown).await;
            drop(internal.send(Internal::Found(hops)));
        });
    }
}

/// What is checked for a service.
fn targets_of(service: Option<&Service>) -> HashSet<HealthTarget> {
    let checked = service.filter(|s| s.health.probe != Probe::None);
    let targets = checked.into_iter().flat_map(|service| {
        let wanted = service.backends.iter().filter(|b| b.admin != AdminState::Disabled);
        wanted.map(|backend| service.health_target(backend))
    });
    targets.collect()
}
