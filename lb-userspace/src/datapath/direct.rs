//! The ports of services whose flows are stored only where their slot moved: where the packet path finds them before it looks for
//! flows. A port that finds no room, and services on all ports, are served by the flow table like others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use lb_common::{
    abi::{DirectBucket, DirectEntry, Service, ServiceFlags},
    direct,
    net::{self, Addr4, Addr6, Be16},
};

use super::{DatapathError, kernel::number, loader, maps::take, pins::kernel};
use crate::model::ServiceId;

/// The map of the ports.
pub(super) const PORTS: &str = "DIRECT";
/// The program's own memory, which is their number alone.
const MEMORY: &str = ".bss";

/// Those ports.
pub(super) struct DirectPorts {
    buckets: Array<MapData, DirectBucket>,
    number: Array<MapData, u64>,
    known: BTreeSet<ServiceId>,
}

impl DirectPorts {
    /// Takes the maps out of a loaded object. The ports of `services` are what a running packet path knows.
    pub(super) fn take(ebpf: &mut Ebpf, services: &BTreeMap<ServiceId, Service>) -> Result<Self, DatapathError> {
        let mut ports = Self {
            buckets: take(ebpf, PORTS)?,
            number: take(ebpf, MEMORY)?,
            known: BTreeSet::new(),
        };
        for (id, service) in services {
            ports.set(*id, service)?;
        }
        Ok(ports)
    }

    /// Takes note of a service's port, or forgets it.
    pub(super) fn set(&mut self, id: ServiceId, service: &Service) -> Result<(), DatapathError> {
        if id.vip.port() == 0 || !service.flags.any(ServiceFlags::MOVED_ONLY) {
            return self.remove(id);
        }
        let (at, mut entry) = place(id);
        entry.service = service.index;
        let Some(writes) = self.bucket(at)?.with(entry) else {
            tracing::info!(
                "service {id}: no place for what its packets are found by at once; they go by the flow table"
            );
            return Ok(());
        };
        for bucket in writes {
            self.write(at, bucket)?;
        }
        self.known.insert(id);
        self.publish()
    }

    /// Forgets a port.
    pub(super) fn remove(&mut self, id: ServiceId) -> Result<(), DatapathError> {
        let (at, entry) = place(id);
        if let Some(rest) = self.bucket(at)?.without(entry) {
            self.write(at, rest)?;
        }
        if self.known.remove(&id) {
            self.publish()?;
        }
        Ok(())
    }

    fn bucket(&self, at: u32) -> Result<DirectBucket, DatapathError> {
        self.buckets.get(&at, 0).map_err(|e| refused(PORTS, &e))
    }

    fn write(&mut self, at: u32, bucket: DirectBucket) -> Result<(), DatapathError> {
        self.buckets.set(at, bucket, 0).map_err(|e| refused(PORTS, &e))
    }

    fn publish(&mut self) -> Result<(), DatapathError> {
        let number = self.known.len() as u64;
        self.number.set(0, number, 0).map_err(|e| refused(MEMORY, &e))
    }
}

fn refused(map: &str, error: &aya::maps::MapError) -> DatapathError {
    kernel(format!("map {map}"), loader::chain(error))
}

/// A port's bucket, and its entry there.
fn place(id: ServiceId) -> (u32, DirectEntry) {
    let protocol = number(id.protocol);
    let port = Be16::new(id.vip.port());
    let (what, bucket) = match id.vip.ip() {
        IpAddr::V4(ip) => {
            let what = direct::what(port, protocol, 4);
            (what, direct::bucket(Addr4::from(ip), what))
        }
        IpAddr::V6(ip) => {
            let what = direct::what(port, protocol, 6);
            (what, direct::bucket(Addr6::from(ip), what))
        }
    };
    let entry = DirectEntry {
        vip: net::to_any(id.vip.ip()),
        what,
        ..DirectEntry::default()
    };
    (bucket, entry)
}
