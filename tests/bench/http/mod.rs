//! HTTP through `lb` and through what else people put in front of web servers: a real server, a real client, in turns.
//!
//! Client, server and balancer share the machine's cores, and the client always has 64 requests open. So rates and times
//! show the cost of the whole way at its limit; what a balancer adds shows best in the CPU time above that of the direct way.

mod bed;
mod contender;
mod cpu;
mod daemon;
mod haproxy;
mod kernel;
mod nginx;
mod probe;
mod process;
mod results;
mod wrk;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use self::{
    bed::Bed,
    contender::{Absence, Contender},
    cpu::Busy,
    results::{Outcome, Results, Round},
    wrk::{CONNECTIONS, Pattern, Wrk},
};
use crate::{
    interrupt,
    report::{Report, figure::quantile},
};

/// When more than this many cores are busy while nothing is measured, CPU times show the machine's other work, too.
const MOST_BACKGROUND: f64 = 0.2;
/// Between two runs: what the last one left behind is put away.
const PAUSE: Duration = Duration::from_millis(50);

/// How long it may take.
#[derive(Debug, Clone, Copy)]
struct Effort {
    rounds: u32,
    run: Duration,
    /// No round is begun that would not be over by then.
    budget: Duration,
}

const QUICK: Effort = Effort {
    rounds: 5,
    run: Duration::from_millis(700),
    budget: Duration::from_secs(55),
};
const FULL: Effort = Effort {
    rounds: 11,
    run: Duration::from_millis(1500),
    budget: Duration::from_secs(220),
};

/// Declares the tables.
pub(crate) fn declare(report: &mut Report) {
    results::declare(report);
}

/// Measures all contenders and adds their figures to the report.
pub(crate) fn measure(quick: bool, report: &mut Report) -> Result<()> {
    println!(
        "\nHTTP: wrk with {CONNECTIONS} connections to one nginx process, which has {} addresses behind the balancers\n\
         CPU time is that of the whole machine, all cores: {}",
        bed::SERVERS,
        cpu::accounting()
    );
    let results = contest(if quick { QUICK } else { FULL });
    interrupt::check()?;
    results
        .unwrap_or_else(|error| Results::void(&format!("{error:#}")))
        .report(report);
    Ok(())
}

/// Measures all contenders.
fn contest(effort: Effort) -> Result<Results> {
    let start = Instant::now();
    let mut contest = Contest::new()?;
    let mut longest = Duration::ZERO;
    for _ in 0..effort.rounds {
        let begin = Instant::now();
        if start.elapsed() + longest > effort.budget {
            break;
        }
        contest.round(effort.run)?;
        longest = longest.max(begin.elapsed());
    }
    Ok(contest.finish())
}

/// Contenders that take turns. Fields are dropped in this order: what uses the bed before it.
struct Contest {
    contenders: Vec<(Option<Contender>, Outcome)>,
    backgrounds: Vec<f64>,
    wrk: Wrk,
    _nginx: process::Process,
    bed: Bed,
}

impl Contest {
    fn new() -> Result<Self> {
        process::require("wrk")?;
        process::require("nginx")?;
        let bed = Bed::new()?;
        let mut contest = Self {
            contenders: Vec::new(),
            backgrounds: Vec::new(),
            wrk: Wrk::new(bed.directory())?,
            _nginx: nginx::start(&bed)?,
            bed,
        };
        for (number, (name, setup)) in (0..).zip(contender::ALL) {
            interrupt::check()?;
            let entry = contest.enter(setup(&contest.bed, number), Outcome::new(name));
            contest.contenders.push(entry);
        }
        Ok(contest)
    }

    /// Sees to it that a contender works before it is measured.
    fn enter(&self, contender: Result<Contender, Absence>, mut outcome: Outcome) -> (Option<Contender>, Outcome) {
        let checked = contender.and_then(|mut contender| {
            contender
                .way
                .check(self.bed.client())
                .map_err(|why| Absence::Failed(anyhow::Error::msg(why)))?;
            contender.mark()?;
            Ok(contender)
        });
        match checked {
            Ok(contender) => return (Some(contender), outcome),
            Err(Absence::NotHere(why)) => outcome.not_here = Some(why),
            Err(Absence::Failed(error)) => outcome.spoil(&format!("{error:#}")),
        }
        (None, outcome)
    }

    /// Each contender once, with both kinds of connections.
    fn round(&mut self, time: Duration) -> Result<()> {
        self.backgrounds.push(cpu::background()?);
        for (contender, outcome) in &mut self.contenders {
            let Some(contender) = contender else { continue };
            for pattern in [Pattern::KeepAlive, Pattern::PerRequest] {
                interrupt::check()?;
                if outcome.is_sound() {
                    run(&self.wrk, &self.bed, contender, outcome, pattern, time)?;
                }
            }
            if outcome.is_sound()
                && let Err(why) = contender.way.check(self.bed.client())
            {
                outcome.spoil(&format!("after a run {why}"));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Results {
        for (contender, outcome) in &mut self.contenders {
            let Some(contender) = contender else { continue };
            match contender.objection(outcome.connections()) {
                Ok(None) => {}
                Ok(Some(objection)) => outcome.spoil(&objection),
                Err(error) => outcome.spoil(&format!("{error:#}")),
            }
            outcome.settle();
        }
        self.backgrounds.sort_by(f64::total_cmp);
        let background = quantile(&self.backgrounds, 0.5);
        Results {
            contenders: self.contenders.into_iter().map(|(_, outcome)| outcome).collect(),
            cpu_void: (background > MOST_BACKGROUND)
                .then(|| format!("other work kept {background:.1} cores busy while nothing was measured")),
        }
    }
}

/// One run of wrk. What goes wrong makes the figures void, and does not end the measurement.
fn run(
    wrk: &Wrk,
    bed: &Bed,
    contender: &Contender,
    outcome: &mut Outcome,
    pattern: Pattern,
    time: Duration,
) -> Result<()> {
    thread::sleep(PAUSE);
    let before = Busy::now()?;
    let result = wrk.run(bed.client(), &contender.url(), pattern, time);
    let busy_ms = before.elapsed_ms()?;
    // Ctrl-C reaches wrk, too.
    interrupt::check()?;
    let series = outcome.series_mut(pattern);
    match result {
        Ok(sample) => series.rounds.push(Round { sample, busy_ms }),
        Err(why) => series.void = Some(why),
    }
    Ok(())
}
