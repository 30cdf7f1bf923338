//! What a packet costs among a thousand services, beside what it costs with one. Both take turns in short runs, so that what
//! disturbs one disturbs the other, and many, so that what hits one alone is outvoted.

use anyhow::Result;
use aya::sys::{Stats, enable_stats};
use lb_common::abi::Mode;
use lb_userspace::model::Limits;

use crate::{
    bed::{
        balancer::{Balancer, Counts},
        chain::{Chain, Run},
        traffic::{Load, Traffic},
    },
    interrupt,
    report::{
        Report,
        figure::{Unit, medians},
        goals,
    },
};

const SERVICES: [u16; 2] = [1, 1000];
/// One for each service: so few that caches hold them, which would else be what is measured.
const FLOWS: u32 = 1_000;
/// Frames of a run: some milliseconds, less than what else runs takes at a time.
const FRAMES: u32 = 20_000;
/// Of so many turns the median is a sample.
const TURNS: usize = 25;

/// A packet path with so many services.
struct Contestant {
    balancer: Balancer,
    before: Counts,
    runs: Vec<Run>,
    times: Vec<f64>,
}

impl Contestant {
    fn enter(services: u16) -> Result<Self> {
        let load = Load {
            services,
            ..Load::from(Traffic::UdpV4)
        };
        let mut balancer = Balancer::new(Chain::new(load)?, Limits::default(), Mode::FULL_NAT)?;
        balancer.chain.flows(0, FLOWS)?;
        // The first pass opens the flows, the second establishes them, the third finds out what is found out once.
        balancer.chain.send(3 * FLOWS)?;
        Ok(Self {
            before: balancer.counts()?,
            balancer,
            runs: Vec::new(),
            times: Vec::new(),
        })
    }
}

/// Measures packets of established flows.
pub(crate) fn measure(quick: bool, report: &mut Report) -> Result<()> {
    report.section("A thousand services beside one: established flows, UDP over IPv4, 1,000 flows, full-nat");
    let samples = if quick { 5 } else { 15 };
    let mut contestants = Vec::new();
    for services in SERVICES {
        contestants.push(Contestant::enter(services)?);
    }
    for _ in 0..samples {
        interrupt::check()?;
        for contestant in &mut contestants {
            contestant.runs.push(contestant.balancer.chain.send(10 * FRAMES)?);
        }
    }
    let mut voids = Vec::new();
    for contestant in &contestants {
        let counts = contestant.balancer.counts()?;
        voids.push(counts.objection(&contestant.before, &contestant.runs, 0));
    }
    {
        let _statistics = enable_stats(Stats::RunTime)?;
        for turn in 0..samples * TURNS {
            interrupt::check()?;
            // A B B A: whoever comes second in one turn comes first in the next.
            let first_last = contestants.iter_mut();
            let order: Vec<_> = if turn.is_multiple_of(2) {
                first_last.collect()
            } else {
                first_last.rev().collect()
            };
            for contestant in order {
                let time = contestant.balancer.time(FRAMES)?;
                contestant.times.push(time);
            }
        }
    }
    for ((services, contestant), void) in SERVICES.iter().zip(&contestants).zip(&voids) {
        let rates: Vec<f64> = contestant.runs.iter().map(Run::rate).collect();
        let name = format!("{services} service(s)");
        report.add(&name, Unit::PerSecond, &rates, None, void.as_ref());
        let name = format!("{name}, program time");
        report.add(
            &name,
            Unit::Nanoseconds,
            &medians(&contestant.times, TURNS),
            None,
            void.as_ref(),
        );
    }
    if let [one, many] = contestants.as_slice() {
        let ratios: Vec<f64> = many
            .times
            .iter()
            .zip(&one.times)
            .map(|(many, one)| many / one)
            .collect();
        report.add(
            "program time, 1000 to 1",
            Unit::Ratio,
            &medians(&ratios, TURNS),
            Some(goals::MANY_SERVICES),
            voids.iter().flatten().next(),
        );
    }
    Ok(())
}
