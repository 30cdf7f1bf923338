//! VIP addresses on interfaces.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    Call, Controller,
    events::Internal,
    ports::{Health, Network, PlacedVip},
};
use crate::{
    api::{ErrorKind, Reply, Request},
    datapath::Datapath,
    model::{Service, ServiceId, VipAddress},
    state,
};

/// At the end, a VIP operation that takes longer is not waited for.
const FINISH_WITHIN: Duration = Duration::from_secs(5);

/// A VIP that `lb` sees to.
#[derive(Debug)]
pub(super) struct Vip {
    pub(super) state: VipState,
    /// The failure that the log has already.
    told: Option<String>,
}

/// Where a VIP stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum VipState {
    /// Being added.
    Adding,
    /// On an interface.
    Placed(PlacedVip),
    /// It could not be added, or was lost.
    Failed(String),
    /// Being removed.
    Removing,
}

impl Vip {
    pub(super) fn error(&self) -> Option<&str> {
        match &self.state {
            VipState::Failed(error) => Some(error),
            VipState::Adding | VipState::Placed(_) | VipState::Removing => None,
        }
    }

    pub(super) const fn placed(&self) -> Option<&PlacedVip> {
        match &self.state {
            VipState::Placed(placed) => Some(placed),
            VipState::Adding | VipState::Failed(_) | VipState::Removing => None,
        }
    }
}

impl<D: Datapath, N: Network, H: Health> Controller<D, N, H> {
    /// What an earlier daemon put on interfaces. Those that are still wanted are looked at again, the others removed.
    pub(super) fn remember_vips(&mut self, vips: Vec<(IpAddr, String)>) {
        let wanted = self.wanted_vips();
        for (vip, interface) in vips {
            self.network.adopt_vip(vip, &interface);
            if !wanted.contains_key(&vip) {
                let state = VipState::Placed(PlacedVip { interface, ours: true });
                self.vips.insert(vip, Vip { state, told: None });
            }
        }
    }

    /// Whether a service stays unpublished for want of its address. One that is published already goes on.
    pub(super) fn is_withheld(&self, service: &Service) -> bool {
        let placed = || {
            self.vips
                .get(&service.id.vip.ip())
                .is_some_and(|v| v.placed().is_some())
        };
        matches!(service.vip_address, VipAddress::Add(_))
            && !self.layout.contents().services.contains_key(&service.id)
            && !placed()
    }

    /// VIPs to see to, with the interfaces that each may go to.
    fn wanted_vips(&self) -> BTreeMap<IpAddr, Vec<String>> {
        let waiting = self
            .waiting
            .iter()
            .filter_map(|(_, (request, _))| added_service(request));
        let anywhere = LazyCell::new(|| self.vip_interfaces());
        let mut wanted = BTreeMap::new();
        for service in self.desired.services.iter().map(AsRef::as_ref).chain(waiting) {
            let candidates = match &service.vip_address {
                VipAddress::Manual => continue,
                VipAddress::Add(Some(name)) => std::slice::from_ref(name),
                VipAddress::Add(None) => anywhere.as_slice(),
            };
            wanted.entry(service.id.vip.ip()).or_insert_with(|| candidates.to_vec());
        }
        wanted
    }

    /// Interfaces that a VIP may go to by itself: those with the packet path, and VLAN devices on top of them.
    fn vip_interfaces(&self) -> Vec<String> {
        let mut names: Vec<String> = self.desired.interfaces.iter().map(|i| i.name.clone()).collect();
        if self.world.vlans {
            names.extend(self.network.vlan_devices(&names));
        }
        names
    }

    /// Begins to add what is wanted and not there, and to remove what is there and not wanted.
    pub(super) fn ensure_vips(&mut self) {
        self.ensure_echo();
        let wanted = self.wanted_vips();
        for (vip, candidates) in &wanted {
            if !self.vips.contains_key(vip) {
                self.add_vip(*vip, candidates.clone());
            }
        }
        let unwanted: Vec<IpAddr> = self.vips.keys().filter(|v| !wanted.contains_key(v)).copied().collect();
        for vip in unwanted {
            match self.vips.get(&vip).map(|v| v.state.clone()) {
                Some(VipState::Placed(placed)) if placed.ours => self.remove_vip(vip, placed.interface),
                Some(VipState::Placed(_) | VipState::Failed(_)) => drop(self.vips.remove(&vip)),
                // What is under way is looked at when it comes back.
                Some(VipState::Adding | VipState::Removing) | None => {}
            }
        }
    }

    /// Has the packet path answer echo requests to the VIPs that `lb` puts on no interface: the kernel may not have them.
    fn ensure_echo(&mut self) {
        let mut wanted: BTreeMap<IpAddr, bool> = BTreeMap::new();
        for service in &self.desired.services {
            let manual = service.vip_address == VipAddress::Manual;
            *wanted.entry(service.id.vip.ip()).or_insert(true) &= manual;
        }
        self.echo.retain(|vip, _| wanted.contains_key(vip));
        for (vip, on) in wanted {
            if self.echo.get(&vip) == Some(&on) {
                continue;
            }
            match self.datapath.answer_echo(vip, on) {
                Ok(()) => drop(self.echo.insert(vip, on)),
                Err(error) => tracing::error!("echo requests to {vip}: {error}"),
            }
        }
    }

    /// Tries again those that failed.
    pub(super) fn retry_vips(&mut self) {
        let failed: Vec<_> = self
            .vips
            .iter()
            .filter(|(_, v)| v.error().is_some())
            .map(|(vip, _)| *vip)
            .collect();
        let wanted = self.wanted_vips();
        for vip in failed {
            if let Some(candidates) = wanted.get(&vip) {
                self.add_vip(vip, candidates.clone());
            }
        }
        self.ensure_vips();
    }

    fn add_vip(&mut self, vip: IpAddr, candidates: Vec<String>) {
        let (network, internal) = (Arc::clone(&self.network), self.internal.clone());
        tokio::spawn(async move {
            let result = network.add_vip(vip, &candidates).await;
            drop(internal.send(Internal::VipAdded(vip, result)));
        });
        let told = self.vips.get(&vip).and_then(|v| v.error().map(str::to_owned));
        let state = VipState::Adding;
        self.vips.insert(vip, Vip { state, told });
    }

    fn remove_vip(&mut self, vip: IpAddr, interface: String) {
        let (network, internal) = (Arc::clone(&self.network), self.internal.clone());
        tokio::spawn(async move {
            let result = network.remove_vip(vip, &interface).await;
            drop(internal.send(Internal::VipRemoved(vip, result)));
        });
        if let Some(entry) = self.vips.get_mut(&vip) {
            entry.state = VipState::Removing;
        }
    }

    pub(super) fn on_vip_added(&mut self, vip: IpAddr, result: Result<PlacedVip, String>) {
        let Some(entry) = self.vips.get_mut(&vip) else { return };
        let error = result.as_ref().err().cloned();
        entry.state = result.map_or_else(VipState::Failed, VipState::Placed);
        match error {
            Some(error) => {
                if entry.told.as_ref() != Some(&error) {
                    tracing::error!("VIP {vip} was not added: {error}");
                }
                self.refuse_waiting(vip, &error);
            }
            None => self.serve_waiting(vip),
        }
        let uses = |s: &&Arc<Service>| s.id.vip.ip() == vip;
        let affected: Vec<ServiceId> = self.desired.services.iter().filter(uses).map(|s| s.id).collect();
        self.publish_or_retry(&affected);
        self.ensure_vips();
        self.save();
    }

    pub(super) fn on_vip_removed(&mut self, vip: IpAddr, result: Result<(), String>) {
        if let Err(error) = &result {
            tracing::error!("VIP {vip} was not removed: {error}");
        }
        self.left(vip, &result);
        // It may be wanted again by now.
        self.ensure_vips();
        self.save();
    }

    /// Puts a request off until its VIP is there. Gives it back if it need not wait.
    pub(super) fn wait_for_vip(&mut self, call: Call) -> Option<Call> {
        let Some(service) = added_service(&call.0) else {
            return Some(call);
        };
        let vip = service.id.vip.ip();
        let placed = self.vips.get(&vip).is_some_and(|v| v.placed().is_some());
        if placed || service.vip_address == VipAddress::Manual {
            return Some(call);
        }
        self.waiting.push((vip, call));
        self.retry_vips();
        None
    }

    fn serve_waiting(&mut self, vip: IpAddr) {
        for call in self.take_waiting(vip) {
            self.on_request(call);
        }
    }

    fn refuse_waiting(&mut self, vip: IpAddr, error: &str) {
        for (_, reply) in self.take_waiting(vip) {
            let error = state::error(ErrorKind::Conflict, format!("the service was not added: {error}"));
            drop(reply.send(Reply::Error { error }));
        }
    }

    fn take_waiting(&mut self, vip: IpAddr) -> Vec<Call> {
        let (mine, others) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(v, _)| *v == vip);
        self.waiting = others;
        let mine: Vec<(IpAddr, Call)> = mine;
        mine.into_iter().map(|(_, call)| call).collect()
    }

    /// Answers a removal: at once, unless its VIP is on an interface still and nobody else wants it.
    pub(super) fn answer_without(&mut self, vip: IpAddr, reply: oneshot::Sender<Reply>, done: Reply) {
        if self.vips.contains_key(&vip) && !self.wanted_vips().contains_key(&vip) {
            self.leaving.push((vip, reply, done));
        } else {
            self.answer_saved(reply, done);
        }
    }

    /// A VIP has left its interface, or would not: the removals that waited for it are answered.
    fn left(&mut self, vip: IpAddr, result: &Result<(), String>) {
        self.vips.remove(&vip);
        let leaving: Vec<_> = self.leaving.extract_if(.., |(v, ..)| *v == vip).collect();
        for (_, reply, mut done) in leaving {
            if let (Reply::Done { message }, Err(error)) = (&mut done, result) {
                message.push_str(&format!("\nwarning: VIP {vip} was not removed: {error}"));
            }
            self.answer_saved(reply, done);
        }
    }

    /// A VIP that vanished is put back.
    pub(super) fn on_address_gone(&mut self, address: IpAddr) {
        let Some(vip) = self.vips.get_mut(&address) else { return };
        if vip.placed().is_some_and(|p| p.ours) {
            tracing::warn!("VIP {address} was taken off its interface; putting it back");
            vip.state = VipState::Failed("it was taken off its interface".to_owned());
            self.retry_vips();
        }
    }

    /// VIPs of an interface that is gone are gone with it.
    pub(super) fn lose_vips_on(&mut self, interface: &str) {
        for vip in self.vips.values_mut() {
            if vip.placed().is_some_and(|p| p.interface == interface) {
                vip.state = VipState::Failed(format!("interface {interface} is missing"));
            }
        }
    }

    /// The link may have forgotten who owns the VIPs on it.
    pub(super) fn announce_on(&self, interface: &str) {
        let on = |v: &Vip| v.placed().is_some_and(|p| p.ours && p.interface == interface);
        let vips: BTreeSet<IpAddr> = self.vips.iter().filter(|(_, v)| on(v)).map(|(vip, _)| *vip).collect();
        if vips.is_empty() {
            return;
        }
        let (network, interface) = (Arc::clone(&self.network), interface.to_owned());
        tokio::spawn(async move {
            for vip in vips {
                if let Err(error) = network.announce_vip(vip, &interface).await {
                    tracing::debug!("VIP {vip} was not announced: {error}");
                }
            }
        });
    }

    /// Waits for what is under way, so that no address comes up behind the back of the end.
    pub(super) async fn finish_vips(&mut self, events: &mut mpsc::UnboundedReceiver<Internal>) {
        let under_way = |v: &Vip| matches!(v.state, VipState::Adding | VipState::Removing);
        while self.vips.values().any(under_way) {
            let Ok(Some(event)) = timeout(FINISH_WITHIN, events.recv()).await else {
                return;
            };
            match event {
                Internal::VipAdded(vip, result) => {
                    let state = result.map_or_else(VipState::Failed, VipState::Placed);
                    self.vips.insert(vip, Vip { state, told: None });
                }
                Internal::VipRemoved(vip, result) => self.left(vip, &result),
                Internal::Resolved(_) | Internal::Found(_) | Internal::Swept(..) => {}
            }
        }
    }

    /// VIPs that `lb` put on interfaces.
    pub(super) fn own_vips(&self) -> Vec<(IpAddr, String)> {
        let own = |(vip, v): (&IpAddr, &Vip)| Some((*vip, v.placed().filter(|p| p.ours)?.interface.clone()));
        self.vips.iter().filter_map(own).collect()
    }
}

fn added_service(request: &Request) -> Option<&Service> {
    if let Request::ServiceAdd { service } = request {
        Some(service)
    } else {
        None
    }
}
