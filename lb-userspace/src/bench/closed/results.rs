//! What the counters of a run mean.

use std::time::Duration;

use super::{
    super::{
        meter::Meter,
        report::{Figure, Latency, Outcome, StoppedBy, Table, Value},
    },
    failure::FailureKind,
    settings::{Kind, Settings},
    tally::Tally,
};

/// A generator that is so busy, in parts of what it may use, may itself be what limits.
const BUSY: f64 = 0.85;
/// Starts that are missing, in parts of those that were due, are worth a word.
const MISSING: f64 = 0.01;

/// How the run went.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) stopped_by: StoppedBy,
    pub(super) elapsed: Duration,
    /// How many ought to have begun, if a rate was set.
    pub(super) due: Option<u64>,
    /// Time that this process spent on all processors.
    pub(super) busy: Duration,
}

/// Figures, tables and warnings.
pub(super) fn outcome(settings: &Settings, total: Tally, meter: Meter, run: &Run) -> Outcome {
    let mut outcome = Outcome::new(settings.plan(), run.stopped_by, run.elapsed);
    outcome.figures = figures(settings, &total, run);
    outcome.tables = tables(&total);
    outcome.warnings = warnings(settings, &total, run);
    outcome.series = meter.series();
    let named = |name: &str, histogram| Latency {
        name: name.to_owned(),
        histogram,
    };
    let what = settings.kind.singular();
    outcome.latencies.push(named(what, total.whole));
    if settings.rate.is_some() {
        outcome.latencies.push(named("service", total.service));
    }
    outcome.latencies.push(named("connect", total.connect));
    outcome
}

fn figures(settings: &Settings, total: &Tally, run: &Run) -> Vec<Figure> {
    let seconds = run.elapsed.as_secs_f64().max(1e-9);
    let count = |name: &str, n| Figure::new(name, Value::Count(n));
    let mut figures = vec![
        count("sent", total.begun),
        count("succeeded", total.succeeded),
        Figure::new("succeeded", Value::Rate(to_f64(total.succeeded) / seconds)),
        count("failed", total.failed()),
        count("unfinished", unfinished(total)),
    ];
    if let Some(due) = run.due {
        figures.push(count("never started", due.saturating_sub(total.begun)));
    }
    figures.push(count("connections opened", total.opened));
    if let Kind::Http(_) = settings.kind {
        figures.push(count("not 2xx or 3xx", bad_statuses(total)));
        figures.push(Figure::new("received", Value::Bytes(total.bytes)));
    }
    figures.push(Figure::new("own processor time", Value::Percent(busy(run) * 100.0)));
    figures
}

/// What the end of the run cut short: neither a success nor a failure.
fn unfinished(total: &Tally) -> u64 {
    total.begun.saturating_sub(total.succeeded + total.failed())
}

fn bad_statuses(total: &Tally) -> u64 {
    let bad = total
        .statuses
        .iter()
        .filter(|(status, _)| !(200..400).contains(*status));
    bad.map(|(_, count)| count).sum()
}

/// In processors.
fn busy(run: &Run) -> f64 {
    run.busy.as_secs_f64() / run.elapsed.as_secs_f64().max(1e-9)
}

fn tables(total: &Tally) -> Vec<Table> {
    let share = |count| Value::Percent(100.0 * to_f64(count) / to_f64(total.succeeded.max(1)));
    let statuses = total.statuses.iter();
    let spread = total.spread.iter();
    let failures = total.failures.iter();
    vec![
        Table {
            name: "statuses".to_owned(),
            columns: vec!["status", "answers", "share"],
            rows: statuses
                .map(|(status, n)| vec![Value::Text(status.to_string()), Value::Count(*n), share(*n)])
                .collect(),
        },
        Table {
            name: "spread".to_owned(),
            columns: vec!["answered by", "answers", "share"],
            rows: spread
                .map(|(name, n)| vec![Value::Text(name.clone()), Value::Count(*n), share(*n)])
                .collect(),
        },
        Table {
            name: "failures".to_owned(),
            columns: vec!["failure", "count", "the first said"],
            rows: failures
                .map(|(kind, (n, words))| {
                    let name = kind.name().to_owned();
                    vec![Value::Text(name), Value::Count(*n), Value::Text(words.clone())]
                })
                .collect(),
        },
    ]
}

fn warnings(settings: &Settings, total: &Tally, run: &Run) -> Vec<String> {
    let mut warnings = Vec::new();
    if total.failures.contains_key(&FailureKind::NoPort) {
        warnings.push(no_port(settings));
    }
    if total.failures.contains_key(&FailureKind::NoDescriptor) {
        warnings.push(
            "this process ran out of file descriptors: raise the limit with `ulimit -n`, or give fewer --connections"
                .to_owned(),
        );
    }
    if let Some(due) = run.due
        && to_f64(due.saturating_sub(total.begun)) > MISSING * to_f64(due)
    {
        warnings.push(format!(
            "the rate was not kept: of {due} that were due, {} never started because all {} connections were waiting. \
             Latencies count from when a start was due, but leave these out: give more --connections or a lower --rate",
            due.saturating_sub(total.begun),
            settings.connections,
        ));
    }
    if busy(run) > BUSY * usable_processors(settings) {
        warnings.push(format!(
            "this generator used {:.0}% of the {:.0}% that its threads can have: it may itself be what limits the rate. \
             Give it more --threads or processors, or run it on several machines",
            busy(run) * 100.0,
            usable_processors(settings) * 100.0,
        ));
    }
    let bad = bad_statuses(total);
    if bad > 0 {
        warnings.push(format!(
            "{bad} answers had another status than 2xx or 3xx; they count as succeeded, because the network brought them"
        ));
    }
    if total.succeeded == 0 && total.begun > 0 {
        warnings.push(format!(
            "nothing succeeded: try `curl --interface {} {}` from here first",
            settings.target.interface, settings.target.to,
        ));
    }
    warnings
}

fn no_port(settings: &Settings) -> String {
    let waits = if settings.reset_close {
        ""
    } else {
        " A closed connection keeps its port for a minute (TIME_WAIT): --reset-close frees it at once."
    };
    format!(
        "this host ran out of ports towards {}: about 28,000 for each source address, as net.ipv4.ip_local_port_range \
         says.{waits} More --source addresses, or net.ipv4.ip_local_port_range=\"1024 65535\", give more",
        settings.target.to,
    )
}

/// Threads that can run at a time.
fn usable_processors(settings: &Settings) -> f64 {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    to_f64(settings.threads.min(processors) as u64)
}

#[expect(clippy::cast_precision_loss, reason = "no counter here comes near 2^53")]
const fn to_f64(n: u64) -> f64 {
    n as f64
}
