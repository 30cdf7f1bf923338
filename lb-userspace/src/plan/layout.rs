//! Where everything stands in the maps: which index, which page, which place in the source arena. Pure.
//!
//! A [`Layout`] mirrors what was written, write by write, and turns what is wanted of one service into a pair of
//! [`Contents`] cuts, before and after, for [`super::diff`]. It is told of each write ([`Layout::wrote`]) and of the
//! end of an attempt ([`Layout::settle`]), whether that succeeded or broke off: what was reserved and did not reach the
//! maps is free again, what they no longer refer to is given up.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::abi::{Backend, BackendState, Rotation, SLOTS_PER_PAGE};

use super::{
    diff::Action,
    indices::Indices,
    ranges::{Range, RangeAllocator},
    schedule, slots,
    sources::{self, SourceArena},
};
use crate::{datapath::Contents, model::ServiceId};

/// Sizes of the maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacities {
    /// Services.
    pub services: u32,
    /// Backends, counted once per service.
    pub backends: u32,
    /// Pages of the slot arena.
    pub pages: u32,
    /// Addresses in the source arena.
    pub sources: u32,
}

/// No room in the maps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Every service index is taken.
    #[error(
        "there is room for {0} services: raise `limits.services` in the configuration, then `lb detach` and start again"
    )]
    Services(u32),
    /// Every backend index is taken.
    #[error(
        "there is room for {0} backends, removed ones that still have flows included: wait until those flows have ended, or raise `limits.backends` in the configuration, then `lb detach` and start again"
    )]
    Backends(u32),
    /// No free run of slot pages.
    #[error("the slot arena of {0} pages is full: use smaller weights, or weights with a common divisor")]
    Pages(u32),
    /// No free run of source addresses.
    #[error("the source arena of {0} addresses is full: configure fewer source addresses")]
    Sources(u32),
}

/// A service as the maps shall hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedService {
    /// Identity.
    pub id: ServiceId,
    /// Its backends that are to have an entry.
    pub backends: Vec<WantedBackend>,
}

/// A backend as the maps shall hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedBackend {
    /// Address and port: its identity within the service.
    pub address: SocketAddr,
    /// Share of new flows now: 0 unless it is in rotation.
    pub share: u32,
    /// Source addresses that it uses.
    pub sources: Vec<IpAddr>,
    /// The entry; address, port, family, service and source addresses are filled in here.
    pub entry: Backend,
}

/// What to bring about: [`super::diff`] of these two.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    /// The service as it stands.
    pub before: Contents,
    /// The service as it shall be.
    pub after: Contents,
}

/// Everything's place.
#[derive(Debug)]
pub struct Layout {
    capacities: Capacities,
    contents: Contents,
    service_indices: Indices,
    backend_indices: Indices,
    pages: RangeAllocator,
    sources: SourceArena,
    /// Indices of services, those included that were removed but still have backends with flows.
    services: BTreeMap<ServiceId, u32>,
    /// Backends by service index, removed ones included.
    members: BTreeMap<u32, BTreeMap<SocketAddr, u32>>,
}

impl Layout {
    /// Takes over what the maps hold.
    #[must_use]
    pub fn adopt(contents: Contents, capacities: Capacities, now: Duration) -> Self {
        let mut members: BTreeMap<u32, BTreeMap<SocketAddr, u32>> = BTreeMap::new();
        let mut backend_indices = Indices::new(capacities.backends, contents.backends.keys().copied());
        for (index, backend) in &contents.backends {
            let removed = backend.state == BackendState::REMOVED;
            if removed {
                backend_indices.retire(*index, now);
            }
            let Some(address) = address_of(backend) else { continue };
            let members = members.entry(backend.service).or_default();
            if !removed || !members.contains_key(&address) {
                members.insert(address, *index);
            }
        }
        let in_use = contents.services.values().chain(members.keys()).copied();
        Self {
            capacities,
            service_indices: Indices::new(capacities.services, in_use),
            backend_indices,
            pages: RangeAllocator::new(
                capacities.pages,
                contents.rotations.values().map(|r| slots::pages_of(*r)),
            ),
            sources: SourceArena::adopt(capacities.sources, &contents),
            services: contents.services.clone(),
            members,
            contents,
        }
    }

    /// What the maps hold.
    #[must_use]
    pub const fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The index and entry of a backend, if it has one.
    #[must_use]
    pub fn backend(&self, id: ServiceId, address: SocketAddr) -> Option<(u32, &Backend)> {
        let index = *self.members.get(self.services.get(&id)?)?.get(&address)?;
        Some((index, self.contents.backends.get(&index)?))
    }

    /// Indices of a service's backends, removed ones included.
    pub fn backends_of(&self, id: ServiceId) -> impl Iterator<Item = u32> + '_ {
        let index = self.services.get(&id);
        let members = index.and_then(|i| self.members.get(i));
        members.into_iter().flat_map(|m| m.values().copied())
    }

    /// Which backends take turns in a service's schedule.
    #[must_use]
    pub fn in_rotation(&self, id: ServiceId) -> BTreeSet<u32> {
        let index = self.contents.services.get(&id);
        let rotation = index
            .and_then(|i| self.contents.rotations.get(i))
            .copied()
            .unwrap_or_default();
        slots::order_of(rotation, &self.contents.pages)
            .unwrap_or_default()
            .into_iter()
            .collect()
    }

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
        let services: BTreeSet<u32> = self.contents.services.values().copied().collect();
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
            .map(|b| (b.service, Rotation::new(0, 1)))
            .collect();
        for backend in after.backends.values_mut() {
            backend.state = BackendState::REMOVED;
        }
        Draft { before, after }
    }

    /// Takes note of a write.
    pub fn wrote(&mut self, action: &Action) {
        action.apply(&mut self.contents);
    }

    /// Ends an attempt to bring about a draft for a service, successful or not.
    pub fn settle(&mut self, id: ServiceId, draft: &Draft, now: Duration) {
        self.settle_pages(id, draft, now);
        if let Some(index) = self.services.get(&id).copied() {
            self.settle_members(index, now);
            self.drop_service_if_unused(id, index);
        }
    }

    /// Gives up orphans after [`Layout::draft_orphans`] was brought about.
    pub fn settle_orphans(&mut self, draft: &Draft, now: Duration) {
        for index in draft.after.backends.keys() {
            self.backend_indices.retire(*index, now);
        }
    }

    /// Removed backends that a sweep, begun at `began`, found no flow of. Free each with a write, then say
    /// [`Layout::freed`].
    #[must_use]
    pub fn unused(&self, began: Duration, has_flows: impl Fn(u32) -> bool) -> Vec<u32> {
        self.backend_indices.unused(began, has_flows)
    }

    /// A removed backend's entry was freed.
    pub fn freed(&mut self, index: u32) {
        self.backend_indices.release(index);
        for members in self.members.values_mut() {
            members.retain(|_, i| *i != index);
        }
        let ids: Vec<_> = self.services.iter().map(|(id, i)| (*id, *i)).collect();
        for (id, service) in ids {
            self.drop_service_if_unused(id, service);
        }
        let alive: BTreeSet<u32> = self.services.values().copied().collect();
        let nameless = self.members.extract_if(.., |s, m| m.is_empty() && !alive.contains(s));
        for (service, _) in nameless {
            self.service_indices.release(service);
        }
    }

    /// Gives up source addresses that no backend uses any more.
    pub fn collect_garbage(&mut self, now: Duration) {
        self.sources.collect_garbage(&self.contents, now);
    }

    /// A service with all that belongs to it, as the maps hold it.
    fn cut(&self, id: ServiceId) -> Contents {
        let all = &self.contents;
        let mut cut = Contents::default();
        for index in self.backends_of(id) {
            if let Some(backend) = all.backends.get(&index) {
                cut.backends.insert(index, *backend);
                self.cut_sources(backend, &mut cut);
            }
        }
        cut.services.extend(all.services.get(&id).map(|index| (id, *index)));
        // A service that is only half there may have a rotation already, or still.
        let Some(index) = self.services.get(&id) else {
            return cut;
        };
        if let Some(rotation) = all.rotations.get(index) {
            cut.rotations.insert(*index, *rotation);
            let Range { first, len } = slots::pages_of(*rotation);
            cut.pages
                .extend(all.pages.range(first..first.saturating_add(len)).map(|(n, p)| (*n, *p)));
        }
        cut
    }

    fn cut_sources(&self, backend: &Backend, cut: &mut Contents) {
        let places = backend.first_source..backend.first_source.saturating_add(backend.sources);
        cut.sources
            .extend(self.contents.sources.range(places).map(|(p, a)| (*p, *a)));
    }

    fn fill(&mut self, wanted: &WantedService, before: &Contents, now: Duration) -> Result<Contents, LayoutError> {
        let service = self.service_index(wanted.id)?;
        let mut after = Contents {
            services: [(wanted.id, service)].into(),
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
        let shares: Vec<u32> = wanted.backends.iter().map(|b| b.share).collect();
        self.fill_schedule(service, &indices, &shares, before, &mut after, now)?;
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
            sources: range.len,
            service,
            ..wanted.entry
        };
        after.backends.insert(index, entry);
        Ok(index)
    }

    /// Leaves a schedule that is the same where it is. A new one gets pages of its own; where those are scarce, a
    /// coarser one will do.
    fn fill_schedule(
        &mut self,
        service: u32,
        indices: &[u32],
        shares: &[u32],
        before: &Contents,
        after: &mut Contents,
        now: Duration,
    ) -> Result<(), LayoutError> {
        let mut cap = schedule::MAX_SLOTS;
        loop {
            let turns = schedule::turns(shares, cap);
            let order: Vec<u32> = turns.iter().filter_map(|turn| indices.get(*turn).copied()).collect();
            let current = before.rotations.get(&service).copied();
            if let Some(rotation) = current
                && slots::order_of(rotation, &before.pages).is_some_and(|old| old == order)
            {
                after.rotations.insert(service, rotation);
                after.pages.clone_from(&before.pages);
                return Ok(());
            }
            let len = u32::try_from(order.len()).unwrap_or(u32::MAX);
            if len == 0 {
                after.rotations.insert(service, Rotation::default());
                return Ok(());
            }
            if let Some(range) = self.pages.allocate(slots::pages_for(len), now) {
                after
                    .rotations
                    .insert(service, Rotation::new(range.first * SLOTS_PER_PAGE, len));
                after.pages.extend((range.first..).zip(slots::paginate(&order)));
                return Ok(());
            }
            cap = cap.min(len) / 2;
            if cap < SLOTS_PER_PAGE {
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

    fn settle_pages(&mut self, id: ServiceId, draft: &Draft, now: Duration) {
        let in_use = self
            .services
            .get(&id)
            .and_then(|i| self.contents.rotations.get(i))
            .copied();
        let rotations = draft.before.rotations.values().chain(draft.after.rotations.values());
        let ranges: BTreeSet<Range> = rotations.map(|r| slots::pages_of(*r)).filter(|r| r.len > 0).collect();
        for range in ranges {
            if in_use.is_none_or(|r| slots::pages_of(r) != range) {
                self.pages.retire(range, now);
                for number in range.first..range.first.saturating_add(range.len) {
                    self.contents.pages.remove(&number);
                }
            }
        }
    }

    fn settle_members(&mut self, service: u32, now: Duration) {
        let Some(members) = self.members.get_mut(&service) else {
            return;
        };
        members.retain(|_, index| match self.contents.backends.get(index).map(|b| b.state) {
            None => {
                self.backend_indices.release(*index);
                false
            }
            Some(BackendState::REMOVED) => {
                self.backend_indices.retire(*index, now);
                true
            }
            Some(_) => {
                self.backend_indices.revive(*index);
                true
            }
        });
    }

    fn drop_service_if_unused(&mut self, id: ServiceId, index: u32) {
        let published = self.contents.services.contains_key(&id);
        if !published && self.members.get(&index).is_none_or(BTreeMap::is_empty) {
            self.members.remove(&index);
            self.contents.rotations.remove(&index);
            self.services.remove(&id);
            self.service_indices.release(index);
        }
    }
}

/// Address and port of an entry; `None` for one that is not in use.
#[must_use]
pub fn address_of(backend: &Backend) -> Option<SocketAddr> {
    use lb_common::net::{Addr4, Addr6, Address};
    let ip = match backend.family {
        4 => IpAddr::V4(Addr4::from_any(backend.address).into()),
        6 => IpAddr::V6(Addr6::from_any(backend.address).into()),
        _ => return None,
    };
    Some(SocketAddr::new(ip, backend.port.get()))
}

/// The source addresses of an entry.
#[must_use]
pub fn sources_of(contents: &Contents, backend: &Backend) -> Vec<IpAddr> {
    let range = Range {
        first: backend.first_source,
        len: backend.sources,
    };
    sources::addresses(contents, range).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        controller::execute::execute_action,
        datapath::{Datapath, fake::FakeDatapath},
        model::Protocol,
        plan::diff,
    };

    const SMALL: Capacities = Capacities {
        services: 4,
        backends: 12,
        pages: 8,
        sources: 6,
    };

    fn id(port: u16) -> ServiceId {
        ServiceId {
            vip: ([10, 0, 0, 1], port).into(),
            protocol: Protocol::Tcp,
        }
    }

    fn backend(last: u8, share: u32, up: bool, source: u8) -> WantedBackend {
        WantedBackend {
            address: ([10, 0, 1, last], 80).into(),
            share: if up { share } else { 0 },
            sources: (0..source).map(|s| IpAddr::from([10, 0, 2, s])).collect(),
            entry: Backend {
                state: if up { BackendState::UP } else { BackendState::DOWN },
                link: lb_common::abi::Link {
                    ifindex: 1,
                    ..Default::default()
                },
                ..Backend::default()
            },
        }
    }

    /// A step: the service wanted so, or gone; a write that fails perhaps; time that goes by; whether a sweep follows.
    #[derive(Debug, Clone)]
    struct Step {
        port: u16,
        wanted: Option<Vec<WantedBackend>>,
        fails_after: Option<usize>,
        wait: u64,
        sweep: bool,
    }

    fn step() -> impl Strategy<Value = Step> {
        let backends = proptest::collection::btree_map(0u8..5, (0u32..70, any::<bool>(), 0u8..3), 0..5);
        let wanted = backends.prop_map(|all| all.into_iter().map(|(n, (w, up, s))| backend(n, w, up, s)).collect());
        (
            1u16..6,
            proptest::option::weighted(0.8, wanted),
            proptest::option::weighted(0.3, 0usize..8),
            0u64..150,
            any::<bool>(),
        )
            .prop_map(|(port, wanted, fails_after, wait, sweep)| Step {
                port,
                wanted,
                fails_after,
                wait,
                sweep,
            })
    }

    fn bring_about(fake: &mut FakeDatapath, layout: &mut Layout, draft: &Draft) -> bool {
        diff(&draft.before, &draft.after).into_iter().all(|action| {
            let done = execute_action(fake, &action).is_ok();
            if done {
                layout.wrote(&action);
            }
            done
        })
    }

    fn sweep(fake: &mut FakeDatapath, layout: &mut Layout, now: Duration) {
        for index in layout.unused(now, |_| false) {
            fake.set_backend(index, Backend::default()).unwrap();
            layout.wrote(&Action::SetBackend {
                index,
                backend: Backend::default(),
            });
            layout.freed(index);
        }
        layout.collect_garbage(now);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// However services come, change and go, and wherever writes fail: at no write do packets see half a change (the
        /// fake asserts it at each), and what is brought about is what was wanted.
        #[test]
        fn no_packet_sees_half_a_change(steps in proptest::collection::vec(step(), 1..40)) {
            let mut fake = FakeDatapath::default();
            let mut layout = Layout::adopt(Contents::default(), SMALL, Duration::ZERO);
            let mut now = Duration::from_secs(1);
            for Step { port, wanted, fails_after, wait, sweep: swept } in steps {
                let id = id(port);
                now += Duration::from_millis(wait);
                fake.state().writes_left = fails_after;
                let draft = match wanted {
                    Some(backends) => layout.draft(&WantedService { id, backends }, now),
                    None => Ok(layout.draft_removal(id)),
                };
                if let Ok(draft) = draft {
                    let done = bring_about(&mut fake, &mut layout, &draft);
                    layout.settle(id, &draft, now);
                    if done {
                        let mut got = layout.cut(id);
                        got.rotations.retain(|_, r| !r.is_empty() || !got.services.is_empty());
                        prop_assert_eq!(&got.services, &draft.after.services);
                        prop_assert_eq!(&got.rotations, &draft.after.rotations);
                        prop_assert_eq!(&got.pages, &draft.after.pages);
                        prop_assert_eq!(&got.backends, &draft.after.backends);
                    }
                }
                fake.state().writes_left = None;
                if swept {
                    sweep(&mut fake, &mut layout, now);
                }
                // A new daemon finds the same.
                let found = fake.contents().unwrap();
                prop_assert_eq!(&found.services, &layout.contents.services);
                prop_assert_eq!(&found.backends, &layout.contents.backends);
                for (number, page) in &found.pages {
                    prop_assert_eq!(layout.contents.pages.get(number), Some(page));
                }
            }
            // Nothing was lost: with all services gone and their flows over, everything is free.
            let ids: Vec<_> = layout.services.keys().copied().collect();
            for id in ids {
                let draft = layout.draft_removal(id);
                prop_assert!(bring_about(&mut fake, &mut layout, &draft));
                layout.settle(id, &draft, now);
            }
            now += Duration::from_secs(1);
            sweep(&mut fake, &mut layout, now);
            let left = fake.contents().unwrap();
            prop_assert_eq!(&left.backends, &BTreeMap::new());
            prop_assert_eq!(layout.pages.available(), u64::from(SMALL.pages));
            prop_assert!(layout.services.is_empty() && layout.members.is_empty());
            prop_assert!((0..SMALL.backends).all(|_| layout.backend_indices.allocate().is_some()));
            prop_assert!((0..SMALL.services).all(|_| layout.service_indices.allocate().is_some()));
        }

        /// A layout that adopts what another left writes nothing for the same wish.
        #[test]
        fn adoption_writes_nothing(
            wishes in proptest::collection::btree_map(1u16..4, proptest::collection::btree_map(0u8..3, (1u32..9, any::<bool>(), 0u8..3), 0..3), 1..3),
        ) {
            let mut fake = FakeDatapath::default();
            let mut layout = Layout::adopt(Contents::default(), SMALL, Duration::ZERO);
            let now = Duration::ZERO;
            let wanted: Vec<_> = wishes.into_iter().map(|(port, backends)| WantedService {
                id: id(port),
                backends: backends.into_iter().map(|(n, (w, up, s))| backend(n, w, up, s)).collect(),
            }).collect();
            for service in &wanted {
                let draft = layout.draft(service, now).unwrap();
                prop_assert!(bring_about(&mut fake, &mut layout, &draft));
                layout.settle(service.id, &draft, now);
            }
            let mut second = Layout::adopt(fake.contents().unwrap(), SMALL, now);
            for service in &wanted {
                let draft = second.draft(service, now).unwrap();
                prop_assert_eq!(diff(&draft.before, &draft.after), []);
            }
        }
    }

    #[test]
    fn a_removed_backend_that_comes_back_has_its_index_again() {
        let mut fake = FakeDatapath::default();
        let mut layout = Layout::adopt(Contents::default(), SMALL, Duration::ZERO);
        let mut want = |backends: Vec<WantedBackend>| {
            let wanted = WantedService { id: id(1), backends };
            let draft = layout.draft(&wanted, Duration::ZERO).unwrap();
            assert!(bring_about(&mut fake, &mut layout, &draft));
            layout.settle(id(1), &draft, Duration::ZERO);
            layout.unused(Duration::from_secs(9), |_| false)
        };
        assert_eq!(want(vec![backend(1, 1, true, 0), backend(2, 1, true, 0)]), [0; 0]);
        assert_eq!(want(vec![backend(1, 1, true, 0)]), [1]);
        assert_eq!(want(vec![backend(1, 1, true, 0), backend(2, 1, true, 0)]), [0; 0]);
    }
}
