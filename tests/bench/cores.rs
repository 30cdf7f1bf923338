//! Two cores beside one: each with a generator and a queue of its own, through the same packet path and its maps. What cores
//! share shows in how far two are from twice one, and in the time that the program takes.

use std::time::Instant;

use anyhow::{Context as _, Result};
use aya::{
    programs::ProgramInfo,
    sys::{Stats, enable_stats},
};
use lb_common::abi::Mode;
use lb_userspace::model::{Limits, Scheduler};

use crate::{
    bed::{
        balancer::{Balancer, Counts, time_per_run},
        chain::{self, Chain, Run},
        lanes::{self, Lane},
        traffic::Traffic,
    },
    interrupt,
    report::{Report, Table, figure::Unit},
};

const TABLE: &str = "cores";
/// Cores that take part.
const CORES: u8 = 2;

/// Frames of established flows on each core, rounds, and the same of new flows.
struct Effort {
    frames: u32,
    rounds: u32,
    openings: u32,
    trials: u32,
    /// Once this is past, new flows are tried once.
    end: Option<Instant>,
}

const FULL: Effort = Effort {
    frames: 400_000,
    rounds: 9,
    openings: 100_000,
    trials: 5,
    end: None,
};
const QUICK: Effort = Effort {
    frames: 150_000,
    rounds: 3,
    openings: 50_000,
    trials: 2,
    end: None,
};

/// What was measured with one core and with two, by round.
#[derive(Default)]
struct Samples {
    rates: [Vec<f64>; 2],
    times: [Vec<f64>; 2],
    void: Option<String>,
}

/// Declares the table.
pub(crate) fn declare(report: &mut Report) {
    report.table(Table {
        id: TABLE.to_owned(),
        title: "Two cores beside one: UDP over IPv4, 64 bytes, one service over four backends".to_owned(),
        rows: "packets",
        axis: None,
    });
}

/// Measures packets of established flows, and packets that each open one.
pub(crate) fn measure(quick: bool, end: Instant, report: &mut Report) -> Result<()> {
    if chain::cores() < usize::from(CORES) {
        report.leave_out("two cores beside one", "this machine has one");
        return Ok(());
    }
    let effort = Effort {
        end: Some(end),
        ..if quick { QUICK } else { FULL }
    };
    report.section("Two cores beside one: UDP over IPv4");
    let bare = Chain::with_queues(CORES.into(), Traffic::UdpV4)?.bare("bare_redirect")?;
    let mut bed = Bed::new(Middle::Bare(Box::new(bare)))?;
    add("bare redirect", &established(&mut bed, 1_000, &effort)?, report);
    for (flows, name) in [(1_000, "1,000"), (100_000, "100,000")] {
        let mut bed = Bed::balancer(Mode::FULL_NAT, Scheduler::RoundRobin)?;
        let samples = established(&mut bed, flows, &effort)?;
        add(&format!("lb full-nat, {name} flows on each core"), &samples, report);
    }
    for (mode, mode_name) in [(Mode::FULL_NAT, "full-nat"), (Mode::L2_DSR, "l2-dsr")] {
        for scheduler in [Scheduler::RoundRobin, Scheduler::Maglev] {
            let samples = opening(mode, scheduler, &effort)?;
            add(&format!("lb {mode_name}, {scheduler}, new flows"), &samples, report);
        }
    }
    Ok(())
}

/// A chain with a generator on each core.
struct Bed {
    middle: Middle,
    lanes: Vec<Lane>,
}

enum Middle {
    Bare(Box<Chain>),
    Balancer(Box<Balancer>),
}

impl Bed {
    fn new(middle: Middle) -> Result<Self> {
        let lanes = (0..CORES)
            .map(|core| Lane::new(middle.chain(), core))
            .collect::<Result<_>>()?;
        Ok(Self { middle, lanes })
    }

    fn balancer(mode: Mode, scheduler: Scheduler) -> Result<Self> {
        let chain = Chain::with_queues(CORES.into(), Traffic::UdpV4)?;
        let limits = Limits {
            half_open_ipv4: 1 << 20,
            ..Limits::default()
        };
        let mut balancer = Balancer::new(chain, limits, mode)?;
        balancer.schedule(scheduler)?;
        Self::new(Middle::Balancer(Box::new(balancer)))
    }

    fn flows(&mut self, flows: u32) -> Result<()> {
        self.lanes.iter_mut().try_for_each(|lane| lane.flows(flows))
    }

    /// Sends frames on so many of the cores, from `first` on.
    fn send(&mut self, first: usize, cores: usize, frames: u32) -> Result<Run> {
        let lanes = self.lanes.get_mut(first..first + cores).context("no such core")?;
        lanes::send(self.middle.chain(), lanes, frames)
    }

    fn info(&mut self) -> Result<ProgramInfo> {
        match &mut self.middle {
            Middle::Bare(chain) => chain.info("bare_redirect"),
            Middle::Balancer(balancer) => balancer.info(),
        }
    }

    fn counts(&self) -> Result<Option<Counts>> {
        match &self.middle {
            Middle::Bare(_) => Ok(None),
            Middle::Balancer(balancer) => Ok(Some(balancer.counts()?)),
        }
    }

    /// Why runs since a count do not count.
    fn objection(&self, before: Option<&Counts>, runs: &[Run], opened: u32) -> Result<Option<String>> {
        if let (Some(before), Some(now)) = (before, self.counts()?) {
            return Ok(now.objection(before, runs, opened.into()));
        }
        let lost = runs.iter().find(|run| run.arrived.abs_diff(run.sent) > run.sent / 100);
        Ok(lost.map(|run| format!("of {} frames {} arrived", run.sent, run.arrived)))
    }
}

impl Middle {
    const fn chain(&self) -> &Chain {
        match self {
            Self::Bare(chain) => chain,
            Self::Balancer(balancer) => &balancer.chain,
        }
    }
}

/// Packets of so many established flows on each core. With one core each of them takes its turn.
fn established(bed: &mut Bed, flows: u32, effort: &Effort) -> Result<Samples> {
    bed.flows(flows)?;
    bed.send(0, CORES.into(), 3 * flows)?;
    let before = bed.counts()?;
    let mut samples = Samples::default();
    let mut runs = Vec::new();
    for round in 0..effort.rounds as usize {
        let alone = bed.send(round % usize::from(CORES), 1, effort.frames)?;
        let together = bed.send(0, CORES.into(), effort.frames)?;
        samples.add_rates(&alone, &together);
        runs.extend([alone, together]);
    }
    samples.void = bed.objection(before.as_ref(), &runs, 0)?;
    let _statistics = enable_stats(Stats::RunTime)?;
    for round in 0..effort.rounds as usize {
        for (place, (first, cores)) in [(round % usize::from(CORES), 1), (0, CORES.into())]
            .into_iter()
            .enumerate()
        {
            let before = bed.info()?;
            bed.send(first, cores, effort.frames)?;
            if let Some(times) = samples.times.get_mut(place) {
                times.push(time_per_run(&before, &bed.info()?));
            }
        }
    }
    Ok(samples)
}

/// Packets that each open a flow, into empty tables each time, first with one core and then with two.
fn opening(mode: Mode, scheduler: Scheduler, effort: &Effort) -> Result<Samples> {
    let mut samples = Samples::default();
    for timed in [false, true] {
        for trial in 0..effort.trials {
            interrupt::check()?;
            if trial > 0 && effort.end.is_some_and(|end| Instant::now() > end) {
                break;
            }
            let mut runs = Vec::new();
            for (place, cores) in [1, CORES].into_iter().enumerate() {
                let mut bed = Bed::balancer(mode, scheduler)?;
                bed.flows(u32::MAX)?;
                let counts = bed.counts()?;
                let _statistics = timed.then(|| enable_stats(Stats::RunTime)).transpose()?;
                let before = bed.info()?;
                let run = bed.send(0, cores.into(), effort.openings)?;
                if timed && let Some(times) = samples.times.get_mut(place) {
                    times.push(time_per_run(&before, &bed.info()?));
                }
                let objection = bed.objection(counts.as_ref(), &[run], effort.openings * u32::from(cores))?;
                samples.void = samples.void.take().or(objection);
                runs.push(run);
            }
            if let ([alone, together], false) = (runs.as_slice(), timed) {
                samples.add_rates(alone, together);
            }
        }
    }
    Ok(samples)
}

impl Samples {
    fn add_rates(&mut self, alone: &Run, together: &Run) {
        for (rates, run) in self.rates.iter_mut().zip([alone, together]) {
            rates.push(run.rate());
        }
    }
}

/// One row of the table.
fn add(name: &str, samples: &Samples, report: &mut Report) {
    let Samples {
        rates: [one, two],
        times,
        void,
    } = samples;
    let ratios: Vec<f64> = two.iter().zip(one).map(|(two, one)| two / one).collect();
    let [time_of_one, time_of_two] = times;
    for (column, unit, values) in [
        ("one core", Unit::PerSecond, one),
        ("two cores", Unit::PerSecond, two),
        ("two to one", Unit::Ratio, &ratios),
        ("program time, one core", Unit::Nanoseconds, time_of_one),
        ("program time, two cores", Unit::Nanoseconds, time_of_two),
    ] {
        report
            .add(&format!("{name}: {column}"), unit, values, None, void.as_ref())
            .cell(TABLE, name, column);
    }
}
