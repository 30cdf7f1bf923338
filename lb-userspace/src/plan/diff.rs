//! What to write, and in which order, to get from what the maps hold to what they shall hold. Pure.
//!
//! The order is such that after each single action the packet path is whole:
//! 1. services that shall go are removed, so that nothing leads to what is taken apart below;
//! 2. source addresses, then backends that are new or serve, then slot pages are written, which no rotation names yet;
//! 3. spills and the rotations before the change are written, rotations flip, and new services appear, whose rotation now stands;
//! 4. the rotations of services that are gone are emptied;
//! 5. backends go down, are removed or freed. No rotation names them any more, so a client that is reset because of
//!    it finds a backend that serves when it comes back.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use lb_common::abi::{Backend, BackendState, Previous, Rotation, Service};

use super::slots::Pages;
use crate::{datapath::Contents, model::ServiceId};

/// One write to the packet path. Packets see it whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Takes a service away, or one of its ports.
    RemoveService(ServiceId),
    /// Writes a source address.
    SetSource {
        /// Place in the source arena.
        place: u32,
        /// Address.
        address: IpAddr,
    },
    /// Sets the counters of a backend index to zero before it is used.
    ClearCounters(u32),
    /// Publishes a backend.
    SetBackend {
        /// Its index.
        index: u32,
        /// The entry; the default frees it.
        backend: Backend,
    },
    /// Writes slot pages.
    WritePages {
        /// First page.
        first: u32,
        /// Pages from there on: those of one schedule.
        pages: Pages,
    },
    /// Flips a service to a schedule.
    SetRotation {
        /// Service index.
        service: u32,
        /// Schedule; the default empties it.
        rotation: Rotation,
    },
    /// Says what takes over from a service's schedule when every backend in it is full.
    SetSpill {
        /// Service index.
        service: u32,
        /// Schedule; the default is none.
        rotation: Rotation,
    },
    /// Keeps the schedule that is about to be replaced.
    SetPrevious {
        /// Service index.
        service: u32,
        /// Schedule, and until when it counts; the default is none.
        previous: Previous,
    },
    /// Publishes a service, or one more of its ports.
    SetService {
        /// Address, port and protocol.
        id: ServiceId,
        /// Its entry.
        service: Service,
    },
}

/// The writes that lead from `actual` to `desired`, in order. Both may be cuts of the whole, such as one service with
/// all that belongs to it.
#[must_use]
pub fn diff(actual: &Contents, desired: &Contents) -> Vec<Action> {
    let mut actions = Vec::new();
    // A service's first key comes first and goes last, so that whoever finds it half done knows whose the others are.
    let gone = actual
        .services
        .keys()
        .rev()
        .filter(|id| !desired.services.contains_key(id));
    actions.extend(gone.map(|id| Action::RemoveService(*id)));
    sources(actual, desired, &mut actions);
    let (serving, ending) = backends(actual, desired);
    actions.extend(serving);
    pages(actual, desired, &mut actions);
    generations(actual, desired, &mut actions);
    let flips = desired
        .rotations
        .iter()
        .filter(|(s, r)| actual.rotations.get(s) != Some(r));
    actions.extend(flips.map(|(service, rotation)| Action::SetRotation {
        service: *service,
        rotation: *rotation,
    }));
    let new = desired
        .services
        .iter()
        .filter(|(id, s)| actual.services.get(id) != Some(s));
    actions.extend(new.map(|(id, service)| Action::SetService {
        id: *id,
        service: *service,
    }));
    let emptied = actual.rotations.keys().filter(|s| !desired.rotations.contains_key(s));
    actions.extend(emptied.map(|service| Action::SetRotation {
        service: *service,
        rotation: Rotation::default(),
    }));
    actions.extend(ending);
    actions
}

/// Spills, and the schedules before those that are about to flip.
fn generations(actual: &Contents, desired: &Contents, actions: &mut Vec<Action>) {
    let services = |a: &Contents, b: &Contents| -> BTreeSet<u32> {
        let keys = |c: &Contents| c.spills.keys().chain(c.previous.keys()).copied().collect::<Vec<_>>();
        keys(a).into_iter().chain(keys(b)).collect()
    };
    // What another service left under the index of a new one is not known to everybody who comes here.
    let new = desired
        .services
        .iter()
        .filter(|(id, _)| !actual.services.contains_key(id));
    let new: BTreeSet<u32> = new.map(|(_, service)| service.index).collect();
    for service in services(actual, desired).union(&new).copied() {
        let new = new.contains(&service);
        let rotation = desired.spills.get(&service).copied().unwrap_or_default();
        if new || actual.spills.get(&service).copied().unwrap_or_default() != rotation {
            actions.push(Action::SetSpill { service, rotation });
        }
        let previous = desired.previous.get(&service).copied().unwrap_or_default();
        if new || actual.previous.get(&service).copied().unwrap_or_default() != previous {
            actions.push(Action::SetPrevious { service, previous });
        }
    }
}

fn sources(actual: &Contents, desired: &Contents, actions: &mut Vec<Action>) {
    let new = desired
        .sources
        .iter()
        .filter(|(place, a)| actual.sources.get(place) != Some(a));
    actions.extend(new.map(|(place, address)| Action::SetSource {
        place: *place,
        address: *address,
    }));
}

/// What is written before the rotations flip, and what after.
fn backends(actual: &Contents, desired: &Contents) -> (Vec<Action>, Vec<Action>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for (index, backend) in &desired.backends {
        let old = actual.backends.get(index);
        if old == Some(backend) {
            continue;
        }
        let set = Action::SetBackend {
            index: *index,
            backend: *backend,
        };
        if old.is_none() {
            before.extend([Action::ClearCounters(*index), set]);
        } else if !old.is_some_and(|old| ends(old, backend)) {
            before.push(set);
        } else {
            after.push(set);
        }
    }
    let freed = actual.backends.keys().filter(|i| !desired.backends.contains_key(i));
    after.extend(freed.map(|index| Action::SetBackend {
        index: *index,
        backend: Backend::default(),
    }));
    (before, after)
}

/// Whether a backend loses what the schedule before the flip still counts on.
fn ends(old: &Backend, new: &Backend) -> bool {
    new.state != BackendState::UP || new.takes_new < old.takes_new || (new.weight == 0 && old.weight > 0)
}

/// All pages of a schedule go in one write.
fn pages(actual: &Contents, desired: &Contents, actions: &mut Vec<Action>) {
    let new = desired.pages.iter().filter(|(n, p)| actual.pages.get(n) != Some(p));
    actions.extend(new.map(|(first, pages)| Action::WritePages {
        first: *first,
        pages: Arc::clone(pages),
    }));
}

impl Action {
    /// Does to a copy of the maps what the packet path does to the maps.
    pub fn apply(&self, contents: &mut Contents) {
        match self {
            Self::RemoveService(id) => drop(contents.services.remove(id)),
            Self::SetSource { place, address } => drop(contents.sources.insert(*place, *address)),
            Self::ClearCounters(_) => {}
            Self::SetBackend { index, backend } if *backend == Backend::default() => {
                contents.backends.remove(index);
            }
            Self::SetBackend { index, backend } => drop(contents.backends.insert(*index, *backend)),
            Self::WritePages { first, pages } => drop(contents.pages.insert(*first, Arc::clone(pages))),
            Self::SetRotation { service, rotation } => drop(contents.rotations.insert(*service, *rotation)),
            Self::SetSpill { service, rotation } if rotation.is_empty() => drop(contents.spills.remove(service)),
            Self::SetSpill { service, rotation } => drop(contents.spills.insert(*service, *rotation)),
            Self::SetPrevious { service, previous } if *previous == Previous::default() => {
                contents.previous.remove(service);
            }
            Self::SetPrevious { service, previous } => drop(contents.previous.insert(*service, *previous)),
            Self::SetService { id, service } => drop(contents.services.insert(*id, *service)),
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Rule, SlotPage};
    use proptest::{collection::btree_map, prelude::*};

    use super::*;
    use crate::model::Protocol;

    /// Contents that refer to nothing they do not have; otherwise arbitrary.
    fn contents() -> impl Strategy<Value = Contents> {
        let backend = (1u8..=3, 1u16..4).prop_map(|(state, port)| Backend {
            state: BackendState(state),
            port: lb_common::net::Be16::new(port),
            family: 4,
            ..Backend::default()
        });
        let page = (0u32..3).prop_map(|slot| Pages::from([SlotPage([slot; 64])]));
        (
            btree_map(1u16..6, 0u32..8, 0..5),
            btree_map(0u32..8, (0u32..3, 0u32..3), 0..5),
            btree_map(0u32..8, page, 0..8),
            btree_map(0u32..8, backend, 0..8),
            btree_map(0u32..8, 0u8..3, 0..8),
        )
            .prop_map(|(services, rotations, pages, backends, sources)| Contents {
                services: services
                    .into_iter()
                    .map(|(port, index)| {
                        (
                            id(port),
                            Service {
                                index,
                                ..Service::default()
                            },
                        )
                    })
                    .collect(),
                spills: rotations
                    .iter()
                    .filter(|(_, (page, _))| *page > 0)
                    .map(|(s, (page, _))| (*s, Rotation::new(page * 64, 1, Rule::ROUND_ROBIN)))
                    .collect(),
                previous: rotations
                    .iter()
                    .filter(|(_, (_, len))| *len > 0)
                    .map(|(s, (page, len))| (*s, previous(Rotation::new(page * 64, *len, Rule::MAGLEV))))
                    .collect(),
                rotations: rotations
                    .into_iter()
                    .map(|(s, (page, len))| (s, Rotation::new(page * 64, len, Rule::ROUND_ROBIN)))
                    .collect(),
                pages,
                backends,
                sources: sources
                    .into_iter()
                    .map(|(p, last)| (p, IpAddr::from([10, 0, 0, last])))
                    .collect(),
            })
    }

    fn previous(rotation: Rotation) -> Previous {
        Previous {
            rotation,
            ..Previous::default()
        }
    }

    fn id(port: u16) -> ServiceId {
        ServiceId {
            vip: ([10, 0, 0, 1], port).into(),
            protocol: Protocol::Tcp,
        }
    }

    proptest! {
        #[test]
        fn applied_to_a_it_gives_b(a in contents(), b in contents()) {
            let mut got = a.clone();
            for action in diff(&a, &b) {
                action.apply(&mut got);
            }
            // What nothing refers to any more may stay: it is nobody's.
            got.rotations.retain(|s, _| b.rotations.contains_key(s));
            got.pages.retain(|n, _| b.pages.contains_key(n));
            got.sources.retain(|p, _| b.sources.contains_key(p));
            prop_assert_eq!(got, b);
        }

        #[test]
        fn nothing_changed_nothing_written(a in contents()) {
            prop_assert_eq!(diff(&a, &a), []);
        }
    }
}
