//! New flows a second, by the scheduler that chooses their backends.

use std::time::Instant;

use anyhow::Result;
use lb_common::abi::Mode;
use lb_userspace::model::{Limits, Scheduler};

use crate::{
    bed::{
        balancer::Balancer,
        chain::Chain,
        traffic::{Load, Traffic},
    },
    interrupt,
    report::{Report, figure::Unit},
};

/// Of few backends `least-conn` compares all, of many two.
const BACKENDS: [u16; 2] = [4, 100];
const SCHEDULERS: [Scheduler; 4] = [
    Scheduler::RoundRobin,
    Scheduler::LeastConn,
    Scheduler::SourceHash,
    Scheduler::Maglev,
];

/// Measures packets that each open a flow. All schedulers take turns, each with empty tables. After `end` no round begins but
/// the first.
pub(crate) fn measure(quick: bool, end: Instant, report: &mut Report) -> Result<()> {
    let (rounds, flows) = if quick { (1, 50_000) } else { (9, 200_000) };
    for backends in BACKENDS {
        report.section(&format!(
            "New flows by scheduler: UDP over IPv4, {backends} backends, full-nat"
        ));
        let mut rates = SCHEDULERS.map(|_| Vec::new());
        let mut voids = SCHEDULERS.map(|_| None);
        for round in 0..rounds {
            interrupt::check()?;
            if round > 0 && Instant::now() > end {
                break;
            }
            for ((scheduler, rates), void) in SCHEDULERS.into_iter().zip(&mut rates).zip(&mut voids) {
                let load = Load {
                    backends,
                    ..Load::from(Traffic::UdpV4)
                };
                let limits = Limits {
                    half_open_ipv4: 1 << 20,
                    ..Limits::default()
                };
                let mut balancer = Balancer::new(Chain::new(load)?, limits, Mode::FULL_NAT)?;
                balancer.schedule(scheduler)?;
                balancer.chain.flows(0, u32::MAX)?;
                let before = balancer.counts()?;
                let run = balancer.chain.send(flows)?;
                rates.push(run.rate());
                *void = void
                    .take()
                    .or(balancer.counts()?.objection(&before, &[run], flows.into()));
            }
        }
        for ((scheduler, rates), void) in SCHEDULERS.iter().zip(&rates).zip(&voids) {
            report.add(&scheduler.to_string(), Unit::PerSecond, rates, None, void.as_ref());
        }
    }
    Ok(())
}
