//! What a packet costs among a thousand services, beside what it costs with one. Both take turns, so that what disturbs one
//! disturbs the other.

use anyhow::Result;
use aya::sys::{Stats, enable_stats};
use lb_common::abi::Mode;
use lb_userspace::model::Limits;

use crate::{
    bed::{
        balancer::Balancer,
        chain::Chain,
        traffic::{Load, Traffic},
    },
    interrupt,
    report::{
        Report,
        figure::{Target, Unit},
    },
};

const SERVICES: [u16; 2] = [1, 1000];
/// Ten for each service.
const FLOWS: u32 = 10_000;

/// Measures packets of established flows.
pub(crate) fn measure(quick: bool, report: &mut Report) -> Result<()> {
    report.section("A thousand services beside one: established flows, UDP over IPv4, 10,000 flows, full-nat");
    let (rounds, frames) = if quick { (5, 100_000) } else { (15, 500_000) };
    let mut balancers = Vec::new();
    for services in SERVICES {
        let load = Load {
            services,
            ..Load::from(Traffic::UdpV4)
        };
        let mut balancer = Balancer::new(Chain::new(load)?, Limits::default(), Mode::FULL_NAT)?;
        balancer.chain.flows(0, FLOWS)?;
        // The first pass opens the flows, the second establishes them.
        balancer.chain.send(2 * FLOWS)?;
        balancers.push((balancer.counts()?, balancer, Vec::new(), Vec::new()));
    }
    for _ in 0..rounds {
        interrupt::check()?;
        for (_, balancer, _, runs) in &mut balancers {
            runs.push(balancer.chain.send(frames)?);
        }
    }
    let voids: Vec<_> = balancers
        .iter()
        .map(|(before, balancer, _, runs)| Ok(balancer.counts()?.objection(before, runs, 0)))
        .collect::<Result<_>>()?;
    {
        let _statistics = enable_stats(Stats::RunTime)?;
        for _ in 0..rounds {
            interrupt::check()?;
            for (_, balancer, times, _) in &mut balancers {
                times.push(balancer.time(frames)?);
            }
        }
    }
    for ((services, (_, _, times, runs)), void) in SERVICES.iter().zip(&balancers).zip(&voids) {
        let rates: Vec<f64> = runs.iter().map(|run| run.rate()).collect();
        let name = format!("{services} service(s)");
        report.add(&name, Unit::PerSecond, &rates, None, void.as_ref());
        report.add(
            &format!("{name}, program time"),
            Unit::Nanoseconds,
            times,
            None,
            void.as_ref(),
        );
    }
    if let [(_, _, one, _), (_, _, many, _)] = balancers.as_slice() {
        let ratios: Vec<f64> = many.iter().zip(one).map(|(many, one)| many / one).collect();
        let void = voids.iter().flatten().next();
        report.add(
            "program time, 1000 to 1",
            Unit::Ratio,
            &ratios,
            Some(Target::AtMost(1.05)),
            void,
        );
    }
    Ok(())
}
