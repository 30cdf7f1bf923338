//! Walking the flow tables: the sweep, and `lb flows`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd as _,
    path::Path,
};

use aya::{
    Pod,
    maps::{HashMap, MapData},
};
use lb_common::{
    abi::{Flow, FlowKey, Link},
    checksum::Delta,
    flow::{Direction, Phase, Tick},
    net::{Addr4, Addr6, Address, Be16, MacAddr},
    rewrite::Rewrite,
};

use super::{DatapathError, FlowEntry, Sweep, batch, pins::kernel};

/// How long an entry stays after it expired, in ticks (about four seconds): a packet that finds it may still be at work.
const GRACE: u32 = 4096;

/// A flow table of either family.
pub(super) struct Table<A> {
    map: HashMap<MapData, FlowKey<A>, Flow<A>>,
    /// The same map once more: aya's typed handle does not lend its descriptor.
    data: MapData,
}

impl<A> Table<A>
where
    FlowKey<A>: Pod,
    Flow<A>: Pod,
{
    /// Of a typed handle and the pin of the same map.
    pub(super) fn new(map: HashMap<MapData, FlowKey<A>, Flow<A>>, pin: &Path) -> Result<Self, DatapathError> {
        let data = MapData::from_pin(pin).map_err(|e| kernel(format!("cannot open {}", pin.display()), e))?;
        Ok(Self { map, data })
    }
}

/// What the walk needs of an address.
pub(super) trait UserAddress: Address + Default {
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
pub(super) fn sweep<A: UserAddress>(table: &mut Table<A>, now: Tick, sweep: &mut Sweep) -> Result<u64, DatapathError>
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
    for (key, to_backend) in expired {
        // It may have come back to life, or been replaced by a new flow.
        let still = table
            .map
            .get(&key, 0)
            .is_ok_and(|flow| flow.expires.plus(GRACE).passed(now));
        if still && table.map.remove(&key).is_ok() && to_backend {
            sweep.expired += 1;
        }
    }
    Ok(flows)
}

/// Gives each unexpired flow to `visit`, once.
pub(super) fn for_each<A: UserAddress>(
    table: &Table<A>,
    now: Tick,
    visit: &mut dyn FnMut(&FlowEntry),
) -> Result<(), DatapathError>
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
        protocol: key.protocol,
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
        client: Link {
            remote: MacAddr::default(),
            local: MacAddr::default(),
            ifindex: 0,
        },
        backend: 0,
        expires: Tick(0),
        opened: Tick(0),
        phase: Phase::SYN_SEEN,
        direction: Direction::TO_BACKEND,
        pad: [0; 2],
    }
}
