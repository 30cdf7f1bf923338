//! One pair of axes with its curves, in pixels.

use super::{
    Area, COLOURS, Circle, Drawn, FAINT, FONT, FontStyle, FontTransform, HPos, INK, IntoFont, PALE, PANEL, PathElement,
    Pos, Rectangle, Text, VPos, WHITE, WIDTH,
};
use plotters::style::{Color, RGBColor};

const LEFT: i32 = 86;
const RIGHT: i32 = 36;
const TOP: i32 = 34;
const BOTTOM: i32 = 62;
/// Pixels that a character of the legend takes, about.
const CHARACTER: i32 = 8;

/// A line of the grid.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tick {
    pub(super) at: f64,
    pub(super) label: String,
}

/// A line through points, some of which say their value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) marks: Vec<(f64, f64, String)>,
}

/// Axes and curves.
#[derive(Debug, Clone)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) x_title: String,
    /// First and last value of the axis.
    pub(super) x: (f64, f64),
    pub(super) y: (f64, f64),
    pub(super) x_ticks: Vec<Tick>,
    pub(super) y_ticks: Vec<Tick>,
    pub(super) curves: Vec<Curve>,
}

impl Panel {
    /// Draws it below this line of pixels.
    pub(super) fn draw(&self, root: &Area<'_>, top: i32) -> Drawn {
        self.grid(root, top)?;
        self.legend(root, top)?;
        // The first curve is the one that matters: it is drawn last, above the others.
        let coloured: Vec<_> = self.curves.iter().zip(COLOURS.into_iter().cycle()).collect();
        for (curve, colour) in coloured.iter().rev() {
            let points: Vec<_> = curve.points.iter().map(|(x, y)| self.pixel(top, *x, *y)).collect();
            root.draw(&PathElement::new(points, colour.stroke_width(2)))?;
        }
        match coloured.first() {
            Some((curve, colour)) => self.marks(root, top, curve, *colour),
            None => Ok(()),
        }
    }

    fn grid(&self, root: &Area<'_>, top: i32) -> Drawn {
        let (left, right) = (LEFT, WIDTH - RIGHT);
        let (high, low) = (top + TOP, top + PANEL - BOTTOM);
        let small = (FONT, 14).into_font().color(&INK);
        for tick in &self.y_ticks {
            let (_, y) = self.pixel(top, self.x.0, tick.at);
            root.draw(&PathElement::new(vec![(left, y), (right, y)], PALE.stroke_width(1)))?;
            let style = small.clone().pos(Pos::new(HPos::Right, VPos::Center));
            root.draw(&Text::new(tick.label.clone(), (left - 8, y), style))?;
        }
        for tick in &self.x_ticks {
            let (x, _) = self.pixel(top, tick.at, self.y.0);
            root.draw(&PathElement::new(vec![(x, high), (x, low)], PALE.stroke_width(1)))?;
            let style = small.clone().pos(Pos::new(HPos::Center, VPos::Top));
            root.draw(&Text::new(tick.label.clone(), (x, low + 8), style))?;
        }
        root.draw(&PathElement::new(
            vec![(left, high), (left, low), (right, low)],
            INK.stroke_width(1),
        ))?;
        let centred = (FONT, 14)
            .into_font()
            .color(&FAINT)
            .pos(Pos::new(HPos::Center, VPos::Top));
        root.draw(&Text::new(
            self.x_title.clone(),
            ((left + right) / 2, low + 30),
            centred.clone(),
        ))?;
        let upright = centred.transform(FontTransform::Rotate270);
        root.draw(&Text::new(self.title.clone(), (14, (high + low) / 2), upright))?;
        Ok(())
    }

    /// Names of the curves above the panel, to the right.
    fn legend(&self, root: &Area<'_>, top: i32) -> Drawn {
        let length = |name: &str| 34 + CHARACTER * i32::try_from(name.chars().count()).unwrap_or(0);
        let all: i32 = self.curves.iter().map(|curve| length(&curve.name)).sum();
        let mut x = WIDTH - RIGHT - all;
        for (curve, colour) in self.curves.iter().zip(COLOURS.iter().cycle()) {
            root.draw(&Rectangle::new([(x, top + 13), (x + 14, top + 17)], colour.filled()))?;
            let style = (FONT, 14)
                .into_font()
                .color(&INK)
                .pos(Pos::new(HPos::Left, VPos::Center));
            root.draw(&Text::new(curve.name.clone(), (x + 20, top + 15), style))?;
            x += length(&curve.name);
        }
        Ok(())
    }

    fn marks(&self, root: &Area<'_>, top: i32, curve: &Curve, colour: RGBColor) -> Drawn {
        for (x, y, label) in &curve.marks {
            let (x, y) = self.pixel(top, *x, *y);
            root.draw(&Circle::new((x, y), 4, colour.filled()))?;
            let bold = (FONT, 13).into_font().style(FontStyle::Bold);
            let place = Pos::new(HPos::Right, VPos::Bottom);
            // White beneath, so that the text can be read where it crosses a line.
            let room = CHARACTER * i32::try_from(label.chars().count()).unwrap_or(0);
            root.draw(&Rectangle::new(
                [(x - 8 - room, y - 22), (x - 6, y - 7)],
                WHITE.mix(0.8).filled(),
            ))?;
            root.draw(&Text::new(
                label.clone(),
                (x - 8, y - 7),
                bold.color(&colour).pos(place),
            ))?;
        }
        Ok(())
    }

    fn pixel(&self, top: i32, x: f64, y: f64) -> (i32, i32) {
        let (high, low) = (top + TOP, top + PANEL - BOTTOM);
        (place(x, self.x, (LEFT, WIDTH - RIGHT)), place(y, self.y, (low, high)))
    }
}

/// A value's place between two pixels.
#[expect(clippy::cast_possible_truncation, reason = "within the picture")]
fn place(value: f64, (first, last): (f64, f64), (from, to): (i32, i32)) -> i32 {
    let part = (value - first) / (last - first).max(f64::MIN_POSITIVE);
    from + (part.clamp(0.0, 1.0) * f64::from(to - from)).round() as i32
}

/// At most about `count` lines at round values from 0 to `end`.
pub(super) fn round_ticks(end: f64, count: u32, label: impl Fn(f64) -> String) -> Vec<Tick> {
    let rough = (end / f64::from(count)).max(f64::MIN_POSITIVE);
    let decade = 10_f64.powf(rough.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
    let step = steps.into_iter().find(|step| *step >= rough * 0.999).unwrap_or(rough);
    let ticks = (0..=2 * count).map(|n| f64::from(n) * step);
    ticks
        .take_while(|at| *at <= end * 1.0001)
        .map(|at| Tick { at, label: label(at) })
        .collect()
}

/// Lines at 1, 2 and 5 of each decade, or at 1 only where there are many decades. The axis holds logarithms, the labels tell
/// the values.
pub(super) fn log_ticks((first, last): (f64, f64), label: impl Fn(f64) -> String) -> Vec<Tick> {
    let per_decade: &[f64] = if last - first > 2.5 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let mut ticks = Vec::new();
    let mut decade = first.floor();
    while decade <= last {
        let values = per_decade.iter().map(|part| decade + part.log10());
        for at in values.filter(|at| (first..=last).contains(at)) {
            let label = label(10_f64.powf(at));
            ticks.push(Tick { at, label });
        }
        decade += 1.0;
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let at = |end| {
            round_ticks(end, 5, |x| format!("{x}"))
                .iter()
                .map(|t| t.at)
                .collect::<Vec<_>>()
        };
        assert_eq!(at(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(at(1234.0), [0.0, 500.0, 1000.0]);
        let labels: Vec<_> = log_ticks((2.9, 4.0), |x| format!("{x:.0}"))
            .into_iter()
            .map(|tick| tick.label)
            .collect();
        assert_eq!(labels, ["1000", "2000", "5000", "10000"]);
    }

    #[test]
    fn values_outside_stay_in_the_picture() {
        assert_eq!(place(0.5, (0.0, 1.0), (100, 0)), 50);
        assert_eq!(place(7.0, (0.0, 1.0), (0, 100)), 100);
        assert_eq!(place(f64::NAN, (0.0, 1.0), (0, 100)), 0);
    }
}
