//! The report as a document, and its parts as blocks for the documentation.

use std::fmt::Write as _;

use super::{
    Plot, Report,
    figure::Figure,
    goals,
    summary::{self, Verdict},
    table::{Grid, Row, thousands},
};
use crate::machine::Conditions;

const METHOD: &str = "\
A generator, itself an XDP program that the kernel runs over and over, puts frames into one end of a chain of veth devices: \
`gen === in [contender] out === sink`. What arrives at the other end is counted by the device and discarded. Every contender \
has a chain of its own in a network namespace of its own. All of a chain's work is done on one core: generating, receiving, \
forwarding and discarding a frame are all in the time of a rate. Flows take turns packet by packet, the worst order for caches.

- Rates are taken in turns: each round has one run of every contender, and a ratio is between runs of the same round. The \
kernel's BPF statistics are off.
- Program time is taken from the kernel's BPF statistics in rounds of their own. The statistics themselves cost 20 ns and more, \
which is about what they show of `bare XDP_TX`. nftables and routing are not programs and have no such time.
- A new flow is the first packet of a flow. Each trial begins with empty tables.
- A cell is the median of its rounds, and below it the least and the most.
- A figure is void when the counters say that its packets did not go the way that was to be measured: `lb` must have \
forwarded every frame and have opened as many flows as were new; of every contender, 99 in 100 frames must have arrived.";

/// In place of a table without a figure.
const ABSENT: &str = "*Not measured in this run.*";

/// The whole document.
pub(super) fn document(report: &Report, conditions: &Conditions) -> String {
    let mut text = format!("# Measurements of lb and its peers\n\n{conditions}\n");
    let grids: Vec<_> = report.grids().filter(|grid| !grid.rows.is_empty()).collect();
    for grid in grids.iter().filter(|grid| grid.table.axis.is_none()) {
        section(&mut text, &grid.table.title, &table(grid));
    }
    for plot in &report.plots {
        if let Some(body) = curves(plot, &grids, "") {
            section(&mut text, plot.title, &body);
        }
    }
    for part in &report.parts {
        let body = list(report, part);
        if body != ABSENT {
            section(&mut text, &format!("Also: {part}"), &body);
        }
    }
    section(&mut text, "Targets", &targets(report));
    section(&mut text, "Void", &void(report));
    section(&mut text, "Not measured", &left_out(report));
    section(&mut text, "Method", METHOD);
    text
}

/// The parts, by name: every table, every picture with its tables, and what the document says in sections of their own.
/// Pictures are in a directory.
pub(super) fn blocks(report: &Report, conditions: &Conditions, pictures: &str) -> Vec<(String, String)> {
    let grids: Vec<_> = report.grids().collect();
    let tables = grids.iter().map(|grid| (grid.table.id.clone(), table(grid)));
    let measured: Vec<_> = report.grids().filter(|grid| !grid.rows.is_empty()).collect();
    let curves = report.plots.iter().map(|plot| {
        let body = curves(plot, &measured, pictures).unwrap_or_else(|| ABSENT.to_owned());
        (plot.file.to_owned(), body)
    });
    let parts = report.parts.iter().map(|part| ((*part).to_owned(), list(report, part)));
    let others = [
        ("machine", conditions.to_string()),
        ("medians", medians(report)),
        ("first-page", first_page(report)),
        ("targets", targets(report)),
        ("void", void(report)),
        ("not-measured", left_out(report)),
    ];
    let others = others.into_iter().map(|(name, block)| (name.to_owned(), block));
    tables.chain(curves).chain(parts).chain(others).collect()
}

fn section(text: &mut String, title: &str, body: &str) {
    // Writing to a string cannot fail.
    let _ = write!(text, "\n## {title}\n\n{}\n", body.trim());
}

/// A picture, and all tables of its group.
fn curves(plot: &Plot, grids: &[Grid<'_>], pictures: &str) -> Option<String> {
    let Plot {
        file, title, tables, ..
    } = plot;
    let mut body = String::new();
    for grid in grids.iter().filter(|grid| tables.contains(&grid.table.id)) {
        let _ = write!(body, "\n{}:\n\n{}", grid.table.title, table(grid));
    }
    (!body.is_empty()).then(|| format!("![{title}]({pictures}{file}.svg)\n{body}"))
}

/// A table with its number of rounds.
fn table(grid: &Grid<'_>) -> String {
    if grid.rows.is_empty() {
        return ABSENT.to_owned();
    }
    let mut text = format!("| {} |", grid.table.rows);
    for column in &grid.columns {
        let _ = write!(text, " {column} |");
    }
    let _ = write!(text, "\n|---|{}", "---:|".repeat(grid.columns.len()));
    let mut rounds = Vec::new();
    for row in &grid.rows {
        let _ = write!(text, "\n| {} |", row.written());
        for column in &grid.columns {
            let figure = grid.at(row, column);
            rounds.extend(figure.map(|figure| figure.rounds).filter(|rounds| *rounds > 1));
            let _ = write!(text, " {} |", figure.map_or_else(|| "–".to_owned(), cell));
        }
    }
    text.push('\n');
    match (rounds.iter().min(), rounds.iter().max()) {
        (Some(least), Some(most)) if least < most => {
            let _ = writeln!(text, "\nMedians of {least} to {most} rounds.");
        }
        (Some(rounds), _) => {
            let _ = writeln!(text, "\nMedians of {rounds} rounds.");
        }
        _ => {}
    }
    text
}

fn cell(figure: &Figure) -> String {
    if figure.void.is_some() {
        return "void".to_owned();
    }
    match figure.spread() {
        Some(spread) => format!("**{}**<br>{spread}", figure.written()),
        None => format!("**{}**", figure.written()),
    }
}

fn targets(report: &Report) -> String {
    let mut text = format!(
        "{}.\n\n| | target | reached | |\n|---|---:|---:|---|\n",
        summary::count(report)
    );
    for (goal, figure) in report.results() {
        let verdict = match Verdict::of(goal, figure) {
            Verdict::Missed => "**missed**",
            other => other.as_str(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {verdict} |",
            goal.key,
            goal.target.write(goal.unit),
            figure.map_or_else(|| "–".to_owned(), cell)
        );
    }
    text
}

/// Everything of a part that has no table of its own.
fn list(report: &Report, part: &str) -> String {
    let mut text = String::new();
    let mut section = None;
    let figures = report
        .figures
        .iter()
        .filter(|figure| figure.part == part && figure.places.is_empty());
    for figure in figures {
        if section != Some(&figure.section) {
            section = Some(&figure.section);
            let _ = write!(
                text,
                "\n{}:\n\n| | median | least to most | target |\n|---|---:|---:|---:|\n",
                figure.section
            );
        }
        let value = match &figure.void {
            Some(_) => "void".to_owned(),
            None => format!("**{}**", figure.written()),
        };
        let (spread, bound) = (figure.spread().unwrap_or_default(), figure.bound().unwrap_or_default());
        let _ = writeln!(text, "| {} | {value} | {spread} | {bound} |", figure.name);
    }
    if text.is_empty() { ABSENT.to_owned() } else { text }
}

/// Medians of what counts most, over the number of flows: rates, program times, new flows.
fn medians(report: &Report) -> String {
    let contenders = Columns::of(report, "flows-ipv4-rate");
    let flows = [1_000, 100_000, 1_000_000];
    let mut text = "| IPv4, UDP, 64 bytes |".to_owned();
    for heading in ["flows", "flows, to bare redirect", "flows, program time"] {
        for x in flows {
            let _ = write!(text, " {} {heading} |", thousands(x));
        }
    }
    let _ = writeln!(text, " new flows |\n|---|{}", "---:|".repeat(3 * flows.len() + 1));
    for contender in &contenders.0 {
        let _ = write!(text, "| {} |", label(contender));
        for table in ["flows-ipv4-rate", "flows-ipv4-ratio", "flows-ipv4-time"] {
            for x in flows {
                let _ = write!(text, " {} |", median(report, table, &Row::At(x), contender));
            }
        }
        let row = Row::Named((*contender).to_owned());
        let _ = writeln!(text, " {} |", median(report, "main-ipv4", &row, "new flows, UDP"));
    }
    if contenders.0.is_empty() {
        ABSENT.to_owned()
    } else {
        text
    }
}

/// What the first page shows: rates over the number of flows, new flows, and HTTP.
fn first_page(report: &Report) -> String {
    let contenders = Columns::of(report, "flows-ipv4-rate");
    if contenders.0.is_empty() {
        return ABSENT.to_owned();
    }
    let mut text = "| |".to_owned();
    for contender in &contenders.0 {
        let _ = write!(text, " {} |", label(contender));
    }
    let _ = write!(text, "\n|---|{}", "---:|".repeat(contenders.0.len()));
    for x in [1_000, 100_000, 1_000_000] {
        let _ = write!(text, "\n| {} flows |", thousands(x));
        for contender in &contenders.0 {
            let _ = write!(text, " {} |", median(report, "flows-ipv4-rate", &Row::At(x), contender));
        }
    }
    for (what, table, column) in [
        ("new flows", "main-ipv4", "new flows, UDP"),
        (
            "HTTP, CPU per 1000 requests above direct",
            "http-keep-alive",
            "above direct",
        ),
        ("the same, a connection per request", "http-per-request", "above direct"),
    ] {
        let _ = write!(text, "\n| {what} |");
        for contender in &contenders.0 {
            let row = Row::Named((*contender).to_owned());
            let _ = write!(text, " {} |", median(report, table, &row, column));
        }
    }
    let haproxy = Row::Named("HAProxy, TCP mode".to_owned());
    let above = |table| median(report, table, &haproxy, "above direct");
    let _ = write!(
        text,
        "\n\nThrough HAProxy in TCP mode the requests take {} and {} above direct.",
        above("http-keep-alive"),
        above("http-per-request")
    );
    let memory = report.results().find(|(goal, _)| goal.key == goals::MEMORY);
    if let Some(maps) = memory.and_then(|(_, figure)| figure) {
        let _ = write!(
            text,
            " The maps take {} of kernel memory by default, nearly all of it flow tables.",
            maps.written()
        );
    }
    text
}

/// The columns of a table.
struct Columns<'a>(Vec<&'a str>);

impl<'a> Columns<'a> {
    fn of(report: &'a Report, table: &str) -> Self {
        let grid = report.grids().find(|grid| grid.table.id == table);
        Self(grid.map_or_else(Vec::new, |grid| grid.columns))
    }
}

/// A contender in a table of others' names.
fn label(contender: &str) -> String {
    contender
        .strip_prefix("lb ")
        .map_or_else(|| contender.to_owned(), |mode| format!("`lb` {mode}"))
}

/// A cell of another table, without its spread.
fn median(report: &Report, table: &str, row: &Row, column: &str) -> String {
    let grid = report.grids().find(|grid| grid.table.id == table);
    match grid.and_then(|grid| grid.at(row, column)) {
        None => "–".to_owned(),
        Some(figure) if figure.void.is_some() => "void".to_owned(),
        Some(figure) => figure.written(),
    }
}

fn void(report: &Report) -> String {
    let mut text = String::new();
    for (why, figures) in summary::voids(report) {
        let _ = writeln!(text, "- {}: {why}", figures.join("; "));
    }
    if text.is_empty() {
        return "No figure is void.".to_owned();
    }
    text
}

fn left_out(report: &Report) -> String {
    let mut text = String::new();
    for (what, why) in &report.left_out {
        let _ = writeln!(text, "- {what}: {why}");
    }
    for (part, why) in &report.failed {
        let _ = writeln!(text, "- {part} came to no end: {why}");
    }
    if text.is_empty() {
        return "Everything that this report has a place for was measured.".to_owned();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            figure::Unit,
            table::{Axis, Table},
        },
        *,
    };

    fn report() -> Report {
        let mut report = Report::new(true);
        report.list("sweep");
        report.table(Table {
            id: "main".to_owned(),
            title: "Side by side".to_owned(),
            rows: "contender",
            axis: None,
        });
        report.table(Table {
            id: "flows-rate".to_owned(),
            title: "Rate".to_owned(),
            rows: "flows",
            axis: Some(Axis::Logarithmic),
        });
        report.plot(Plot {
            file: "flows",
            title: "Over flows",
            axis: "flows",
            tables: vec!["flows-rate".to_owned()],
            panels: vec!["flows-rate".to_owned()],
        });
        report.table(Table {
            id: "empty".to_owned(),
            title: "Empty".to_owned(),
            rows: "flows",
            axis: None,
        });
        report.section("Established");
        let goal = goals::opening("lb full-nat", "UDP over IPv4");
        report
            .add("lb", Unit::PerSecond, &[2e6, 3e6, 4e6], Some(&goal), None)
            .cell("main", "lb", "packets")
            .point("flows-rate", 1000, "lb");
        let lost = "of 10 frames 3 arrived".to_owned();
        report
            .add("routing", Unit::PerSecond, &[1e6], None, Some(&lost))
            .cell("main", "routing", "packets");
        report.leave_out("nftables with a million flows", "the kernel tracks fewer");
        report
    }

    #[test]
    fn the_main_table_comes_first_and_says_what_is_void() {
        let text = document(&report(), &Conditions::default());
        let main =
            "| contender | packets |\n|---|---:|\n| lb | **3.00 M/s**<br>2.00 M/s to 4.00 M/s |\n| routing | void |\n";
        assert!(text.contains(main), "{text}");
        assert!(!text.contains("Empty"), "{text}");
        assert!(text.find("Side by side") < text.find("Over flows"));
        assert!(text.contains("- Established: routing: of 10 frames 3 arrived"));
        assert!(text.contains("1 of ") && text.contains("targets met"));
        assert!(text.contains("- nftables with a million flows: the kernel tracks fewer"));
    }

    #[test]
    fn every_table_is_a_block_also_one_without_a_figure() {
        let blocks = blocks(&report(), &Conditions::default(), "performance/");
        let names: Vec<_> = blocks.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            [
                "main",
                "flows-rate",
                "empty",
                "flows",
                "sweep",
                "machine",
                "medians",
                "first-page",
                "targets",
                "void",
                "not-measured"
            ]
        );
        let of = |wanted| {
            blocks
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, block)| block.as_str())
        };
        assert_eq!(of("empty"), Some(ABSENT));
        assert!(of("flows").unwrap().starts_with("![Over flows](performance/flows.svg)"));
    }
}
