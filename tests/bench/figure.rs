//! Figures, their targets, and how they are printed.

use serde_json::{Value, json};

/// What a figure should reach.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// As much or more.
    AtLeast(f64),
    /// As much or less.
    AtMost(f64),
}

impl Target {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// How a figure is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    /// Packets or flows a second.
    PerSecond,
    /// Requests a second.
    Requests,
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
}

impl Unit {
    /// A value as it is printed.
    pub(crate) fn write(self, value: f64) -> String {
        match self {
            _ if value.is_nan() => "none".to_owned(),
            Self::PerSecond if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
            Self::PerSecond => format!("{:.0} k/s", value / 1e3),
            Self::Requests => format!("{value:.0} /s"),
            Self::Nanoseconds => format!("{value:.0} ns"),
            Self::Microseconds => format!("{value:.0} µs"),
            Self::Milliseconds => format!("{value:.1} ms"),
            Self::Mebibytes => format!("{value:.1} MiB"),
            Self::Ratio => format!("{value:.2}"),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::PerSecond | Self::Requests => "1/s",
            Self::Nanoseconds => "ns",
            Self::Microseconds => "us",
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::Ratio => "ratio",
        }
    }
}

/// One line of the report.
#[derive(Debug)]
struct Figure {
    section: String,
    name: String,
    unit: Unit,
    value: f64,
    least: f64,
    most: f64,
    target: Option<Target>,
    void: Option<String>,
}

/// All figures so far; each is printed as it comes.
#[derive(Debug, Default)]
pub(crate) struct Report {
    section: String,
    figures: Vec<Figure>,
}

impl Report {
    /// Starts a section.
    pub(crate) fn section(&mut self, title: &str) {
        title.clone_into(&mut self.section);
        println!(
            "\n{title}\n  {:<38} {:>10}  {:<20} {:>10}",
            "", "median", "least to most", "target"
        );
    }

    /// Adds the median of several measurements. `void` says why they do not count.
    pub(crate) fn add(
        &mut self,
        name: &str,
        unit: Unit,
        samples: &[f64],
        target: Option<Target>,
        void: Option<&String>,
    ) {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let figure = Figure {
            section: self.section.clone(),
            name: name.to_owned(),
            unit,
            value: quantile(&sorted, 0.5),
            least: quantile(&sorted, 0.0),
            most: quantile(&sorted, 1.0),
            target,
            void: void.cloned(),
        };
        println!("{}", figure.line());
        self.figures.push(figure);
    }

    /// Whether any figure does not count.
    pub(crate) fn has_void(&self) -> bool {
        self.figures.iter().any(|figure| figure.void.is_some())
    }

    /// Prints how many targets were met, and names those that were not.
    pub(crate) fn summarize(&self) {
        let with_target: Vec<_> = self.figures.iter().filter(|f| f.target.is_some()).collect();
        let missed: Vec<_> = with_target.iter().filter(|f| !f.met()).collect();
        println!(
            "{} of {} targets met",
            with_target.len() - missed.len(),
            with_target.len()
        );
        for figure in missed {
            println!("  {}: {}", figure.section, figure.line().trim());
        }
    }

    /// For the file of figures.
    pub(crate) fn to_json(&self) -> Value {
        self.figures.iter().map(Figure::to_json).collect()
    }
}

impl Figure {
    fn met(&self) -> bool {
        self.void.is_none() && self.target.is_none_or(|target| target.met(self.value))
    }

    fn line(&self) -> String {
        let spread = if self.least < self.most {
            format!("{} to {}", self.unit.write(self.least), self.unit.write(self.most))
        } else {
            String::new()
        };
        let (target, verdict) = match self.target {
            None => (String::new(), ""),
            Some(target) => {
                let (sign, bound) = match target {
                    Target::AtLeast(bound) => ("≥", bound),
                    Target::AtMost(bound) => ("≤", bound),
                };
                let verdict = if self.met() { "met" } else { "MISSED" };
                (format!("{sign} {}", self.unit.write(bound)), verdict)
            }
        };
        let value = self.unit.write(self.value);
        let line = format!("  {:<38} {value:>10}  {spread:<20} {target:>10} {verdict}", self.name);
        match &self.void {
            Some(reason) => format!("{line}\n    VOID: {reason}"),
            None => line.trim_end().to_owned(),
        }
    }

    fn to_json(&self) -> Value {
        let (at_least, at_most) = match self.target {
            Some(Target::AtLeast(bound)) => (Some(bound), None),
            Some(Target::AtMost(bound)) => (None, Some(bound)),
            None => (None, None),
        };
        json!({
            "section": self.section, "name": self.name, "unit": self.unit.name(),
            "median": self.value, "least": self.least, "most": self.most,
            "target_at_least": at_least, "target_at_most": at_most,
            "met": self.target.map(|_| self.met()), "void": self.void,
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
