//! The demo as a picture: requests per second over time, stacked by the server that answered, failures in red on top.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{sample::Sample, story::Phase};

/// Size in pixels; readable in a README at half of it.
const SIZE: (u32, u32) = (1200, 500);
/// Requests are counted in steps of this length.
const STEP: Duration = Duration::from_millis(100);
/// Colours that people with any kind of colour vision tell apart (Okabe and Ito, "Color Universal Design", 2008).
const COLOURS: [RGBColor; 4] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
];
const FAILED: RGBColor = RGBColor(200, 20, 20);
const INK: RGBColor = RGBColor(40, 40, 40);
const PALE: RGBColor = RGBColor(225, 225, 225);
const FONT: &str = "sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Writes the picture.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn draw(path: &Path, phases: &[Phase], servers: &[&str]) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let mut svg = String::new();
    picture(&mut svg, phases, servers).map_err(|error| anyhow!("cannot draw the plot: {error}"))?;
    fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn picture(svg: &mut String, phases: &[Phase], servers: &[&str]) -> Drawn {
    let bands = bands(phases, servers);
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    head(&root, servers)?;
    let end = bands.last().map_or(1.0, Band::end);
    let highest = bands
        .iter()
        .flat_map(|band| &band.layers)
        .flatten()
        .copied()
        .fold(1.0, f64::max);
    // The upper third belongs to titles and marks.
    let top = highest * 1.4;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .margin_top(56)
        .margin_right(24)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..end, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE)
        .axis_style(INK)
        .y_labels(6)
        .y_label_formatter(&|value| format!("{value:.0}"))
        .x_label_formatter(&|value| format!("{value:.0}"))
        .x_desc("seconds under load (pauses between the phases are left out)")
        .y_desc("requests per second")
        .label_style((FONT, 15).into_font().color(&INK))
        .axis_desc_style((FONT, 16).into_font().color(&INK))
        .draw()?;
    for band in &bands {
        band.draw_layers(&mut chart)?;
    }
    for (number, band) in (1..).zip(&bands) {
        band.draw_title(&mut chart, number, top)?;
        band.draw_marks(&mut chart, highest, top)?;
    }
    root.present()?;
    Ok(())
}

/// Title and legend.
fn head(root: &Area<'_>, servers: &[&str]) -> Drawn {
    let title = (FONT, 21).into_font().style(FontStyle::Bold).color(&INK);
    root.draw(&Text::new(
        "lb: requests by the server that answered them",
        (24, 18),
        title,
    ))?;
    let entries = servers.iter().copied().zip(COLOURS).chain([("failed", FAILED)]);
    for (x, (name, colour)) in (780..).step_by(80).zip(entries) {
        root.draw(&Rectangle::new([(x, 20), (x + 16, 36)], colour.filled()))?;
        root.draw(&Text::new(
            name.to_owned(),
            (x + 22, 20),
            (FONT, 17).into_font().color(&INK),
        ))?;
    }
    Ok(())
}

/// One phase, placed on the time axis.
#[derive(Debug)]
struct Band<'a> {
    phase: &'a Phase,
    /// Where it begins on the axis, in seconds.
    offset: f64,
    /// When its first request began.
    begin: Duration,
    /// Upper edges, from the top of the stack to its bottom: one value per step.
    layers: Vec<Vec<f64>>,
}

/// Places the phases one after the other.
fn bands<'a>(phases: &'a [Phase], servers: &[&str]) -> Vec<Band<'a>> {
    let mut bands: Vec<Band<'a>> = Vec::new();
    for phase in phases.iter().filter(|phase| !phase.samples.is_empty()) {
        let offset = bands.last().map_or(0.0, Band::end);
        let begin = phase.samples.iter().map(|sample| sample.at).min().unwrap_or_default();
        bands.push(Band {
            phase,
            offset,
            begin,
            layers: layers(&phase.samples, begin, servers),
        });
    }
    bands
}

/// The stack of one phase: failures on top of the last server, that on the one before, and so on.
fn layers(samples: &[Sample], begin: Duration, servers: &[&str]) -> Vec<Vec<f64>> {
    let step = |sample: &Sample| {
        let since = sample.end().saturating_sub(begin);
        usize::try_from(since.as_micros() / STEP.as_micros()).unwrap_or(usize::MAX)
    };
    // What falls into the last step, which is seldom a whole one, is left out.
    let steps = samples.iter().map(step).max().unwrap_or(0);
    let mut edge = vec![0.0; steps];
    let mut stack = Vec::new();
    for layer in servers.iter().copied().map(Some).chain([None]) {
        for sample in samples.iter().filter(|sample| sample.server() == layer) {
            if let Some(edge) = edge.get_mut(step(sample)) {
                *edge += 1.0 / STEP.as_secs_f64();
            }
        }
        stack.push(edge.clone());
    }
    stack.reverse();
    stack
}

impl Band<'_> {
    /// Where it ends on the axis, in seconds.
    fn end(&self) -> f64 {
        let steps: u32 = self
            .layers
            .first()
            .map_or(0, |layer| layer.len().try_into().unwrap_or(0));
        self.offset + f64::from(steps) * STEP.as_secs_f64()
    }

    /// A moment's place on the axis.
    fn place(&self, at: Duration) -> f64 {
        (self.offset + at.saturating_sub(self.begin).as_secs_f64()).min(self.end())
    }

    /// Each layer reaches down to the axis; the next one is drawn over its lower part.
    fn draw_layers(&self, chart: &mut Chart<'_, '_>) -> Drawn {
        let used = self.layers.len().saturating_sub(1);
        let colours = [FAILED].into_iter().chain(COLOURS.into_iter().take(used).rev());
        for (edge, colour) in self.layers.iter().zip(colours) {
            chart.draw_series([Polygon::new(self.outline(edge), colour.filled())])?;
        }
        Ok(())
    }

    /// A staircase along the edge, and back along the axis.
    fn outline(&self, edge: &[f64]) -> Vec<(f64, f64)> {
        let mut points = vec![(self.offset, 0.0)];
        let mut left = self.offset;
        for &height in edge {
            let right = left + STEP.as_secs_f64();
            points.extend([(left, height), (right, height)]);
            left = right;
        }
        points.push((left, 0.0));
        points
    }

    /// The line where the phase begins, and its title beside it.
    fn draw_title(&self, chart: &mut Chart<'_, '_>, number: u32, top: f64) -> Drawn {
        if self.offset > 0.0 {
            chart.draw_series([PathElement::new(
                vec![(self.offset, 0.0), (self.offset, top)],
                INK.stroke_width(2),
            )])?;
        }
        let style = (FONT, 16).into_font().style(FontStyle::Bold).color(&INK);
        let text = Text::new(format!("{number} · {}", self.phase.title), (8, 0), style);
        chart.draw_series([EmptyElement::at((self.offset, top * 0.985)) + text])?;
        Ok(())
    }

    /// A dashed line for each thing that was done, its label above the stack.
    fn draw_marks(&self, chart: &mut Chart<'_, '_>, highest: f64, top: f64) -> Drawn {
        for (row, mark) in (0..).zip(&self.phase.marks) {
            let x = self.place(mark.at);
            // Labels of neighbours stand at different heights.
            let height = top - (top - highest) * (0.32 + 0.32 * f64::from(row % 2));
            chart.draw_series(DashedLineSeries::new(
                [(x, 0.0), (x, height)],
                6,
                4,
                INK.stroke_width(1),
            ))?;
            let style = (FONT, 14).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Top));
            for (line, text) in (0..).zip(mark.label.split('\n')) {
                let text = EmptyElement::at((x, height)) + Text::new(text.to_owned(), (4, 15 * line), style.clone());
                chart.draw_series([text])?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{sample::Outcome, story::Mark},
        *,
    };

    fn sample(at: u64, outcome: Outcome) -> Sample {
        Sample {
            at: Duration::from_millis(at),
            took: Duration::ZERO,
            outcome,
            retry: None,
        }
    }

    fn served(at: u64, server: &str) -> Sample {
        sample(at, Outcome::Served(server.to_owned()))
    }

    #[test]
    fn layers_stack_up_to_the_rate() {
        let samples = [
            served(1000, "s1"),
            served(1010, "s2"),
            sample(1020, Outcome::Reset),
            served(1150, "s2"),
            served(1210, "s1"),
        ];
        let stack = layers(&samples, Duration::from_secs(1), &["s1", "s2"]);
        assert_eq!(stack, [vec![30.0, 10.0], vec![20.0, 10.0], vec![10.0, 0.0]]);
    }

    #[test]
    fn the_picture_names_servers_phases_and_marks() {
        let phase = |title| Phase {
            title,
            samples: (0..20).map(|n| served(5000 + n * 30, "s1")).collect(),
            marks: vec![Mark {
                at: Duration::from_millis(5200),
                label: "s1 killed",
            }],
        };
        let mut svg = String::new();
        let drawn = picture(
            &mut svg,
            &[phase("shared evenly"), phase("it comes back")],
            &["s1", "s2"],
        );
        assert!(drawn.is_ok(), "{drawn:?}");
        for text in [
            "s1",
            "s2",
            "failed",
            "1 · shared evenly",
            "2 · it comes back",
            "s1 killed",
        ] {
            assert!(svg.contains(text), "{text} is missing");
        }
    }

    #[test]
    fn a_demo_without_a_request_still_has_a_picture() {
        let mut svg = String::new();
        assert!(picture(&mut svg, &[], &["s1"]).is_ok());
    }
}
