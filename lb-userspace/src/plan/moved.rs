//! Which slots of a hash scheduler's table moved, for services whose packets go where their hash says without a look at the flow
//! table ([`lb_common::direct`]). Pure.
//!
//! A flow that is opened while its slot has no mark is stored nowhere, and goes to the slot's backend. So a slot gets a mark when it
//! gets another backend, and keeps it until nothing can be left of what was opened before. What is opened while it has the mark is stored.
//! Packets of a marked slot that belong to no stored flow can therefore only be of flows from before the first mark: the table that
//! says where those go keeps, for each slot, the backend that it had last without a mark.

use std::collections::BTreeSet;

use lb_common::{
    abi::{FlowKey, Rule},
    direct::{MOVED, backend_of, is_moved},
    hash,
    net::{Addr4, Addr6, Address, Be16},
    schedule,
};

use super::slots::{self, Pages};
use crate::datapath::FlowEntry;

/// A schedule: the rule and the slots, perhaps with marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// How a slot is chosen.
    pub rule: Rule,
    /// Indices of backends.
    pub slots: Vec<u32>,
}

impl Table {
    /// How it stands in the slot arena: the rule, how many slots, and their pages.
    #[must_use]
    pub fn in_pages(&self) -> (Rule, u32, Pages) {
        let Self { rule, slots } = self;
        (*rule, slots::len(slots), slots::in_pages(slots, |slot| slot))
    }

    fn is_like(&self, other: &Self) -> bool {
        self.rule == other.rule && self.slots.len() == other.slots.len()
    }

    /// The same without marks.
    #[must_use]
    pub fn plain(mut self) -> Self {
        for slot in &mut self.slots {
            *slot = backend_of(*slot);
        }
        self
    }

    /// Whether any slot has a mark.
    #[must_use]
    pub fn is_marked(&self) -> bool {
        self.slots.iter().any(|slot| is_moved(*slot))
    }

    fn marked_where(mut self, moved: impl Fn(usize, u32) -> bool) -> Self {
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if moved(at, *slot) {
                *slot |= MOVED;
            }
        }
        self
    }

    /// The same with marks at these slots alone.
    #[must_use]
    pub fn marked_at(self, slots: &BTreeSet<u32>) -> Self {
        self.plain()
            .marked_where(|at, _| u32::try_from(at).is_ok_and(|at| slots.contains(&at)))
    }

    /// The slot of a flow, where that goes to another backend than the slot says.
    #[must_use]
    pub fn stray(&self, flow: &FlowEntry) -> Option<u32> {
        let slot = schedule::by_hash(self.hash(flow)?, u32::try_from(self.slots.len()).ok()?);
        let backend = backend_of(*self.slots.get(usize::try_from(slot).ok()?)?);
        (backend != flow.backend).then_some(slot)
    }

    fn hash(&self, flow: &FlowEntry) -> Option<u32> {
        use std::net::IpAddr::{V4, V6};
        match (flow.client.ip(), flow.vip.ip()) {
            (V4(client), V4(vip)) => self.hash_of::<Addr4>(client.into(), vip.into(), flow),
            (V6(client), V6(vip)) => self.hash_of::<Addr6>(client.into(), vip.into(), flow),
            _ => None,
        }
    }

    fn hash_of<A: Address>(&self, client: A, vip: A, flow: &FlowEntry) -> Option<u32> {
        let port = |address: std::net::SocketAddr| Be16::new(address.port());
        let key = FlowKey::new((client, port(flow.client)), (vip, port(flow.vip)), flow.protocol);
        match self.rule {
            Rule::SOURCE_HASH => Some(hash::of_client(client)),
            Rule::MAGLEV => Some(hash::of_flow(&key)),
            _ => None,
        }
    }
}

/// What is in force before a change.
#[derive(Debug, Default)]
pub struct InForce {
    /// The table; `None`: there is none, or it is empty.
    pub current: Option<Table>,
    /// Where flows from before it go, while that counts.
    pub before: Option<Table>,
    /// Flows of all slots are stored until now, wherever they go.
    pub all_stored: bool,
}

impl InForce {
    /// The new table, with marks.
    #[must_use]
    pub fn mark(&self, new: Table) -> Table {
        let moved = |at: usize, backend: u32, current: &Table| {
            let slot = current.slots.get(at).copied();
            slot.is_none_or(|slot| is_moved(slot) || slot != backend)
        };
        match &self.current {
            Some(current) if !self.all_stored && current.is_like(&new) => {
                new.marked_where(|at, backend| moved(at, backend, current))
            }
            // Of a service without backends, nothing is known but what was before.
            None if !self.all_stored && self.before.is_none() => new,
            _ => new.marked_where(|_, _| true),
        }
    }

    /// Whether a table sends any flow elsewhere.
    #[must_use]
    pub fn is_changed_by(&self, new: &Table) -> bool {
        let current = self.current.clone().map(Table::plain);
        let new = Some(new.clone().plain()).filter(|new| !new.slots.is_empty());
        current != new
    }

    /// Where flows from before go once the table in force is replaced; `None`: there are none.
    #[must_use]
    pub fn origin(&self) -> Option<Table> {
        match (&self.current, &self.before) {
            (Some(current), Some(before)) if current.is_like(before) => {
                let pairs = current.slots.iter().zip(&before.slots);
                let slots = pairs.map(|(now, then)| backend_of(if is_moved(*now) { *then } else { *now }));
                Some(Table {
                    rule: current.rule,
                    slots: slots.collect(),
                })
            }
            // All slots of the current one have marks then.
            (_, Some(before)) => Some(before.clone().plain()),
            (current, None) => current.clone().map(Table::plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLOTS: usize = 7;

    #[derive(Debug, Clone)]
    enum Step {
        /// Another table, of this size.
        Change(Vec<u32>),
        /// A flow opens in a slot, by its place in the hash's range.
        Open(f64),
        /// A flow's client says something.
        Speak(usize),
        /// The window is over, and the sweep was made.
        Settle,
        /// The service stores all flows for a while.
        StoreAll(f64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => proptest::collection::vec(0u32..4, SLOTS).prop_map(Step::Change),
            1 => proptest::collection::vec(0u32..4, SLOTS + 4).prop_map(Step::Change),
            1 => Just(Step::Change(Vec::new())),
            6 => (0.0..1.0f64).prop_map(Step::Open),
            6 => any::<prop::sample::Index>().prop_map(|i| Step::Speak(i.index(1000))),
            2 => Just(Step::Settle),
            1 => (0.0..1.0f64).prop_map(Step::StoreAll),
        ]
    }

    #[derive(Debug, Clone)]
    struct Known {
        place: f64,
        backend: u32,
        stored: bool,
    }

    fn slot(table: &Table, place: f64) -> u32 {
        table.slots[(place * table.slots.len() as f64) as usize]
    }

    fn table(slots: Vec<u32>) -> Table {
        Table {
            rule: Rule::MAGLEV,
            slots,
        }
    }

    proptest! {
        /// The packet path with a table of marks, one from before and a set of stored flows sends every packet of a flow to where
        /// the first one went, however the table changes, for as long as the window lasts; and stored flows go on for ever.
        #[test]
        fn every_flow_stays_where_it_is(steps in proptest::collection::vec(step(), 1..60)) {
            let mut force = InForce { current: Some(table(vec![0; SLOTS])), before: None, all_stored: false };
            let mut flows: Vec<Known> = Vec::new();
            for step in steps {
                match step {
                    Step::Change(slots) => {
                        let new = force.mark(table(slots));
                        if force.is_changed_by(&new) {
                            force.before = force.origin();
                        }
                        force.current = Some(new).filter(|new| !new.slots.is_empty());
                        force.all_stored = false;
                    }
                    Step::StoreAll(place) => {
                        // A flow that went elsewhere than its slot says, as a full backend makes them.
                        flows.push(Known { place, backend: 9, stored: true });
                        if let Some(current) = force.current.take() {
                            let marked = InForce { current: Some(current.clone()), before: None, all_stored: true }.mark(current.plain());
                            prop_assert!(marked.slots.iter().all(|slot| is_moved(*slot)));
                            force.current = Some(marked);
                        } else {
                            flows.pop();
                        }
                    }
                    Step::Open(place) => {
                        if let Some(current) = &force.current {
                            let slot = slot(current, place);
                            flows.push(Known { place, backend: backend_of(slot), stored: is_moved(slot) });
                        }
                    }
                    Step::Speak(number) => {
                        let count = flows.len().max(1);
                        if let (Some(flow), Some(current)) = (flows.get_mut(number % count), &force.current) {
                            let slot = slot(current, flow.place);
                            if !is_moved(slot) {
                                prop_assert_eq!(backend_of(slot), flow.backend, "not stored, or no need to look");
                            } else if !flow.stored {
                                // As the packet path does: where nothing is known from before, the slot itself counts.
                                let before = force.before.as_ref().unwrap_or(current);
                                let of_before = before.slots[(flow.place * before.slots.len() as f64) as usize];
                                prop_assert_eq!(backend_of(of_before), flow.backend);
                                flow.stored = true;
                            }
                        }
                    }
                    Step::Settle => {
                        // Those that said nothing all the while are lost if their slot moved.
                        if let Some(current) = &force.current {
                            flows.retain(|flow| flow.stored || !is_moved(slot(current, flow.place)));
                        } else {
                            flows.retain(|flow| flow.stored);
                        }
                        force.before = None;
                        if let Some(current) = force.current.take() {
                            let at = |place: f64| (place * current.slots.len() as f64) as u32;
                            let strays = flows.iter().filter(|flow| flow.backend != backend_of(slot(&current, flow.place)));
                            let strays = strays.map(|flow| at(flow.place)).collect();
                            force.current = Some(current.marked_at(&strays));
                        } else {
                            // Nobody was served for so long that no flow is left.
                            flows.clear();
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_slot_that_comes_back_leads_to_whom_it_had() {
        let mut force = InForce {
            current: Some(table(vec![1, 2, 3])),
            ..InForce::default()
        };
        for (new, marks, before) in [
            (vec![1, 1, 3], [false, true, false], vec![1, 2, 3]),
            (vec![1, 2, 3], [false, true, false], vec![1, 2, 3]),
            (vec![3, 2, 3], [true, true, false], vec![1, 2, 3]),
        ] {
            let marked = force.mark(table(new));
            assert!(force.is_changed_by(&marked));
            force.before = force.origin();
            assert_eq!(
                marked.slots.iter().map(|slot| is_moved(*slot)).collect::<Vec<_>>(),
                marks
            );
            assert_eq!(force.before.clone().unwrap().slots, before);
            force.current = Some(marked);
        }
        let same = force.mark(table(vec![3, 2, 3]));
        assert!(!force.is_changed_by(&same));
        assert_eq!(Some(same), force.current, "a table that is the same keeps its marks");
    }

    #[test]
    fn what_was_stored_for_all_slots_may_be_anywhere() {
        let force = InForce {
            current: Some(table(vec![1, 2])),
            all_stored: true,
            ..InForce::default()
        };
        assert!(force.mark(table(vec![1, 2])).slots.iter().all(|slot| is_moved(*slot)));
        let fresh = InForce::default();
        assert!(!fresh.mark(table(vec![1, 2])).is_marked(), "a new service has no flows");
    }
}
