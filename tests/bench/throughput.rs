//! Packets of established flows: rates in turn with bare programs and nftables, and the program's own time.

use anyhow::Result;
use aya::{
    programs::ProgramInfo,
    sys::{Stats, enable_stats},
};
use lb_common::abi::Mode;
use lb_userspace::model::Limits;

use crate::{
    bed::{
        balancer::Balancer,
        chain::{Chain, Run},
        nftables,
        traffic::Traffic,
    },
    figure::{Report, Target, Unit},
};

/// One section of the report.
struct Scenario {
    title: &'static str,
    traffic: Traffic,
    flows: u32,
    with_nftables: bool,
    ratio: Option<Target>,
    time: Option<Target>,
}

/// How much is sent.
#[derive(Clone, Copy)]
struct Effort {
    rounds: u32,
    frames: u32,
    nftables_frames: u32,
}

const SCENARIOS: [Scenario; 5] = [
    Scenario {
        title: "Established, full-nat, UDP over IPv4, 64 bytes, 1,000 flows",
        traffic: Traffic::UdpV4,
        flows: 1_000,
        with_nftables: true,
        ratio: Some(Target::AtLeast(0.75)),
        time: Some(Target::AtMost(80.0)),
    },
    Scenario {
        title: "Established, full-nat, UDP over IPv4, 64 bytes, 100,000 flows",
        traffic: Traffic::UdpV4,
        flows: 100_000,
        with_nftables: true,
        ratio: None,
        time: Some(Target::AtMost(260.0)),
    },
    Scenario {
        title: "Established, full-nat, UDP over IPv6, 68 bytes, 1,000 flows",
        traffic: Traffic::UdpV6,
        flows: 1_000,
        with_nftables: false,
        ratio: None,
        time: None,
    },
    Scenario {
        title: "Established, full-nat, UDP over IPv6, 68 bytes, 100,000 flows",
        traffic: Traffic::UdpV6,
        flows: 100_000,
        with_nftables: false,
        ratio: None,
        time: None,
    },
    Scenario {
        title: "Established, full-nat, UDP over IPv4, 64 bytes, 1,000,000 flows (tables of twice the default size)",
        traffic: Traffic::UdpV4,
        flows: 1_000_000,
        with_nftables: false,
        ratio: None,
        time: None,
    },
];

/// Measures all scenarios; a quick run leaves out the million flows.
pub(crate) fn measure(quick: bool, report: &mut Report) -> Result<()> {
    let effort = if quick {
        Effort {
            rounds: 5,
            frames: 500_000,
            nftables_frames: 200_000,
        }
    } else {
        Effort {
            rounds: 15,
            frames: 2_000_000,
            nftables_frames: 500_000,
        }
    };
    for scenario in SCENARIOS.iter().filter(|s| !quick || s.flows < 1_000_000) {
        report.section(scenario.title);
        Contest::new(scenario)?.hold(scenario, effort, report)?;
    }
    Ok(())
}

/// The chains that are compared, ready to run.
struct Contest {
    tx: Chain,
    redirect: Chain,
    balancer: Balancer,
    nftables: Option<Chain>,
}

/// Rates by round.
#[derive(Default)]
struct Rates {
    tx: Vec<f64>,
    redirect: Vec<f64>,
    balancer: Vec<f64>,
    nftables: Vec<f64>,
}

impl Contest {
    fn new(scenario: &Scenario) -> Result<Self> {
        let Scenario { traffic, flows, .. } = *scenario;
        let mut limits = Limits::default();
        if flows > limits.flows_ipv4 / 2 {
            limits.flows_ipv4 *= 2;
        }
        let mut contest = Self {
            tx: Chain::new(traffic)?.bare("bare_tx")?,
            redirect: Chain::new(traffic)?.bare("bare_redirect")?,
            balancer: Balancer::new(Chain::new(traffic)?, limits, Mode::FULL_NAT)?,
            nftables: None,
        };
        if scenario.with_nftables && flows < nftables::most_flows() {
            contest.nftables = Some(nftables::forward(Chain::new(traffic)?)?);
        }
        let Self {
            tx,
            redirect,
            balancer,
            nftables,
        } = &mut contest;
        let chains = [tx, redirect, &mut balancer.chain].into_iter().chain(nftables.as_mut());
        for chain in chains {
            chain.flows(0, flows)?;
            // The first pass opens the flows, the second finds out what has to be found out once.
            chain.send(flows)?;
            chain.send(flows)?;
        }
        Ok(contest)
    }

    fn hold(mut self, scenario: &Scenario, effort: Effort, report: &mut Report) -> Result<()> {
        let before = self.balancer.counts()?;
        let mut runs = Vec::new();
        let (rates, nftables_lost) = self.rates(effort, &mut runs)?;
        let times = self.times(effort, &mut runs)?;
        let objection = self.balancer.counts()?.objection(&before, &runs, 0);
        let void = objection.as_ref();

        report.add("bare XDP_TX", Unit::PerSecond, &rates.tx, None, None);
        report.add("bare XDP_REDIRECT", Unit::PerSecond, &rates.redirect, None, None);
        report.add("lb", Unit::PerSecond, &rates.balancer, None, void);
        if !rates.nftables.is_empty() {
            let lost = nftables_lost.as_ref();
            report.add("nftables DNAT", Unit::PerSecond, &rates.nftables, None, lost);
        }
        let ratios = |to: &[f64]| -> Vec<f64> { rates.balancer.iter().zip(to).map(|(lb, to)| lb / to).collect() };
        report.add(
            "lb to bare XDP_REDIRECT",
            Unit::Ratio,
            &ratios(&rates.redirect),
            scenario.ratio,
            void,
        );
        if !rates.nftables.is_empty() {
            let target = Some(Target::AtLeast(5.0));
            report.add(
                "lb to nftables DNAT",
                Unit::Ratio,
                &ratios(&rates.nftables),
                target,
                void,
            );
        }
        report.add("bare XDP_TX, program time", Unit::Nanoseconds, &times.tx, None, None);
        report.add(
            "bare XDP_REDIRECT, program time",
            Unit::Nanoseconds,
            &times.redirect,
            None,
            None,
        );
        report.add(
            "lb, program time",
            Unit::Nanoseconds,
            &times.balancer,
            scenario.time,
            void,
        );
        // What a fast machine and a slow one have in common: neither the statistics nor the calls around them count.
        let own: Vec<f64> = times.balancer.iter().zip(&times.tx).map(|(lb, tx)| lb - tx).collect();
        report.add("lb, less what bare XDP_TX shows", Unit::Nanoseconds, &own, None, void);
        Ok(())
    }

    /// Rates, with the kernel's statistics off. Also says if nftables lost frames.
    fn rates(&mut self, effort: Effort, runs: &mut Vec<Run>) -> Result<(Rates, Option<String>)> {
        let mut rates = Rates::default();
        let (mut sent, mut arrived) = (0, 0);
        for _ in 0..effort.rounds {
            rates.tx.push(self.tx.send(effort.frames)?.rate());
            rates.redirect.push(self.redirect.send(effort.frames)?.rate());
            let run = self.balancer.chain.send(effort.frames)?;
            rates.balancer.push(run.rate());
            runs.push(run);
            if let Some(nftables) = &mut self.nftables {
                let run = nftables.send(effort.nftables_frames)?;
                rates.nftables.push(run.rate());
                sent += run.sent;
                arrived += run.arrived;
            }
        }
        let lost = (arrived < sent - sent / 100).then(|| format!("of {sent} frames {arrived} arrived"));
        Ok((rates, lost))
    }

    /// Time inside the programs, from the kernel's statistics, which add their own, 20 ns and more: about what they say of
    /// bare `XDP_TX`, which does nothing.
    fn times(&mut self, effort: Effort, runs: &mut Vec<Run>) -> Result<Times> {
        let _statistics = enable_stats(Stats::RunTime)?;
        let mut times = Times::default();
        for _ in 0..effort.rounds {
            times.tx.push(bare_time(&mut self.tx, "bare_tx", effort)?);
            times
                .redirect
                .push(bare_time(&mut self.redirect, "bare_redirect", effort)?);
            let before = self.balancer.info()?;
            runs.push(self.balancer.chain.send(effort.frames)?);
            times.balancer.push(time_per_run(&before, &self.balancer.info()?));
        }
        Ok(times)
    }
}

/// Nanoseconds per run, by round.
#[derive(Default)]
struct Times {
    tx: Vec<f64>,
    redirect: Vec<f64>,
    balancer: Vec<f64>,
}

fn bare_time(chain: &mut Chain, program: &str, effort: Effort) -> Result<f64> {
    let before = chain.info(program)?;
    chain.send(effort.frames)?;
    Ok(time_per_run(&before, &chain.info(program)?))
}

#[expect(clippy::cast_precision_loss, reason = "well below 2^52 ns")]
fn time_per_run(before: &ProgramInfo, after: &ProgramInfo) -> f64 {
    let time = after.run_time().saturating_sub(before.run_time());
    let runs = after.run_count().saturating_sub(before.run_count());
    time.as_nanos() as f64 / runs as f64
}
