//! `[[service]]` with its health check and its backends.

use std::net::SocketAddr;

use super::{
    error::Problem,
    file::{NO_ADDRESS, duration, required_string, timeouts},
    rules::bounds,
    section::Section,
    value,
};
use crate::model::{
    AdminState, Backend, Extent, FlowTracking, ForwardingMode, HealthCheck, HttpProbe, OnDown, Probe, Protocol,
    Protocols, Scheduler, Scheduling, Service, ServiceId, SynCookies, Timeouts, Vip, VipAddress,
};

const HTTP_ONLY: [&str; 4] = ["path", "host", "expect-status", "expect-body"];
const TEXT: &str = "text in quotation marks";

#[derive(Clone, Copy)]
enum VipKind {
    Add,
    Manual,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ProbeKind {
    Tcp,
    Http,
    None,
}

/// Reads one service; `default_timeouts` are those of `[timeouts]`.
pub(super) fn read(mut section: Section<'_>, default_timeouts: Timeouts) -> Service {
    let name = required_string(&mut section, "name", "a unique name");
    let vip = vip(&mut section);
    let (protocol, udp_too) = section
        .choice(
            "protocol",
            &[
                ("tcp", Protocols::Tcp),
                ("udp", Protocols::Udp),
                ("tcp+udp", Protocols::TcpUdp),
            ],
        )
        .unwrap_or_default()
        .split();
    let scheduling = scheduling(&mut section);
    let default_timeouts = Timeouts {
        // Each datagram takes a source port until its reply's time is over.
        udp: if scheduling.one_packet {
            default_timeouts.udp.min(Scheduling::ONE_PACKET_TIMEOUT)
        } else {
            default_timeouts.udp
        },
        ..default_timeouts
    };
    let mut service = Service {
        name,
        id: ServiceId {
            vip: vip.first,
            protocol,
        },
        extent: Extent {
            more_ports: vip.more_ports,
            udp_too,
        },
        mode: section
            .choice(
                "mode",
                &[
                    ("full-nat", ForwardingMode::FullNat),
                    ("nat", ForwardingMode::Nat),
                    ("l2-dsr", ForwardingMode::L2Dsr),
                    ("ipip", ForwardingMode::Ipip),
                    ("gue", ForwardingMode::Gue),
                ],
            )
            .unwrap_or_default(),
        scheduler: section
            .choice(
                "scheduler",
                &[
                    ("round-robin", Scheduler::RoundRobin),
                    ("least-conn", Scheduler::LeastConn),
                    ("source-hash", Scheduler::SourceHash),
                    ("maglev", Scheduler::Maglev),
                ],
            )
            .unwrap_or_default(),
        scheduling,
        vip_address: vip_address(&mut section),
        on_down: section
            .choice(
                "on-down",
                &[("reset", OnDown::Reset), ("move", OnDown::Move), ("keep", OnDown::Keep)],
            )
            .unwrap_or(match protocol {
                Protocol::Tcp => OnDown::Reset,
                Protocol::Udp => OnDown::Move,
            }),
        failback: section.boolean("failback").unwrap_or(true),
        timeouts: timeouts(section.table("timeouts"), default_timeouts),
        health: health(section.table("health"), protocol),
        backends: Vec::new(),
    };
    for backend in section.tables("backend") {
        let backend = self::backend(backend, &service);
        service.backends.push(backend);
    }
    section.finish();
    service
}

fn scheduling(section: &mut Section<'_>) -> Scheduling {
    let default = Scheduling::default();
    Scheduling {
        maglev_table_size: section
            .integer("maglev-table-size", &bounds::TABLE)
            .unwrap_or(default.maglev_table_size),
        rehash_window: duration(section, "rehash-window").unwrap_or(default.rehash_window),
        affinity: duration(section, "affinity").unwrap_or(default.affinity),
        one_packet: section.boolean("one-packet").unwrap_or(default.one_packet),
        slow_start: duration(section, "slow-start").unwrap_or(default.slow_start),
        drain_timeout: duration(section, "drain-timeout").unwrap_or(default.drain_timeout),
        syn_cookies: section
            .choice(
                "syn-cookies",
                &[
                    ("off", SynCookies::Off),
                    ("under-flood", SynCookies::UnderFlood),
                    ("always", SynCookies::Always),
                ],
            )
            .unwrap_or_default(),
        flow_tracking: section
            .choice(
                "flow-tracking",
                &[("all", FlowTracking::All), ("moved", FlowTracking::Moved)],
            )
            .unwrap_or_default(),
    }
}

fn vip(section: &mut Section<'_>) -> Vip {
    let expected = "ADDRESS:PORT such as \"192.0.2.10:80\" or \"[2001:db8::10]:80\"";
    section.require("vip", expected);
    section.parsed("vip", expected, value::vip).unwrap_or(Vip {
        first: SocketAddr::new(NO_ADDRESS, 1),
        more_ports: 0,
    })
}

fn vip_address(section: &mut Section<'_>) -> VipAddress {
    let kind = section.choice("vip-address", &[("add", VipKind::Add), ("manual", VipKind::Manual)]);
    let interface = section
        .string("vip-interface", "the name of one of the interfaces")
        .map(str::to_owned);
    match (kind.unwrap_or(VipKind::Add), interface) {
        (VipKind::Add, interface) => VipAddress::Add(interface),
        (VipKind::Manual, None) => VipAddress::Manual,
        (VipKind::Manual, Some(interface)) => {
            let problem = Problem::new(
                section.path_of("vip-interface"),
                "this key has no effect with vip-address = \"manual\"",
            );
            section.push(
                problem
                    .value(interface)
                    .expected("no `vip-interface`, or vip-address = \"add\""),
            );
            VipAddress::Manual
        }
    }
}

/// `[service.health]`.
fn health(mut section: Section<'_>, protocol: Protocol) -> HealthCheck {
    let default = HealthCheck::default();
    let written = section.choice(
        "type",
        &[
            ("tcp", ProbeKind::Tcp),
            ("http", ProbeKind::Http),
            ("none", ProbeKind::None),
        ],
    );
    let type_is_readable = written.is_some() || !section.has("type");
    let kind = written.unwrap_or(match protocol {
        Protocol::Tcp => ProbeKind::Tcp,
        Protocol::Udp => ProbeKind::None,
    });
    let probe = probe(&mut section, kind);
    let port = section.integer("port", &bounds::PORT);
    let interval = duration(&mut section, "interval").unwrap_or(default.interval);
    let check = HealthCheck {
        probe,
        port,
        interval,
        // A shorter interval alone is not to be an error about a key that nobody wrote.
        fast_interval: duration(&mut section, "fast-interval").unwrap_or(default.fast_interval.min(interval)),
        timeout: duration(&mut section, "timeout").unwrap_or(default.timeout),
        rise: section.integer("rise", &bounds::RISE_FALL).unwrap_or(default.rise),
        fall: section.integer("fall", &bounds::RISE_FALL).unwrap_or(default.fall),
        start_jitter: duration(&mut section, "start-jitter").unwrap_or(default.start_jitter),
    };
    if type_is_readable {
        refuse_idle_keys(&section, kind);
    }
    section.finish();
    check
}

fn probe(section: &mut Section<'_>, kind: ProbeKind) -> Probe {
    let http = HttpProbe {
        path: section
            .string("path", "a path such as \"/healthz\"")
            .unwrap_or("/")
            .to_owned(),
        host: section.string("host", "a host name").map(str::to_owned),
        status: section
            .parsed(
                "expect-status",
                "HTTP status codes such as \"200\" or \"200-399\"",
                value::status_range,
            )
            .unwrap_or(200..=399),
        body: section.string("expect-body", TEXT).map(str::to_owned),
    };
    match kind {
        ProbeKind::Tcp => Probe::Tcp,
        ProbeKind::Http => Probe::Http(http),
        ProbeKind::None => Probe::None,
    }
}

/// A key without effect is a misunderstanding: the operator believes that something is checked which is not.
fn refuse_idle_keys(section: &Section<'_>, kind: ProbeKind) {
    let (idle, message): (&[&str], _) = match kind {
        ProbeKind::Http => return,
        ProbeKind::Tcp => (&HTTP_ONLY, "this key has no effect with type = \"tcp\""),
        ProbeKind::None => (
            &["path", "host", "expect-status", "expect-body", "port"],
            "this key has no effect without a check",
        ),
    };
    for key in idle.iter().filter(|key| section.has(key)) {
        let expected = match *key {
            "port" => "type = \"tcp\" or type = \"http\" along with it",
            _ => "type = \"http\" along with it",
        };
        section.push(Problem::new(section.path_of(key), message).expected(expected));
    }
}

/// `[[service.backend]]`.
fn backend(mut section: Section<'_>, service: &Service) -> Backend {
    let expected = "ADDRESS:PORT such as \"10.0.0.11:80\" or \"[2001:db8::11]:80\"";
    section.require("address", expected);
    let address = section
        .parsed("address", expected, value::backend_endpoint)
        .unwrap_or(SocketAddr::new(NO_ADDRESS, 1));
    let mut backend = Backend::new(address);
    service.complete(&mut backend);
    let backend = Backend {
        name: section
            .string("name", "a unique name")
            .map_or(backend.name, str::to_owned),
        address: backend.address,
        weight: section.integer("weight", &bounds::WEIGHT).unwrap_or(1),
        tier: tier(&mut section),
        admin: section
            .choice(
                "state",
                &[
                    ("enabled", AdminState::Enabled),
                    ("drain", AdminState::Drain),
                    ("disabled", AdminState::Disabled),
                ],
            )
            .unwrap_or_default(),
        max_connections: section.integer("max-connections", &bounds::CONNECTIONS),
        drain_until: None,
    };
    section.finish();
    backend
}

/// `backup = true` is tier 1.
fn tier(section: &mut Section<'_>) -> u8 {
    let backup = section.boolean("backup");
    let tier = section.integer("tier", &bounds::TIER);
    if section.has("backup") && section.has("tier") {
        let problem = Problem::new(section.path_of("tier"), "both `backup` and `tier` are given")
            .expected("one of them; backup = true is tier = 1")
            .related(section.path_of("backup"), "the other one");
        section.push(problem);
    }
    tier.unwrap_or_else(|| u8::from(backup.unwrap_or(false)))
}
