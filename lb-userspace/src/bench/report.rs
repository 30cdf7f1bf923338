//! What a run was going to do and what came of it: values with units, the same for every kind of traffic.
//!
//! In JSON the unit is part of the key, which is made from the name: `Figure::new("requests", Value::Rate(…))` becomes
//! `requests_per_second`. Names are therefore part of the interface that scripts rely on.

use std::{fmt, time::Duration};

use hdrhistogram::Histogram;
use serde_json::{Map, Value as Json, json};

/// The percentiles that tables and JSON show; between them, those are left out that the plot alone shows.
pub const PERCENTILES: [(f64, &str); 6] = [
    (50.0, "p50"),
    (90.0, "p90"),
    (95.0, "p95"),
    (99.0, "p99"),
    (99.9, "p99_9"),
    (99.99, "p99_99"),
];

/// Nanoseconds in a microsecond, the unit of latencies in JSON.
const MICROSECOND: f64 = 1000.0;

/// A value with its unit.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// So many.
    Count(u64),
    /// So many a second.
    Rate(f64),
    /// Bytes.
    Bytes(u64),
    /// Bits a second.
    Bits(f64),
    /// A time.
    Time(Duration),
    /// A part of a whole, in percent.
    Percent(f64),
    /// Words, an address, a name.
    Text(String),
    /// Yes or no.
    Flag(bool),
}

impl Value {
    /// What the unit adds to the key in JSON.
    const fn suffix(&self) -> &'static str {
        match self {
            Self::Count(_) | Self::Text(_) | Self::Flag(_) => "",
            Self::Rate(_) => "_per_second",
            Self::Bytes(_) => "_bytes",
            Self::Bits(_) => "_bits_per_second",
            Self::Time(_) => "_seconds",
            Self::Percent(_) => "_percent",
        }
    }

    fn to_json(&self) -> Json {
        match self {
            Self::Count(n) | Self::Bytes(n) => json!(n),
            Self::Rate(x) | Self::Bits(x) | Self::Percent(x) => json!(rounded(*x)),
            Self::Time(time) => json!(time.as_secs_f64()),
            Self::Text(text) => json!(text),
            Self::Flag(yes) => json!(yes),
        }
    }
}

/// A named value.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// In words; with the unit, it is the key in JSON.
    pub name: String,
    /// The value.
    pub value: Value,
}

impl Figure {
    /// A named value.
    #[must_use]
    pub fn new(name: impl Into<String>, value: Value) -> Self {
        let name = name.into();
        Self { name, value }
    }
}

/// What a run is going to do; shown before its first packet.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// One line: `HTTP requests to 192.0.2.10:80`.
    pub title: String,
    /// Everything that decides about the traffic.
    pub lines: Vec<Figure>,
}

impl Plan {
    /// A plan without lines.
    #[must_use]
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            lines: Vec::new(),
        }
    }

    /// One line more.
    #[must_use]
    pub fn line(mut self, name: impl Into<String>, value: Value) -> Self {
        self.lines.push(Figure::new(name, value));
        self
    }

    fn to_json(&self) -> Json {
        let mut plan = object(&self.lines);
        plan.insert("title".to_owned(), json!(self.title));
        Json::Object(plan)
    }
}

/// Counts by backend, by status code and such.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// What it shows: `answers by status`.
    pub name: String,
    /// Names of the columns. The first says what a row is about.
    pub columns: Vec<&'static str>,
    /// One value per column each.
    pub rows: Vec<Vec<Value>>,
}

impl Table {
    fn to_json(&self) -> Json {
        let row = |row: &Vec<Value>| {
            let fields = self.columns.iter().zip(row);
            Json::Object(
                fields
                    .map(|(name, value)| (key(name, value), value.to_json()))
                    .collect(),
            )
        };
        self.rows.iter().map(row).collect()
    }
}

/// A value over time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    /// What it is: `answered`.
    pub name: String,
    /// Its unit, in words: `per second`.
    pub unit: &'static str,
    /// Seconds since the start, and the value of the time since the point before.
    pub points: Vec<(f64, f64)>,
}

/// How long something took, in nanoseconds.
#[derive(Debug, Clone)]
pub struct Latency {
    /// What took so long: `request`.
    pub name: String,
    /// In nanoseconds.
    pub histogram: Histogram<u64>,
}

impl Latency {
    fn to_json(&self) -> Json {
        let histogram = &self.histogram;
        let micros = |nanos: u64| json!(rounded(nanos_to_f64(nanos) / MICROSECOND));
        let mut shown = Map::new();
        shown.insert("count".to_owned(), json!(histogram.len()));
        if !histogram.is_empty() {
            shown.insert("min_us".to_owned(), micros(histogram.min()));
            shown.insert("mean_us".to_owned(), json!(rounded(histogram.mean() / MICROSECOND)));
            shown.insert("max_us".to_owned(), micros(histogram.max()));
            for (percentile, name) in PERCENTILES {
                shown.insert(format!("{name}_us"), micros(histogram.value_at_percentile(percentile)));
            }
        }
        Json::Object(shown)
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoppedBy {
    /// The time was up.
    Duration,
    /// As many were sent as wanted.
    Count,
    /// Ctrl-C or SIGTERM.
    Interrupt,
}

impl fmt::Display for StoppedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Duration => "duration",
            Self::Count => "count",
            Self::Interrupt => "interrupt",
        })
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What it was going to do.
    pub plan: Plan,
    /// Why it ended.
    pub stopped_by: StoppedBy,
    /// How long it took.
    pub elapsed: Duration,
    /// Totals and averages.
    pub figures: Vec<Figure>,
    /// Counts by something.
    pub tables: Vec<Table>,
    /// Values over time.
    pub series: Vec<Series>,
    /// How long things took.
    pub latencies: Vec<Latency>,
    /// What to know before believing the figures: one sentence or two each.
    pub warnings: Vec<String>,
}

impl Outcome {
    /// Nothing came of it yet.
    #[must_use]
    pub const fn new(plan: Plan, stopped_by: StoppedBy, elapsed: Duration) -> Self {
        Self {
            plan,
            stopped_by,
            elapsed,
            figures: Vec::new(),
            tables: Vec::new(),
            series: Vec::new(),
            latencies: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// As programs read it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let tables: Map<_, _> = self.tables.iter().map(|t| (slug(&t.name), t.to_json())).collect();
        let latencies: Map<_, _> = self.latencies.iter().map(|l| (slug(&l.name), l.to_json())).collect();
        let series: Vec<_> = self
            .series
            .iter()
            .map(|s| json!({ "name": s.name, "unit": s.unit, "points": points(&s.points) }))
            .collect();
        json!({
            "plan": self.plan.to_json(),
            "stopped_by": self.stopped_by.to_string(),
            "elapsed_seconds": self.elapsed.as_secs_f64(),
            "figures": object(&self.figures),
            "tables": tables,
            "series": series,
            "latencies": latencies,
            "warnings": self.warnings,
        })
    }
}

fn points(points: &[(f64, f64)]) -> Vec<[f64; 2]> {
    points
        .iter()
        .map(|(at, value)| [rounded(*at), rounded(*value)])
        .collect()
}

fn object(figures: &[Figure]) -> Map<String, Json> {
    figures
        .iter()
        .map(|figure| (key(&figure.name, &figure.value), figure.value.to_json()))
        .collect()
}

fn key(name: &str, value: &Value) -> String {
    format!("{}{}", slug(name), value.suffix())
}

/// `answers by status` becomes `answers_by_status`.
fn slug(name: &str) -> String {
    let words = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("_")
}

/// To three places, which is more than anything here is known to.
fn rounded(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}

/// Nanoseconds as a float, exact up to half a year.
#[expect(clippy::cast_precision_loss, reason = "2^53 ns are 104 days")]
pub(crate) const fn nanos_to_f64(nanos: u64) -> f64 {
    nanos as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_units_in_its_keys() {
        let plan = Plan::new("a title")
            .line("interface", Value::Text("eth0".into()))
            .line("duration", Value::Time(Duration::from_millis(1500)));
        let mut outcome = Outcome::new(plan, StoppedBy::Count, Duration::from_secs(2));
        outcome.figures = vec![
            Figure::new("requests", Value::Count(10)),
            Figure::new("requests", Value::Rate(5.0)),
            Figure::new("bytes in", Value::Bytes(1)),
        ];
        outcome.tables = vec![Table {
            name: "answers by status".into(),
            columns: vec!["status", "share"],
            rows: vec![vec![Value::Count(200), Value::Percent(100.0)]],
        }];
        let mut histogram = Histogram::new(3).unwrap();
        histogram.record(2_000).unwrap();
        outcome.latencies = vec![Latency {
            name: "request".into(),
            histogram,
        }];
        let json = outcome.to_json();
        for (pointer, value) in [
            ("/plan/title", json!("a title")),
            ("/plan/interface", json!("eth0")),
            ("/plan/duration_seconds", json!(1.5)),
            ("/stopped_by", json!("count")),
            ("/figures/requests", json!(10)),
            ("/figures/requests_per_second", json!(5.0)),
            ("/figures/bytes_in_bytes", json!(1)),
            ("/tables/answers_by_status/0/share_percent", json!(100.0)),
            ("/latencies/request/count", json!(1)),
            ("/latencies/request/p99_us", json!(2.0)),
        ] {
            assert_eq!(json.pointer(pointer), Some(&value), "{pointer} in {json:#}");
        }
    }

    #[test]
    fn an_empty_histogram_has_no_percentiles() {
        let latency = Latency {
            name: "request".into(),
            histogram: Histogram::new(3).unwrap(),
        };
        assert_eq!(latency.to_json(), json!({ "count": 0 }));
    }
}
