//! What is to be seen while a run goes on: on a terminal one line that changes, elsewhere one line a second.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use super::meter::Reading;
use crate::cli::human;

/// Between two changes of the line on a terminal.
const ON_TERMINAL: Duration = Duration::from_millis(250);
/// Between two lines elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(1);
/// Back to the start of the line, and delete it.
const CLEAR: &str = "\r\u{1b}[K";

/// Shows the readings of a run on standard error.
#[derive(Debug)]
pub struct Progress {
    shown: Shown,
    next: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    Never,
    InPlace,
    LineByLine,
}

impl Progress {
    /// Progress that suits standard error, or none at all.
    #[must_use]
    pub fn on_stderr(silent: bool) -> Self {
        let shown = match (silent, io::stderr().is_terminal()) {
            (true, _) => Shown::Never,
            (false, true) => Shown::InPlace,
            (false, false) => Shown::LineByLine,
        };
        Self {
            shown,
            next: Duration::ZERO,
        }
    }

    /// Shows a reading, unless the last is too fresh.
    pub fn show(&mut self, reading: &Reading) {
        if reading.at < self.next {
            return;
        }
        let line = line(reading);
        let (interval, text) = match self.shown {
            Shown::Never => return,
            Shown::InPlace => (ON_TERMINAL, format!("{CLEAR}{line}")),
            Shown::LineByLine => (ELSEWHERE, format!("{line}\n")),
        };
        // The first line comes after a whole interval; readings come at their own pace, so half a step is left to chance.
        let first = self.next.is_zero() && reading.at < interval / 2;
        if !first {
            write(&text);
        }
        self.next = reading.at + interval - interval / 20;
    }

    /// Leaves no trace of the changing line.
    pub fn finish(&mut self) {
        if self.shown == Shown::InPlace && !self.next.is_zero() {
            write(CLEAR);
        }
        self.shown = Shown::Never;
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

fn line(reading: &Reading) -> String {
    let rates: Vec<_> = reading
        .rates
        .iter()
        .map(|(name, rate)| format!("{name} {}/s", human::rate(*rate)))
        .collect();
    format!("{:5.1} s  {}", reading.at.as_secs_f64(), rates.join("  "))
}

fn write(text: &str) {
    let mut err = io::stderr().lock();
    // Nobody watches: the run goes on all the same.
    drop(err.write_all(text.as_bytes()).and_then(|()| err.flush()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_rates() {
        let reading = Reading {
            at: Duration::from_millis(2500),
            rates: vec![("answered", 21_345.6), ("failed", 0.0)],
        };
        assert_eq!(line(&reading), "  2.5 s  answered 21.3K/s  failed 0/s");
    }
}
