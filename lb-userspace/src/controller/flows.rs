//! `lb flows`: the flow tables in the operator's terms.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use lb_common::{
    flow::{TICK_SHIFT, Tick},
    net::TCP,
};
use tokio::sync::oneshot;

use super::{
    Controller,
    ports::{Health, Network},
};
use crate::{
    api::{ApiError, ErrorKind, FlowReport, Reply, backend_matches},
    datapath::{Datapath, FlowEntry, FlowTables},
    model::{Protocol, Service},
    plan::layout::address_of,
    state,
};

/// Names of a backend index, and whether its flows are asked for.
struct Names {
    service: String,
    backend: String,
}

impl<D: Datapath, N: Network, H: Health> Controller<D, N, H> {
    /// Begins to walk over the flow tables, aside, and answers when that is done.
    pub(super) fn begin_flows(
        &self,
        limit: usize,
        service: Option<&str>,
        backend: Option<&str>,
        reply: oneshot::Sender<Reply>,
    ) {
        let names = match self.flow_names(service, backend) {
            Ok(names) => names,
            Err(error) => {
                drop(reply.send(Reply::Error { error }));
                return;
            }
        };
        let flows = Arc::clone(&self.flows);
        tokio::task::spawn_blocking(move || drop(reply.send(list(flows.as_ref(), limit, &names))));
    }

    /// The backends whose flows are asked for, by index.
    fn flow_names(&self, service: Option<&str>, backend: Option<&str>) -> Result<BTreeMap<u32, Names>, ApiError> {
        let one;
        let services: &[Service] = match service {
            Some(name) => {
                one = [self.desired.service(name)?.clone()];
                &one
            }
            None => &self.desired.services,
        };
        let mut names = BTreeMap::new();
        for service in services {
            for index in self.layout.backends_of(service.id) {
                let entry = self.layout.contents().backends.get(&index);
                let Some(address) = entry.and_then(address_of) else {
                    continue;
                };
                let known = service.backends.iter().find(|b| b.address == address);
                let wanted = |w: &str| known.is_some_and(|b| backend_matches(b, w)) || w == address.to_string();
                if backend.is_none_or(wanted) {
                    let backend = known.map_or_else(|| format!("{address} (removed)"), |b| b.name.clone());
                    let service = service.name.clone();
                    names.insert(index, Names { service, backend });
                }
            }
        }
        match backend {
            Some(backend) if names.is_empty() => Err(no_backend(services, backend)),
            _ => Ok(names),
        }
    }
}

fn no_backend(services: &[Service], wanted: &str) -> ApiError {
    let names: BTreeSet<&str> = services
        .iter()
        .flat_map(|s| &s.backends)
        .map(|b| b.name.as_str())
        .collect();
    let there = names.into_iter().collect::<Vec<_>>().join(", ");
    state::error(
        ErrorKind::NotFound,
        format!("no backend `{wanted}` with an entry in the packet path; there are: {there}"),
    )
}

fn list(flows: &dyn FlowTables, limit: usize, names: &BTreeMap<u32, Names>) -> Reply {
    let (mut found, mut total) = (Vec::new(), 0);
    let walked = flows.now().and_then(|now| {
        flows.for_each_flow(&mut |flow| {
            let Some(names) = names.get(&flow.backend) else { return };
            total += 1;
            if found.len() < limit {
                found.push(report(flow, names, now));
            }
        })
    });
    match walked {
        Ok(()) => Reply::Flows { flows: found, total },
        Err(error) => Reply::Error {
            error: state::error(ErrorKind::System, error.to_string()),
        },
    }
}

fn report(flow: &FlowEntry, names: &Names, now: Tick) -> FlowReport {
    FlowReport {
        service: names.service.clone(),
        backend: names.backend.clone(),
        protocol: if flow.protocol == TCP {
            Protocol::Tcp
        } else {
            Protocol::Udp
        },
        client: flow.client,
        vip: flow.vip,
        source: flow.source,
        backend_address: flow.backend_address,
        phase: flow.phase.as_str().to_owned(),
        age_ms: milliseconds(now.remaining(flow.opened)),
        expires_in_ms: milliseconds(flow.expires.remaining(now)),
    }
}

/// Ticks in milliseconds; what lies in the past is zero.
fn milliseconds(ticks: i32) -> u64 {
    (u64::try_from(ticks).unwrap_or(0) << TICK_SHIFT) / 1_000_000
}
