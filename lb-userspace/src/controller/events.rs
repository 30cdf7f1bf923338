//! What happens, and what it leads to.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use super::{
    Controller, DEBOUNCE,
    outlook::KnownHop,
    ports::{Health, HealthEvent, HopError, NetEvent, Network, NextHop, PlacedVip},
    strays::Strays,
};
use crate::{
    api::HealthState,
    datapath::{Datapath, DatapathError, Sweep},
    model::{HealthTarget, Service, ServiceId},
};

/// Backends of a service that the log names when they change at the same time.
const TOLD: usize = 50;

/// Next hops that are looked up at a time: an answer takes a while, and ten thousand one after the other take as often that.
const LOOK_UPS: usize = 64;

/// Answers about next hops.
pub(super) type Hops = HashMap<IpAddr, Result<NextHop, HopError>>;

/// What work that ran aside comes to.
pub(super) enum Internal {
    /// Next hops were looked up.
    Resolved(Hops),
    /// Next hops of new backends were looked up.
    Found(Hops),
    /// A VIP was added, or not.
    VipAdded(IpAddr, Result<PlacedVip, String>),
    /// A VIP was removed, or not.
    VipRemoved(IpAddr, Result<(), String>),
    /// The flow tables were walked, from this moment on.
    Swept(Duration, Result<Sweep, DatapathError>, Option<Strays>),
}

impl<D: Datapath, N: Network, H: Health> Controller<D, N, H> {
    /// Verdicts, all that wait. They are written before anything else is done about them, and each service once: a service
    /// of thousands of backends is not gone through for each of them when all their first checks end at a time.
    pub(super) fn on_health(&mut self, events: Vec<HealthEvent>) {
        let came = Instant::now();
        let mut news: HashMap<HealthTarget, HealthEvent> = HashMap::new();
        // Services in the order of their first verdict, with the tier that serves until now.
        let (mut affected, mut tiers) = (Vec::new(), HashMap::new());
        for event in events {
            let Some(services) = self.targets.get(&event.target) else {
                continue;
            };
            let state = event.report.state;
            if self.world.health.insert(event.target.clone(), state) == Some(state) {
                continue;
            }
            for id in services {
                tiers.entry(*id).or_insert_with(|| {
                    affected.push(*id);
                    self.serving_tier(*id)
                });
            }
            news.insert(event.target.clone(), event);
        }
        let flipped = self.publish_or_retry(&affected);
        let took = flipped.map(|at| at.duration_since(came));
        for id in affected {
            self.tell_flip(id, &news, tiers.remove(&id).flatten(), took);
        }
        for event in news.into_values().filter(|e| e.report.state == HealthState::Down) {
            let (network, address) = (Arc::clone(&self.network), event.target.address.ip());
            tokio::spawn(async move { network.ask_anew(address).await });
        }
    }

    /// Each backend that changed; where thousands did, some of them and how many there are.
    fn tell_flip(
        &self,
        id: ServiceId,
        news: &HashMap<HealthTarget, HealthEvent>,
        before: Option<u8>,
        took: Option<Duration>,
    ) {
        let Some(service) = self.desired.by_id(id) else { return };
        let tier = match self.serving_tier(id) {
            now if now == before => String::new(),
            Some(tier) => format!("; tier {tier} takes over"),
            None => "; no backend can take new flows".to_owned(),
        };
        let published = match took {
            Some(took) => format!("; published in {} us", took.as_micros()),
            None => String::new(),
        };
        let backends = service.backends.iter();
        let told: Vec<_> = backends
            .filter_map(|b| Some((b, news.get(&service.health_target(b))?)))
            .collect();
        for (backend, HealthEvent { report, .. }) in told.iter().take(TOLD) {
            let word = if report.state == HealthState::Down {
                "down"
            } else {
                "up"
            };
            let reason = report
                .last_result
                .as_ref()
                .map(|r| format!(" ({r})"))
                .unwrap_or_default();
            tracing::info!(
                "service {}: backend {} {word}{reason}{tier}{published}",
                service.name,
                backend.name
            );
        }
        let rest = told.get(TOLD..).unwrap_or_default();
        let down = rest.iter().filter(|(_, e)| e.report.state == HealthState::Down).count();
        if !rest.is_empty() {
            let up = rest.len() - down;
            tracing::info!(
                "service {}: at the same time {up} more backends up, {down} down",
                service.name
            );
        }
    }

    fn serving_tier(&self, id: ServiceId) -> Option<u8> {
        self.outlooks.get(&id)?.tier.serving
    }

    pub(super) fn on_internal(&mut self, event: Internal) {
        match event {
            Internal::Resolved(hops) => self.on_resolved(hops),
            Internal::Found(hops) => self.on_found(hops),
            Internal::VipAdded(vip, result) => self.on_vip_added(vip, result),
            Internal::VipRemoved(vip, result) => self.on_vip_removed(vip, result),
            Internal::Swept(began, result, strays) => self.on_swept(began, result, strays),
        }
    }

    pub(super) fn on_network(&mut self, event: &NetEvent) {
        match event {
            NetEvent::Link { name } => self.announce_on(name),
            NetEvent::AddressGone { address } => self.on_address_gone(*address),
            NetEvent::NextHops => {}
        }
        // From the first event of a burst on, so that a steady stream does not put it off for ever.
        self.network_due.get_or_insert_with(|| Instant::now() + DEBOUNCE);
    }

    pub(super) fn on_network_settled(&mut self) {
        self.network_due = None;
        self.check_interfaces();
        self.ensure_vips();
        self.resolve();
    }

    /// Looks up every next hop, aside.
    pub(super) fn resolve(&mut self) {
        if self.resolving {
            self.resolve_again = true;
            return;
        }
        self.resolving = true;
        let (network, addresses, internal) = (
            Arc::clone(&self.network),
            self.backend_addresses(),
            self.internal.clone(),
        );
        tokio::spawn(async move {
            let hops = Self::look_up(&network, addresses).await;
            drop(internal.send(Internal::Resolved(hops)));
        });
    }

    pub(super) async fn look_up(network: &Arc<N>, addresses: BTreeSet<IpAddr>) -> Hops {
        let question = |address| {
            let network = Arc::clone(network);
            async move { (address, network.next_hop(address).await) }
        };
        let questions = stream::iter(addresses.into_iter().map(question));
        questions.buffer_unordered(LOOK_UPS).collect().await
    }

    fn on_resolved(&mut self, hops: Hops) {
        self.resolving = false;
        self.on_found(hops);
        if std::mem::take(&mut self.resolve_again) {
            self.resolve();
        }
    }

    fn on_found(&mut self, hops: Hops) {
        let changed = self.note_hops(hops);
        if changed.is_empty() {
            return;
        }
        let affected: Vec<ServiceId> = self.services_with(|ip| changed.contains(&ip));
        self.publish_or_retry(&affected);
    }

    /// Takes note of next hops; returns the addresses whose answer is another than before.
    pub(super) fn note_hops(&mut self, hops: Hops) -> BTreeSet<IpAddr> {
        let mut changed = BTreeSet::new();
        // A backend may have gone while its address was looked up.
        let wanted = hops.into_iter().filter(|(ip, _)| self.addresses.contains_key(ip));
        for (address, answer) in wanted.collect::<Vec<_>>() {
            if let Ok(hop) = &answer {
                let known = KnownHop::new(hop, &self.world);
                self.world.known.insert(address, known);
            }
            let before = self.world.hops.insert(address, answer);
            let now = self.world.hops.get(&address);
            if before.as_ref() != now {
                self.tell_hop(address, before.as_ref());
                changed.insert(address);
            }
        }
        changed
    }

    fn tell_hop(&self, address: IpAddr, before: Option<&Result<NextHop, HopError>>) {
        match (before, self.world.hops.get(&address)) {
            (Some(Ok(_)), Some(Err(error))) if !error.resolving => {
                tracing::warn!("next hop to {address} lost: {}", error.message);
            }
            (Some(Err(error)), Some(Ok(hop))) if !error.resolving => {
                tracing::info!("next hop to {address} found, on {}", hop.interface);
            }
            _ => {}
        }
    }

    fn services_with(&self, wanted: impl Fn(IpAddr) -> bool) -> Vec<ServiceId> {
        let has = |s: &&Arc<Service>| s.backends.iter().any(|b| wanted(b.address.ip()));
        self.desired.services.iter().filter(has).map(|s| s.id).collect()
    }

    /// Confirms neighbours, and tries again what failed in the network.
    pub(super) fn refresh(&mut self) {
        let network = Arc::clone(&self.network);
        let addresses: Vec<IpAddr> = self.backend_addresses().into_iter().collect();
        tokio::spawn(async move { network.refresh(&addresses).await });
        self.check_interfaces();
        self.retry_vips();
        if self.world.hops.values().any(Result::is_err) {
            self.resolve();
        }
    }

    /// Names of the interfaces that exist, with their index.
    pub(super) fn existing_interfaces(&self) -> BTreeMap<String, u32> {
        self.network.interfaces()
    }
}
