//! From the verdict that a backend is down to the maps that say so: a new schedule, its pages, the service's rotation,
//! the backend's state. The controller's handling of the event comes on top.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use lb_common::{
    abi::{Backend, BackendState, Link, Rotation, Rule, SLOTS_PER_PAGE, Service},
    flow::Tick,
};
use lb_userspace::{
    datapath::{Datapath as _, KernelDatapath},
    model::{Limits, Protocol, Scheduler, ServiceId},
    plan::{
        Action, Capacities, Filling, Layout, WantedBackend, WantedService, diff,
        schedule::{MAX_SLOTS, turns},
    },
};

use crate::{
    bed::balancer::{self, PacketPath, pages},
    interrupt,
    report::{
        Report,
        figure::{Unit, quantile},
        goals, thousands,
    },
};

const BACKENDS: u32 = 100;
const FLIPS: u32 = 200;
/// The same for a table, where each waits, in a quick run.
const QUICK_WEIGHTS: u32 = 60;
/// Slots of the table whose weight changes: the default.
const TABLE: u32 = 65_537;
/// Where in the slot arena the two schedules lie that take turns.
const RANGES: [u32; 2] = [0, 4096];

/// Measures how long publishing takes.
pub(crate) fn measure(quick: bool, report: &mut Report) -> Result<()> {
    report.section(
        "Flip with 100 backends: schedule and map writes, tables of 65,537 slots; the controller's event handling not included",
    );
    let instance = format!("lbt-{}-flip", std::process::id());
    let mut path = PacketPath::load(&instance, Limits::default())?;
    let mixed = |n: u32| 1 + n * 7919 % 256;
    for (name, weights) in [
        ("equal weights", vec![1; BACKENDS as usize]),
        ("weights from 1 to 10", (0..BACKENDS).map(|n| 1 + n % 10).collect()),
        ("weights from 1 to 256", (0..BACKENDS).map(mixed).collect()),
    ] {
        let times = flips(&mut path.0, &weights)?;
        add(report, name, times);
    }
    tables(quick, report)
}

/// Median and 99th percentile of microseconds.
fn add(report: &mut Report, name: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let p99 = [quantile(&times, 0.99)];
    for (quantile, samples) in [("median", &times[..]), ("99th percentile", &p99)] {
        report.add(
            &format!("{name}, {quantile}"),
            Unit::Microseconds,
            samples,
            Some(&goals::flip(name, quantile)),
            None,
        );
    }
}

/// A weight changes on a service of 100 backends with a Maglev table: from what is wanted to the flip, by the way that
/// the controller takes, among so many services of the same kind, the last case's with smaller tables.
fn tables(quick: bool, report: &mut Report) -> Result<()> {
    for (services, others) in [(1, TABLE), (20, TABLE), (1000, 1021)] {
        let instance = format!("lbt-{}-tables", std::process::id());
        let limits = Limits {
            backends: u32::from(services) * BACKENDS,
            ..Limits::default()
        };
        let mut path = PacketPath::load(&instance, limits)?;
        let capacities = Capacities {
            services: limits.services,
            backends: limits.backends,
            pages: limits.slots.div_ceil(SLOTS_PER_PAGE),
            sources: 0,
        };
        let start = Instant::now();
        let mut layout = Layout::adopt(path.0.contents()?, capacities, start.elapsed());
        for service in 0..services {
            let table = if service == 0 { TABLE } else { others };
            bring_about(&mut path.0, &mut layout, &hashed(service, 1, table), start)?;
        }
        let mut times = Vec::new();
        for turn in 0..if quick { QUICK_WEIGHTS } else { FLIPS } {
            interrupt::check()?;
            // What was given up rests for a tenth of a second.
            std::thread::sleep(Duration::from_millis(110));
            let weight = 1 + turn % 2;
            times.push(bring_about(
                &mut path.0,
                &mut layout,
                &hashed(0, 1 + weight, TABLE),
                start,
            )?);
        }
        let name = match services {
            1 => "Maglev, 1 service".to_owned(),
            services => format!("Maglev, {} services", thousands(services.into())),
        };
        add(report, &name, times);
    }
    Ok(())
}

/// A service of 100 backends by hash, the first of them of some weight.
fn hashed(service: u16, weight: u32, table_size: u32) -> WantedService {
    let [high, low] = service.to_be_bytes();
    let backend = |n: u32| {
        let address = SocketAddr::from(([10, high, low, u8::try_from(n).unwrap_or(0)], 80));
        WantedBackend {
            address,
            share: if n == 0 { weight } else { 1 },
            spill: 0,
            sources: Vec::new(),
            spread: 1,
            entry: balancer::backend(address, Protocol::Tcp, 0, Link::default()),
        }
    };
    let id = ServiceId {
        vip: SocketAddr::from(([10, 201, high, low], 80)),
        protocol: Protocol::Tcp,
    };
    WantedService {
        id,
        keys: vec![id],
        entry: Service::default(),
        filling: Filling {
            scheduler: Scheduler::Maglev,
            table_size,
        },
        previous_until: Some(Tick(u32::MAX / 2)),
        backends: (0..BACKENDS).map(backend).collect(),
    }
}

/// Microseconds until the rotation has flipped.
fn bring_about(
    datapath: &mut KernelDatapath,
    layout: &mut Layout,
    wanted: &WantedService,
    start: Instant,
) -> Result<f64> {
    let begin = Instant::now();
    let draft = layout.draft(wanted, start.elapsed())?;
    let mut flipped = begin;
    for action in diff(&draft.before, &draft.after) {
        match &action {
            Action::WritePages { first, pages } => datapath.write_pages(*first, pages)?,
            Action::SetBackend { index, backend } => datapath.set_backend(*index, *backend)?,
            Action::SetPrevious { service, previous } => datapath.set_previous(*service, *previous)?,
            Action::SetRotation { service, rotation } => {
                datapath.set_rotation(*service, *rotation)?;
                flipped = Instant::now();
            }
            Action::SetService { id, service } => datapath.set_service(*id, *service)?,
            _ => {}
        }
        layout.wrote(&action);
    }
    layout.settle(wanted.id, &draft, start.elapsed());
    Ok(flipped.duration_since(begin).as_secs_f64() * 1e6)
}

/// Microseconds of each flip.
fn flips(datapath: &mut KernelDatapath, weights: &[u32]) -> Result<Vec<f64>> {
    let backend = balancer::backend(
        SocketAddr::from(([10, 201, 0, 1], 80)),
        Protocol::Tcp,
        1,
        Link::default(),
    );
    for index in 0..BACKENDS {
        datapath.set_backend(index, backend)?;
    }
    let mut times = Vec::new();
    for flip in 0..FLIPS {
        interrupt::check()?;
        let down = flip % BACKENDS;
        let start = Instant::now();
        publish(datapath, weights, down, flip)?;
        let down_backend = Backend {
            state: BackendState::DOWN,
            ..backend
        };
        datapath.set_backend(down, down_backend)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        datapath.set_backend(down, backend)?;
    }
    Ok(times)
}

/// A schedule without the backend that is down, in the range that is not in use.
fn publish(datapath: &mut KernelDatapath, weights: &[u32], down: u32, flip: u32) -> Result<()> {
    let (indices, left): (Vec<u32>, Vec<u32>) = (0..).zip(weights).filter(|(n, _)| *n != down).unzip();
    let slots: Vec<u32> = turns(&left, MAX_SLOTS)
        .into_iter()
        .filter_map(|place| indices.get(place).copied())
        .collect();
    let first = if flip.is_multiple_of(2) { RANGES[0] } else { RANGES[1] };
    datapath.write_pages(first, &pages(&slots))?;
    let base = first * SLOTS_PER_PAGE;
    datapath.set_rotation(0, Rotation::new(base, u32::try_from(slots.len())?, Rule::ROUND_ROBIN))?;
    Ok(())
}
