//! Where everything stands in the maps: which index, which page, which place in the source arena. Pure.
//!
//! A [`Layout`] mirrors what was written, write by write, and turns what is wanted of one service into a pair of
//! [`Contents`] cuts, before and after, for [`super::diff()`]. It is told of each write ([`Layout::wrote`]) and of the
//! end of an attempt ([`Layout::settle`]), whether that succeeded or broke off: what was reserved and did not reach the
//! maps is free again, what they no longer refer to is given up.

mod draft;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::{
    abi::{Backend, BackendState, Previous, Rotation, Service, ServiceFlags},
    direct,
    flow::Tick,
};

use super::{
    diff::Action,
    indices::Indices,
    moved::Table,
    ranges::{Range, RangeAllocator},
    schedule::Filling,
    slots,
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
    #[error(
        "the slot arena of {0} pages is full, the tables before recent changes included: raise `limits.slots` in the configuration, then `lb detach` and start again; or use a smaller `maglev-table-size`, smaller weights, or weights with a common divisor"
    )]
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
    /// What leads to it; the first is its identity.
    pub keys: Vec<ServiceId>,
    /// Its entry; the index is filled in here.
    pub entry: Service,
    /// How its slots are filled.
    pub filling: Filling,
    /// Until when a table that is replaced now counts for flows that are not in the flow table; `None`: not at all.
    pub previous_until: Option<Tick>,
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
    /// Its share of new flows while every backend of the tier that serves is full.
    pub spill: u32,
    /// Source addresses that it uses.
    pub sources: Vec<IpAddr>,
    /// How many consecutive addresses each of these stands for: more than one only in tunnels.
    pub spread: u32,
    /// The entry; address, port, family, service and source addresses are filled in here.
    pub entry: Backend,
}

/// What to bring about: [`super::diff()`] of these two.
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
        // Keys come in order, and the first of a service is its identity.
        let mut services = BTreeMap::new();
        let mut identified = BTreeSet::new();
        for (key, Service { index, .. }) in &contents.services {
            if identified.insert(*index) {
                services.insert(*key, *index);
            }
        }
        let in_use = identified.into_iter().chain(members.keys().copied());
        Self {
            capacities,
            service_indices: Indices::new(capacities.services, in_use),
            backend_indices,
            pages: RangeAllocator::new(
                capacities.pages,
                ranges_of(contents.rotations.values(), &contents.spills, &contents.previous),
            ),
            sources: SourceArena::adopt(capacities.sources, &contents),
            services,
            members,
            contents,
        }
    }

    /// What the maps hold.
    #[must_use]
    pub const fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Services that packets find.
    pub fn published(&self) -> impl Iterator<Item = ServiceId> + '_ {
        let published = |id: &&ServiceId| self.contents.services.contains_key(id);
        self.services.keys().filter(published).copied()
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
            .and_then(|s| self.contents.rotations.get(&s.index))
            .copied()
            .unwrap_or_default();
        slots::order_of(rotation, &self.contents.pages)
            .unwrap_or_default()
            .into_iter()
            .map(direct::backend_of)
            .collect()
    }

    /// Tables with marks of services whose flows are stored only where their slot moved, by service index, once no table from before
    /// counts any more: what is opened from then on goes where its slot says.
    #[must_use]
    pub fn marked(&self, now: Tick) -> BTreeMap<u32, (ServiceId, Rotation, Table)> {
        let contents = &self.contents;
        let marked = self.services.iter().filter_map(|(id, index)| {
            let entry = contents.services.get(id)?;
            let waits = contents.previous.get(index).is_some_and(|p| !p.until.passed(now));
            let rotation = *contents.rotations.get(index)?;
            if waits || !entry.flags.any(ServiceFlags::MOVED_ONLY) || !rotation.rule().by_hash() {
                return None;
            }
            let table = Table {
                rule: rotation.rule(),
                slots: slots::order_of(rotation, &contents.pages)?,
            };
            table.is_marked().then_some((*index, (*id, rotation, table)))
        });
        marked.collect()
    }

    /// Whether a service's slots are chosen by a hash, or were before the last change.
    #[must_use]
    pub fn is_hashed(&self, id: ServiceId) -> bool {
        self.services.get(&id).is_some_and(|index| {
            let rotation = self.contents.rotations.get(index);
            rotation.is_some_and(|r| r.rule().by_hash()) || self.contents.previous.contains_key(index)
        })
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

    /// The entries of removed backends were freed.
    pub fn freed(&mut self, indices: &BTreeSet<u32>) {
        for index in indices {
            self.backend_indices.release(*index);
        }
        for members in self.members.values_mut() {
            members.retain(|_, index| !indices.contains(index));
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

    fn settle_pages(&mut self, id: ServiceId, draft: &Draft, now: Duration) {
        let all = &self.contents;
        let index = self.services.get(&id);
        let one = |map: &BTreeMap<u32, Rotation>| index.and_then(|i| map.get(i)).copied();
        let previous = index.and_then(|i| all.previous.get(i)).map(|p| p.rotation);
        let in_use: BTreeSet<Range> = [one(&all.rotations), one(&all.spills), previous]
            .into_iter()
            .flatten()
            .map(slots::pages_of)
            .collect();
        let touched = |c: &Contents| ranges_of(c.rotations.values(), &c.spills, &c.previous);
        let touched: BTreeSet<Range> = touched(&draft.before)
            .into_iter()
            .chain(touched(&draft.after))
            .collect();
        for range in touched.difference(&in_use) {
            self.give_up(*range, now);
        }
    }

    fn give_up(&mut self, range: Range, now: Duration) {
        self.pages.retire(range, now);
        self.contents.pages.remove(&range.first);
    }

    /// All tables before the last change.
    #[must_use]
    pub fn kept(&self) -> Vec<(u32, Previous)> {
        self.contents.previous.iter().map(|(s, p)| (*s, *p)).collect()
    }

    /// Services whose table before the last change does not count any more. Take each away with a write, then say
    /// [`Layout::forgot`].
    #[must_use]
    pub fn outdated(&self, now: Tick) -> Vec<(u32, Previous)> {
        let outdated = self.contents.previous.iter().filter(|(_, p)| p.until.passed(now));
        outdated.map(|(service, previous)| (*service, *previous)).collect()
    }

    /// A table before the last change was taken away.
    pub fn forgot(&mut self, service: u32, previous: Previous, now: Duration) {
        let range = slots::pages_of(previous.rotation);
        let all = &self.contents;
        let others = [all.rotations.get(&service), all.spills.get(&service)];
        // Where the flip failed after it was kept, it is still in force.
        if others.into_iter().flatten().all(|r| slots::pages_of(*r) != range) {
            self.give_up(range, now);
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

/// The pages that schedules lie in, none of them empty.
fn ranges_of<'c>(
    rotations: impl Iterator<Item = &'c Rotation>,
    spills: &'c BTreeMap<u32, Rotation>,
    previous: &'c BTreeMap<u32, Previous>,
) -> Vec<Range> {
    let previous = previous.values().map(|p| &p.rotation);
    let all = rotations.chain(spills.values()).chain(previous);
    all.map(|r| slots::pages_of(*r)).filter(|r| r.len > 0).collect()
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
        len: backend.source_places(),
    };
    sources::addresses(contents, range).unwrap_or_default()
}
