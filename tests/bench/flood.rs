//! What a flood of SYNs does to packets of established flows: a flood that is let through, and one beyond the limit of new flows.

use std::{thread, time::Duration};

use anyhow::{Result, bail};
use aya::sys::{Stats, enable_stats};
use lb_common::abi::Mode;
use lb_userspace::model::Limits;

use crate::{
    bed::{balancer::Balancer, chain::Chain, traffic::Traffic},
    interrupt,
    report::{Report, figure::Unit, goals},
};

/// Connections that are there.
const FLOWS: u32 = 1_000;
/// Where the flood's flows begin.
const FORGED: u32 = 1_000_000;
/// How often a connection is asked for at most, and how long to wait in between.
const ATTEMPTS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);
/// SYNs between two looks at the connections. The table of half-open flows has room for a quarter of them.
const BURST: u32 = 262_144;

/// Measures packets of connections before a flood, and between bursts of it, and the flood's own.
pub(crate) fn measure(quick: bool, report: &mut Report) -> Result<()> {
    let (rounds, frames) = if quick { (3, 100_000) } else { (9, 500_000) };
    for (name, limit) in [("let through", 0), ("beyond new-flows-per-core", 1_000)] {
        report.section(&format!(
            "A flood of SYNs, {name}: program time; TCP over IPv4, 1,000 connections, full-nat"
        ));
        let limits = Limits {
            new_flows_per_core: limit,
            ..Limits::default()
        };
        let mut balancer = Balancer::new(Chain::new(Traffic::SynV4)?, limits, Mode::FULL_NAT)?;
        connect(&mut balancer)?;
        balancer.chain.carry(Traffic::AckV4)?;
        balancer.chain.send(FLOWS)?;
        let before = balancer.counts()?;

        let _statistics = enable_stats(Stats::RunTime)?;
        let (mut quiet, mut flood, mut between) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            quiet.push(balancer.time(frames)?);
        }
        let mut lost = None;
        for round in 0..rounds {
            interrupt::check()?;
            balancer.chain.carry(Traffic::SynV4)?;
            balancer.chain.flows(FORGED + round * BURST, u32::MAX)?;
            flood.push(balancer.time(BURST)?);
            balancer.chain.carry(Traffic::AckV4)?;
            balancer.chain.flows(0, FLOWS)?;
            let before = balancer.counts()?;
            let run = balancer.chain.send(frames)?;
            // Every packet of every connection is forwarded, by the flow that was there.
            lost = lost.or(balancer.counts()?.objection(&before, &[run], 0));
            between.push(balancer.time(frames)?);
        }
        let opened = balancer.counts()?.opened - before.opened;
        report.add("connections, before it", Unit::Nanoseconds, &quiet, None, None);
        report.add(
            "connections, between its bursts",
            Unit::Nanoseconds,
            &between,
            None,
            lost.as_ref(),
        );
        let ratios: Vec<f64> = between
            .iter()
            .zip(&quiet)
            .map(|(between, quiet)| between / quiet)
            .collect();
        report.add(
            "the one to the other",
            Unit::Ratio,
            &ratios,
            Some(&goals::flood(name)),
            lost.as_ref(),
        );
        let none = (opened == 0).then(|| "no flow was opened".to_owned());
        report.add("a SYN of it", Unit::Nanoseconds, &flood, None, none.as_ref());
    }
    Ok(())
}

/// Opens the connections, as slowly as the limit has it.
fn connect(balancer: &mut Balancer) -> Result<()> {
    balancer.chain.flows(0, FLOWS)?;
    for _ in 0..ATTEMPTS {
        balancer.chain.send(FLOWS)?;
        if balancer.counts()?.opened == u64::from(FLOWS) {
            return balancer.establish();
        }
        thread::sleep(PAUSE);
    }
    bail!("only {} of {FLOWS} connections were opened", balancer.counts()?.opened)
}
