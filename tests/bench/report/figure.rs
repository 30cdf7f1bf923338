//! A figure: the median of several measurements, what it should reach, and how it is written.

use serde_json::{Value, json};

use super::table::{Place, Row};

/// What a figure should reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// As much or more.
    AtLeast(f64),
    /// As much or less.
    AtMost(f64),
}

impl Target {
    /// Whether a value reaches it.
    pub(super) fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }

    /// As it is written in tables.
    pub(super) fn write(self, unit: Unit) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {}", unit.write(bound)),
            Self::AtMost(bound) => format!("≤ {}", unit.write(bound)),
        }
    }
}

/// How a figure is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Packets or flows a second.
    PerSecond,
    /// Requests a second.
    Requests,
    /// Gigabits a second.
    Gigabits,
    /// Nanoseconds.
    Nanoseconds,
    /// Microseconds.
    Microseconds,
    /// Milliseconds.
    Milliseconds,
    /// Mebibytes.
    Mebibytes,
    /// One rate over another.
    Ratio,
    /// Instructions for a packet.
    Instructions,
    /// Bytes, of small things.
    Bytes,
}

impl Unit {
    /// A value as it is printed.
    pub(crate) fn write(self, value: f64) -> String {
        match self {
            _ if value.is_nan() => "none".to_owned(),
            Self::PerSecond if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
            Self::PerSecond => format!("{:.0} k/s", value / 1e3),
            Self::Requests => format!("{value:.0} /s"),
            Self::Gigabits => format!("{value:.2} Gbit/s"),
            Self::Nanoseconds => format!("{value:.0} ns"),
            Self::Microseconds => format!("{value:.0} µs"),
            Self::Milliseconds => format!("{value:.1} ms"),
            Self::Mebibytes => format!("{value:.1} MiB"),
            Self::Ratio => format!("{value:.2}"),
            Self::Instructions => format!("{value:.0}"),
            Self::Bytes => format!("{value:.0} bytes"),
        }
    }

    /// The unit's name, as an axis bears it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::PerSecond | Self::Requests => "1/s",
            Self::Gigabits => "Gbit/s",
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::Ratio => "ratio",
            Self::Instructions => "instructions",
            Self::Bytes => "bytes",
        }
    }
}

/// One figure of the report, and where in its tables it stands.
#[derive(Debug)]
pub(crate) struct Figure {
    /// The part of the measurement.
    pub(super) part: &'static str,
    pub(super) section: String,
    pub(super) name: String,
    pub(super) unit: Unit,
    pub(super) value: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    /// How many measurements it is the median of.
    pub(super) rounds: usize,
    pub(super) target: Option<Target>,
    /// The goal that it is for.
    pub(super) goal: Option<String>,
    pub(super) void: Option<String>,
    pub(super) places: Vec<Place>,
}

impl Figure {
    /// The median of several measurements.
    pub(super) fn new(section: &str, name: &str, unit: Unit, samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Self {
            part: "",
            section: section.to_owned(),
            name: name.to_owned(),
            unit,
            value: quantile(&sorted, 0.5),
            least: quantile(&sorted, 0.0),
            most: quantile(&sorted, 1.0),
            rounds: samples.len(),
            target: None,
            goal: None,
            void: None,
            places: Vec::new(),
        }
    }

    /// Puts it into a table of contenders, too.
    pub(crate) fn cell(&mut self, table: &str, row: &str, column: &str) -> &mut Self {
        self.place(table, Row::Named(row.to_owned()), column)
    }

    /// Puts it onto a curve, too.
    pub(crate) fn point(&mut self, curve: &str, x: u32, line: &str) -> &mut Self {
        self.place(curve, Row::At(x), line)
    }

    fn place(&mut self, table: &str, row: Row, column: &str) -> &mut Self {
        self.places.push(Place {
            table: table.to_owned(),
            row,
            column: column.to_owned(),
        });
        self
    }

    /// Whether it counts and reaches its target, if it has one.
    pub(super) fn met(&self) -> bool {
        self.void.is_none() && self.target.is_none_or(|target| target.met(self.value))
    }

    /// The median as it is written in tables.
    pub(super) fn written(&self) -> String {
        self.unit.write(self.value)
    }

    /// Least and most, if they differ.
    pub(super) fn spread(&self) -> Option<String> {
        (self.least < self.most).then(|| format!("{} to {}", self.unit.write(self.least), self.unit.write(self.most)))
    }

    /// The target as it is written in tables.
    pub(super) fn bound(&self) -> Option<String> {
        Some(self.target?.write(self.unit))
    }

    /// A line of the terminal.
    pub(super) fn line(&self) -> String {
        let verdict = match (self.target, self.met()) {
            (None, _) => "",
            (Some(_), true) => "met",
            (Some(_), false) => "MISSED",
        };
        let line = format!(
            "  {:<38} {:>10}  {:<24} {:>10} {verdict}",
            self.name,
            self.written(),
            self.spread().unwrap_or_default(),
            self.bound().unwrap_or_default()
        );
        match &self.void {
            Some(reason) => format!("{line}\n    VOID: {reason}"),
            None => line.trim_end().to_owned(),
        }
    }

    /// For the file of figures.
    pub(super) fn to_json(&self) -> Value {
        let (at_least, at_most) = match self.target {
            Some(Target::AtLeast(bound)) => (Some(bound), None),
            Some(Target::AtMost(bound)) => (None, Some(bound)),
            None => (None, None),
        };
        let places: Vec<_> = self.places.iter().map(Place::to_json).collect();
        json!({
            "part": self.part, "section": self.section, "goal": self.goal, "name": self.name, "unit": self.unit.name(), "rounds": self.rounds,
            "median": self.value, "least": self.least, "most": self.most,
            "target_at_least": at_least, "target_at_most": at_most,
            "met": self.target.map(|_| self.met()), "void": self.void, "places": places,
        })
    }
}

/// A quantile of sorted values, by the nearest rank.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank among a few hundred"
    )]
    let rank = (q * last as f64).round() as usize;
    sorted.get(rank.min(last)).copied().unwrap_or(f64::NAN)
}

/// The median of each group of values that come one after the other: what hits some values alone is outvoted.
pub(crate) fn medians(values: &[f64], group: usize) -> Vec<f64> {
    let median = |group: &[f64]| {
        let mut sorted = group.to_vec();
        sorted.sort_by(f64::total_cmp);
        quantile(&sorted, 0.5)
    };
    values.chunks(group).map(median).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_was_disturbed_is_outvoted() {
        assert_eq!(medians(&[1.0, 9.0, 1.0, 0.1, 1.0, 1.0], 3), [1.0, 1.0]);
    }

    #[test]
    fn a_figure_is_the_median_with_its_spread() {
        let figure = Figure::new("", "lb", Unit::PerSecond, &[3e6, 1e6, 2e6]);
        assert_eq!(figure.written(), "2.00 M/s");
        assert_eq!(figure.spread().as_deref(), Some("1.00 M/s to 3.00 M/s"));
        assert_eq!(figure.rounds, 3);
    }

    #[test]
    fn a_void_figure_meets_no_target() {
        let mut figure = Figure::new("", "lb", Unit::Ratio, &[0.9]);
        figure.target = Some(Target::AtLeast(0.75));
        assert!(figure.met());
        figure.void = Some("lost".to_owned());
        assert!(!figure.met());
        assert!(figure.line().contains("MISSED") && figure.line().contains("VOID: lost"));
    }
}
