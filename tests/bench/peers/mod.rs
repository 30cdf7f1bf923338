//! The contest of packet paths: who forwards how many packets, opens how many flows, and takes how long.

mod contender;
mod contest;
mod curves;
mod side_by_side;

use std::time::Duration;

use anyhow::Result;
use contest::Effort;
use curves::Vary;

use crate::{bed::traffic::Traffic, report::Report};

/// The table in which everybody stands, HTTP included, by a name and with columns of the caller's.
pub(crate) const MAIN_TABLE: &str = side_by_side::table(Traffic::UdpV4);

/// Efforts by what they are spent on.
struct Plan {
    main: Effort,
    main_opening: Effort,
    point: Effort,
    point_opening: Effort,
    /// No point of a curve begins after this.
    budget: Duration,
}

const QUICK: Plan = Plan {
    main: effort(5, 3, 300_000),
    main_opening: effort(3, 3, 0),
    point: effort(3, 1, 150_000),
    point_opening: effort(1, 0, 0),
    budget: Duration::from_secs(75),
};

const FULL: Plan = Plan {
    main: effort(15, 15, 1_000_000),
    main_opening: effort(9, 20, 0),
    point: effort(7, 3, 500_000),
    point_opening: effort(5, 6, 0),
    budget: Duration::from_secs(450),
};

const fn effort(rounds: u32, seconds: u64, frames: u32) -> Effort {
    Effort {
        rounds,
        patience: Duration::from_secs(seconds),
        frames,
    }
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Established flows side by side.
    Main,
    /// New flows side by side.
    New,
    /// Curves over the number of flows.
    Flows,
    /// Curves over the number of services.
    Services,
    /// Curves over the number of backends.
    Backends,
    /// Curves over the size of packets.
    Size,
    /// A thousand services beside one.
    ManyServices,
    /// New flows by scheduler.
    Schedulers,
    /// Connections in a flood of SYNs.
    Flood,
    /// From a verdict to the maps.
    Flip,
    /// The walk over the flow tables.
    Sweep,
    /// Memory of the maps.
    Memory,
    /// A daemon with many services, backends and flows.
    Scale,
    /// HTTP through lb and others.
    Http,
}

const CURVES: [(Part, Vary); 4] = [
    (Part::Flows, Vary::Flows),
    (Part::Services, Vary::Services),
    (Part::Backends, Vary::Backends),
    (Part::Size, Vary::Size),
];

/// Measures the parts that are wanted; a quick run has fewer rounds and points.
pub(crate) fn measure(quick: bool, wanted: impl Fn(Part) -> bool, report: &mut Report) -> Result<()> {
    let plan = if quick { QUICK } else { FULL };
    side_by_side::declare(report);
    curves::declare(report);
    if wanted(Part::Main) {
        let mut families = Vec::new();
        for traffic in [Traffic::UdpV4, Traffic::UdpV6] {
            let outcomes = side_by_side::established(traffic, plan.main, report)?;
            for (_, vary) in CURVES.iter().filter(|(part, _)| wanted(*part)) {
                curves::share(*vary, traffic, &outcomes, report)?;
            }
            families.push(outcomes);
        }
        if let [ipv4, ipv6] = families.as_slice() {
            side_by_side::families(ipv4, ipv6, report);
        }
    }
    if wanted(Part::New) {
        side_by_side::opening(plan.main_opening, report)?;
    }
    for (_, vary) in CURVES.iter().filter(|(part, _)| wanted(*part)) {
        curve(*vary, quick, wanted(Part::Main), &plan, report)?;
    }
    if quick {
        let what = "a million flows, and most points of the curves";
        report.leave_out(what, "this was a quick run");
    }
    report.leave_out(
        "services and backends over IPv6",
        "the tables of services, slots and backends are those of IPv4, but for the address in a service's key",
    );
    Ok(())
}

fn curve(vary: Vary, quick: bool, has_main: bool, plan: &Plan, report: &mut Report) -> Result<()> {
    for &traffic in vary.families() {
        let shared = vary.plain(traffic).filter(|_| has_main);
        for x in vary.points(quick, traffic) {
            if shared == Some(x) {
                continue;
            }
            if report.elapsed() > plan.budget {
                let why =
                    "this machine is too slow, or too busy, to come so far in time; `--only` measures it by itself";
                report.leave_out(&curves::describe(vary, traffic, x), why);
                continue;
            }
            curves::established(vary, traffic, x, plan.point, report)?;
            curves::opening(vary, traffic, x, plan.point_opening, report)?;
        }
    }
    Ok(())
}
