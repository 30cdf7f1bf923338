//! What was measured: by contender, by what connections are used for, by round.

use super::{
    contender::{self, DIRECT, HAPROXY, ROUTING},
    wrk::{Pattern, Sample},
};
use crate::{
    peers::MAIN_TABLE,
    report::{
        Report, Table,
        figure::{Unit, quantile},
        goals,
    },
};

/// All figures of the HTTP part.
#[derive(Debug)]
pub(crate) struct Results {
    /// In the order in which they took turns.
    pub(crate) contenders: Vec<Outcome>,
    /// Why no figure of CPU time counts.
    pub(crate) cpu_void: Option<String>,
}

/// What became of one contender.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// As it is printed.
    pub(crate) name: &'static str,
    /// Why this machine cannot measure it, which is no failure.
    pub(crate) not_here: Option<String>,
    /// Requests one after the other on connections that stay.
    pub(crate) keep_alive: Series,
    /// A connection for each request.
    pub(crate) per_request: Series,
}

const PATTERNS: [Pattern; 2] = [Pattern::KeepAlive, Pattern::PerRequest];

fn title(pattern: Pattern) -> String {
    format!("HTTP, {}", pattern.name())
}

/// Declares a table for each kind.
pub(super) fn declare(report: &mut Report) {
    for pattern in PATTERNS {
        report.table(Table {
            id: pattern.table().to_owned(),
            title: title(pattern),
            rows: "contender",
            axis: None,
        });
    }
}

/// Measurements of one kind, by round.
#[derive(Debug, Default)]
pub(crate) struct Series {
    /// A run for each round until something went wrong.
    pub(crate) rounds: Vec<Round>,
    /// Why they do not count.
    pub(crate) void: Option<String>,
}

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    /// What the client saw.
    pub(crate) sample: Sample,
    /// CPU time of the whole machine, in milliseconds.
    pub(crate) busy_ms: f64,
}

impl Round {
    /// Milliseconds of CPU time per thousand requests.
    #[expect(clippy::cast_precision_loss, reason = "millions")]
    pub(crate) fn cpu(&self) -> f64 {
        self.busy_ms * 1e3 / self.sample.requests as f64
    }
}

/// A column of the table: which figure, and how it is written.
struct Column {
    title: &'static str,
    unit: Unit,
    of: fn(&Round) -> f64,
    /// How many requests each run must have had.
    fewest: u64,
    /// Whether other work on the machine spoils it.
    is_cpu: bool,
    /// Whether that of the direct way in the same round is taken off.
    above_direct: bool,
}

const COLUMNS: [Column; 6] = [
    column("per second", Unit::Requests, |round| round.sample.rate()),
    column("p50", Unit::Microseconds, |round| micros(round.sample.p50_us)),
    column("p99", Unit::Microseconds, |round| micros(round.sample.p99_us)),
    Column {
        fewest: 1_000,
        ..column("p99.9", Unit::Microseconds, |round| micros(round.sample.p999_us))
    },
    Column {
        is_cpu: true,
        ..column("CPU per 1000", Unit::Milliseconds, Round::cpu)
    },
    Column {
        is_cpu: true,
        above_direct: true,
        ..column("above direct", Unit::Milliseconds, Round::cpu)
    },
];

const fn column(title: &'static str, unit: Unit, of: fn(&Round) -> f64) -> Column {
    Column {
        title,
        unit,
        of,
        fewest: 1,
        is_cpu: false,
        above_direct: false,
    }
}

#[expect(clippy::cast_precision_loss, reason = "minutes at most")]
fn micros(time: u64) -> f64 {
    time as f64
}

impl Outcome {
    /// A contender before its first round.
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            not_here: None,
            keep_alive: Series::default(),
            per_request: Series::default(),
        }
    }

    /// The measurements of one kind.
    pub(crate) const fn series(&self, pattern: Pattern) -> &Series {
        match pattern {
            Pattern::KeepAlive => &self.keep_alive,
            Pattern::PerRequest => &self.per_request,
        }
    }

    /// The same, to add to.
    pub(super) const fn series_mut(&mut self, pattern: Pattern) -> &mut Series {
        match pattern {
            Pattern::KeepAlive => &mut self.keep_alive,
            Pattern::PerRequest => &mut self.per_request,
        }
    }

    /// Makes all of it void, if it is not already.
    pub(super) fn spoil(&mut self, why: &str) {
        for series in [&mut self.keep_alive, &mut self.per_request] {
            series.void.get_or_insert_with(|| why.to_owned());
        }
    }

    /// Gives the kind that was never measured, because the other went wrong before, the reason of that.
    pub(super) fn settle(&mut self) {
        for (pattern, other) in [
            (Pattern::KeepAlive, Pattern::PerRequest),
            (Pattern::PerRequest, Pattern::KeepAlive),
        ] {
            let why = self.series(other).void.clone();
            let series = self.series_mut(pattern);
            if series.rounds.is_empty() && series.void.is_none() {
                series.void = why;
            }
        }
    }

    /// Whether there is any use in measuring on.
    pub(super) const fn is_sound(&self) -> bool {
        self.not_here.is_none() && self.keep_alive.void.is_none() && self.per_request.void.is_none()
    }

    /// Connections opened for requests.
    pub(super) fn connections(&self) -> u64 {
        self.per_request.rounds.iter().map(|round| round.sample.requests).sum()
    }
}

impl Results {
    /// When nothing could be measured.
    pub(super) fn void(why: &str) -> Self {
        let spoilt = |name| {
            let mut outcome = Outcome::new(name);
            outcome.spoil(why);
            outcome
        };
        Self {
            contenders: contender::ALL.iter().map(|(name, _)| spoilt(name)).collect(),
            cpu_void: None,
        }
    }

    /// Prints a table of medians for each kind, then adds every figure to the report.
    pub(crate) fn report(&self, report: &mut Report) {
        for outcome in &self.contenders {
            if let Some(why) = &outcome.not_here {
                report.leave_out(&format!("HTTP through {}", outcome.name), why);
            }
        }
        for pattern in PATTERNS {
            let title = title(pattern);
            self.print(pattern, &title);
            for column in &COLUMNS {
                self.section(pattern, &title, column, report);
            }
            self.compare(pattern, &title, report);
        }
    }

    /// `lb` beside plain forwarding, and beside the proxy, by round.
    fn compare(&self, pattern: Pattern, title: &str, report: &mut Report) {
        report.section(&format!(
            "{title}: requests a second, to {ROUTING}; CPU time above direct, to {HAPROXY}"
        ));
        for lb in self.contenders.iter().filter(|outcome| outcome.name.starts_with("lb ")) {
            for (other, column, goal) in [
                (ROUTING, &COLUMNS[0], goals::http_rate(lb.name, pattern.name())),
                (HAPROXY, &COLUMNS[5], goals::http_cpu(lb.name, pattern.name())),
            ] {
                let Some(other) = self.contenders.iter().find(|outcome| outcome.name == other) else {
                    continue;
                };
                let (own, own_void) = self.values(lb, pattern, column);
                let (theirs, their_void) = self.values(other, pattern, column);
                let ratios: Vec<f64> = own.iter().zip(theirs).map(|(own, theirs)| own / theirs).collect();
                let name = format!("{}, {}, to {}", lb.name, column.title, other.name);
                let void = own_void.or(their_void);
                if !ratios.is_empty() {
                    report.add(&name, Unit::Ratio, &ratios, Some(&goal), void.as_ref());
                }
            }
        }
    }

    /// The medians side by side.
    fn print(&self, pattern: Pattern, title: &str) {
        print!("\n{title}, medians\n  {:<20}", "");
        for column in &COLUMNS {
            print!(" {:>13}", column.title);
        }
        println!();
        for outcome in &self.contenders {
            print!("  {:<20}", outcome.name);
            if let Some(why) = &outcome.not_here {
                println!(" {why}");
                continue;
            }
            for column in &COLUMNS {
                let (values, void) = self.values(outcome, pattern, column);
                let text = match void {
                    None if values.is_empty() => String::new(),
                    None => column.unit.write(median(values)),
                    Some(_) => "void".to_owned(),
                };
                print!(" {text:>13}");
            }
            println!();
        }
    }

    /// One column with its spread.
    fn section(&self, pattern: Pattern, title: &str, column: &Column, report: &mut Report) {
        report.section(&format!("{title}: {}", column.title));
        for outcome in self.contenders.iter().filter(|outcome| outcome.not_here.is_none()) {
            let (values, void) = self.values(outcome, pattern, column);
            // What was never measured is told once.
            let is_first = column.title == COLUMNS[0].title;
            if !values.is_empty() || (void.is_some() && is_first) {
                let figure = report.add(outcome.name, column.unit, &values, None, void.as_ref());
                figure.cell(pattern.table(), outcome.name, column.title);
                if pattern == Pattern::KeepAlive && !column.above_direct {
                    figure.cell(MAIN_TABLE, outcome.name, &format!("HTTP: {}", column.title));
                }
            }
        }
    }

    /// The figures of one column, by round, and why they do not count.
    fn values(&self, outcome: &Outcome, pattern: Pattern, column: &Column) -> (Vec<f64>, Option<String>) {
        let series = outcome.series(pattern);
        let values = series.rounds.iter().map(column.of);
        let too_few = series.rounds.iter().find(|round| round.sample.requests < column.fewest);
        let void = series
            .void
            .clone()
            .or_else(|| self.cpu_void.clone().filter(|_| column.is_cpu))
            .or_else(|| too_few.map(|round| format!("only {} requests in a run", round.sample.requests)));
        if !column.above_direct {
            return (values.collect(), void);
        }
        let direct = self.contenders.iter().find(|outcome| outcome.name == DIRECT);
        let Some(direct) = direct.filter(|_| outcome.name != DIRECT) else {
            return (Vec::new(), None);
        };
        let direct = direct.series(pattern);
        let above = values
            .zip(direct.rounds.iter().map(column.of))
            .map(|(all, own)| all - own);
        let direct_void = direct
            .void
            .as_ref()
            .map(|why| format!("that of {DIRECT} is void: {why}"));
        (above.collect(), void.or(direct_void))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(requests: u64, busy_ms: f64) -> Round {
        let line = format!(
            r#"{{"duration_us":1000000,"requests":{requests},"connect":0,"read":0,"write":0,"status":0,"timeout":0,
               "p50_us":100,"p99_us":200,"p999_us":300}}"#
        );
        Round {
            sample: serde_json::from_str(&line).unwrap(),
            busy_ms,
        }
    }

    fn outcome(name: &'static str, rounds: Vec<Round>) -> Outcome {
        Outcome {
            keep_alive: Series { rounds, void: None },
            ..Outcome::new(name)
        }
    }

    fn results() -> Results {
        Results {
            contenders: vec![
                outcome(DIRECT, vec![round(2_000, 40.0), round(1_000, 25.0)]),
                outcome("other", vec![round(1_000, 30.0), round(1_000, 30.0)]),
            ],
            cpu_void: None,
        }
    }

    fn above_direct(results: &Results) -> (Vec<f64>, Option<String>) {
        results.values(&results.contenders[1], Pattern::KeepAlive, &COLUMNS[5])
    }

    #[test]
    fn cpu_time_is_compared_within_a_round() {
        // 20 and 25 ms per thousand requests are the direct way's own.
        assert_eq!(above_direct(&results()), (vec![10.0, 5.0], None));
    }

    #[test]
    fn what_is_compared_with_a_void_figure_is_void() {
        let mut results = results();
        results.contenders[0].spoil("nginx died");
        assert_eq!(above_direct(&results).1.unwrap(), "that of direct is void: nginx died");
    }

    #[test]
    fn other_work_spoils_cpu_time_only() {
        let mut results = results();
        results.cpu_void = Some("busy".to_owned());
        let voids: Vec<bool> = COLUMNS
            .iter()
            .map(|column| {
                results
                    .values(&results.contenders[1], Pattern::KeepAlive, column)
                    .1
                    .is_some()
            })
            .collect();
        assert_eq!(voids, [false, false, false, false, true, true]);
    }

    #[test]
    fn a_few_requests_have_no_far_percentile() {
        let mut results = results();
        results.contenders[1].keep_alive.rounds.push(round(999, 30.0));
        let void = |column| results.values(&results.contenders[1], Pattern::KeepAlive, column).1;
        assert_eq!(COLUMNS[3].title, "p99.9");
        assert_eq!(void(&COLUMNS[3]).unwrap(), "only 999 requests in a run");
        assert_eq!(void(&COLUMNS[2]), None);
    }

    #[test]
    fn what_was_never_measured_has_a_reason() {
        let mut outcome = outcome("other", vec![round(1_000, 30.0)]);
        outcome.keep_alive.void = Some("nginx died".to_owned());
        outcome.settle();
        assert_eq!(outcome.per_request.void.as_deref(), Some("nginx died"));
    }

    #[test]
    fn the_first_reason_is_kept() {
        let mut outcome = outcome("other", Vec::new());
        outcome.spoil("first");
        outcome.spoil("second");
        assert_eq!(outcome.keep_alive.void.as_deref(), Some("first"));
        assert!(!outcome.is_sound());
    }
}
