//! The page of `lb status`: the verdict first, then what is wrong, then the rest, from the services down to the tables.

use std::collections::HashMap;

use super::{
    grid::{Cell, Grid, Kind},
    human,
    verdict::{self, Condition},
    view::{Tone, View},
};
use crate::{
    api::{BackendReport, Counters, FlowTableReport, HealthState, SchedulingReport, ServiceReport, Status},
    model::{AdminState, FlowTracking, Protocol, SynCookies, endpoint_name},
};

/// Share of a flow table from which on it is shown as a problem, in percent.
const NEARLY_FULL: u64 = 90;

/// The page.
pub(super) fn text(status: &Status, view: &View) -> String {
    let mut sections = vec![head(status, view), interfaces(status, view)];
    if status.services.is_empty() {
        sections.push(view.paragraph(Tone::Plain, 0, "Add a service: lb service add --help"));
    }
    sections.extend(status.services.iter().map(|one| service(one, view)));
    sections.push(reasons(status, view));
    sections.push(memory(status, view));
    sections.retain(|section| !section.is_empty());
    sections.join("\n")
}

fn head(status: &Status, view: &View) -> String {
    let found = verdict::of_status(status);
    let mut shown = view.paragraph(
        found.condition.tone(),
        0,
        &format!("{}: {}", found.condition.word(), found.reason),
    );
    let adopted = if status.adopted {
        ", adopted a running packet path"
    } else {
        ""
    };
    let about = format!(
        "instance {}, pid {}, running for {}{adopted}",
        status.instance,
        status.pid,
        human::span(view.since(status.started_at)),
    );
    shown.push_str(&view.paragraph(Tone::Dim, 0, &about));
    if !status.warnings.is_empty() {
        shown.push('\n');
    }
    for warning in &status.warnings {
        shown.push_str(&view.paragraph(Tone::Warn, 0, &format!("! {warning}")));
    }
    shown
}

fn interfaces(status: &Status, view: &View) -> String {
    let columns = [("INTERFACE", Kind::Text), ("XDP", Kind::Text), ("NOTE", Kind::Text)];
    let mut grid = Grid::new(1, columns).last_wraps();
    for interface in &status.interfaces {
        let tone = match (verdict::is_attached(interface), interface.xdp.as_str()) {
            (true, "native") => Tone::Good,
            (true, _) => Tone::Warn,
            (false, _) => Tone::Bad,
        };
        grid.row([
            interface.name.as_str().into(),
            Cell::toned(interface.xdp.as_str(), tone),
            interface.note.as_deref().unwrap_or_default().into(),
        ]);
    }
    if status.interfaces.iter().all(|interface| interface.note.is_none()) {
        grid = grid.without("NOTE");
    }
    grid.render(view)
}

/// One service: the verdict, what it does, its backends, and what is wrong with them.
pub(super) fn service(service: &ServiceReport, view: &View) -> String {
    let found = verdict::of_service(service);
    let Counters {
        active_flows,
        new_flows,
        bytes_in,
        bytes_out,
        ..
    } = service.counters;
    let title = format!("{}  {}", service.name, service.address);
    let mut shown = view.paragraph(Tone::Title, 0, &title);
    let tier = match service.active_tier {
        Some(tier) if has_tiers(service) && !found.reason.contains("tier") => {
            format!(", tier {tier} serves")
        }
        _ => String::new(),
    };
    let state = format!("{}: {}{tier}", found.condition.word(), found.reason);
    shown.push_str(&view.paragraph(found.condition.tone(), 2, &state));
    if found.condition == Condition::Down {
        shown.push_str(&view.paragraph(Tone::Bad, 2, refusal(service.protocol)));
    }
    shown.push_str(&view.paragraph(Tone::Dim, 2, &settings(service)));
    let traffic = format!(
        "flows: {} active, {} new; in {}, out {}",
        human::count(active_flows),
        human::count(new_flows),
        human::bytes(bytes_in),
        human::bytes(bytes_out),
    );
    shown.push_str(&view.paragraph(Tone::Plain, 2, &traffic));
    shown.push_str(&backends(service, view));
    shown.push_str(&unserved_notes(service, view));
    shown.push_str(&passing_notes(service, view));
    shown.push_str(&check_notes(service, view));
    shown
}

const fn refusal(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "New connections are refused (RST).",
        Protocol::Udp => "Packets of new flows are dropped.",
    }
}

fn settings(service: &ServiceReport) -> String {
    let mut parts = vec![service.mode.to_string(), service.scheduler.to_string()];
    parts.extend(scheduling(&service.scheduling));
    parts.push(format!("on-down {}", service.on_down));
    if has_tiers(service) && !service.failback {
        parts.push("no failback".to_owned());
    }
    parts.push(match &service.vip_interface {
        Some(interface) => format!("VIP on {interface}"),
        None => "VIP not added by lb".to_owned(),
    });
    parts.join(", ")
}

/// What an operator asked for besides the scheduler.
fn scheduling(scheduling: &SchedulingReport) -> Vec<String> {
    let spans = [
        ("affinity", scheduling.affinity_ms),
        ("slow start", scheduling.slow_start_ms),
        ("drains", scheduling.drain_timeout_ms),
    ];
    let spans = spans.into_iter().filter(|(_, ms)| *ms > 0);
    let spans = spans.map(|(name, ms)| format!("{name} {}", human::span(ms / 1000)));
    spans
        .chain(scheduling.one_packet.then(|| "one-packet".to_owned()))
        .chain(
            (scheduling.flow_tracking != FlowTracking::All)
                .then(|| format!("flow tracking {}", scheduling.flow_tracking)),
        )
        .chain((scheduling.syn_cookies != SynCookies::Off).then(|| format!("SYN cookies {}", scheduling.syn_cookies)))
        .collect()
}

/// What a backend's share is counted by: its weight, as far as it has climbed.
fn weight(backend: &BackendReport) -> u64 {
    u64::from(backend.weight) * u64::from(backend.slow_start_percent.unwrap_or(100))
}

fn has_tiers(service: &ServiceReport) -> bool {
    service.backends.iter().any(|backend| backend.tier > 0)
}

fn backends(service: &ServiceReport, view: &View) -> String {
    let mut grid = Grid::new(
        2,
        [
            ("BACKEND", Kind::Text),
            ("ADDRESS", Kind::Text),
            ("TIER", Kind::Number),
            ("STATE", Kind::Text),
            ("FOR", Kind::Number),
            ("SHARE", Kind::Number),
            ("ACTIVE", Kind::Number),
            ("NEW", Kind::Number),
            ("CHECK", Kind::Number),
            ("RESULT", Kind::Text),
        ],
    )
    .indented(2)
    .optional("RESULT");
    let in_rotation = service.backends.iter().filter(|backend| backend.in_rotation);
    let weights: u64 = in_rotation.map(weight).sum();
    for backend in &service.backends {
        let (word, tone) = state_word(backend);
        let share = if backend.in_rotation {
            human::percent(weight(backend), weights)
        } else {
            "-".to_owned()
        };
        grid.row([
            backend.name.as_str().into(),
            endpoint_name(backend.address).into(),
            backend.tier.to_string().into(),
            Cell::toned(word, tone),
            human::span(view.since(backend.health.since)).into(),
            share.into(),
            human::count(backend.counters.active_flows).into(),
            human::count(backend.counters.new_flows).into(),
            backend
                .health
                .latency_ms
                .map_or_else(|| "-".to_owned(), human::latency)
                .into(),
            backend.health.last_result.as_deref().unwrap_or("-").into(),
        ]);
    }
    if !has_tiers(service) {
        grid = grid.without("TIER");
    }
    grid.render(view)
}

/// One word for what the operator decided and what the checks found.
fn state_word(backend: &BackendReport) -> (&'static str, Tone) {
    match (backend.admin, backend.health.state) {
        (AdminState::Disabled, _) => ("disabled", Tone::Dim),
        (_, HealthState::Down) => health_word(HealthState::Down),
        (AdminState::Drain, _) => ("drain", Tone::Dim),
        (AdminState::Enabled, state) if backend.in_rotation => health_word(state),
        (AdminState::Enabled, HealthState::Unknown) => health_word(HealthState::Unknown),
        // Well, but something else keeps it from serving: the note below the table says what.
        (AdminState::Enabled, _) if is_standby(backend) => ("standby", Tone::Dim),
        (AdminState::Enabled, _) if backend.weight == 0 => ("idle", Tone::Dim),
        (AdminState::Enabled, _) => ("held", Tone::Warn),
    }
}

fn is_standby(backend: &BackendReport) -> bool {
    backend.why_not.as_deref().is_some_and(|why| why.starts_with("standby"))
}

/// What the checks found, in one word.
pub(super) const fn health_word(state: HealthState) -> (&'static str, Tone) {
    match state {
        HealthState::Up => ("up", Tone::Good),
        HealthState::Down => ("DOWN", Tone::Bad),
        HealthState::Unknown => ("checking", Tone::Warn),
        HealthState::Unchecked => ("no check", Tone::Plain),
    }
}

/// Why backends take no new flows; those with the same reason in one line.
pub(super) fn unserved_notes(service: &ServiceReport, view: &View) -> String {
    let away = service.backends.iter().filter(|backend| !backend.in_rotation);
    let reasons = away.map(|backend| {
        (
            backend.why_not.as_deref().unwrap_or("no reason known"),
            backend.name.as_str(),
        )
    });
    let tone_of = |why: &str| {
        if ["standby", "weight 0", "drain", "disabled"]
            .iter()
            .any(|wanted| why.starts_with(wanted))
        {
            Tone::Dim
        } else {
            Tone::Bad
        }
    };
    let notes = grouped(reasons).into_iter();
    notes
        .map(|(why, names)| view.paragraph(tone_of(why), 2, &format!("no new flows to {names}: {why}")))
        .collect()
}

/// What changes by itself: shares that climb, and drains that end.
fn passing_notes(service: &ServiceReport, view: &View) -> String {
    let note = |backend: &BackendReport| {
        let name = &backend.name;
        let climbing = backend
            .slow_start_percent
            .map(|percent| format!("{name}: slow start, at {percent} % of its share"));
        let draining = backend.drain_left_ms.map(|ms| match ms / 1000 {
            0 => format!("{name}: its drain is over, on-down applies to what is left"),
            left => format!("{name}: on-down applies to what is left in {}", human::span(left)),
        });
        let notes = climbing.into_iter().chain(draining);
        notes
            .map(|text| view.paragraph(Tone::Dim, 2, &text))
            .collect::<String>()
    };
    service.backends.iter().map(note).collect()
}

/// Checks whose last result contradicts the state: the state is about to change.
fn check_notes(service: &ServiceReport, view: &View) -> String {
    let changing = service.backends.iter().filter(|backend| backend.health.progress.0 > 0);
    let note = |backend: &BackendReport| {
        let (so_far, needed) = backend.health.progress;
        let (what, next) = match backend.health.state {
            HealthState::Up => ("failed", "down"),
            HealthState::Down | HealthState::Unknown | HealthState::Unchecked => ("passed", "up"),
        };
        let last = backend.health.last_result.as_deref().unwrap_or("no result");
        let text = format!(
            "{}: last check {what}: {last} ({so_far} of {needed} until {next})",
            backend.name
        );
        view.paragraph(Tone::Warn, 2, &text)
    };
    changing.map(note).collect()
}

/// Names by what they have in common, in the order of the first of each group.
pub(super) fn grouped<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(&'a str, String)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut places = HashMap::new();
    for (key, name) in pairs {
        let place = *places.entry(key).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, names)) => names.push(name),
            None => groups.push((key, vec![name])),
        }
    }
    groups.into_iter().map(|(key, names)| (key, listed(&names))).collect()
}

/// All names; of very many, the first few and how many more there are: the table above has them all.
fn listed(names: &[&str]) -> String {
    const ALL: usize = 20;
    const FIRST: usize = 10;
    match names.get(..FIRST) {
        Some(first) if names.len() > ALL => {
            format!(
                "{} and {} more",
                first.join(", "),
                human::count((names.len() - FIRST) as u64)
            )
        }
        _ => names.join(", "),
    }
}

fn reasons(status: &Status, view: &View) -> String {
    let columns = [
        ("NOT FORWARDED", Kind::Text),
        ("REASON", Kind::Text),
        ("PACKETS", Kind::Number),
        ("MEANING", Kind::Text),
    ];
    let mut grid = Grid::new(2, columns).last_wraps();
    for reason in status.reasons.iter().filter(|reason| reason.packets > 0) {
        grid.row([
            reason.outcome.as_str().into(),
            reason.name.as_str().into(),
            human::count(reason.packets).into(),
            reason.meaning.as_str().into(),
        ]);
    }
    grid.render(view)
}

fn memory(status: &Status, view: &View) -> String {
    let columns = [
        ("FLOW TABLE", Kind::Text),
        ("FLOWS", Kind::Number),
        ("CAPACITY", Kind::Number),
        ("USED", Kind::Number),
        ("HALF-OPEN", Kind::Number),
    ];
    let mut grid = Grid::new(1, columns);
    for table in &status.flow_tables {
        let full = table.flows.saturating_mul(100) >= table.capacity.saturating_mul(NEARLY_FULL);
        grid.row([
            table.family.as_str().into(),
            human::count(table.flows).into(),
            human::count(table.capacity).into(),
            Cell::toned(
                human::percent(table.flows, table.capacity),
                if full { Tone::Bad } else { Tone::Plain },
            ),
            Cell::toned(
                human::percent(table.half_open, table.half_open_capacity),
                if flooded(table) { Tone::Bad } else { Tone::Plain },
            ),
        ]);
    }
    let mut shown = grid.render(view);
    if !status.maps.is_empty() {
        let bytes = status.maps.iter().map(|map| map.bytes).fold(0, u64::saturating_add);
        let text = format!(
            "kernel memory: {} in {}",
            human::bytes(bytes),
            human::plural(status.maps.len(), "map")
        );
        shown.push_str(&view.paragraph(Tone::Dim, 0, &text));
    }
    shown
}

/// Whether there is hardly any room for flows that open.
const fn flooded(table: &FlowTableReport) -> bool {
    table.half_open_capacity > 0
        && table.half_open.saturating_mul(100) >= table.half_open_capacity.saturating_mul(NEARLY_FULL)
}
