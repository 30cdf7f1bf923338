//! The packet path in the kernel, through aya.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd as _,
    path::Path,
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{HashMap, Map, MapData, MapError, PerCpuValues},
};
use aya_log::EbpfLogger;
use lb_common::{
    abi::{Active, Backend, BackendEntry, BackendStats, Previous, Rotation, Service, ServiceKey, SlotPage},
    flow_cache::Epoch,
    net::{self, Addr4, Addr6, Address, Be16},
    reason,
};

use super::{
    Attachment, BackendCounters, Contents, Datapath, DatapathError, FlowTables as _, KernelFlowTables, batch,
    direct::DirectPorts,
    links, loader,
    maps::{self, Maps, ServiceMap},
    pins::{Pins, kernel},
};
use crate::{
    api::MapReport,
    model::{Limits, Protocol, ServiceId, XdpMode},
    plan::{
        ranges::Range,
        slots::{Pages, pages_of},
    },
};

/// The packet path of one instance.
pub struct KernelDatapath {
    ebpf: Ebpf,
    maps: Maps,
    direct: DirectPorts,
    flows: Arc<KernelFlowTables>,
    pins: Pins,
    limits: Limits,
    attached: BTreeMap<String, u32>,
}

impl KernelDatapath {
    /// Loads the packet path, on the maps that are pinned for the instance if there are any.
    ///
    /// # Errors
    /// Missing capabilities, no BPF file system, pins of another ABI version or of other sizes, a refusal of the kernel.
    pub fn open(
        bpffs: &Path,
        instance: &str,
        limits: Limits,
        features: loader::Features,
    ) -> Result<Self, DatapathError> {
        loader::check_capabilities()?;
        let pins = Pins::new(bpffs, instance);
        pins.check(bpffs)?;
        let fresh = !pins.exist();
        pins.create()?;
        match Self::load(&pins, limits, features, fresh) {
            Ok(datapath) => Ok(datapath),
            Err(error) => {
                if fresh {
                    pins.remove()?;
                }
                Err(error)
            }
        }
    }

    fn load(pins: &Pins, limits: Limits, features: loader::Features, fresh: bool) -> Result<Self, DatapathError> {
        // An older packet path, which goes on until this one takes its place.
        let silent_on_mixed = !fresh && !pins.maps().join(maps::MIXED_SEEN).exists();
        let mut ebpf = loader::load(pins, &limits, features)?;
        if fresh {
            maps::scatter_source_cursors(&mut ebpf)?;
        }
        if silent_on_mixed {
            maps::expect_mixed(&mut ebpf)?;
        }
        let mut maps = Maps::take(&mut ebpf, pins)?;
        // A daemon that was killed may have left a service whose VIP it had not come to.
        let services = services(&maps.services_v4, &maps.services_v6)?;
        for id in services.keys() {
            maps.vips.add(id.vip.ip())?;
        }
        Ok(Self {
            direct: DirectPorts::take(&mut ebpf, &services)?,
            maps,
            flows: Arc::new(KernelFlowTables::open(pins, &limits)?),
            ebpf,
            pins: pins.clone(),
            limits,
            attached: BTreeMap::new(),
        })
    }

    /// The flow tables, for walks aside.
    #[must_use]
    pub fn flow_tables(&self) -> Arc<KernelFlowTables> {
        Arc::clone(&self.flows)
    }

    /// What the packet path says, for a task that passes it on. `None` when there is nothing to read.
    pub fn logger(&mut self) -> Option<EbpfLogger<&'static dyn log::Log>> {
        EbpfLogger::init(&mut self.ebpf).ok()
    }

    /// The program, for tests and measurements.
    pub fn program(&mut self) -> Result<&mut aya::programs::Xdp, DatapathError> {
        loader::program(&mut self.ebpf, loader::ENTRY)
    }

    fn pages(&self, rotation: Rotation, all: &mut BTreeMap<u32, Pages>) -> Result<(), DatapathError> {
        let Range { first, len } = pages_of(rotation);
        if len > 0 {
            let page = |number| get(self.maps.slots.get(&number, 0), "SLOTS");
            let pages: Result<Pages, _> = (first..first.saturating_add(len)).map(page).collect();
            all.insert(first, pages?);
        }
        Ok(())
    }
}

/// Services by identity, as the two maps hold them.
fn services(
    services_v4: &ServiceMap<Addr4>,
    services_v6: &ServiceMap<Addr6>,
) -> Result<BTreeMap<ServiceId, Service>, DatapathError> {
    let mut services = BTreeMap::new();
    for entry in services_v4.iter() {
        let (key, service) = get(entry, "SERVICES_V4")?;
        let ip = std::net::Ipv4Addr::from(key.vip).into();
        services.insert(service_id(ip, key.port, key.protocol), service);
    }
    for entry in services_v6.iter() {
        let (key, service) = get(entry, "SERVICES_V6")?;
        let ip = std::net::Ipv6Addr::from(key.vip).into();
        services.insert(service_id(ip, key.port, key.protocol), service);
    }
    Ok(services)
}

/// The services of a pinned packet path, whoever runs it.
///
/// # Errors
/// When the pins are not readable.
pub fn pinned_services(pins: &Pins) -> Result<Vec<ServiceId>, DatapathError> {
    let open = |name: &str| {
        let path = pins.maps().join(name);
        MapData::from_pin(&path).map_err(|e| kernel(format!("cannot open {}", path.display()), e))
    };
    let services_v4 = get(HashMap::try_from(Map::HashMap(open("SERVICES_V4")?)), "SERVICES_V4")?;
    let services_v6 = get(HashMap::try_from(Map::HashMap(open("SERVICES_V6")?)), "SERVICES_V6")?;
    Ok(services(&services_v4, &services_v6)?.into_keys().collect())
}

impl Datapath for KernelDatapath {
    fn contents(&self) -> Result<Contents, DatapathError> {
        let mut contents = Contents {
            services: services(&self.maps.services_v4, &self.maps.services_v6)?,
            ..Contents::default()
        };
        let now = self.flows.now()?;
        // A service with several ports is there as often.
        let services: BTreeSet<u32> = contents.services.values().map(|s| s.index).collect();
        for index in &services {
            let rotation: Rotation = get(self.maps.rotations.get(index, 0), "ROTATIONS")?;
            self.pages(rotation, &mut contents.pages)?;
            contents.rotations.insert(*index, rotation);
            let spill: Rotation = get(self.maps.spills.get(index, 0), "SPILLS")?;
            if !spill.is_empty() {
                self.pages(spill, &mut contents.pages)?;
                contents.spills.insert(*index, spill);
            }
            let previous: Previous = get(self.maps.previous.get(index, 0), "PREVIOUS")?;
            if !previous.rotation.is_empty() && !previous.until.passed(now) {
                self.pages(previous.rotation, &mut contents.pages)?;
                contents.previous.insert(*index, previous);
            }
        }
        for index in 0..self.limits.backends {
            let entry = get(self.maps.backends.get(&index, 0), "BACKENDS")?;
            let backend = *entry.current();
            if backend.family == 0 {
                continue;
            }
            for place in backend.first_source..backend.first_source + backend.source_places() {
                let address = get(self.maps.sources.get(&place, 0), "SOURCES")?;
                let address = if backend.family == 4 {
                    std::net::Ipv4Addr::from(Addr4::from_any(address)).into()
                } else {
                    std::net::Ipv6Addr::from(Addr6::from_any(address)).into()
                };
                contents.sources.insert(place, address);
            }
            let epoch = Epoch::default();
            contents.backends.insert(index, Backend { epoch, ..backend });
        }
        Ok(contents)
    }

    fn set_service(&mut self, id: ServiceId, value: Service) -> Result<(), DatapathError> {
        let (port, protocol) = (Be16::new(id.vip.port()), number(id.protocol));
        let result = match id.vip.ip() {
            IpAddr::V4(ip) => self
                .maps
                .services_v4
                .insert(ServiceKey::new(ip.into(), port, protocol), value, 0),
            IpAddr::V6(ip) => self
                .maps
                .services_v6
                .insert(ServiceKey::new(ip.into(), port, protocol), value, 0),
        };
        result.map_err(|e| {
            full(
                &e,
                "the table of services' ports",
                self.limits.service_ports,
                "service-ports",
            )
        })?;
        self.direct.set(id, &value)?;
        self.maps.vips.add(id.vip.ip())
    }

    fn remove_service(&mut self, id: ServiceId) -> Result<(), DatapathError> {
        self.direct.remove(id)?;
        let (port, protocol) = (Be16::new(id.vip.port()), number(id.protocol));
        let result = match id.vip.ip() {
            IpAddr::V4(ip) => self
                .maps
                .services_v4
                .remove(&ServiceKey::new(ip.into(), port, protocol)),
            IpAddr::V6(ip) => self
                .maps
                .services_v6
                .remove(&ServiceKey::new(ip.into(), port, protocol)),
        };
        match result {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(e) => return Err(kernel(format!("cannot remove service {id}"), loader::chain(&e))),
        }
        let rest = services(&self.maps.services_v4, &self.maps.services_v6)?;
        if rest.into_keys().any(|other| other.vip.ip() == id.vip.ip()) {
            return Ok(());
        }
        self.maps.vips.remove(id.vip.ip())
    }

    fn answer_echo(&mut self, vip: IpAddr, on: bool) -> Result<(), DatapathError> {
        self.maps.vips.answer_echo(vip, on)
    }

    fn write_pages(&mut self, first: u32, pages: &[SlotPage]) -> Result<(), DatapathError> {
        batch::write(self.maps.slots_data.fd().as_fd(), first, pages).map_err(|e| kernel("map SLOTS", e))
    }

    fn set_rotation(&mut self, service: u32, rotation: Rotation) -> Result<(), DatapathError> {
        get(self.maps.rotations.set(service, rotation, 0), "ROTATIONS")
    }

    fn set_spill(&mut self, service: u32, rotation: Rotation) -> Result<(), DatapathError> {
        get(self.maps.spills.set(service, rotation, 0), "SPILLS")
    }

    fn set_previous(&mut self, service: u32, previous: Previous) -> Result<(), DatapathError> {
        get(self.maps.previous.set(service, previous, 0), "PREVIOUS")
    }

    fn set_backend(&mut self, index: u32, backend: Backend) -> Result<(), DatapathError> {
        let entry: BackendEntry = get(self.maps.backends.get(&index, 0), "BACKENDS")?;
        let old = entry.current();
        let same = (old.service, old.address, old.port) == (backend.service, backend.address, backend.port);
        // Copies of flows that another backend had by this index, and that were evicted, are not this one's.
        let epoch = if same { old.epoch } else { old.epoch.next() };
        for write in entry.publish(Backend { epoch, ..backend }) {
            get(self.maps.backends.set(index, write, 0), "BACKENDS")?;
        }
        Ok(())
    }

    fn set_source(&mut self, place: u32, address: IpAddr) -> Result<(), DatapathError> {
        get(self.maps.sources.set(place, net::to_any(address), 0), "SOURCES")
    }

    fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<Attachment, DatapathError> {
        let attachment = links::attach(&mut self.ebpf, &self.pins, interface, mode)?;
        let ifindex = attachment.ifindex;
        self.maps
            .devices
            .insert(ifindex, ifindex, None, 0)
            .map_err(|e| kernel(format!("cannot make {interface} a redirect target"), loader::chain(&e)))?;
        self.attached.insert(interface.to_owned(), ifindex);
        Ok(attachment)
    }

    fn detach(&mut self, interface: &str) -> Result<(), DatapathError> {
        let Some(ifindex) = self.attached.remove(interface) else {
            return Ok(());
        };
        links::detach(&self.pins, ifindex)?;
        // The kernel removes the entry of an interface that is gone by itself.
        let _ = self.maps.devices.remove(ifindex);
        Ok(())
    }

    fn destroy(&mut self) -> Result<(), DatapathError> {
        self.attached.clear();
        links::detach_all(&self.pins);
        self.pins.remove()
    }

    fn backend_counters(&self, index: u32) -> Result<BackendCounters, DatapathError> {
        let per_cpu = get(self.maps.backend_stats.get(&index, 0), "BACKEND_STATS")?;
        Ok(per_cpu
            .iter()
            .fold(BackendCounters::default(), |sum, cpu| BackendCounters {
                packets_in: sum.packets_in + cpu.packets_in,
                bytes_in: sum.bytes_in + cpu.bytes_in,
                packets_out: sum.packets_out + cpu.packets_out,
                bytes_out: sum.bytes_out + cpu.bytes_out,
                opened: sum.opened + cpu.opened,
                closed: sum.closed + cpu.closed,
            }))
    }

    fn active(&self, index: u32) -> Result<u32, DatapathError> {
        let active: Active = get(self.maps.active.get(&index, 0), "ACTIVE")?;
        Ok(u32::try_from(active.flows.max(0)).unwrap_or(u32::MAX))
    }

    fn set_active(&mut self, index: u32, flows: u32) -> Result<(), DatapathError> {
        get(self.maps.active.set(index, Active::new(flows), 0), "ACTIVE")
    }

    fn reasons(&self) -> Result<Vec<u64>, DatapathError> {
        (0..reason::COUNTERS)
            .map(|counter| Ok(get(self.maps.reasons.get(&counter, 0), "REASONS")?.iter().sum()))
            .collect()
    }

    fn clear_backend_counters(&mut self, index: u32) -> Result<(), DatapathError> {
        let cpus = get(self.maps.backend_stats.get(&index, 0), "BACKEND_STATS")?.len();
        let values = PerCpuValues::try_from(vec![BackendStats::default(); cpus])
            .map_err(|e| kernel("cannot clear counters", e))?;
        get(self.maps.backend_stats.set(index, values, 0), "BACKEND_STATS")?;
        self.set_active(index, 0)
    }

    fn maps(&self) -> Result<Vec<MapReport>, DatapathError> {
        maps::memory(&self.pins, &self.limits)
    }
}

fn get<T>(result: Result<T, MapError>, map: &str) -> Result<T, DatapathError> {
    result.map_err(|e| kernel(format!("map {map}"), loader::chain(&e)))
}

fn full(error: &MapError, what: &'static str, limit: u32, key: &'static str) -> DatapathError {
    if let MapError::SyscallError(call) = error
        && call.io_error.raw_os_error() == Some(libc::E2BIG)
    {
        return DatapathError::Full {
            what,
            limit: limit.into(),
            key,
        };
    }
    kernel(format!("cannot write to {what}"), loader::chain(error))
}

/// Its number (IANA).
pub(super) const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => net::TCP,
        Protocol::Udp => net::UDP,
    }
}

fn service_id(ip: IpAddr, port: Be16, protocol: u8) -> ServiceId {
    let protocol = if protocol == net::UDP {
        Protocol::Udp
    } else {
        Protocol::Tcp
    };
    ServiceId {
        vip: SocketAddr::new(ip, port.get()),
        protocol,
    }
}
