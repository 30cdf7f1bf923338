//! What tests are made of.

use std::net::SocketAddr;

use crate::model::{
    AdminState, Backend, ForwardingMode, HealthCheck, OnDown, Protocol, Scheduler, Scheduling, Service, ServiceId,
    Timeouts, VipAddress,
};

pub(crate) fn backend(name: &str, last: u8) -> Backend {
    Backend {
        name: name.into(),
        address: SocketAddr::from(([10, 0, 1, last], 80)),
        weight: 1,
        tier: 0,
        admin: AdminState::Enabled,
        max_connections: None,
        drain_until: None,
    }
}

pub(crate) fn service(name: &str, port: u16, backends: &[Backend]) -> Service {
    Service {
        name: name.into(),
        id: ServiceId {
            vip: SocketAddr::from(([10, 0, 0, 1], port)),
            protocol: Protocol::Tcp,
        },
        extent: crate::model::Extent::default(),
        mode: ForwardingMode::FullNat,
        scheduler: Scheduler::RoundRobin,
        scheduling: Scheduling::default(),
        vip_address: VipAddress::Add(None),
        on_down: OnDown::Reset,
        failback: true,
        timeouts: Timeouts::default(),
        health: HealthCheck::default(),
        backends: backends.to_vec(),
    }
}
