//! The kernel maps as user space opens them: sizes, the check of what is pinned, and typed handles.

use std::hash::{BuildHasher as _, RandomState};

use aya::{
    Ebpf,
    maps::{Array, DevMapHash, HashMap, Map, MapData, MapError, MapInfo, PerCpuArray, ProgramArray},
};
use lb_common::{
    abi::{
        self, Active, Affinity, AffinityKey, BackendEntry, BackendStats, Cursor, Datagram, DirectBucket, Flow, FlowKey,
        FragmentKey, Previous, Rotation, SLOTS_PER_PAGE, Service, ServiceKey, SlotPage, VipFlags,
    },
    direct,
    flow::Tick,
    flow_cache::Entry,
    net::{Addr4, Addr6, AnyAddr},
    reason, schedule,
};

use super::{
    DatapathError, flow_cache, loader,
    pins::{Pins, kernel},
    vips::Vips,
};
use crate::{api::MapReport, model::Limits};

/// Places in the source arena.
pub const SOURCE_PLACES: u32 = 4096;
/// First fragments that are remembered, in each family.
pub const FRAGMENTS: u32 = 16_384;
/// Interfaces at most.
pub const DEVICES: u32 = 64;

/// Not zero once there may be flows between families.
pub(super) const MIXED_SEEN: &str = "MIXED_SEEN";

/// Name, entries, key and value size of every pinned map.
pub(super) fn shapes(limits: &Limits) -> [(&'static str, u32, usize, usize); 33] {
    let Limits {
        flows_ipv4,
        flows_ipv6,
        half_open_ipv4,
        half_open_ipv6,
        flows_mixed,
        services,
        service_ports,
        backends,
        new_flows_per_core: _,
        syn_cookies_above: _,
        icmp_per_second: _,
        slots,
        affinity,
    } = *limits;
    [
        (
            "SERVICES_V4",
            service_ports,
            size_of::<ServiceKey<Addr4>>(),
            size_of::<Service>(),
        ),
        (
            "SERVICES_V6",
            service_ports,
            size_of::<ServiceKey<Addr6>>(),
            size_of::<Service>(),
        ),
        (
            "FLOWS_V4",
            flows_ipv4.saturating_mul(2),
            size_of::<FlowKey<Addr4>>(),
            size_of::<Flow<Addr4>>(),
        ),
        (
            "FLOWS_V6",
            flows_ipv6.saturating_mul(2),
            size_of::<FlowKey<Addr6>>(),
            size_of::<Flow<Addr6>>(),
        ),
        (
            "EMBRYONIC_V4",
            half_open_ipv4.saturating_mul(2),
            size_of::<FlowKey<Addr4>>(),
            size_of::<Flow<Addr4>>(),
        ),
        (
            "EMBRYONIC_V6",
            half_open_ipv6.saturating_mul(2),
            size_of::<FlowKey<Addr6>>(),
            size_of::<Flow<Addr6>>(),
        ),
        (
            "FLOW_CACHE_V4",
            flow_cache::places(flows_ipv4).max(1),
            4,
            size_of::<Entry<Addr4>>(),
        ),
        (
            "FLOW_CACHE_V6",
            flow_cache::places(flows_ipv6).max(1),
            4,
            size_of::<Entry<Addr6>>(),
        ),
        // A mixed flow has an entry in each.
        (
            "MIXED_V4",
            flows_mixed,
            size_of::<FlowKey<Addr4>>(),
            size_of::<Flow<Addr6>>(),
        ),
        (
            "MIXED_V6",
            flows_mixed,
            size_of::<FlowKey<Addr6>>(),
            size_of::<Flow<Addr4>>(),
        ),
        (MIXED_SEEN, 1, 4, 8),
        ("ROTATIONS", services, 4, size_of::<Rotation>()),
        ("CURSORS", services, 4, size_of::<Cursor>()),
        ("SPILLS", services, 4, size_of::<Rotation>()),
        ("PREVIOUS", services, 4, size_of::<Previous>()),
        (
            "AFFINITY_V4",
            affinity,
            size_of::<AffinityKey<Addr4>>(),
            size_of::<Affinity>(),
        ),
        (
            "AFFINITY_V6",
            affinity,
            size_of::<AffinityKey<Addr6>>(),
            size_of::<Affinity>(),
        ),
        ("SLOTS", slots.div_ceil(SLOTS_PER_PAGE), 4, size_of::<SlotPage>()),
        (super::direct::PORTS, direct::BUCKETS, 4, size_of::<DirectBucket>()),
        ("BACKENDS", backends, 4, size_of::<BackendEntry>()),
        ("ACTIVE", backends, 4, size_of::<Active>()),
        ("SOURCES", SOURCE_PLACES, 4, size_of::<AnyAddr>()),
        ("SOURCE_CURSORS", schedule::SOURCE_CURSORS, 4, 8),
        ("DEVICES", DEVICES, 4, 8),
        ("BACKEND_STATS", backends, 4, size_of::<BackendStats>()),
        ("REASONS", reason::COUNTERS, 4, 8),
        ("VIPS_V4", services, size_of::<Addr4>(), size_of::<VipFlags>()),
        ("VIPS_V6", services, size_of::<Addr6>(), size_of::<VipFlags>()),
        (
            "FRAGMENTS_V4",
            FRAGMENTS,
            size_of::<FragmentKey<Addr4>>(),
            size_of::<Datagram>(),
        ),
        (
            "FRAGMENTS_V6",
            FRAGMENTS,
            size_of::<FragmentKey<Addr6>>(),
            size_of::<Datagram>(),
        ),
        ("FRAGMENT_IDS", schedule::SOURCE_CURSORS, 4, 8),
        ("STAGES", abi::STAGES.len() as u32, 4, 4),
        ("COOKIE_SENT", 1, 4, size_of::<Tick>()),
    ]
}

/// Compares what is pinned with what the configuration asks for: the kernel would reuse any map under the right name.
pub(super) fn check_pinned(pins: &Pins, limits: &Limits) -> Result<(), DatapathError> {
    for (name, entries, key, value) in shapes(limits) {
        let path = pins.maps().join(name);
        if !path.exists() {
            continue;
        }
        let info = MapInfo::from_pin(&path).map_err(|e| kernel(format!("cannot open {}", path.display()), e))?;
        let found = (info.max_entries(), info.key_size() as usize, info.value_size() as usize);
        if found != (entries, key, value) {
            let words = |(entries, key, value)| format!("{entries} entries of {key} + {value} bytes");
            return Err(DatapathError::MapMismatch {
                map: name.to_owned(),
                found: words(found),
                expected: words((entries, key, value)),
            });
        }
    }
    Ok(())
}

/// Memory of the pinned maps, as the kernel accounts it.
pub(super) fn memory(pins: &Pins, limits: &Limits) -> Result<Vec<MapReport>, DatapathError> {
    let mut reports = Vec::new();
    for (name, max_entries, ..) in shapes(limits) {
        let map = open(pins, name)?;
        reports.push(MapReport {
            name: name.to_owned(),
            max_entries,
            bytes: memlock(&map),
        });
    }
    Ok(reports)
}

fn memlock(map: &MapData) -> u64 {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let fd = map.fd().as_fd().as_raw_fd();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap_or_default();
    info.lines()
        .find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
        .unwrap_or(0)
}

/// Services of one family.
pub(super) type ServiceMap<A> = HashMap<MapData, ServiceKey<A>, Service>;

/// Typed handles of all maps that the controller writes or reads.
pub(super) struct Maps {
    pub services_v4: ServiceMap<Addr4>,
    pub services_v6: ServiceMap<Addr6>,
    pub rotations: Array<MapData, Rotation>,
    pub spills: Array<MapData, Rotation>,
    pub previous: Array<MapData, Previous>,
    pub active: Array<MapData, Active>,
    pub slots: Array<MapData, SlotPage>,
    /// The same map, for writing many pages at once.
    pub slots_data: MapData,
    pub backends: Array<MapData, BackendEntry>,
    pub sources: Array<MapData, AnyAddr>,
    pub devices: DevMapHash<MapData>,
    pub backend_stats: PerCpuArray<MapData, BackendStats>,
    pub reasons: PerCpuArray<MapData, u64>,
    pub vips: Vips,
}

/// Lets every source-port cursor begin anywhere: servers may remember the ports of a packet path that was detached.
pub(super) fn scatter_source_cursors(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let mut cursors: Array<MapData, u64> = take(ebpf, "SOURCE_CURSORS")?;
    let random = RandomState::new();
    for cursor in 0..schedule::SOURCE_CURSORS {
        let start = random.hash_one(cursor) >> 32;
        cursors
            .set(cursor, start, 0)
            .map_err(|e| kernel("map SOURCE_CURSORS", e))?;
    }
    Ok(())
}

/// Has the packet path look for flows between families: one that made some may not have said so.
pub(super) fn expect_mixed(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let mut seen: Array<MapData, u64> = take(ebpf, MIXED_SEEN)?;
    seen.set(0, 1, 0).map_err(|e| kernel(format!("map {MIXED_SEEN}"), e))
}

/// Puts the programs besides the entry where its tail calls find them.
pub(super) fn fill_stages(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let mut programs = Vec::new();
    for name in abi::STAGES {
        let program = loader::program(ebpf, name)?;
        let fd = program.fd().and_then(|fd| Ok(fd.try_clone()?));
        programs.push(fd.map_err(|e| kernel(format!("program {name}"), e))?);
    }
    // The object keeps the map: the kernel empties one that is neither open nor pinned.
    let map = ebpf
        .map_mut("STAGES")
        .ok_or_else(|| kernel("map STAGES", "not in the object"))?;
    let mut stages = ProgramArray::try_from(map).map_err(|e| kernel("map STAGES", e))?;
    for (stage, fd) in (0..).zip(&programs) {
        stages.set(stage, fd, 0).map_err(|e| kernel("map STAGES", e))?;
    }
    Ok(())
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf, pins: &Pins) -> Result<Self, DatapathError> {
        Ok(Self {
            services_v4: take(ebpf, "SERVICES_V4")?,
            services_v6: take(ebpf, "SERVICES_V6")?,
            rotations: take(ebpf, "ROTATIONS")?,
            spills: take(ebpf, "SPILLS")?,
            previous: take(ebpf, "PREVIOUS")?,
            active: take(ebpf, "ACTIVE")?,
            slots: take(ebpf, "SLOTS")?,
            slots_data: open(pins, "SLOTS")?,
            backends: take(ebpf, "BACKENDS")?,
            sources: take(ebpf, "SOURCES")?,
            devices: take(ebpf, "DEVICES")?,
            backend_stats: take(ebpf, "BACKEND_STATS")?,
            reasons: take(ebpf, "REASONS")?,
            vips: Vips::new(take(ebpf, "VIPS_V4")?, take(ebpf, "VIPS_V6")?),
        })
    }
}

fn open(pins: &Pins, name: &str) -> Result<MapData, DatapathError> {
    let path = pins.maps().join(name);
    MapData::from_pin(&path).map_err(|e| kernel(format!("cannot open {}", path.display()), e))
}

pub(super) fn take<M: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<M, DatapathError> {
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| kernel(format!("map {name}"), "not in the packet path's object"))?;
    M::try_from(map).map_err(|e| kernel(format!("map {name}"), e))
}
