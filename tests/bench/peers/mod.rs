//! The contest of packet paths: who forwards how many packets, opens how many flows, and takes how long.

mod contender;
mod contest;
mod curves;
mod side_by_side;

use std::time::{Duration, Instant};

use anyhow::Result;
use contest::Effort;
use curves::Vary;

use crate::{
    bed::{nftables::Tracking, traffic::Traffic},
    parts::{Part, Run},
    report::Report,
};

/// Connections that the kernel has to track.
const MOST_FLOWS: u32 = 1_000_000;

/// The table in which everybody stands, HTTP included, by a name and with columns of the caller's.
pub(crate) const MAIN_TABLE: &str = side_by_side::table(Traffic::UdpV4);

/// Efforts by what they are spent on.
struct Plan {
    main: Effort,
    main_opening: Effort,
    point: Effort,
    point_opening: Effort,
}

const QUICK: Plan = Plan {
    main: effort(5, 3, 300_000),
    main_opening: effort(3, 3, 0),
    point: effort(3, 1, 200_000),
    point_opening: effort(1, 0, 0),
};

const FULL: Plan = Plan {
    main: effort(15, 15, 1_000_000),
    main_opening: effort(9, 20, 0),
    point: effort(7, 3, 500_000),
    point_opening: effort(5, 6, 0),
};

const fn effort(rounds: u32, seconds: u64, frames: u32) -> Effort {
    Effort {
        rounds,
        patience: Duration::from_secs(seconds),
        frames,
        end: None,
    }
}

const CURVES: [(Part, Vary); 4] = [
    (Part::Flows, Vary::Flows),
    (Part::Services, Vary::Services),
    (Part::Backends, Vary::Backends),
    (Part::Size, Vary::Size),
];

/// Declares tables and pictures.
pub(crate) fn declare(report: &mut Report) {
    side_by_side::declare(report);
    curves::declare(report);
}

/// The contest's parts.
pub(crate) struct Peers<'a> {
    run: &'a Run,
    plan: Plan,
    /// Whether the plain scenes were measured, which are points of the curves as well.
    has_main: bool,
    /// Lets the kernel track as many connections as are needed.
    _tracking: Option<Tracking>,
}

impl<'a> Peers<'a> {
    /// Before anything is measured.
    pub(crate) fn new(run: &'a Run) -> Self {
        Self {
            run,
            plan: if run.quick { QUICK } else { FULL },
            has_main: false,
            _tracking: Tracking::raise(MOST_FLOWS),
        }
    }

    /// Measures a part. After `end` points have one round, and none of a curve is begun.
    pub(crate) fn measure(&mut self, part: Part, end: Instant, report: &mut Report) -> Result<()> {
        match part {
            Part::Main => self.main(end, report),
            Part::New => side_by_side::opening(self.plan.main_opening.until(end), report),
            part => {
                let curves = CURVES.iter().filter(|(curve, _)| *curve == part);
                for (_, vary) in curves {
                    self.curve(*vary, end, report)?;
                }
                Ok(())
            }
        }
    }

    /// Everyone side by side. Curves of the same run have their points of it.
    fn main(&mut self, end: Instant, report: &mut Report) -> Result<()> {
        for traffic in [Traffic::UdpV4, Traffic::UdpV6] {
            let outcomes = side_by_side::established(traffic, self.plan.main.until(end), report)?;
            for (_, vary) in CURVES.iter().filter(|(part, _)| self.run.wants(*part)) {
                curves::share(*vary, traffic, &outcomes, report)?;
            }
        }
        self.has_main = true;
        side_by_side::families(if self.run.quick { 3 } else { 9 }, report)
    }

    fn curve(&self, vary: Vary, end: Instant, report: &mut Report) -> Result<()> {
        if matches!(vary, Vary::Services | Vary::Backends) {
            report.leave_out(
                "services and backends over IPv6",
                "the tables of services, slots and backends are those of IPv4, but for the address in a service's key",
            );
        }
        for &traffic in vary.families() {
            let shared = vary.plain(traffic).filter(|_| self.has_main);
            for x in vary.points(self.run.quick, traffic) {
                if shared == Some(x) {
                    continue;
                }
                if Instant::now() > end {
                    let why =
                        "this machine is too slow, or too busy, to come so far in time; `--only` measures it by itself";
                    report.leave_out(&curves::describe(vary, traffic, x), why);
                    continue;
                }
                curves::established(vary, traffic, x, self.plan.point.until(end), report)?;
                curves::opening(vary, traffic, x, self.plan.point_opening.until(end), report)?;
            }
        }
        Ok(())
    }
}
