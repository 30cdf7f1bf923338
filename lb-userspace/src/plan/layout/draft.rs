//! What the maps shall hold of one service: indices, pages and source addresses are found for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use lb_common::abi::{Backend, BackendState, Previous, Rotation, Rule, SLOTS_PER_PAGE, Service, ServiceFlags};

use super::{Draft, Layout, LayoutError, WantedBackend, WantedService};
use crate::{
    datapath::Contents,
    model::ServiceId,
    plan::{
        maglev::Peer,
        moved::{InForce, Table},
        ranges::Range,
        schedule,
        slots::{self, Pages},
    },
};

impl Layout {
    /// Works out how the maps shall hold a service.
    ///
    /// # Errors
    /// When there is no room for it; then nothing is reserved.
    pub fn draft(&mut self, wanted: &WantedService, now: Duration) -> Result<Draft, LayoutError> {
        let before = self.cut(wanted.id);
        let mut draft = Draft {
            after: Contents::default(),
            before,
        };
        match self.fill(wanted, &draft.before, now) {
            Ok(after) => draft.after = after,
            Err(error) => {
                self.settle(wanted.id, &draft, now);
                return Err(error);
            }
        }
        // Backends of other services may have brought these addresses in.
        let places = draft.after.sources.keys();
        let known = places.filter_map(|p| Some((*p, *self.contents.sources.get(p)?)));
        draft.before.sources.extend(known);
        // A service that had the index before may have left these.
        for Service { index, .. } in draft.after.services.values() {
            let all = &self.contents;
            draft.before.spills.extend(all.spills.get(index).map(|r| (*index, *r)));
            draft
                .before
                .previous
                .extend(all.previous.get(index).map(|p| (*index, *p)));
        }
        Ok(draft)
    }

    /// Works out how the maps look without a service: its backends are left as removed until their flows are gone.
    #[must_use]
    pub fn draft_removal(&self, id: ServiceId) -> Draft {
        let before = self.cut(id);
        let mut after = Contents {
            backends: before.backends.clone(),
            sources: before.sources.clone(),
            ..Contents::default()
        };
        for backend in after.backends.values_mut() {
            backend.state = BackendState::REMOVED;
        }
        Draft { before, after }
    }

    /// Backends that name a service that is not there and are not marked as removed, as a daemon leaves them that was
    /// killed while it removed a service.
    #[must_use]
    pub fn draft_orphans(&self) -> Draft {
        let services: BTreeSet<u32> = self.contents.services.values().map(|s| s.index).collect();
        let orphan = |b: &Backend| !services.contains(&b.service) && b.state != BackendState::REMOVED;
        let orphans = self
            .contents
            .backends
            .iter()
            .filter(|(_, b)| orphan(b))
            .map(|(i, b)| (*i, *b));
        let mut before = Contents {
            backends: orphans.collect(),
            ..Contents::default()
        };
        let mut after = before.clone();
        // Whatever is left of their rotations is unknown; let it be emptied.
        before.rotations = before
            .backends
            .values()
            .map(|b| (b.service, Rotation::new(0, 1, Rule::ROUND_ROBIN)))
            .collect();
        for backend in after.backends.values_mut() {
            backend.state = BackendState::REMOVED;
        }
        Draft { before, after }
    }

    /// A service with all that belongs to it, as the maps hold it.
    pub(super) fn cut(&self, id: ServiceId) -> Contents {
        let all = &self.contents;
        let mut cut = Contents::default();
        for index in self.backends_of(id) {
            if let Some(backend) = all.backends.get(&index) {
                cut.backends.insert(index, *backend);
                self.cut_sources(backend, &mut cut);
            }
        }
        cut.services.extend(self.keys_of(id));
        // A service that is only half there may have a rotation already, or still.
        let Some(index) = self.services.get(&id) else {
            return cut;
        };
        cut.rotations.extend(all.rotations.get(index).map(|r| (*index, *r)));
        cut.spills.extend(all.spills.get(index).map(|r| (*index, *r)));
        cut.previous.extend(all.previous.get(index).map(|p| (*index, *p)));
        let previous = cut.previous.values().map(|previous| &previous.rotation);
        for rotation in cut.rotations.values().chain(cut.spills.values()).chain(previous) {
            cut.pages.extend(pages_in(*rotation, &all.pages));
        }
        cut
    }

    /// What is in force of a service whose flows shall be stored only where their slot moved.
    fn in_force(&self, service: u32, before: &Contents) -> InForce {
        let table = |rotation: &Rotation| {
            let slots = slots::order_of(*rotation, &before.pages)?;
            Some(Table {
                rule: rotation.rule(),
                slots,
            })
        };
        let moved_only = |entry: &Service| entry.flags.any(ServiceFlags::MOVED_ONLY);
        let rotation = before.rotations.get(&service).filter(|rotation| !rotation.is_empty());
        InForce {
            current: rotation.and_then(table),
            before: before
                .previous
                .get(&service)
                .and_then(|previous| table(&previous.rotation)),
            all_stored: !before.services.is_empty() && !before.services.values().all(moved_only),
        }
    }

    /// How the maps hold a service with marks at these slots of its table alone.
    pub fn draft_marks(&mut self, id: ServiceId, marks: &BTreeSet<u32>, now: Duration) -> Result<Draft, LayoutError> {
        let before = self.cut(id);
        let mut after = before.clone();
        let Some(index) = self.services.get(&id).copied() else {
            return Ok(Draft { before, after });
        };
        let in_force = self.in_force(index, &before);
        if let (Some(table), Some(current)) = (in_force.current, before.rotations.get(&index).copied()) {
            let marked = table.marked_at(marks);
            after.pages = BTreeMap::new();
            let previous = before.previous.values().map(|previous| previous.rotation);
            for rotation in before.spills.values().copied().chain(previous) {
                after.pages.extend(pages_in(rotation, &before.pages));
            }
            let rotation = self.place(|_| marked.in_pages(), Some(current), &before, &mut after, now)?;
            after.rotations.insert(index, rotation);
        }
        Ok(Draft { before, after })
    }

    /// What leads to a service.
    fn keys_of(&self, id: ServiceId) -> impl Iterator<Item = (ServiceId, Service)> + '_ {
        let index = self.services.get(&id).copied();
        let of_vip = self.contents.services.range(id..);
        of_vip
            .take_while(move |(key, _)| key.vip.ip() == id.vip.ip())
            .filter(move |(_, service)| Some(service.index) == index)
            .map(|(key, service)| (*key, *service))
    }

    fn cut_sources(&self, backend: &Backend, cut: &mut Contents) {
        let places = backend.first_source..backend.first_source.saturating_add(backend.source_places());
        cut.sources
            .extend(self.contents.sources.range(places).map(|(p, a)| (*p, *a)));
    }

    fn fill(&mut self, wanted: &WantedService, before: &Contents, now: Duration) -> Result<Contents, LayoutError> {
        let service = self.service_index(wanted.id)?;
        let entry = Service {
            index: service,
            ..wanted.entry
        };
        let mut after = Contents {
            services: wanted.keys.iter().map(|key| (*key, entry)).collect(),
            backends: before.backends.clone(),
            sources: before.sources.clone(),
            ..Contents::default()
        };
        for backend in after.backends.values_mut() {
            backend.state = BackendState::REMOVED;
        }
        let mut indices = Vec::with_capacity(wanted.backends.len());
        for backend in &wanted.backends {
            indices.push(self.fill_backend(service, backend, &mut after, now)?);
        }
        self.fill_schedules(service, wanted, &indices, before, &mut after, now)?;
        Ok(after)
    }

    fn fill_backend(
        &mut self,
        service: u32,
        wanted: &WantedBackend,
        after: &mut Contents,
        now: Duration,
    ) -> Result<u32, LayoutError> {
        let range = self
            .sources
            .place(&wanted.sources, now)
            .ok_or(LayoutError::Sources(self.capacities.sources))?;
        after
            .sources
            .extend((range.first..).zip(wanted.sources.iter().copied()));
        let members = self.members.entry(service).or_default();
        let index = match members.get(&wanted.address) {
            Some(index) => *index,
            None => {
                let full = LayoutError::Backends(self.capacities.backends);
                let index = self.backend_indices.allocate().ok_or(full)?;
                members.insert(wanted.address, index);
                index
            }
        };
        let entry = Backend {
            address: lb_common::net::to_any(wanted.address.ip()),
            port: lb_common::net::Be16::new(wanted.address.port()),
            family: if wanted.address.is_ipv4() { 4 } else { 6 },
            first_source: range.first,
            sources: range.len.saturating_mul(wanted.spread),
            service,
            ..wanted.entry
        };
        after.backends.insert(index, entry);
        Ok(index)
    }

    /// The schedule of the tier that serves, that of the next one, and the one that goes.
    fn fill_schedules(
        &mut self,
        service: u32,
        wanted: &WantedService,
        indices: &[u32],
        before: &Contents,
        after: &mut Contents,
        now: Duration,
    ) -> Result<(), LayoutError> {
        let peers = |share: fn(&WantedBackend) -> u32| -> Vec<Peer> {
            let peer = |b: &WantedBackend| Peer {
                address: b.address,
                weight: share(b),
            };
            wanted.backends.iter().map(peer).collect()
        };
        let current = before.rotations.get(&service).copied();
        let in_turn = |peers: &[Peer], cap| schedule::fill(wanted.filling, peers, cap);
        let fill = |(rule, order): (Rule, Vec<u32>)| (rule, slots::len(&order), slots::paginate(&order, indices));
        let serving = peers(|b| b.share);
        let moved_only = wanted.entry.flags.any(ServiceFlags::MOVED_ONLY);
        let in_force = moved_only.then(|| self.in_force(service, before));
        let marked = |cap| match (in_turn(&serving, cap), &in_force) {
            ((rule, order), Some(in_force)) if rule.by_hash() => {
                let slots = slots::named(&order, indices);
                in_force.mark(Table { rule, slots }).in_pages()
            }
            (order, _) => fill(order),
        };
        let rotation = self.place(marked, current, before, after, now)?;
        let next_tier = peers(|b| b.spill);
        let spill = before.spills.get(&service).copied();
        match self.place(|cap| fill(in_turn(&next_tier, cap)), spill, before, after, now) {
            Ok(spill) => after.spills.extend((!spill.is_empty()).then_some((service, spill))),
            Err(error) => {
                if current != Some(rotation) {
                    self.pages.retire(slots::pages_of(rotation), now);
                }
                return Err(error);
            }
        }
        after.rotations.insert(service, rotation);
        if let Some(until) = wanted.previous_until {
            let kept = before.previous.get(&service).copied();
            let replaced = match in_force {
                Some(in_force) if !in_force.all_stored => {
                    let new = Table {
                        rule: rotation.rule(),
                        slots: slots::order_of(rotation, &after.pages).unwrap_or_default(),
                    };
                    let changed = in_force.is_changed_by(&new);
                    let origin = changed
                        .then(|| in_force.origin())
                        .flatten()
                        .filter(|origin| origin.rule.by_hash());
                    origin.and_then(|origin| self.place_origin(&origin, (current, kept), before, after, now))
                }
                _ => current.filter(|old| *old != rotation && old.rule().by_hash() && !old.is_empty()),
            };
            let replaced = replaced.map(|rotation| Previous {
                rotation,
                until,
                pad: 0,
            });
            if let Some(previous) = replaced.or(kept) {
                after.pages.extend(pages_in(previous.rotation, &before.pages));
                after.previous.insert(service, previous);
            }
        }
        Ok(())
    }

    /// Where the table stands that says where flows from before go: that in force or the one from before it, if either says the
    /// same, else in pages of its own. Where those are scarce, the one in force has to do.
    fn place_origin(
        &mut self,
        origin: &Table,
        (current, kept): (Option<Rotation>, Option<Previous>),
        before: &Contents,
        after: &mut Contents,
        now: Duration,
    ) -> Option<Rotation> {
        let says = |rotation: &Rotation| {
            let slots = slots::order_of(*rotation, &before.pages);
            let table = slots.map(|slots| Table {
                rule: rotation.rule(),
                slots,
            });
            table.is_some_and(|table| table.plain() == *origin)
        };
        let current = current.filter(|rotation| !rotation.is_empty());
        let standing = [current, kept.map(|kept| kept.rotation)];
        if let Some(rotation) = standing.into_iter().flatten().find(says) {
            return Some(rotation);
        }
        let (rule, len, pages) = origin.in_pages();
        let Some(range) = self.pages.allocate(slots::pages_for(len), now) else {
            return current;
        };
        after.pages.insert(range.first, pages);
        Some(Rotation::new(range.first * SLOTS_PER_PAGE, len, rule))
    }

    /// Leaves a schedule that is the same where it is. A new one gets pages of its own; where those are scarce, a
    /// coarser one will do.
    fn place(
        &mut self,
        fill: impl Fn(u32) -> (Rule, u32, Pages),
        current: Option<Rotation>,
        before: &Contents,
        after: &mut Contents,
        now: Duration,
    ) -> Result<Rotation, LayoutError> {
        let mut cap = schedule::MAX_SLOTS;
        loop {
            let (rule, len, pages) = fill(cap);
            if let Some(rotation) = current
                && rotation.rule() == rule
                && slots::is_order(rotation, &before.pages, &pages, len)
            {
                after.pages.extend(pages_in(rotation, &before.pages));
                return Ok(rotation);
            }
            if len == 0 {
                return Ok(Rotation::default());
            }
            if let Some(range) = self.pages.allocate(slots::pages_for(len), now) {
                after.pages.insert(range.first, pages);
                return Ok(Rotation::new(range.first * SLOTS_PER_PAGE, len, rule));
            }
            cap = cap.min(len) / 2;
            if rule != Rule::ROUND_ROBIN || cap < SLOTS_PER_PAGE {
                return Err(LayoutError::Pages(self.capacities.pages));
            }
        }
    }

    fn service_index(&mut self, id: ServiceId) -> Result<u32, LayoutError> {
        if let Some(index) = self.services.get(&id) {
            return Ok(*index);
        }
        let full = LayoutError::Services(self.capacities.services);
        let index = self.service_indices.allocate().ok_or(full)?;
        self.services.insert(id, index);
        Ok(index)
    }
}

/// The pages of a schedule.
fn pages_in(rotation: Rotation, pages: &BTreeMap<u32, Pages>) -> Option<(u32, Pages)> {
    let Range { first, len } = slots::pages_of(rotation);
    let pages = pages.get(&first).filter(|_| len > 0)?;
    Some((first, Arc::clone(pages)))
}
