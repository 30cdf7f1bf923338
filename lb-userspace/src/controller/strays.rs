//! Which marks of slots are needless: those of slots that no stored flow goes elsewhere from any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lb_common::{abi::Rotation, flow::Tick};

use crate::{
    datapath::FlowEntry,
    model::ServiceId,
    plan::{Layout, moved::Table},
};

/// A walk over the flows, to find those that go elsewhere than the tables say that were in force when it began.
#[derive(Debug)]
pub(super) struct Strays {
    /// Tables with marks, by service index.
    tables: BTreeMap<u32, (ServiceId, Rotation, Table)>,
    /// Service indices by backend index.
    services: HashMap<u32, u32>,
    /// Slots of the flows that were found.
    found: BTreeMap<u32, BTreeSet<u32>>,
}

impl Strays {
    /// Begins a walk; `None`: no marks could be taken away.
    pub(super) fn begin(layout: &Layout, now: Option<Tick>) -> Option<Self> {
        let tables = layout.marked(now?);
        if tables.is_empty() {
            return None;
        }
        let backends = layout.contents().backends.iter();
        let services = backends.map(|(index, backend)| (*index, backend.service)).collect();
        Some(Self {
            tables,
            services,
            found: BTreeMap::new(),
        })
    }

    /// Looks at a flow.
    pub(super) fn note(&mut self, flow: &FlowEntry) {
        let Some(service) = self.services.get(&flow.backend) else {
            return;
        };
        let table = self.tables.get(service).map(|(_, _, table)| table);
        if let Some(slot) = table.and_then(|table| table.stray(flow)) {
            self.found.entry(*service).or_default().insert(slot);
        }
    }

    /// Services whose tables are still the same and have marks for nothing, with the marks that are for something.
    pub(super) fn needless(mut self, layout: &Layout) -> Vec<(ServiceId, BTreeSet<u32>)> {
        let mut needless = Vec::new();
        for (service, (id, rotation, table)) in self.tables {
            let found = self.found.remove(&service).unwrap_or_default();
            let same = layout.contents().rotations.get(&service) == Some(&rotation);
            if same && table.clone().marked_at(&found) != table {
                needless.push((id, found));
            }
        }
        needless
    }
}
