//! The figures as tables that can be pasted into a page of documentation.

use super::{
    figures::Figures,
    guest::{Measured, Reading},
    verdict::{change, times},
};

/// All figures, kernels side by side.
pub(super) fn report(measured: &[Measured], figures: &Figures) -> String {
    let tables = [paths(measured, figures), programs(measured)].map(|rows| table(&rows));
    format!(
        "\nInstructions per packet\n\n{}\nlb's programs\n\n{}",
        tables[0], tables[1]
    )
}

fn paths(measured: &[Measured], figures: &Figures) -> Vec<Vec<String>> {
    let mut head = vec!["path".to_owned()];
    for guest in measured {
        head.extend([
            format!("Linux {} ({})", guest.series, guest.version),
            "to checked in".to_owned(),
            "IPVS takes".to_owned(),
        ]);
    }
    let mut rows = vec![head];
    for reading in measured.first().map(|guest| &guest.readings[..]).unwrap_or_default() {
        let mut row = vec![reading.path.clone()];
        for guest in measured {
            row.extend(cells(&reading.path, guest, figures));
        }
        rows.push(row);
    }
    rows
}

/// What one kernel's guest says of a path.
fn cells(path: &str, guest: &Measured, figures: &Figures) -> [String; 3] {
    let Some(reading) = guest.readings.iter().find(|reading| reading.path == path) else {
        return Default::default();
    };
    let taken = figures.of(&guest.series).and_then(|taken| taken.instructions.get(path));
    let change = taken.map(|was| format!("{:+.2} %", change(*was, reading.per_packet)));
    let times = |reading: &Reading| times(reading, &guest.readings).map(|times| format!("{times:.2} times"));
    let times = reading.is_own().then(|| times(reading)).flatten();
    [
        format!("{:.2}", reading.per_packet),
        change.unwrap_or_default(),
        times.unwrap_or_default(),
    ]
}

fn programs(measured: &[Measured]) -> Vec<Vec<String>> {
    let head = [
        "program",
        "kernel",
        "verified instructions",
        "BPF bytes",
        "machine code bytes",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for guest in measured {
        rows.extend(guest.programs.iter().map(|program| {
            vec![
                program.program.clone(),
                format!("Linux {}", guest.series),
                program.verified.to_string(),
                program.translated_bytes.to_string(),
                program.jited_bytes.to_string(),
            ]
        }));
    }
    rows
}

/// A Markdown table; every column but the first is of numbers.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &[String]| {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| match column {
                0 => format!(" {cell:<width$} |"),
                _ => format!(" {cell:>width$} |"),
            });
        format!("|{}\n", cells.collect::<String>())
    };
    let rule = widths.iter().enumerate().map(|(column, width)| match column {
        0 => format!("-{}-|", "-".repeat(*width)),
        _ => format!("-{}:|", "-".repeat(*width)),
    });
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        text.push_str(&line(row));
        if number == 0 {
            text.push_str(&format!("|{}\n", rule.clone().collect::<String>()));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{super::verdict::tests::measured, *};

    #[test]
    fn the_table_shows_figures_changes_and_what_ipvs_takes() {
        let mut figures = Figures::default();
        figures.set(&measured(&[("lb nat, established, UDP over IPv4", 800.0)]));
        let measured = [measured(&[
            ("lb nat, established, UDP over IPv4", 808.0),
            ("IPVS, established, UDP over IPv4", 4040.0),
        ])];
        let text = report(&measured, &figures);
        let line = text.lines().find(|line| line.contains("lb nat")).unwrap();
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        assert_eq!(
            cells[1..5],
            ["lb nat, established, UDP over IPv4", "808.00", "+1.00 %", "5.00 times"]
        );
    }
}
