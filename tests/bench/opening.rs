//! Packets that each open a flow.

use anyhow::Result;
use lb_common::abi::Mode;
use lb_userspace::model::Limits;

use crate::{
    bed::{balancer::Balancer, chain::Chain, nftables, traffic::Traffic},
    figure::{Report, Target, Unit},
};

/// Flows in one trial: within the kernel's usual limit of 262,144 tracked connections.
const FLOWS: u32 = 200_000;

/// Measures new flows a second, each trial with empty tables.
pub(crate) fn measure(quick: bool, report: &mut Report) -> Result<()> {
    for (title, traffic) in [
        ("New flows, full-nat, UDP over IPv4, on one core", Traffic::UdpV4),
        ("New flows, full-nat, TCP over IPv4, on one core", Traffic::SynV4),
        ("New flows, full-nat, UDP over IPv6, on one core", Traffic::UdpV6),
    ] {
        report.section(title);
        let (mut rates, mut rivals) = (Vec::new(), Vec::new());
        let (mut void, mut lost) = (None, None);
        for _ in 0..if quick { 5 } else { 9 } {
            let (rate, objection) = balancer(traffic)?;
            rates.push(rate);
            void = void.or(objection);
            if traffic != Traffic::UdpV6 && FLOWS < nftables::most_flows() {
                let (rate, objection) = rival(traffic)?;
                rivals.push(rate);
                lost = lost.or(objection);
            }
        }
        let target = (traffic != Traffic::UdpV6).then_some(Target::AtLeast(500_000.0));
        report.add("lb", Unit::PerSecond, &rates, target, void.as_ref());
        if !rivals.is_empty() {
            report.add("nftables DNAT", Unit::PerSecond, &rivals, None, lost.as_ref());
        }
    }
    Ok(())
}

fn balancer(traffic: Traffic) -> Result<(f64, Option<String>)> {
    let mut balancer = Balancer::new(Chain::new(traffic)?, Limits::default(), Mode::FULL_NAT)?;
    balancer.chain.flows(0, u32::MAX)?;
    let before = balancer.counts()?;
    let run = balancer.chain.send(FLOWS)?;
    let objection = balancer.counts()?.objection(&before, &[run], FLOWS.into());
    Ok((run.rate(), objection))
}

fn rival(traffic: Traffic) -> Result<(f64, Option<String>)> {
    let mut chain = nftables::forward(Chain::new(traffic)?)?;
    chain.flows(0, u32::MAX)?;
    let run = chain.send(FLOWS)?;
    let lost = run.arrived < run.sent - run.sent / 100;
    let objection = lost.then(|| format!("of {} frames {} arrived", run.sent, run.arrived));
    Ok((run.rate(), objection))
}
