//! A plan and an outcome as people read them.

use std::time::Duration;

use super::super::{
    grid::{Cell, Grid, Kind},
    human,
    view::{Tone, View, wrap},
};
use crate::bench::report::{Figure, Latency, Outcome, Plan, StoppedBy, Table, Value};

/// From here on, a time is told in minutes and hours.
const LONG: Duration = Duration::from_mins(2);

/// What the run is going to do.
pub(super) fn plan(plan: &Plan, view: &View) -> String {
    let mut shown = format!("{}\n", view.paint(Tone::Title, &plan.title));
    shown.push_str(&pairs(&plan.lines, view));
    shown.push('\n');
    shown
}

/// What came of it.
pub(super) fn outcome(outcome: &Outcome, view: &View) -> String {
    let mut shown = format!("{}\n", view.paint(Tone::Title, &end(outcome)));
    shown.push_str(&pairs(&outcome.figures, view));
    if !outcome.latencies.is_empty() {
        shown.push('\n');
        shown.push_str(&latencies(&outcome.latencies, view));
    }
    for table in outcome.tables.iter().filter(|table| !table.rows.is_empty()) {
        shown.push('\n');
        shown.push_str(&rows(table, view));
    }
    if !outcome.warnings.is_empty() {
        shown.push('\n');
    }
    for warning in &outcome.warnings {
        shown.push_str(&view.paragraph(Tone::Warn, 0, &format!("warning: {warning}")));
    }
    shown
}

fn end(outcome: &Outcome) -> String {
    let took = precise(outcome.elapsed);
    match outcome.stopped_by {
        StoppedBy::Duration => format!("Results after {took}"),
        StoppedBy::Count => format!("Results after {took}, when all were sent"),
        StoppedBy::Interrupt => format!("Results after {took}, when it was interrupted"),
    }
}

/// Names and values, one pair a line; values of one name share a line.
fn pairs(figures: &[Figure], view: &View) -> String {
    let mut lines: Vec<(&str, Vec<String>)> = Vec::new();
    for figure in figures {
        let value = value(&figure.value);
        match lines.last_mut() {
            Some((name, values)) if *name == figure.name => values.push(value),
            _ => lines.push((&figure.name, vec![value])),
        }
    }
    let widest = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let room = view.width.saturating_sub(widest + 4);
    let line = |(name, values): &(&str, Vec<String>)| {
        let value = values.join(", ");
        let wrapped = wrap(&value, room, 0).join(&format!("\n{:1$}", "", widest + 4));
        format!("  {name:widest$}  {wrapped}\n")
    };
    lines.iter().map(line).collect()
}

fn latencies(latencies: &[Latency], view: &View) -> String {
    let columns = ["LATENCY", "MEAN", "P50", "P90", "P99", "P99.9", "MAX", "COUNT"];
    let kinds = columns.map(|title| (title, if title == "LATENCY" { Kind::Text } else { Kind::Number }));
    let mut grid = Grid::new(1, kinds).indented(2).optional("COUNT");
    for Latency { name, histogram } in latencies {
        let at = |percentile| time(histogram.value_at_percentile(percentile), histogram.is_empty());
        grid.row([
            name.as_str().into(),
            time(human::whole(histogram.mean()), histogram.is_empty()).into(),
            at(50.0).into(),
            at(90.0).into(),
            at(99.0).into(),
            at(99.9).into(),
            at(100.0).into(),
            human::exact(histogram.len()).into(),
        ]);
    }
    grid.render(view)
}

fn time(nanos: u64, unknown: bool) -> String {
    if unknown {
        "-".to_owned()
    } else {
        precise(Duration::from_nanos(nanos))
    }
}

fn rows(table: &Table, view: &View) -> String {
    let number = |at: usize| {
        let mut fields = table.rows.iter().filter_map(|row| row.get(at));
        at > 0 && fields.all(|field| !matches!(field, Value::Text(_) | Value::Flag(_)))
    };
    let columns = table.columns.iter().enumerate().map(|(at, name)| {
        let kind = if number(at) { Kind::Number } else { Kind::Text };
        (name.to_uppercase(), kind)
    });
    let mut grid = Grid::of(1, columns.collect()).indented(2);
    for row in &table.rows {
        grid.push(row.iter().map(|field| Cell::from(value(field))).collect());
    }
    grid.render(view)
}

fn value(value: &Value) -> String {
    match value {
        Value::Count(n) => human::exact(*n),
        Value::Rate(rate) if *rate < 100.0 => format!("{rate:.1}/s"),
        Value::Rate(rate) => format!("{}/s", human::exact(human::whole(*rate))),
        Value::Bytes(n) => human::bytes(*n),
        Value::Bits(rate) => format!("{}bit/s", human::si(*rate)),
        Value::Time(time) if *time >= LONG => human::span(time.as_secs()),
        Value::Time(time) => precise(*time),
        Value::Percent(part) => format!("{part:.1}%"),
        Value::Text(text) => text.clone(),
        Value::Flag(true) => "yes".to_owned(),
        Value::Flag(false) => "no".to_owned(),
    }
}

fn precise(time: Duration) -> String {
    human::precise(time.as_secs_f64() * 1e9)
}
