//! The packet path in memory, for tests: it records every write in order, and panics at a write that packets would
//! have seen half of a change by.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard},
};

use lb_common::{
    abi::{Backend, BackendState, Previous, Rotation, Service, SlotPage},
    direct::{backend_of, is_moved},
    flow::Tick,
};

use super::{Attachment, BackendCounters, Contents, Datapath, DatapathError, FlowEntry, FlowPlace, FlowTables, Sweep};
use crate::{
    api::MapReport,
    model::{ServiceId, XdpMode},
    plan::{
        Action,
        slots::{order_of, pages_of},
    },
};

/// A handle to the packet path; clones are handles to the same one, as a new daemon has.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeDatapath(Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(crate) struct State {
    /// What the maps hold; may hold more than anything refers to.
    pub(crate) maps: Contents,
    /// Writes since the log was last taken.
    pub(crate) log: Vec<Action>,
    /// How many more writes succeed; `None`: all.
    pub(crate) writes_left: Option<usize>,
    /// Existing interfaces.
    pub(crate) interfaces: BTreeMap<String, u32>,
    /// Attached ones.
    pub(crate) attached: BTreeMap<String, u32>,
    pub(crate) counters: BTreeMap<u32, BackendCounters>,
    pub(crate) active: BTreeMap<u32, u32>,
    pub(crate) reasons: Vec<u64>,
    /// What the next sweeps find.
    pub(crate) sweep: Sweep,
    pub(crate) sweeps: usize,
    pub(crate) flows: Vec<FlowEntry>,
    pub(crate) destroyed: bool,
}

impl FakeDatapath {
    pub(crate) fn with_interfaces(names: &[&str]) -> Self {
        let fake = Self::default();
        fake.state().interfaces = names.iter().map(|n| (*n).to_owned()).zip(1..).collect();
        fake
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn take_log(&self) -> Vec<Action> {
        std::mem::take(&mut self.state().log)
    }

    fn write(&self, action: Action) -> Result<(), DatapathError> {
        let mut state = self.state();
        match &mut state.writes_left {
            Some(0) => {
                return Err(DatapathError::Kernel {
                    context: "writing".into(),
                    cause: "out of memory".into(),
                });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        state.before(&action);
        action.apply(&mut state.maps);
        state.log.push(action);
        state.check();
        Ok(())
    }
}

impl State {
    /// What must not be touched because somebody may be looking at it.
    fn before(&self, action: &Action) {
        match action {
            Action::SetSource { place, .. } => {
                let used = |b: &Backend| (b.first_source..b.first_source + b.source_places()).contains(place);
                let users: Vec<_> = self
                    .maps
                    .backends
                    .iter()
                    .filter(|(_, b)| used(b))
                    .map(|(i, _)| *i)
                    .collect();
                assert!(users.is_empty(), "{action:?}: backends {users:?} refer to the place");
            }
            Action::WritePages { first, pages } => {
                let previous = self.maps.previous.iter().map(|(s, p)| (s, &p.rotation));
                for (service, rotation) in self.maps.rotations.iter().chain(&self.maps.spills).chain(previous) {
                    let used = pages_of(*rotation);
                    let end = *first as usize + pages.len();
                    let apart = end <= used.first as usize || *first >= used.first + used.len;
                    assert!(apart || used.len == 0, "{action:?}: service {service} uses these pages");
                }
            }
            Action::SetService {
                service: Service { index, .. },
                ..
            } => {
                assert!(
                    self.maps.rotations.contains_key(index),
                    "{action:?}: it has no rotation yet"
                );
            }
            Action::ClearCounters(index) => {
                assert!(!self.maps.backends.contains_key(index), "{action:?}: it is in use");
            }
            Action::SetPrevious { service, previous } => {
                let current = self.maps.rotations.get(service).copied().unwrap_or_default();
                let known = self.maps.previous.get(service).map(|p| p.rotation);
                let kept =
                    previous.rotation.is_empty() || previous.rotation == current || Some(previous.rotation) == known;
                // One of marked slots may be made of both.
                let order = order_of(current, &self.maps.pages).unwrap_or_default();
                let kept = kept || current.is_empty() || order.into_iter().any(is_moved);
                assert!(kept, "{action:?}: that was not in force");
            }
            Action::RemoveService(_)
            | Action::SetBackend { .. }
            | Action::SetSpill { .. }
            | Action::SetRotation { .. } => {}
        }
    }

    /// What holds at every moment: a published service leads to backends of its own that serve and are whole.
    pub(crate) fn check(&self) {
        let maps = &self.maps;
        for (id, Service { index: service, .. }) in &maps.services {
            let rotation = maps.rotations.get(service).copied().unwrap_or_default();
            let order = order_of(rotation, &maps.pages).unwrap_or_else(|| panic!("{id}: pages are missing"));
            let spill = maps.spills.get(service).copied().unwrap_or_default();
            let spill = order_of(spill, &maps.pages).unwrap_or_else(|| panic!("{id}: pages are missing"));
            let named: BTreeSet<u32> = order.into_iter().chain(spill).map(backend_of).collect();
            for slot in named {
                let backend = maps
                    .backends
                    .get(&slot)
                    .unwrap_or_else(|| panic!("{id}: no backend {slot}"));
                assert_eq!(backend.state, BackendState::UP, "{id}: backend {slot} does not serve");
                assert_eq!(backend.service, *service, "{id}: backend {slot} is another service's");
                assert!(backend.link.ifindex > 0, "{id}: backend {slot} has no next hop");
            }
        }
        for (index, backend) in &maps.backends {
            for place in backend.first_source..backend.first_source + backend.source_places() {
                assert!(
                    maps.sources.contains_key(&place),
                    "backend {index}: source {place} is missing"
                );
            }
        }
    }

    /// As a daemon finds it: only what is referred to.
    pub(crate) fn contents(&self) -> Contents {
        let mut contents = self.maps.clone();
        let published: Vec<u32> = contents.services.values().map(|s| s.index).collect();
        contents.rotations.retain(|s, _| published.contains(s));
        contents.spills.retain(|s, _| published.contains(s));
        contents.previous.retain(|s, _| published.contains(s));
        let previous = contents.previous.values().map(|p| &p.rotation);
        let rotations = contents
            .rotations
            .values()
            .chain(contents.spills.values())
            .chain(previous);
        let ranges: Vec<_> = rotations.map(|r| pages_of(*r)).collect();
        contents
            .pages
            .retain(|first, _| ranges.iter().any(|r| r.first == *first && r.len > 0));
        let backends: Vec<_> = contents.backends.values().copied().collect();
        let used = |p: &u32| {
            backends
                .iter()
                .any(|b| (b.first_source..b.first_source + b.source_places()).contains(p))
        };
        contents.sources.retain(|p, _| used(p));
        contents
    }
}

impl Datapath for FakeDatapath {
    fn contents(&self) -> Result<Contents, DatapathError> {
        Ok(self.state().contents())
    }

    fn set_service(&mut self, id: ServiceId, service: Service) -> Result<(), DatapathError> {
        self.write(Action::SetService { id, service })
    }

    fn remove_service(&mut self, id: ServiceId) -> Result<(), DatapathError> {
        self.write(Action::RemoveService(id))
    }

    fn answer_echo(&mut self, _vip: IpAddr, _on: bool) -> Result<(), DatapathError> {
        Ok(())
    }

    fn write_pages(&mut self, first: u32, pages: &[SlotPage]) -> Result<(), DatapathError> {
        let pages = pages.into();
        self.write(Action::WritePages { first, pages })
    }

    fn set_rotation(&mut self, service: u32, rotation: Rotation) -> Result<(), DatapathError> {
        self.write(Action::SetRotation { service, rotation })
    }

    fn set_spill(&mut self, service: u32, rotation: Rotation) -> Result<(), DatapathError> {
        self.write(Action::SetSpill { service, rotation })
    }

    fn set_previous(&mut self, service: u32, previous: Previous) -> Result<(), DatapathError> {
        self.write(Action::SetPrevious { service, previous })
    }

    fn set_backend(&mut self, index: u32, backend: Backend) -> Result<(), DatapathError> {
        self.write(Action::SetBackend { index, backend })
    }

    fn set_source(&mut self, place: u32, address: IpAddr) -> Result<(), DatapathError> {
        self.write(Action::SetSource { place, address })
    }

    fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<Attachment, DatapathError> {
        let mut state = self.state();
        let Some(ifindex) = state.interfaces.get(interface).copied() else {
            return Err(DatapathError::NoInterface(interface.to_owned()));
        };
        state.attached.insert(interface.to_owned(), ifindex);
        Ok(Attachment {
            interface: interface.to_owned(),
            ifindex,
            native: mode != XdpMode::Generic,
            note: None,
        })
    }

    fn detach(&mut self, interface: &str) -> Result<(), DatapathError> {
        self.state().attached.remove(interface);
        Ok(())
    }

    fn destroy(&mut self) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.maps = Contents::default();
        state.attached.clear();
        state.destroyed = true;
        Ok(())
    }

    fn backend_counters(&self, index: u32) -> Result<BackendCounters, DatapathError> {
        Ok(self.state().counters.get(&index).copied().unwrap_or_default())
    }

    fn active(&self, index: u32) -> Result<u32, DatapathError> {
        Ok(self.state().active.get(&index).copied().unwrap_or_default())
    }

    fn set_active(&mut self, index: u32, flows: u32) -> Result<(), DatapathError> {
        self.state().active.insert(index, flows);
        Ok(())
    }

    fn reasons(&self) -> Result<Vec<u64>, DatapathError> {
        let mut reasons = self.state().reasons.clone();
        reasons.resize(lb_common::reason::COUNTERS as usize, 0);
        Ok(reasons)
    }

    fn clear_backend_counters(&mut self, index: u32) -> Result<(), DatapathError> {
        self.write(Action::ClearCounters(index))?;
        self.state().counters.remove(&index);
        Ok(())
    }

    fn maps(&self) -> Result<Vec<MapReport>, DatapathError> {
        Ok(Vec::new())
    }
}

impl FlowTables for FakeDatapath {
    fn sweep_watching(&self, watch: Option<&mut dyn FnMut(&FlowEntry)>) -> Result<Sweep, DatapathError> {
        let mut state = self.state();
        state.sweeps += 1;
        if let Some(watch) = watch {
            state.flows.iter().for_each(watch);
        }
        Ok(state.sweep.clone())
    }

    /// A batch has one flow.
    fn walk(
        &self,
        from: FlowPlace,
        visit: &mut dyn FnMut(&FlowEntry) -> ControlFlow<()>,
    ) -> Result<Option<FlowPlace>, DatapathError> {
        let flows = self.state().flows.clone();
        for (table, flow) in flows.iter().enumerate().skip(from.table) {
            if visit(flow).is_break() && table + 1 < flows.len() {
                let bucket = None;
                return Ok(Some(FlowPlace {
                    table: table + 1,
                    bucket,
                }));
            }
        }
        Ok(None)
    }

    fn kill(&self, wanted: &dyn Fn(&FlowEntry) -> bool) -> Result<u64, DatapathError> {
        let mut state = self.state();
        let before = state.flows.len();
        state.flows.retain(|flow| !wanted(flow));
        Ok((before - state.flows.len()) as u64)
    }

    fn now(&self) -> Result<Tick, DatapathError> {
        Ok(Tick(1000))
    }
}
