//! Contests: every contender does the same in turns, round by round, so that what disturbs one disturbs all.

use std::time::{Duration, Instant};

use anyhow::Result;
use aya::sys::{Stats, enable_stats};

use super::contender::{Contender, Contestant, Scene};
use crate::report::Report;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    /// Rounds at most.
    pub(super) rounds: u32,
    /// Once this is over, no round begins that is not among the first three.
    pub(super) patience: Duration,
    /// Frames of a run.
    pub(super) frames: u32,
}

impl Effort {
    /// Whether another round is due.
    pub(super) fn goes_on(&self, round: u32, begin: Instant) -> bool {
        round < self.rounds && (round < 3 || begin.elapsed() < self.patience)
    }
}

/// What a contender achieved with packets of established flows.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Who it was.
    pub(super) contender: Contender,
    /// Frames a second, by round.
    pub(super) rates: Vec<f64>,
    /// Nanoseconds inside its program, by round; empty if it has none.
    pub(super) times: Vec<f64>,
    /// Why these do not count.
    pub(super) void: Option<String>,
}

/// Measures packets of established flows.
pub(super) fn established(
    scene: &Scene,
    contenders: &[Contender],
    effort: Effort,
    report: &mut Report,
) -> Result<Vec<Outcome>> {
    let mut contestants = Vec::new();
    for contender in admitted(scene, contenders, report) {
        let mut contestant = Contestant::enter(contender, scene)?;
        contestant.flows(scene.flows)?;
        // The first pass opens the flows, the second finds out what has to be found out once.
        contestant.send(scene.flows)?;
        contestant.send(scene.flows)?;
        contestants.push(contestant);
    }
    let rates = rates(&mut contestants, effort)?;
    let times = times(&mut contestants, effort)?;
    let mut outcomes = Vec::new();
    for ((contestant, rates), times) in contestants.iter().zip(rates).zip(times) {
        outcomes.push(Outcome {
            contender: contestant.contender,
            rates,
            times,
            void: contestant.objection(scene.flows)?,
        });
    }
    Ok(outcomes)
}

/// Those that can take part; the others are excused in the report.
pub(super) fn admitted(scene: &Scene, contenders: &[Contender], report: &mut Report) -> Vec<Contender> {
    let able = contenders.iter().copied().filter(|contender| {
        let excuse = contender.excuse(scene);
        if let Some(why) = &excuse {
            let what = format!("{} with {} flows", contender.name(), scene.flows);
            report.leave_out(&what, why);
        }
        excuse.is_none()
    });
    able.collect()
}

/// Rates by contestant and round, with the kernel's statistics off.
fn rates(contestants: &mut [Contestant], effort: Effort) -> Result<Vec<Vec<f64>>> {
    let mut rates = vec![Vec::new(); contestants.len()];
    let begin = Instant::now();
    let mut round = 0;
    while effort.goes_on(round, begin) {
        for (contestant, rates) in contestants.iter_mut().zip(&mut rates) {
            let frames = contestant.contender.frames(effort.frames);
            rates.push(contestant.send(frames)?.rate());
        }
        round += 1;
    }
    Ok(rates)
}

/// Time inside the programs, from the kernel's statistics, which add their own, 20 ns and more: about what they say of bare
/// `XDP_TX`, which does nothing.
fn times(contestants: &mut [Contestant], effort: Effort) -> Result<Vec<Vec<f64>>> {
    let _statistics = enable_stats(Stats::RunTime)?;
    let mut times = vec![Vec::new(); contestants.len()];
    let begin = Instant::now();
    let mut round = 0;
    while effort.goes_on(round, begin) {
        for (contestant, times) in contestants.iter_mut().zip(&mut times) {
            times.extend(contestant.time(effort.frames)?);
        }
        round += 1;
    }
    Ok(times)
}

/// Measures packets that each open a flow: rates and objections by contender, each trial with empty tables.
pub(super) fn opening(
    scene: &Scene,
    contenders: &[Contender],
    effort: Effort,
    report: &mut Report,
) -> Result<Vec<Outcome>> {
    let contenders = admitted(scene, contenders, report);
    let mut outcomes: Vec<_> = contenders
        .into_iter()
        .map(|contender| Outcome {
            contender,
            rates: Vec::new(),
            times: Vec::new(),
            void: None,
        })
        .collect();
    let begin = Instant::now();
    let mut round = 0;
    while effort.goes_on(round, begin) {
        for outcome in &mut outcomes {
            let mut contestant = Contestant::enter(outcome.contender, scene)?;
            contestant.flows(u32::MAX)?;
            outcome.rates.push(contestant.send(scene.flows)?.rate());
            let objection = contestant.objection(scene.flows)?;
            outcome.void = outcome.void.take().or(objection);
        }
        round += 1;
    }
    Ok(outcomes)
}
