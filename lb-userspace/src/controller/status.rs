//! `lb status`: what there is, what is known of it, and what needs the operator's attention.

use std::time::{SystemTime, UNIX_EPOCH};

use lb_common::reason::{DropReason, Note, PassReason};

use super::{
    Controller,
    outlook::health_of,
    ports::{Health, Network, NextHop},
    sweep::add,
};
use crate::{
    api::{
        ApiError, BackendReport, Counters, ErrorKind, FlowTableReport, HealthReport, HealthState, InterfaceReport,
        ReasonReport, ServiceReport, Status,
    },
    datapath::{Datapath, DatapathError},
    model::{AdminState, Backend, ForwardingMode, Interface, Service, SynCookies},
    plan::ramp,
    state::{self, count},
};

/// Of a flow table, in percent: from here on it is worth a warning.
const NEARLY_FULL: u64 = 90;

impl<D: Datapath, N: Network, H: Health> Controller<D, N, H> {
    /// Everything that `lb status` shows.
    pub(super) fn status(&self) -> Result<Status, ApiError> {
        let services = self.service_reports()?;
        Ok(Status {
            instance: self.config.instance.clone(),
            pid: std::process::id(),
            started_at: seconds(self.started_at),
            adopted: self.adopted,
            warnings: self.warnings(&services),
            interfaces: self.interface_reports(),
            services,
            reasons: reason_reports(&self.datapath.reasons().map_err(system)?),
            flow_tables: self.flow_table_reports(),
            sweep: self.books.cost,
            maps: self.datapath.maps().map_err(system)?,
        })
    }

    /// All services with their backends.
    pub(super) fn service_reports(&self) -> Result<Vec<ServiceReport>, ApiError> {
        self.desired.services.iter().map(|s| self.service_report(s)).collect()
    }

    fn service_report(&self, service: &Service) -> Result<ServiceReport, ApiError> {
        let mut counters = self.departed.get(&service.id).copied().unwrap_or_default();
        for index in self.layout.backends_of(service.id) {
            let now = self.datapath.backend_counters(index).map_err(system)?;
            add(&mut counters, &now, self.books.active(index, &now));
        }
        let outlook = self.outlooks.get(&service.id);
        let vip = self.vips.get(&service.id.vip.ip()).and_then(|v| v.placed());
        let backends = service.backends.iter().enumerate();
        Ok(ServiceReport {
            name: service.name.clone(),
            vip: service.id.vip,
            protocol: service.id.protocol,
            address: service.address(),
            mode: service.mode,
            scheduler: service.scheduler,
            scheduling: service.scheduling.into(),
            on_down: service.on_down,
            failback: service.failback,
            timeouts: service.timeouts.into(),
            tunnel_port: (service.mode == ForwardingMode::Gue).then_some(self.config.tunnel.port),
            vip_interface: vip.filter(|p| p.ours).map(|p| p.interface.clone()),
            active_tier: outlook
                .and_then(|o| o.tier.serving)
                .filter(|_| !self.is_withheld(service)),
            counters,
            backends: backends.map(|(at, b)| self.backend_report(service, at, b)).collect(),
        })
    }

    fn backend_report(&self, service: &Service, at: usize, backend: &Backend) -> BackendReport {
        let entry = self.layout.backend(service.id, backend.address);
        let mut counters = Counters::default();
        if let Some((index, _)) = entry {
            let now = self.counters_of(index);
            add(&mut counters, &now, self.books.active(index, &now));
        }
        let health = self.health_report(service, backend);
        let why_not = self.why_not(service, at, &health);
        BackendReport {
            name: backend.name.clone(),
            address: backend.address,
            weight: backend.weight,
            tier: backend.tier,
            admin: backend.admin,
            max_connections: backend.max_connections,
            slow_start_percent: self.climbed(service, backend),
            drain_left_ms: self.drain_left(backend),
            in_rotation: why_not.is_none(),
            why_not,
            next_hop: self.next_hop_words(service, backend),
            counters,
            health,
        }
    }

    /// How much of its share a returning backend has, in percent; `None` when it has all of it.
    fn climbed(&self, service: &Service, backend: &Backend) -> Option<u32> {
        let steps = self.world.climbed(service, backend);
        (steps < ramp::STEPS).then_some(steps * 100 / ramp::STEPS)
    }

    /// Milliseconds until a drain has lasted as long as it may.
    fn drain_left(&self, backend: &Backend) -> Option<u64> {
        let left = backend.drain_until?.saturating_sub(self.today());
        (backend.admin == AdminState::Drain).then_some(left * 1000)
    }

    fn why_not(&self, service: &Service, at: usize, health: &HealthReport) -> Option<String> {
        if self.is_withheld(service) {
            return Some("the service waits for its VIP".to_owned());
        }
        let Some(why) = self.outlooks.get(&service.id).and_then(|o| o.why_not.get(at)) else {
            return Some("not published yet".to_owned());
        };
        match (why.as_deref(), &health.last_result) {
            (Some("down"), Some(result)) => Some(format!("down: {result}")),
            _ => why.clone(),
        }
    }

    fn health_report(&self, service: &Service, backend: &Backend) -> HealthReport {
        let state = health_of(service, backend, &self.world);
        let unchecked = state == HealthState::Unchecked;
        let snapshot = if unchecked {
            None
        } else {
            self.health.snapshot(&service.health_target(backend))
        };
        snapshot.unwrap_or_else(|| HealthReport {
            state,
            since: seconds(self.started_at),
            last_result: None,
            latency_ms: None,
            progress: (0, 0),
        })
    }

    fn next_hop_words(&self, service: &Service, backend: &Backend) -> Option<String> {
        let hop: &NextHop = self.world.hops.get(&backend.address.ip())?.as_ref().ok()?;
        let address = hop.gateway.unwrap_or(backend.address.ip());
        let mac = lb_common::net::MacAddr::new(hop.remote_mac);
        let mut words = format!("{address} ({mac}) dev {}", hop.interface);
        if service.mode.tunnels() {
            let fits = hop.mtu.saturating_sub(service.mode.overhead(backend.address.ip()));
            words.push_str(&format!(", packets of up to {fits} bytes"));
        }
        Some(words)
    }

    fn interface_reports(&self) -> Vec<InterfaceReport> {
        let existing = self.existing_interfaces();
        let report = |interface: &Interface| {
            let name = interface.name.clone();
            let index = existing.get(&name).copied();
            let (xdp, note) = match (self.attachment(&name), index) {
                (Some(a), Some(_)) if a.native => ("native", a.note.clone()),
                (Some(a), Some(_)) => ("generic", a.note.clone()),
                (_, None) => ("missing", None),
                (None, Some(_)) => {
                    let error = self.attachments.get(&name).and_then(|a| a.as_ref().err().cloned());
                    ("not attached", error)
                }
            };
            let xdp = xdp.to_owned();
            InterfaceReport { name, index, xdp, note }
        };
        self.desired.interfaces.iter().map(report).collect()
    }

    fn flow_table_reports(&self) -> Vec<FlowTableReport> {
        let limits = self.config.limits;
        let report = |family: &str, (flows, capacity): (u64, u32), (half_open, room): (u64, u32)| FlowTableReport {
            family: family.to_owned(),
            flows,
            capacity: u64::from(capacity),
            half_open,
            half_open_capacity: u64::from(room),
        };
        let ([ipv4, ipv6, mixed], [opening_ipv4, opening_ipv6]) = (self.books.flows, self.books.half_open);
        let (ipv4, ipv6) = ((ipv4, limits.flows_ipv4), (ipv6, limits.flows_ipv6));
        vec![
            report("ipv4", ipv4, (opening_ipv4, limits.half_open_ipv4)),
            report("ipv6", ipv6, (opening_ipv6, limits.half_open_ipv6)),
            report("mixed", (mixed, limits.flows_mixed), (0, 0)),
        ]
    }

    /// What needs the operator's attention, most urgent first.
    fn warnings(&self, services: &[ServiceReport]) -> Vec<String> {
        let mut warnings = Vec::new();
        for (id, error) in &self.dirty {
            let name = self.name_of(*id);
            warnings.push(format!("service {name}: not published: {error}; trying again"));
        }
        for (vip, error) in self.vips.iter().filter_map(|(vip, v)| Some((vip, v.error()?))) {
            warnings.push(format!("VIP {vip}: {error}"));
        }
        let idle = services.iter().filter(|s| s.active_tier.is_none());
        warnings.extend(idle.map(|s| format!("service {}: no backend can take new flows", s.name)));
        if self.desired.interfaces.is_empty() {
            warnings.push("lb is attached to no interface: it sees no packets".to_owned());
        }
        warnings.extend(self.interface_reports().iter().filter_map(interface_warning));
        warnings.extend(self.cookie_warning());
        warnings.extend(self.resource_warnings());
        warnings
    }

    /// Services that ask for what the kernel cannot do.
    fn cookie_warning(&self) -> Option<String> {
        if self.syn_cookies {
            return None;
        }
        let mut services = self.desired.services.iter();
        let service = services.find(|s| s.scheduling.syn_cookies != SynCookies::Off)?;
        Some(format!(
            "service {}: this kernel makes no SYN cookies for XDP, and SYNs open flows: it takes Linux 6.0 with \
             CONFIG_SYN_COOKIES; bound floods by limits.new-flows-per-core, or set syn-cookies = \"off\"",
            service.name
        ))
    }

    fn resource_warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let exhausted = self.books.exhausted_lately();
        if exhausted > 0 {
            warnings.push(format!(
                "source ports exhausted {} in the last minute: add source addresses or ports to full-nat",
                count(usize::try_from(exhausted).unwrap_or(usize::MAX), "time")
            ));
        }
        for table in self.flow_table_reports() {
            let percent = (table.flows * 100).checked_div(table.capacity).unwrap_or(100);
            if percent >= NEARLY_FULL {
                warnings.push(format!(
                    "flow table {} is {percent} % full: raise limits.flows-{}",
                    table.family, table.family
                ));
            }
            // Flows between families open in the table that they stay in.
            let percent = (table.half_open * 100)
                .checked_div(table.half_open_capacity)
                .unwrap_or(0);
            if percent >= NEARLY_FULL {
                warnings.push(format!(
                    "the table of half-open flows {} is {percent} % full, by a flood or by too little room: look at \
                     lb flows --state half-open --count, and at limits.half-open-{}",
                    table.family, table.family
                ));
            }
        }
        let sweep = self.books.error.iter();
        warnings.extend(sweep.map(|e| format!("the flow tables could not be walked: {e}")));
        warnings
    }
}

fn interface_warning(interface: &InterfaceReport) -> Option<String> {
    let name = &interface.name;
    match (interface.xdp.as_str(), &interface.note) {
        ("missing", _) => Some(format!("interface {name} is missing")),
        ("not attached", note) => Some(format!(
            "lb is not attached to {name}: {}",
            note.as_deref().unwrap_or("it came back just now")
        )),
        ("generic", Some(note)) => Some(format!("{name} runs XDP in the generic path, which is slower: {note}")),
        _ => None,
    }
}

fn reason_reports(counts: &[u64]) -> Vec<ReasonReport> {
    let report = |outcome: &str, name: &str, meaning: &str, counter: u32| ReasonReport {
        outcome: outcome.to_owned(),
        name: name.to_owned(),
        meaning: meaning.to_owned(),
        packets: counts.get(counter as usize).copied().unwrap_or(0),
    };
    let pass = PassReason::ALL
        .iter()
        .map(|r| report("pass", r.as_str(), r.meaning(), r.counter()));
    let drop = DropReason::ALL
        .iter()
        .map(|r| report("drop", r.as_str(), r.meaning(), r.counter()));
    let note = Note::ALL
        .iter()
        .map(|r| report("note", r.as_str(), r.meaning(), r.counter()));
    pass.chain(drop).chain(note).collect()
}

fn system(error: DatapathError) -> ApiError {
    state::error(ErrorKind::System, error.to_string())
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
