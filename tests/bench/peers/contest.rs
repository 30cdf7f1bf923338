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
    /// Once this is past, no round begins but the first.
    pub(super) end: Option<Instant>,
}

impl Effort {
    /// Whether another round is due.
    pub(super) fn goes_on(&self, round: u32, begin: Instant) -> bool {
        let late = self.end.is_some_and(|end| Instant::now() > end);
        round == 0 || (round < self.rounds && !late && (round < 3 || begin.elapsed() < self.patience))
    }

    /// The same until some time.
    pub(super) const fn until(self, end: Instant) -> Self {
        Self { end: Some(end), ..self }
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

impl Outcome {
    /// Its rates over another's, by round.
    pub(super) fn over(&self, other: &Self) -> Vec<f64> {
        self.rates
            .iter()
            .zip(&other.rates)
            .map(|(one, other)| one / other)
            .collect()
    }
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
            let Scene { flows, load } = scene;
            let what = format!("{} with {flows} flows and {} bytes", contender.name(), load.frame);
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
            contestant.resume()?;
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
            contestant.resume()?;
            times.extend(contestant.time(effort.frames)?);
        }
        round += 1;
    }
    Ok(times)
}

/// Time inside each program in one scene over that in another, by turn: short runs, in turns of `A B` and `B A`.
pub(super) fn times_by_turn(
    scenes: [&Scene; 2],
    contender: Contender,
    turns: u32,
) -> Result<(Vec<f64>, Option<String>)> {
    /// Some milliseconds, less than what else runs takes at a time.
    const FRAMES: u32 = 20_000;
    let mut contestants = Vec::new();
    for scene in scenes {
        let mut contestant = Contestant::enter(contender, scene)?;
        contestant.flows(scene.flows)?;
        contestant.send(3 * scene.flows)?;
        contestants.push(contestant);
    }
    let mut ratios = Vec::new();
    {
        let _statistics = enable_stats(Stats::RunTime)?;
        for turn in 0..turns {
            let mut times = [f64::NAN; 2];
            let in_turn = contestants.iter_mut().zip(&mut times);
            let order: Vec<_> = if turn.is_multiple_of(2) {
                in_turn.collect()
            } else {
                in_turn.rev().collect()
            };
            for (contestant, time) in order {
                *time = contestant.time(FRAMES)?.unwrap_or(f64::NAN);
            }
            let [one, other] = times;
            ratios.push(one / other);
        }
    }
    let mut void = None;
    for (contestant, scene) in contestants.iter().zip(scenes) {
        void = void.or(contestant.objection(scene.flows)?);
    }
    Ok((ratios, void))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_or_not_one_round_is_measured() {
        let effort = Effort {
            rounds: 5,
            patience: Duration::ZERO,
            frames: 1,
            end: None,
        };
        let now = Instant::now();
        let rounds = |effort: Effort| (0..9).take_while(|round| effort.goes_on(*round, now)).count();
        assert_eq!(rounds(effort), 3, "three however long they take");
        assert_eq!(
            rounds(Effort {
                patience: Duration::from_secs(3600),
                ..effort
            }),
            5
        );
        assert_eq!(rounds(effort.until(now)), 1);
    }
}
