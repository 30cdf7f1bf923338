//! An outcome as a picture: rates over time, and below them latencies by percentile.
//!
//! Both are drawn in pixels: the percentiles' axis, on which each further nine takes the same room (as HdrHistogram's own plots
//! have it), is none that plotters offers.

mod panel;

use std::{fs, io, path::Path};

use plotters::{
    coord::Shift,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use self::panel::{Curve, Panel, Tick};
use super::report::{Figure, Latency, Outcome, Plan, Series, Value, nanos_to_f64};
use crate::cli::human;

/// Pixels from left to right.
const WIDTH: i32 = 1100;
/// Pixels of the title above the panels.
const HEAD: i32 = 84;
/// Pixels of one panel with its labels.
const PANEL: i32 = 350;
/// Points of a percentile curve.
const STEPS: u32 = 400;
/// Colours that people with any kind of colour vision tell apart (Okabe and Ito, "Color Universal Design", 2008).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(110, 110, 110);
const PALE: RGBColor = RGBColor(228, 228, 228);
const FONT: &str = "sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// Nowhere to put it.
    #[error("cannot write the plot to {path}: {source}; the results above are complete without it")]
    Write {
        /// Where.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It could not be drawn.
    #[error("cannot draw the plot: {reason}; the results above are complete without it")]
    Draw {
        /// What plotters said.
        reason: String,
    },
}

/// Draws an outcome into an SVG file.
///
/// # Errors
/// When the file cannot be written.
pub fn draw(path: &Path, outcome: &Outcome) -> Result<(), PlotError> {
    let mut svg = String::new();
    picture(&mut svg, outcome).map_err(|error| PlotError::Draw {
        reason: error.to_string(),
    })?;
    fs::write(path, svg).map_err(|source| PlotError::Write {
        path: path.display().to_string(),
        source,
    })
}

fn picture(svg: &mut String, outcome: &Outcome) -> Drawn {
    let rates: Vec<_> = outcome.series.iter().filter(|s| !s.points.is_empty()).collect();
    let latencies: Vec<_> = outcome.latencies.iter().filter(|l| !l.histogram.is_empty()).collect();
    let panels = [rates_panel(&rates), latency_panel(&latencies)];
    let count = panels.iter().flatten().count();
    let height = HEAD + PANEL * i32::try_from(count)?;
    let root = SVGBackend::with_string(svg, (WIDTH.try_into()?, height.try_into()?)).into_drawing_area();
    root.fill(&WHITE)?;
    head(&root, &outcome.plan)?;
    for (row, panel) in (0..).zip(panels.iter().flatten()) {
        panel.draw(&root, HEAD + row * PANEL)?;
    }
    root.present()?;
    Ok(())
}

/// What was done, and how.
fn head(root: &Area<'_>, plan: &Plan) -> Drawn {
    let bold = (FONT, 22).into_font().style(FontStyle::Bold).color(&INK);
    root.draw(&Text::new(plan.title.clone(), (24, 18), bold))?;
    let mut line = String::new();
    for Figure { name, value } in &plan.lines {
        let Some(text) = brief(value) else { continue };
        let more = format!("{}{name} {text}", if line.is_empty() { "" } else { "  ·  " });
        if line.chars().count() + more.chars().count() <= 140 {
            line.push_str(&more);
        }
    }
    root.draw(&Text::new(line, (24, 50), (FONT, 14).into_font().color(&FAINT)))?;
    Ok(())
}

/// A value of the plan in a word or two; what is longer does not belong into a picture.
fn brief(value: &Value) -> Option<String> {
    match value {
        Value::Count(n) => Some(human::exact(*n)),
        Value::Rate(rate) => Some(format!("{}/s", human::exact(human::whole(*rate)))),
        Value::Time(time) if time.as_secs() >= 120 => Some(human::span(time.as_secs())),
        Value::Time(time) => Some(human::precise(time.as_secs_f64() * 1e9)),
        Value::Text(text) if text.chars().count() <= 30 => Some(text.clone()),
        Value::Bytes(n) => Some(human::bytes(*n)),
        Value::Bits(_) | Value::Percent(_) | Value::Text(_) | Value::Flag(_) => None,
    }
}

fn rates_panel(series: &[&Series]) -> Option<Panel> {
    let unit = series.first()?.unit;
    let points = || series.iter().flat_map(|s| &s.points);
    let end = points().map(|(at, _)| *at).fold(0.0, f64::max).max(1e-3);
    let top = points().map(|(_, rate)| *rate).fold(0.0, f64::max).max(1.0) * 1.08;
    let plain = |x: f64| if x < 10.0 { format!("{x}") } else { format!("{x:.0}") };
    Some(Panel {
        title: unit.to_owned(),
        x_title: "seconds since the start".to_owned(),
        x: (0.0, end),
        y: (0.0, top),
        x_ticks: panel::round_ticks(end, 10, plain),
        y_ticks: panel::round_ticks(top, 5, human::rate),
        curves: series
            .iter()
            .map(|s| Curve {
                name: s.name.clone(),
                points: from_zero(&s.points),
                marks: Vec::new(),
            })
            .collect(),
    })
}

/// The first rate is that of the time from the start.
fn from_zero(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let start = points.first().map(|(_, rate)| (0.0, *rate));
    start.into_iter().chain(points.iter().copied()).collect()
}

fn latency_panel(latencies: &[&Latency]) -> Option<Panel> {
    let nines = latencies.iter().map(|l| nines(l.histogram.len())).fold(0.0, f64::max);
    let lowest = latencies.iter().map(|l| l.histogram.min()).min()?.max(1);
    let highest = latencies.iter().map(|l| l.histogram.max()).max()?;
    let y = (
        nanos_to_f64(lowest).log10() - 0.05,
        nanos_to_f64(highest).log10() + 0.12,
    );
    Some(Panel {
        title: "latency".to_owned(),
        x_title: "percentile".to_owned(),
        x: (0.0, nines),
        y,
        x_ticks: percentile_ticks(nines),
        y_ticks: panel::log_ticks(y, human::precise),
        curves: latencies.iter().map(|latency| curve(latency)).collect(),
    })
}

/// Where on the axis so many values reach their maximum: 1,000 values at three nines, 99.9%.
fn nines(count: u64) -> f64 {
    nanos_to_f64(count).max(2.0).log10()
}

/// The value at each percentile up to the maximum, whose place is where the count of values ends.
fn curve(Latency { name, histogram }: &Latency) -> Curve {
    let end = nines(histogram.len());
    let at = |x: f64| {
        let value = histogram.value_at_quantile(1.0 - 10_f64.powf(-x));
        (x, nanos_to_f64(value.max(1)).log10())
    };
    let steps = (0..=STEPS).map(|step| at(end * f64::from(step) / f64::from(STEPS)));
    let max = (end, nanos_to_f64(histogram.max().max(1)).log10());
    let marked = [0.5, 0.9, 0.99, 0.999].map(|q: f64| -(1.0 - q).log10());
    let marks = marked.into_iter().filter(|x| *x < end - 0.3).map(at).chain([max]);
    Curve {
        name: name.clone(),
        points: steps.chain([max]).collect(),
        marks: marks.map(|(x, y)| (x, y, human::precise(10_f64.powf(y)))).collect(),
    }
}

fn percentile_ticks(nines: f64) -> Vec<Tick> {
    let named = [
        (0.0, "min"),
        (0.5, "50%"),
        (0.9, "90%"),
        (0.99, "99%"),
        (0.999, "99.9%"),
        (0.9999, "99.99%"),
        (0.99999, "99.999%"),
        (0.999_999, "99.9999%"),
    ];
    let placed = named.map(|(q, label): (f64, _)| (-(1.0 - q).log10(), label));
    let inside = placed.into_iter().filter(|(x, _)| *x < nines - 0.2);
    let tick = |(x, label): (f64, &str)| Tick {
        at: x,
        label: label.to_owned(),
    };
    inside.chain([(nines, "max")]).map(tick).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hdrhistogram::Histogram;

    use super::{super::report::StoppedBy, *};

    fn outcome() -> Outcome {
        let plan = Plan::new("HTTP requests to 192.0.2.10:80").line("interface", Value::Text("eth0".into()));
        let mut outcome = Outcome::new(plan, StoppedBy::Duration, Duration::from_secs(2));
        outcome.series = vec![Series {
            name: "answered".into(),
            unit: "per second",
            points: vec![(1.0, 900.0), (2.0, 1100.0)],
        }];
        let mut histogram = Histogram::new(3).unwrap();
        for n in 1..=2000_u64 {
            histogram.record(n * 1000).unwrap();
        }
        outcome.latencies = vec![Latency {
            name: "request".into(),
            histogram,
        }];
        outcome
    }

    #[test]
    fn the_picture_has_title_axes_curves_and_marks() {
        let mut svg = String::new();
        picture(&mut svg, &outcome()).unwrap();
        for text in [
            "192.0.2.10",
            "interface eth0",
            "answered",
            "request",
            "99.9%",
            "max",
            "2.00 ms",
            "polyline",
        ] {
            assert!(svg.contains(text), "{text} is missing");
        }
    }

    #[test]
    fn a_run_without_results_has_a_picture_all_the_same() {
        let mut outcome = outcome();
        outcome.series.clear();
        outcome.latencies.clear();
        let mut svg = String::new();
        picture(&mut svg, &outcome).unwrap();
        assert!(svg.contains("192.0.2.10"));
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let error = draw(Path::new("/nowhere/at/all.svg"), &outcome()).unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all.svg"));
    }
}
