//! `lb flows`: the flow tables in the operator's terms.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
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
    api::{ApiError, ErrorKind, FlowCount, FlowFilter, FlowReport, Reply, backend_matches},
    datapath::{Datapath, DatapathError, FlowEntry, FlowPlace, FlowTables},
    model::{Protocol, Service},
    plan::layout::address_of,
    state,
};

/// Names of a backend index, and whether its flows are asked for.
struct Names {
    service: String,
    backend: String,
}

/// Flows in one reply at most, give or take a batch. Whoever wants more asks for the next page, so that neither side holds
/// a million of them.
const PAGE: usize = 10_000;

/// What is asked about flows.
#[derive(Debug)]
pub(super) enum Question {
    /// So many of them, from a place on.
    List(usize, FlowPlace),
    /// How many there are.
    Count,
    /// To end them.
    Kill,
}

impl<D: Datapath, N: Network, H: Health> Controller<D, N, H> {
    /// Begins to walk over the flow tables, aside, and answers when that is done.
    pub(super) fn begin_flows(&self, question: Question, filter: &FlowFilter, reply: oneshot::Sender<Reply>) {
        let names = match self.flow_names(filter) {
            Ok(names) => names,
            Err(error) => {
                drop(reply.send(Reply::Error { error }));
                return;
            }
        };
        let (flows, filter) = (Arc::clone(&self.flows), filter.clone());
        tokio::task::spawn_blocking(move || {
            let walk = Walk {
                flows: flows.as_ref(),
                names: &names,
                filter: &filter,
            };
            let answer = match question {
                Question::List(limit, from) => walk.list(limit, from),
                Question::Count => walk.count(),
                Question::Kill => walk.kill(),
            };
            drop(reply.send(answer.unwrap_or_else(|error| Reply::Error {
                error: state::error(ErrorKind::System, error.to_string()),
            })));
        });
    }

    /// The backends whose flows are asked for, by index.
    fn flow_names(&self, filter: &FlowFilter) -> Result<BTreeMap<u32, Names>, ApiError> {
        if let Some(state) = filter.state.as_deref().filter(|state| !FlowFilter::is_state(state)) {
            return Err(no_state(state));
        }
        let (service, backend) = (filter.service.as_deref(), filter.backend.as_deref());
        let one;
        let services: &[Arc<Service>] = match service {
            Some(name) => {
                one = [Arc::new(self.desired.service(name)?.clone())];
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

fn no_backend(services: &[Arc<Service>], wanted: &str) -> ApiError {
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

fn no_state(wanted: &str) -> ApiError {
    let states = FlowFilter::states().collect::<Vec<_>>().join(", ");
    state::error(ErrorKind::Invalid, format!("no state `{wanted}`; there are: {states}"))
}

/// A walk over the flows that are meant.
struct Walk<'a> {
    flows: &'a dyn FlowTables,
    names: &'a BTreeMap<u32, Names>,
    filter: &'a FlowFilter,
}

impl Walk<'_> {
    /// The names of a flow that is meant.
    fn names(&self, flow: &FlowEntry) -> Option<&Names> {
        self.names
            .get(&flow.backend)
            .filter(|_| self.filter.matches(flow.client, flow.phase))
    }

    fn list(&self, limit: usize, from: FlowPlace) -> Result<Reply, DatapathError> {
        let (mut found, mut total) = (Vec::new(), 0);
        let now = self.flows.now()?;
        let next = self.flows.walk(from, &mut |flow| {
            let Some(names) = self.names(flow) else {
                return ControlFlow::Continue(());
            };
            total += 1;
            if found.len() < limit {
                found.push(report(flow, names, now));
            }
            if found.len() >= PAGE && found.len() < limit {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        Ok(Reply::Flows {
            flows: found,
            total,
            next,
        })
    }

    fn count(&self) -> Result<Reply, DatapathError> {
        let mut flows: BTreeMap<(u32, &str), u64> = BTreeMap::new();
        self.flows.for_each_flow(&mut |flow| {
            if self.names(flow).is_some() {
                *flows.entry((flow.backend, flow.phase.as_str())).or_default() += 1;
            }
        })?;
        let count = |((backend, phase), flows): ((u32, &str), u64)| {
            let names = self.names.get(&backend)?;
            Some(FlowCount {
                service: names.service.clone(),
                backend: names.backend.clone(),
                phase: phase.to_owned(),
                flows,
            })
        };
        let mut counts: Vec<FlowCount> = flows.into_iter().filter_map(count).collect();
        counts.sort_by(|a, b| (&a.service, &a.backend, &a.phase).cmp(&(&b.service, &b.backend, &b.phase)));
        Ok(Reply::FlowCounts { counts })
    }

    fn kill(&self) -> Result<Reply, DatapathError> {
        let flows = self.flows.kill(&|flow| self.names(flow).is_some())?;
        Ok(Reply::FlowsKilled { flows })
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
