//! Walking the flow tables: the sweep, and `lb flows`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
    path::Path,
    sync::{Mutex, PoisonError},
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData},
};
use lb_common::{
    abi::{Flow, FlowKey, Link},
    checksum::Delta,
    flow::{Direction, Phase, Tick},
    net::{Addr4, Addr6, Address, Be16, MacAddr},
    rewrite::Rewrite,
};

use super::{
    DatapathError, FlowEntry, FlowTables, Sweep, batch,
    clock::Clock,
    pins::{Pins, kernel},
};

/// How long an entry stays after it expired, in ticks (about four seconds): a packet that finds it may still be at work.
const GRACE: u32 = 4096;

/// The flow tables of both families, opened by their pins. Walks begin with the half-open flows: one that is established
/// meanwhile is seen twice rather than not at all.
pub struct KernelFlowTables {
    ipv4: [Table<Addr4>; 2],
    ipv6: [Table<Addr6>; 2],
    clock: Clock,
}

impl KernelFlowTables {
    /// Of an instance whose maps are pinned and were checked.
    pub(super) fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let maps = pins.maps();
        Ok(Self {
            ipv4: [
                Table::open(&maps.join("EMBRYONIC_V4"))?,
                Table::open(&maps.join("FLOWS_V4"))?,
            ],
            ipv6: [
                Table::open(&maps.join("EMBRYONIC_V6"))?,
                Table::open(&maps.join("FLOWS_V6"))?,
            ],
            clock: Clock::load()?,
        })
    }
}

impl FlowTables for KernelFlowTables {
    fn sweep(&self) -> Result<Sweep, DatapathError> {
        let now = self.now()?;
        let mut result = Sweep::default();
        let [half_open_v4, flows_v4] = &self.ipv4;
        let [half_open_v6, flows_v6] = &self.ipv6;
        result.half_open = [
            sweep(half_open_v4, now, &mut result)?,
            sweep(half_open_v6, now, &mut result)?,
        ];
        result.flows = [sweep(flows_v4, now, &mut result)?, sweep(flows_v6, now, &mut result)?];
        Ok(result)
    }

    fn for_each_flow(&self, visit: &mut dyn FnMut(&FlowEntry)) -> Result<(), DatapathError> {
        let now = self.now()?;
        for table in &self.ipv4 {
            for_each(table, now, visit)?;
        }
        for table in &self.ipv6 {
            for_each(table, now, visit)?;
        }
        Ok(())
    }

    fn now(&self) -> Result<Tick, DatapathError> {
        self.clock.now()
    }
}

/// A flow table of one family.
struct Table<A> {
    data: MapData,
    /// A walk removes through here, and walks may come from several threads.
    map: Mutex<HashMap<MapData, FlowKey<A>, Flow<A>>>,
}

impl<A> Table<A>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    fn open(pin: &Path) -> Result<Self, DatapathError> {
        let open = || MapData::from_pin(pin).map_err(|e| kernel(format!("cannot open {}", pin.display()), e));
        let map = HashMap::try_from(Map::LruHashMap(open()?)).map_err(|e| kernel(pin.display().to_string(), e))?;
        Ok(Self {
            data: open()?,
            map: Mutex::new(map),
        })
    }
}

/// What the walk needs of an address.
trait UserAddress: Address + Default {
    fn ip(self) -> IpAddr;
}

impl UserAddress for Addr4 {
    fn ip(self) -> IpAddr {
        Ipv4Addr::from(self).into()
    }
}

impl UserAddress for Addr6 {
    fn ip(self) -> IpAddr {
        Ipv6Addr::from(self).into()
    }
}

/// Counts the flows of a table into `sweep`, removes those that expired, and says how many there are.
fn sweep<A: UserAddress>(table: &Table<A>, now: Tick, sweep: &mut Sweep) -> Result<u64, DatapathError>
where
    FlowKey<A>: Pod + Default,
    Flow<A>: Pod,
{
    let mut flows = 0;
    let mut expired = Vec::new();
    walk(table, |key, flow| {
        let to_backend = flow.direction == Direction::TO_BACKEND;
        if flow.expires.passed(now) {
            if flow.expires.plus(GRACE).passed(now) {
                expired.push((*key, to_backend));
            }
        } else if to_backend {
            flows += 1;
            *sweep.present.entry(flow.backend).or_default() += 1;
            if flow.phase != Phase::CLOSING {
                *sweep.active.entry(flow.backend).or_default() += 1;
            }
        }
    })?;
    let mut map = table.map.lock().unwrap_or_else(PoisonError::into_inner);
    for (key, to_backend) in expired {
        // It may have come back to life, or been replaced by a new flow.
        let still = map.get(&key, 0).is_ok_and(|flow| flow.expires.plus(GRACE).passed(now));
        if still && map.remove(&key).is_ok() && to_backend {
            sweep.expired += 1;
        }
    }
    Ok(flows)
}

/// Gives each unexpired flow to `visit`, once.
fn for_each<A: UserAddress>(table: &Table<A>, now: Tick, visit: &mut dyn FnMut(&FlowEntry)) -> Result<(), DatapathError>
where
    FlowKey<A>: Pod + Default,
    Flow<A>: Pod,
{
    walk(table, |key, flow| {
        if flow.direction == Direction::TO_BACKEND && !flow.expires.passed(now) {
            visit(&entry(key, flow));
        }
    })
}

fn walk<A: UserAddress>(table: &Table<A>, visit: impl FnMut(&FlowKey<A>, &Flow<A>)) -> Result<(), DatapathError>
where
    FlowKey<A>: Pod + Default,
    Flow<A>: Pod,
{
    batch::for_each(table.data.fd().as_fd(), blank::<A>(), visit).map_err(|e| kernel("cannot walk the flow table", e))
}

fn entry<A: UserAddress>(key: &FlowKey<A>, flow: &Flow<A>) -> FlowEntry {
    let address = |ip: A, port: Be16| SocketAddr::new(ip.ip(), port.get());
    FlowEntry {
        client: address(key.src, key.src_port),
        vip: address(key.dst, key.dst_port),
        source: address(flow.rewrite.src, flow.rewrite.src_port),
        backend_address: address(flow.rewrite.dst, flow.rewrite.dst_port),
        protocol: key.protocol(),
        backend: flow.backend,
        phase: flow.phase,
        opened: flow.opened,
        expires: flow.expires,
    }
}

fn blank<A: UserAddress>() -> Flow<A> {
    Flow {
        rewrite: Rewrite {
            src: A::default(),
            dst: A::default(),
            src_port: Be16::default(),
            dst_port: Be16::default(),
            ip_delta: Delta::ZERO,
            l4_delta: Delta::ZERO,
        },
        client: Link::new(MacAddr::default(), MacAddr::default(), 0),
        backend: 0,
        expires: Tick(0),
        opened: Tick(0),
        phase: Phase::SYN_SEEN,
        direction: Direction::TO_BACKEND,
        pad: [0; 10],
        answer: 0,
    }
}
