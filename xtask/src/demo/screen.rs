//! What the demo prints: headings, bars that grow, verdicts. At most 80 columns; colours and movement only on a terminal.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
};

use super::traffic::Counts;

/// Length of a bar that stands for everything.
const BAR: u64 = 40;

/// A colour of the terminal.
#[derive(Debug, Clone, Copy)]
enum Colour {
    Bold,
    Green,
    Red,
    Cyan,
}

/// Standard output, with or without a terminal behind it.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    colours: bool,
    /// Lines of the table that the next one overwrites.
    drawn: usize,
}

impl Screen {
    /// Finds out what standard output is.
    pub(super) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        let colours = terminal && env::var_os("NO_COLOR").is_none();
        Self {
            terminal,
            colours,
            drawn: 0,
        }
    }

    /// Begins a phase.
    pub(super) fn heading(&self, text: &str) {
        println!("\n{}", self.paint(Colour::Bold, text));
    }

    /// Says something that happens now.
    pub(super) fn say(&mut self, text: &str) {
        self.drawn = 0;
        println!("  {text}");
    }

    /// Says whether a promise was kept.
    pub(super) fn verdict(&mut self, kept: bool, text: &str) {
        self.drawn = 0;
        let mark = if kept {
            self.paint(Colour::Green, "✓")
        } else {
            self.paint(Colour::Red, "✗")
        };
        println!("  {mark} {text}");
    }

    /// Draws the table over the one drawn before; without a terminal, nothing: [`Screen::settle`] prints the last one.
    pub(super) fn draw(&mut self, counts: &Counts, servers: &[&str]) {
        if self.terminal {
            self.print(counts, servers);
        }
    }

    /// Draws the table for the last time.
    pub(super) fn settle(&mut self, counts: &Counts, servers: &[&str]) {
        self.print(counts, servers);
        self.drawn = 0;
    }

    fn print(&mut self, counts: &Counts, servers: &[&str]) {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        let rows = rows(counts, servers);
        self.drawn = rows.len();
        for Row { name, bar, figures } in rows {
            let colour = if name == "failed" { Colour::Red } else { Colour::Cyan };
            let start = if self.terminal { "\r\x1b[2K" } else { "" };
            text.push_str(&format!("{start}  {name:<7}{}{figures}\n", self.paint(colour, &bar)));
        }
        let mut out = io::stdout().lock();
        // A closed output shows itself at the next println.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Bold => 1,
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Cyan => 36,
        };
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

struct Row {
    name: String,
    bar: String,
    figures: String,
}

/// A row per server, and one for failures: always there, so that the table keeps its height.
fn rows(counts: &Counts, servers: &[&str]) -> Vec<Row> {
    let total = counts.total_served() + counts.failed;
    let numbers = servers
        .iter()
        .map(|server| (*server, counts.by(server)))
        .chain([("failed", counts.failed)]);
    numbers
        .map(|(name, number)| Row {
            name: name.to_owned(),
            bar: bar(number, total),
            figures: format!("{:>9} {:>7}", thousands(number), percent(number, total)),
        })
        .collect()
}

fn bar(part: u64, whole: u64) -> String {
    let filled = (part * BAR + whole / 2).checked_div(whole).unwrap_or(0);
    // Something is never drawn as nothing.
    let filled = if part > 0 { filled.max(1) } else { 0 };
    (0..BAR)
        .map(|position| if position < filled { '█' } else { ' ' })
        .collect()
}

fn percent(part: u64, whole: u64) -> String {
    let tenths = (part * 1000 + whole / 2).checked_div(whole).unwrap_or(0);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// A number with a comma between groups of three digits.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(4000), "4,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }

    #[test]
    fn a_bar_shows_its_share_and_never_hides_a_single_failure() {
        let filled = |part, whole| bar(part, whole).chars().filter(|&cell| cell == '█').count();
        assert_eq!(
            (filled(0, 0), filled(0, 10), filled(10, 10), filled(5, 10)),
            (0, 0, 40, 20)
        );
        assert_eq!(filled(1, 100_000), 1);
    }

    #[test]
    fn a_row_fits_the_terminal() {
        let mut counts = Counts {
            failed: 9_999_999,
            ..Counts::default()
        };
        counts.served.insert("s1".into(), 9_999_999);
        for Row { bar, figures, .. } in rows(&counts, &["s1"]) {
            assert!(2 + 7 + bar.chars().count() + figures.len() <= 80);
        }
    }
}
