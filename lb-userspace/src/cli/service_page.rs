//! The page of `lb service show`: what `lb status` says of a service, then its settings, and each backend's traffic.

use super::{
    grid::{Grid, Kind},
    human, status_page,
    view::{Tone, View},
};
use crate::{
    api::{Counters, SchedulingReport, ServiceReport, TimeoutsReport},
    model::{FlowTracking, Scheduler, SynCookies},
};

/// The page.
pub(super) fn text(service: &ServiceReport, view: &View) -> String {
    [
        status_page::service(service, view),
        settings(service, view),
        pool(service, view),
        traffic(service, view),
    ]
    .into_iter()
    .filter(|section| !section.is_empty())
    .collect::<Vec<_>>()
    .join("\n")
}

/// What an operator can set, those settings included that are at their defaults.
fn settings(service: &ServiceReport, view: &View) -> String {
    let SchedulingReport {
        maglev_table_size,
        rehash_window_ms,
        affinity_ms,
        one_packet,
        slow_start_ms,
        drain_timeout_ms,
        syn_cookies,
        flow_tracking,
    } = service.scheduling;
    let TimeoutsReport {
        tcp_syn_ms,
        tcp_established_ms,
        tcp_fin_ms,
        tcp_closing_ms,
        udp_ms,
    } = service.timeouts;
    let by_hash = matches!(service.scheduler, Scheduler::SourceHash | Scheduler::Maglev);
    let timeouts = [
        ("tcp-syn", tcp_syn_ms),
        ("tcp-established", tcp_established_ms),
        ("tcp-fin", tcp_fin_ms),
        ("tcp-closing", tcp_closing_ms),
        ("udp", udp_ms),
    ]
    .map(|(name, ms)| format!("{name} {}", span(ms)));
    let rows = [
        Some(("affinity", or_off(affinity_ms))),
        Some(("slow start", or_off(slow_start_ms))),
        Some(("drain timeout", or_off(drain_timeout_ms))),
        Some(("failback", yes_or_no(service.failback))),
        Some(("one-packet", yes_or_no(one_packet))),
        (syn_cookies != SynCookies::Off).then(|| ("SYN cookies", syn_cookies.to_string())),
        by_hash.then(|| ("Maglev table", format!("{maglev_table_size} slots"))),
        by_hash.then(|| ("rehash window", or_off(rehash_window_ms))),
        (flow_tracking != FlowTracking::All).then(|| ("flow tracking", "moved: flows of moved slots only".to_owned())),
        service.tunnel_port.map(|port| ("tunnel port", port.to_string())),
        Some(("timeouts", timeouts.join(", "))),
    ];
    let mut grid = Grid::new(1, [("SETTING", Kind::Text), ("VALUE", Kind::Text)])
        .indented(2)
        .last_wraps();
    for (name, value) in rows.into_iter().flatten() {
        grid.row([name.into(), value.into()]);
    }
    grid.render(view)
}

/// What the operator decided about each backend, and the way to it.
fn pool(service: &ServiceReport, view: &View) -> String {
    let mut grid = Grid::new(
        1,
        [
            ("BACKEND", Kind::Text),
            ("WEIGHT", Kind::Number),
            ("TIER", Kind::Number),
            ("MAX", Kind::Number),
            ("ADMIN", Kind::Text),
            ("NEXT HOP", Kind::Text),
        ],
    )
    .indented(2)
    .last_wraps();
    for backend in &service.backends {
        let limit = backend
            .max_connections
            .map_or_else(|| "-".to_owned(), |max| max.to_string());
        grid.row([
            backend.name.as_str().into(),
            backend.weight.to_string().into(),
            backend.tier.to_string().into(),
            limit.into(),
            backend.admin.to_string().into(),
            backend.next_hop.as_deref().unwrap_or("-").into(),
        ]);
    }
    grid.render(view)
}

fn traffic(service: &ServiceReport, view: &View) -> String {
    if service.backends.is_empty() {
        return view.paragraph(Tone::Plain, 2, "Add a backend: lb backend add --help");
    }
    let mut grid = Grid::new(
        1,
        [
            ("BACKEND", Kind::Text),
            ("PACKETS IN", Kind::Number),
            ("BYTES IN", Kind::Number),
            ("PACKETS OUT", Kind::Number),
            ("BYTES OUT", Kind::Number),
        ],
    )
    .indented(2);
    let backends = service.backends.iter().map(|b| (b.name.as_str(), b.counters));
    // Its sum holds what removed backends carried, too.
    for (name, counters) in backends.chain([("all", service.counters)]) {
        let Counters {
            packets_in,
            bytes_in,
            packets_out,
            bytes_out,
            ..
        } = counters;
        grid.row([
            name.into(),
            human::count(packets_in).into(),
            human::bytes(bytes_in).into(),
            human::count(packets_out).into(),
            human::bytes(bytes_out).into(),
        ]);
    }
    grid.render(view)
}

fn span(ms: u64) -> String {
    if ms.is_multiple_of(1000) {
        human::span(ms / 1000)
    } else {
        format!("{ms}ms")
    }
}

fn or_off(ms: u64) -> String {
    if ms == 0 { "off".to_owned() } else { span(ms) }
}

fn yes_or_no(set: bool) -> String {
    if set { "yes" } else { "no" }.to_owned()
}
