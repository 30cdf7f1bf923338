//! The end of a run on the terminal: every goal beside what was reached, and what went wrong.

use std::fmt::Write as _;

use super::{Report, figure::Figure, goals::Goal};

/// What became of a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Met,
    Missed,
    Void,
    /// Not in this run.
    Absent,
}

impl Verdict {
    /// Of a goal with its figure.
    pub(super) fn of(goal: &Goal, figure: Option<&Figure>) -> Self {
        match figure {
            None => Self::Absent,
            Some(figure) if figure.void.is_some() => Self::Void,
            Some(figure) if goal.target.met(figure.value) => Self::Met,
            Some(_) => Self::Missed,
        }
    }

    /// As tables have it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::Void => "void",
            Self::Absent => "not measured",
        }
    }
}

/// How many goals were met, of how many that were measured.
pub(super) fn count(report: &Report) -> String {
    let verdicts: Vec<_> = report
        .results()
        .map(|(goal, figure)| Verdict::of(goal, figure))
        .collect();
    let number = |wanted| verdicts.iter().filter(|verdict| **verdict == wanted).count();
    let mut text = format!("{} of {} targets met", number(Verdict::Met), verdicts.len());
    for verdict in [Verdict::Missed, Verdict::Void, Verdict::Absent] {
        if number(verdict) > 0 {
            let _ = write!(text, ", {} {}", number(verdict), verdict.as_str());
        }
    }
    text
}

/// The whole of it.
pub(super) fn lines(report: &Report) -> String {
    let mut text = format!(
        "\n{:<86} {:>11}  {:>10}  {:<24}\n",
        "Targets", "target", "reached", "least to most"
    );
    for (goal, figure) in report.results() {
        let verdict = match Verdict::of(goal, figure) {
            Verdict::Missed => "MISSED",
            other => other.as_str(),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "  {:<84} {:>11}  {:>10}  {:<24} {verdict}",
            goal.key,
            goal.target.write(goal.unit),
            figure.map(Figure::written).unwrap_or_default(),
            figure.and_then(Figure::spread).unwrap_or_default(),
        );
    }
    let _ = writeln!(text, "{}", count(report));
    for (why, figures) in voids(report) {
        let _ = writeln!(text, "  VOID: {}: {why}", figures.join("; "));
    }
    for (part, why) in &report.failed {
        let _ = writeln!(text, "  FAILED: {part}: {why}");
    }
    text
}

/// Figures that do not count, by the reason: sections with their figures.
pub(super) fn voids(report: &Report) -> Vec<(&str, Vec<String>)> {
    let mut voids: Vec<(&str, Vec<String>)> = Vec::new();
    let mut last = None;
    for figure in &report.figures {
        let Some(why) = &figure.void else { continue };
        let place = (figure.section.as_str(), why.as_str());
        let name = match last {
            Some(known) if known == place => figure.name.clone(),
            _ => format!("{}: {}", figure.section, figure.name),
        };
        last = Some(place);
        match voids.iter_mut().find(|(known, _)| known == why) {
            Some((_, figures)) => figures.push(name),
            None => voids.push((why, vec![name])),
        }
    }
    voids
}

#[cfg(test)]
mod tests {
    use super::{super::goals, *};
    use crate::report::figure::Unit;

    #[test]
    fn every_goal_has_a_verdict_also_one_that_was_not_measured() {
        let mut report = Report::new(true);
        report.part("many-services");
        report.add("a", Unit::Ratio, &[1.01], Some(goals::MANY_SERVICES), None);
        report.add("b", Unit::Mebibytes, &[2000.0], Some(goals::MEMORY), None);
        report.fail("no network".to_owned());
        let text = lines(&report);
        let of = |key: &str| text.lines().find(|line| line.contains(key)).unwrap();
        assert!(of(goals::MANY_SERVICES).ends_with(" met"), "{text}");
        assert!(of(goals::MEMORY).ends_with(" MISSED"), "{text}");
        assert!(
            of("lb full-nat to bare redirect, IPv4, 1,000,000 flows").ends_with(" not measured"),
            "{text}"
        );
        assert!(
            text.contains("1 of ") && text.contains("FAILED: many-services: no network"),
            "{text}"
        );
        assert!(!report.is_sound());
    }
}
