//! Reports for the tests of the pages.

use std::net::SocketAddr;

use crate::{
    api::{
        BackendReport, Counters, FlowReport, FlowTableReport, HealthReport, HealthState, InterfaceReport, MapReport,
        ReasonReport, ServiceReport, Status, TimeoutsReport,
    },
    model::{AdminState, ForwardingMode, OnDown, Protocol, Scheduler, Scheduling, Timeouts},
};

/// The present of the tests.
pub(super) const NOW: u64 = 1_800_000_000;

pub(super) fn counters(active_flows: u64, new_flows: u64) -> Counters {
    Counters {
        packets_in: new_flows * 10,
        bytes_in: new_flows * 1000,
        packets_out: new_flows * 12,
        bytes_out: new_flows * 15_000,
        new_flows,
        active_flows,
    }
}

pub(super) fn backend(name: &str, address: &str) -> BackendReport {
    BackendReport {
        name: name.into(),
        address: address.parse::<SocketAddr>().expect("an address"),
        weight: 1,
        tier: 0,
        admin: AdminState::Enabled,
        max_connections: None,
        slow_start_percent: None,
        drain_left_ms: None,
        health: HealthReport {
            state: HealthState::Up,
            since: NOW - 273_600,
            last_result: Some("HTTP 200".into()),
            latency_ms: Some(0.42),
            progress: (0, 3),
        },
        in_rotation: true,
        why_not: None,
        next_hop: Some("10.0.0.1 (02:00:00:00:00:01) dev eth0".into()),
        counters: counters(312, 852_114),
    }
}

pub(super) fn down(mut backend: BackendReport, why: &str) -> BackendReport {
    backend.health = HealthReport {
        state: HealthState::Down,
        since: NOW - 133,
        last_result: Some(why.into()),
        latency_ms: None,
        progress: (0, 2),
    };
    backend.in_rotation = false;
    backend.why_not = Some(format!("down: {why}"));
    backend.counters.active_flows = 0;
    backend
}

pub(super) fn standby(mut backend: BackendReport, tier: u8) -> BackendReport {
    backend.tier = tier;
    backend.in_rotation = false;
    backend.why_not = Some(format!("standby (tier {tier})"));
    backend.counters = counters(0, 0);
    backend
}

pub(super) fn service(name: &str, vip: &str, backends: Vec<BackendReport>) -> ServiceReport {
    let sum = |of: fn(&Counters) -> u64| backends.iter().map(|b| of(&b.counters)).fold(0, u64::saturating_add);
    ServiceReport {
        name: name.into(),
        vip: vip.parse::<SocketAddr>().expect("an address"),
        protocol: Protocol::Tcp,
        address: format!("{vip}/tcp"),
        mode: ForwardingMode::FullNat,
        scheduler: Scheduler::RoundRobin,
        scheduling: Scheduling::default().into(),
        on_down: OnDown::Reset,
        failback: true,
        timeouts: TimeoutsReport::from(Timeouts::default()),
        tunnel_port: None,
        vip_interface: Some("eth0".into()),
        active_tier: backends.iter().filter(|b| b.in_rotation).map(|b| b.tier).min(),
        counters: Counters {
            packets_in: sum(|c| c.packets_in),
            bytes_in: sum(|c| c.bytes_in),
            packets_out: sum(|c| c.packets_out),
            bytes_out: sum(|c| c.bytes_out),
            new_flows: sum(|c| c.new_flows),
            active_flows: sum(|c| c.active_flows),
        },
        backends,
    }
}

pub(super) fn web() -> ServiceReport {
    service(
        "web",
        "10.0.0.100:80",
        (1..=3)
            .map(|n| backend(&format!("web-{n}"), &format!("10.0.0.1{n}:8080")))
            .collect(),
    )
}

pub(super) fn interface(name: &str, xdp: &str, note: Option<&str>) -> InterfaceReport {
    InterfaceReport {
        name: name.into(),
        index: Some(2),
        xdp: xdp.into(),
        note: note.map(Into::into),
    }
}

pub(super) fn status(services: Vec<ServiceReport>) -> Status {
    let reason = |outcome: &str, name: &str, meaning: &str, packets| ReasonReport {
        outcome: outcome.into(),
        name: name.into(),
        meaning: meaning.into(),
        packets,
    };
    let table = |family: &str, flows, capacity| FlowTableReport {
        family: family.into(),
        flows,
        capacity,
        half_open: flows / 100,
        half_open_capacity: capacity / 4,
    };
    let map = |name: &str, max_entries, bytes| MapReport {
        name: name.into(),
        max_entries,
        bytes,
    };
    Status {
        instance: "default".into(),
        pid: 812,
        started_at: NOW - 11_100,
        adopted: false,
        warnings: Vec::new(),
        interfaces: vec![interface("eth0", "native", None)],
        services,
        reasons: vec![
            reason(
                "pass",
                "not-a-service",
                "the destination is no service's: the kernel takes it",
                18_734_551,
            ),
            reason("pass", "fragment", "a fragment", 0),
            reason(
                "drop",
                "no-backend",
                "no backend of the service takes new flows; a TCP client is answered with RST",
                12,
            ),
        ],
        flow_tables: vec![table("ipv4", 936, 524_288), table("ipv6", 0, 131_072)],
        sweep: None,
        maps: vec![
            map("FLOWS_V4", 1 << 20, 117_440_512),
            map("FLOWS_V6", 1 << 18, 41_943_040),
        ],
    }
}

/// Everything as long and as large as it can be.
pub(super) fn extreme() -> Status {
    let long = "a-name-that-is-as-long-as-the-operator-could-bear-and-then-some-0123456789-0123456789";
    let address = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
    let mut worst = down(
        backend(long, address),
        &"connection refused after a very long story ".repeat(4),
    );
    worst.counters = Counters {
        packets_in: u64::MAX,
        bytes_in: u64::MAX,
        packets_out: u64::MAX,
        bytes_out: u64::MAX,
        new_flows: u64::MAX,
        active_flows: u64::MAX,
    };
    worst.health.progress = (u32::MAX, u32::MAX);
    let mut idle = standby(backend(long, address), 255);
    idle.next_hop = Some(format!("{address} (02:00:00:00:00:01) dev an-interface-15"));
    let counters = worst.counters;
    let mut services: Vec<_> = (0..9)
        .map(|_| service(long, address, vec![worst.clone(), backend(long, address), idle.clone()]))
        .collect();
    for one in &mut services {
        one.counters = counters;
    }
    let mut status = status(services);
    status.instance = long.into();
    status.warnings = vec!["w".repeat(200), "word ".repeat(60)];
    status.interfaces = vec![interface("an-interface-15", "not attached", Some(&"note ".repeat(40)))];
    for reason in &mut status.reasons {
        reason.packets = u64::MAX;
        reason.meaning = "meaning ".repeat(30);
    }
    for table in &mut status.flow_tables {
        (table.flows, table.capacity) = (u64::MAX, u64::MAX);
        (table.half_open, table.half_open_capacity) = (u64::MAX, u64::MAX);
    }
    status
}

pub(super) fn flow(client: &str, vip: &str) -> FlowReport {
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    FlowReport {
        service: "web".into(),
        backend: "web-1".into(),
        protocol: Protocol::Tcp,
        client: address(client),
        vip: address(vip),
        source: address(vip),
        backend_address: address(vip),
        phase: "established".into(),
        age_ms: 133_400,
        expires_in_ms: 7_799_100,
    }
}
