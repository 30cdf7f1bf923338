//! Walking the flow tables: the sweep, and `lb flows`.

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::ControlFlow,
    os::fd::AsFd as _,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
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
    splice::Splice,
};
use nix::time::{ClockId, clock_gettime};

use super::{
    DatapathError, FlowEntry, FlowPlace, FlowTables, Sweep, batch,
    clock::Clock,
    flow_cache::FlowCache,
    pins::{Pins, kernel},
};
use crate::model::Limits;

/// How long an entry stays after it expired, in ticks (about four seconds): a packet that finds it may still be at work.
const GRACE: u32 = 4096;

/// The flow tables of both families and those between them, opened by their pins, and the flow caches. Walks begin with the
/// half-open flows: one that is established meanwhile is seen twice rather than not at all.
pub struct KernelFlowTables {
    ipv4: [Table<Addr4>; 2],
    ipv6: [Table<Addr6>; 2],
    /// Flows between families, by that of the packets.
    mixed_ipv4: Table<Addr4, Addr6>,
    mixed_ipv6: Table<Addr6, Addr4>,
    cache_ipv4: FlowCache<Addr4>,
    cache_ipv6: FlowCache<Addr6>,
    clock: Clock,
}

impl KernelFlowTables {
    /// Of an instance whose maps are pinned and were checked.
    pub(super) fn open(pins: &Pins, limits: &Limits) -> Result<Self, DatapathError> {
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
            mixed_ipv4: Table::open(&maps.join("MIXED_V4"))?,
            mixed_ipv6: Table::open(&maps.join("MIXED_V6"))?,
            cache_ipv4: FlowCache::open(&maps.join("FLOW_CACHE_V4"), limits.flows_ipv4)?,
            cache_ipv6: FlowCache::open(&maps.join("FLOW_CACHE_V6"), limits.flows_ipv6)?,
            clock: Clock::load()?,
        })
    }
}

/// The part of a core that a sweep takes at most, as one in so many: it pauses as often as it must.
const SHARE: u32 = 10;

/// Processor time between two pauses at least.
const PAUSE_AFTER: Duration = Duration::from_millis(2);

impl FlowTables for KernelFlowTables {
    fn sweep_watching(&self, mut watch: Option<&mut dyn FnMut(&FlowEntry)>) -> Result<Sweep, DatapathError> {
        let now = self.now()?;
        let mut pace = Pace::new();
        let mut result = Sweep::default();
        let watch = &mut watch;
        let [half_open_v4, flows_v4] = &self.ipv4;
        let [half_open_v6, flows_v6] = &self.ipv6;
        result.half_open = [
            sweep(half_open_v4, now, &mut pace, &mut result, watch)?,
            sweep(half_open_v6, now, &mut pace, &mut result, watch)?,
        ];
        let mixed = sweep(&self.mixed_ipv4, now, &mut pace, &mut result, watch)?
            + sweep(&self.mixed_ipv6, now, &mut pace, &mut result, watch)?;
        result.flows = [
            sweep(flows_v4, now, &mut pace, &mut result, watch)?,
            sweep(flows_v6, now, &mut pace, &mut result, watch)?,
            mixed,
        ];
        self.cache_ipv4.clear_some(now);
        self.cache_ipv6.clear_some(now);
        result.cpu = pace.used();
        Ok(result)
    }

    fn walk(
        &self,
        from: FlowPlace,
        visit: &mut dyn FnMut(&FlowEntry) -> ControlFlow<()>,
    ) -> Result<Option<FlowPlace>, DatapathError> {
        let now = self.now()?;
        let ([half_open_v4, flows_v4], [half_open_v6, flows_v6]) = (&self.ipv4, &self.ipv6);
        let mut place = from;
        while place.table < 6 {
            let bucket = match place.table {
                0 => visit_table(half_open_v4, place.bucket, now, visit),
                1 => visit_table(flows_v4, place.bucket, now, visit),
                2 => visit_table(half_open_v6, place.bucket, now, visit),
                3 => visit_table(flows_v6, place.bucket, now, visit),
                4 => visit_table(&self.mixed_ipv4, place.bucket, now, visit),
                _ => visit_table(&self.mixed_ipv6, place.bucket, now, visit),
            }?;
            if bucket.is_some() {
                return Ok(Some(FlowPlace { bucket, ..place }));
            }
            place = FlowPlace {
                table: place.table + 1,
                bucket: None,
            };
        }
        Ok(None)
    }

    fn kill(&self, wanted: &dyn Fn(&FlowEntry) -> bool) -> Result<u64, DatapathError> {
        let now = self.now()?;
        let mut killed = 0;
        let forget_v4 = |key: &_, twin: &_| {
            self.cache_ipv4.forget(key);
            self.cache_ipv4.forget(twin);
        };
        let forget_v6 = |key: &_, twin: &_| {
            self.cache_ipv6.forget(key);
            self.cache_ipv6.forget(twin);
        };
        for table in &self.ipv4 {
            killed += kill(table, table, now, wanted, forget_v4)?;
        }
        for table in &self.ipv6 {
            killed += kill(table, table, now, wanted, forget_v6)?;
        }
        killed += kill(&self.mixed_ipv4, &self.mixed_ipv6, now, wanted, |_, _| ())?;
        killed += kill(&self.mixed_ipv6, &self.mixed_ipv4, now, wanted, |_, _| ())?;
        Ok(killed)
    }

    fn now(&self) -> Result<Tick, DatapathError> {
        self.clock.now()
    }
}

/// Keeps a walk to its share of a core.
struct Pace {
    /// Processor time of this thread when the walk began, and at the last pause.
    began: Duration,
    paused: Duration,
}

impl Pace {
    fn new() -> Self {
        let began = thread_time();
        Self { began, paused: began }
    }

    /// Processor time since the walk began.
    fn used(&self) -> Duration {
        thread_time().saturating_sub(self.began)
    }

    /// Sleeps, if it is time to.
    fn keep(&mut self) {
        let worked = thread_time().saturating_sub(self.paused);
        if worked >= PAUSE_AFTER {
            thread::sleep(worked * (SHARE - 1));
            self.paused = thread_time();
        }
    }
}

/// Processor time of this thread. Where the system does not tell, it stands still, and there are no pauses.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The flow table of one family's packets, which go on in the same family or in the other.
struct Table<A, B = A> {
    data: MapData,
    /// A walk removes through here, and walks may come from several threads.
    map: Mutex<HashMap<MapData, FlowKey<A>, Flow<B>>>,
}

impl<A, B> Table<A, B>
where
    FlowKey<A>: Pod,
    Flow<B>: Pod,
{
    fn open(pin: &Path) -> Result<Self, DatapathError> {
        let open = || MapData::from_pin(pin).map_err(|e| kernel(format!("cannot open {}", pin.display()), e));
        let map = HashMap::try_from(Map::LruHashMap(open()?)).map_err(|e| kernel(pin.display().to_string(), e))?;
        Ok(Self {
            data: open()?,
            map: Mutex::new(map),
        })
    }

    /// Removes an entry; false when there is none.
    fn remove(&self, key: &FlowKey<A>) -> bool {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.remove(key).is_ok()
    }

    /// Removes an entry that is still as expired as it was: it may have been replaced by a new flow.
    fn remove_expired(&self, key: &FlowKey<A>, now: Tick) -> bool {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let still = map.get(key, 0).is_ok_and(|flow| flow.expires.plus(GRACE).passed(now));
        still && map.remove(key).is_ok()
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
fn sweep<A: UserAddress, B: UserAddress>(
    table: &Table<A, B>,
    now: Tick,
    pace: &mut Pace,
    sweep: &mut Sweep,
    watch: &mut Option<&mut dyn FnMut(&FlowEntry)>,
) -> Result<u64, DatapathError>
where
    FlowKey<A>: Pod + Default,
    Flow<B>: Pod,
{
    let mut flows = 0;
    // Removed batch by batch, so that they take little memory however many there are.
    let expired = RefCell::new(Vec::new());
    let removed = Cell::new(0);
    let remove = || {
        for (key, to_backend) in expired.borrow_mut().drain(..) {
            if table.remove_expired(&key, now) && to_backend {
                removed.set(removed.get() + 1);
            }
        }
    };
    let go_on = || {
        remove();
        pace.keep();
        true
    };
    let visit = |key: &FlowKey<A>, flow: &Flow<B>| {
        sweep.entries += 1;
        let to_backend = flow.direction == Direction::TO_BACKEND;
        if flow.expires.passed(now) {
            if flow.expires.plus(GRACE).passed(now) {
                expired.borrow_mut().push((*key, to_backend));
            }
        } else if to_backend {
            flows += 1;
            if let Some(watch) = watch {
                watch(&entry(key, flow));
            }
            *sweep.present.entry(flow.backend).or_default() += 1;
            if flow.phase != Phase::CLOSING {
                *sweep.active.entry(flow.backend).or_default() += 1;
            }
        }
    };
    walk(table, None, visit, go_on)?;
    remove();
    sweep.expired += removed.get();
    Ok(flows)
}

/// Gives unexpired flows of a table to `visit`, each once, until after the batch in which that asks for a break.
fn visit_table<A: UserAddress, B: UserAddress>(
    table: &Table<A, B>,
    from: Option<u32>,
    now: Tick,
    visit: &mut dyn FnMut(&FlowEntry) -> ControlFlow<()>,
) -> Result<Option<u32>, DatapathError>
where
    FlowKey<A>: Pod + Default,
    Flow<B>: Pod,
{
    let wanted = Cell::new(true);
    let visit = |key: &FlowKey<A>, flow: &Flow<B>| {
        if flow.direction == Direction::TO_BACKEND && !flow.expires.passed(now) && visit(&entry(key, flow)).is_break() {
            wanted.set(false);
        }
    };
    walk(table, from, visit, || wanted.get())
}

/// Removes both entries of the flows of a table that are `wanted`, and has their copies forgotten; those of the replies are
/// in the table `twins`.
fn kill<A: UserAddress, B: UserAddress>(
    table: &Table<A, B>,
    twins: &Table<B, A>,
    now: Tick,
    wanted: &dyn Fn(&FlowEntry) -> bool,
    forget: impl Fn(&FlowKey<A>, &FlowKey<B>),
) -> Result<u64, DatapathError>
where
    FlowKey<A>: Pod + Default,
    Flow<B>: Pod,
    FlowKey<B>: Pod + Default,
    Flow<A>: Pod,
{
    let doomed = RefCell::new(Vec::new());
    let killed = Cell::new(0);
    let remove = || {
        for (key, twin) in doomed.borrow_mut().drain(..) {
            killed.set(killed.get() + u64::from(table.remove(&key)));
            twins.remove(&twin);
            forget(&key, &twin);
        }
    };
    let visit = |key: &FlowKey<A>, flow: &Flow<B>| {
        let live = flow.direction == Direction::TO_BACKEND && !flow.expires.passed(now);
        if live && wanted(&entry(key, flow)) {
            doomed.borrow_mut().push((*key, flow.rewrite.reply_key(key.protocol())));
        }
    };
    let go_on = || {
        remove();
        true
    };
    walk(table, None, visit, go_on)?;
    remove();
    Ok(killed.get())
}

fn walk<A: UserAddress, B: UserAddress>(
    table: &Table<A, B>,
    from: Option<u32>,
    visit: impl FnMut(&FlowKey<A>, &Flow<B>),
    go_on: impl FnMut() -> bool,
) -> Result<Option<u32>, DatapathError>
where
    FlowKey<A>: Pod + Default,
    Flow<B>: Pod,
{
    let map = table.data.fd().as_fd();
    batch::walk(map, from, blank::<B>(), visit, go_on).map_err(|e| kernel("cannot walk the flow table", e))
}

fn entry<A: UserAddress, B: UserAddress>(key: &FlowKey<A>, flow: &Flow<B>) -> FlowEntry {
    let address = |ip: IpAddr, port: Be16| SocketAddr::new(ip, port.get());
    FlowEntry {
        client: address(key.src.ip(), key.src_port),
        vip: address(key.dst.ip(), key.dst_port),
        source: address(flow.rewrite.src.ip(), flow.rewrite.src_port),
        backend_address: address(flow.rewrite.dst.ip(), flow.rewrite.dst_port),
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
        alone: 0,
        splice: Splice::NONE,
        beyond: 0,
        refresh: Tick(0),
        answer: 0,
    }
}
