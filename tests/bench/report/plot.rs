//! Curves as pictures: panels with a line for every contender, and for every point its spread.

use anyhow::{Result, anyhow};
use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    Plot,
    figure::{Figure, Unit},
    table::{Axis, Grid, thousands},
};

/// Size of a panel in pixels, and of the title above them all.
const PANEL: (u32, u32) = (640, 400);
const TITLE: u32 = 76;
/// Colours that people with any kind of colour vision tell apart (Okabe and Ito, "Color Universal Design", 2008).
const COLOURS: [RGBColor; 8] = [
    RGBColor(110, 110, 110),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(0, 0, 0),
    RGBColor(86, 180, 233),
];
const INK: RGBColor = RGBColor(40, 40, 40);
const PALE: RGBColor = RGBColor(225, 225, 225);
const FONT: &str = "sans-serif";
/// Width of the legend's entries and length of the line in them, in pixels.
const ENTRY: i32 = 155;
const SWATCH: i32 = 28;

type Drawn<T = ()> = Result<T, Box<dyn std::error::Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// The picture as SVG.
///
/// # Errors
/// When it cannot be drawn.
pub(super) fn draw(plot: &Plot, panels: &[&Grid<'_>]) -> Result<String> {
    let mut svg = String::new();
    picture(&mut svg, plot, panels).map_err(|error| anyhow!("cannot draw {}: {error}", plot.file))?;
    Ok(svg)
}

fn picture(svg: &mut String, plot: &Plot, panels: &[&Grid<'_>]) -> Drawn {
    let columns = panels.len().min(2);
    let rows = panels.len().div_ceil(columns.max(1));
    let size = (
        PANEL.0 * u32::try_from(columns)?,
        PANEL.1 * u32::try_from(rows)? + TITLE,
    );
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(TITLE);
    let lines = names(panels);
    legend(&head, plot.title, &lines)?;
    for (area, grid) in body.split_evenly((rows, columns)).iter().zip(panels) {
        panel(area, plot, grid, &lines)?;
    }
    root.present()?;
    Ok(())
}

/// The contenders of all panels; their places in the list are their colours.
fn names<'a>(panels: &[&Grid<'a>]) -> Vec<&'a str> {
    let mut names = Vec::new();
    for name in panels.iter().flat_map(|grid| &grid.columns) {
        if !names.contains(name) {
            names.push(*name);
        }
    }
    names
}

fn legend(area: &Area<'_>, title: &str, lines: &[&str]) -> Drawn {
    let bold = (FONT, 21).into_font().style(FontStyle::Bold).color(&INK);
    area.draw(&Text::new(title.to_owned(), (16, 12), bold))?;
    for ((place, name), colour) in (0..).zip(lines).zip(COLOURS) {
        let x = 16 + ENTRY * place;
        let line = vec![(x, 58), (x + SWATCH, 58)];
        area.draw(&PathElement::new(line, colour.stroke_width(3)))?;
        let style = (FONT, 15)
            .into_font()
            .color(&INK)
            .pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new((*name).to_owned(), (x + SWATCH + 8, 58), style))?;
    }
    Ok(())
}

fn panel(area: &Area<'_>, plot: &Plot, grid: &Grid<'_>, lines: &[&str]) -> Drawn {
    let figures: Vec<_> = grid.columns.iter().flat_map(|column| grid.line(column)).collect();
    let highest = figures.iter().map(|(_, figure)| figure.most).fold(0.0, f64::max);
    let scale = Scale::of(figures.first().map(|(_, figure)| figure.unit), highest);
    let points: Vec<u32> = figures.iter().map(|(x, _)| *x).collect();
    let place = |x: u32| position(grid.table.axis, x);
    let first = points.iter().min().map_or(0.0, |x| place(*x));
    let last = points.iter().max().map_or(1.0, |x| place(*x));
    let margin = ((last - first) * 0.05).max(0.1);
    let top = if highest > 0.0 {
        highest * scale.factor * 1.08
    } else {
        1.0
    };
    let mut chart = ChartBuilder::on(area)
        .caption(&grid.table.title, (FONT, 16).into_font().color(&INK))
        .margin(10)
        .margin_right(20)
        .x_label_area_size(46)
        .y_label_area_size(62)
        .build_cartesian_2d(first - margin..last + margin, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .light_line_style(TRANSPARENT)
        .bold_line_style(PALE)
        .axis_style(INK)
        .y_labels(6)
        .y_label_formatter(&|value| scale.mark(*value))
        .y_desc(scale.name)
        .label_style((FONT, 14).into_font().color(&INK))
        .axis_desc_style((FONT, 15).into_font().color(&INK))
        .draw()?;
    marks(&mut chart, grid, first - margin, top)?;
    let (width, height) = area.dim_in_pixel();
    let middle = (FONT, 15)
        .into_font()
        .color(&INK)
        .pos(Pos::new(HPos::Center, VPos::Bottom));
    let below = (i32::try_from(width / 2)? + 26, i32::try_from(height)? - 6);
    area.draw(&Text::new(plot.axis.to_owned(), below, middle))?;
    for (name, colour) in lines.iter().zip(COLOURS) {
        curve(&mut chart, &grid.line(name), grid.table.axis, scale.factor, colour)?;
    }
    Ok(())
}

/// The points' names, at the points themselves: they are few, and chosen.
fn marks(chart: &mut Chart<'_, '_>, grid: &Grid<'_>, left: f64, top: f64) -> Drawn {
    let mut points: Vec<u32> = grid
        .columns
        .iter()
        .flat_map(|column| grid.line(column))
        .map(|(x, _)| x)
        .collect();
    points.sort_unstable();
    points.dedup();
    let right = points.last().map_or(1.0, |x| position(grid.table.axis, *x));
    chart.draw_series([PathElement::new(vec![(left, 0.0), (right, 0.0)], INK)])?;
    let style = (FONT, 14)
        .into_font()
        .color(&INK)
        .pos(Pos::new(HPos::Center, VPos::Top));
    let mut free = f64::NEG_INFINITY;
    for x in points {
        let at = position(grid.table.axis, x);
        chart.draw_series([PathElement::new(vec![(at, 0.0), (at, top)], PALE)])?;
        let place = f64::from(chart.backend_coord(&(at, 0.0)).0);
        // Where two marks are too close for their names, the second goes without.
        let half = 4.0 * thousands(x).len() as f64;
        if place - half > free {
            let text = EmptyElement::at((at, 0.0)) + Text::new(thousands(x), (0, 6), style.clone());
            chart.draw_series([text])?;
            free = place + half + 6.0;
        }
    }
    Ok(())
}

/// A line through the medians, with a dot and the spread at each.
fn curve(
    chart: &mut Chart<'_, '_>,
    line: &[(u32, &Figure)],
    axis: Option<Axis>,
    factor: f64,
    colour: RGBColor,
) -> Drawn {
    let at = |x: u32, value: f64| (position(axis, x), value * factor);
    let medians = line.iter().map(|(x, figure)| at(*x, figure.value));
    chart.draw_series(LineSeries::new(medians.clone(), colour.stroke_width(2)))?;
    chart.draw_series(medians.map(|point| Circle::new(point, 4, colour.filled())))?;
    let spreads = line
        .iter()
        .map(|(x, figure)| vec![at(*x, figure.least), at(*x, figure.most)]);
    chart.draw_series(spreads.map(|ends| PathElement::new(ends, colour.stroke_width(1))))?;
    Ok(())
}

/// Where a point is on its axis.
fn position(axis: Option<Axis>, x: u32) -> f64 {
    match axis {
        Some(Axis::Logarithmic) => f64::from(x.max(1)).log10(),
        Some(Axis::Linear) | None => f64::from(x),
    }
}

/// How values are shown on the axis.
struct Scale {
    factor: f64,
    name: &'static str,
    decimals: usize,
}

impl Scale {
    fn of(unit: Option<Unit>, highest: f64) -> Self {
        let (factor, name) = match unit {
            Some(Unit::PerSecond) => (1e-6, "million a second"),
            Some(unit) => (1.0, unit.name()),
            None => (1.0, ""),
        };
        let highest = highest * factor;
        Self {
            factor,
            name,
            decimals: if highest < 2.0 {
                2
            } else if highest < 10.0 {
                1
            } else {
                0
            },
        }
    }

    fn mark(&self, value: f64) -> String {
        format!("{value:.*}", self.decimals)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::table::Table, *};

    #[test]
    fn the_picture_names_its_lines_points_and_axes() {
        let table = Table {
            id: "t".to_owned(),
            title: "Rate".to_owned(),
            rows: "flows",
            axis: Some(Axis::Logarithmic),
        };
        let figures: Vec<_> = [(1, 3e6), (1000, 2e6), (1_000_000, 1e6)]
            .into_iter()
            .map(|(x, value)| {
                let mut figure = Figure::new("", "lb", Unit::PerSecond, &[value]);
                figure.point("t", x, "lb full-nat");
                figure
            })
            .collect();
        let plot = Plot {
            file: "flows",
            title: "Over flows",
            axis: "number of flows",
            tables: vec!["t".to_owned()],
            panels: vec!["t".to_owned()],
        };
        let svg = draw(&plot, &[&Grid::gather(&table, &figures)]).unwrap();
        for text in [
            "Over flows",
            "Rate",
            "lb full-nat",
            "1,000,000",
            "million a second",
            "number of flows",
        ] {
            assert!(svg.contains(text), "{text} is missing");
        }
    }
}
