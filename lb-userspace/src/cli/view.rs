//! How answers look: JSON or text, in which width, with or without colours.

use std::{
    env,
    io::{self, IsTerminal, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use clap::builder::styling::{AnsiColor, Effects, Style};
use serde::Serialize;

use super::ColorChoice;
use crate::api::{ApiError, ErrorKind};

/// Width of text where there is no terminal, and the narrowest that tables are made for.
pub(super) const MIN_WIDTH: usize = 80;

/// What a piece of text tells; colours follow it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Tone {
    #[default]
    Plain,
    Title,
    Good,
    Warn,
    Bad,
    Dim,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Title => Style::new().bold(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warn => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default() | Effects::BOLD,
            Self::Dim => Style::new().dimmed(),
        }
    }
}

/// How answers look.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) json: bool,
    pub(super) color: bool,
    /// Columns of the terminal, at least [`MIN_WIDTH`].
    pub(super) width: usize,
    /// The present, in seconds since the Unix epoch.
    pub(super) now: u64,
}

impl View {
    /// For standard output as it is.
    pub(super) fn of_stdout(json: bool, color: ColorChoice) -> Self {
        let no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = match color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => io::stdout().is_terminal() && !no_color && !is_dumb_terminal(),
        };
        Self {
            json,
            color: color && !json,
            width: width(),
            now: now(),
        }
    }

    /// Brings time and width up to date.
    pub(super) fn refresh(&mut self) {
        (self.now, self.width) = (now(), width());
    }

    /// An answer: its report as JSON, or the text made from it. Ends with a newline.
    pub(super) fn show<T: Serialize>(
        &self,
        report: &T,
        text: impl FnOnce(&Self) -> String,
    ) -> Result<String, ApiError> {
        let mut shown = if self.json { to_json(report)? } else { text(self) };
        if !shown.ends_with('\n') {
            shown.push('\n');
        }
        Ok(shown)
    }

    /// `text` in the colours of its tone.
    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        if self.color && tone != Tone::Plain {
            let style = tone.style();
            format!("{style}{text}{style:#}")
        } else {
            text.to_owned()
        }
    }

    /// `text` broken into lines that fit, each with its own colours, each ended by a newline; the first is indented by
    /// `indent`, the others by four more.
    pub(super) fn paragraph(&self, tone: Tone, indent: usize, text: &str) -> String {
        let mut shown = String::new();
        let mut margin = indent;
        for line in wrap(text, self.width.saturating_sub(indent), 4) {
            shown.push_str(&format!("{:margin$}{}\n", "", self.paint(tone, &line)));
            margin = indent + 4;
        }
        shown
    }

    /// Seconds from then to now.
    pub(super) const fn since(&self, then: u64) -> u64 {
        self.now.saturating_sub(then)
    }
}

/// The present, in seconds since the Unix epoch.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn is_dumb_terminal() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Width of the terminal that standard output is, or as if it were a small one.
fn width() -> usize {
    comfy_table::Table::new()
        .width()
        .map_or(MIN_WIDTH, usize::from)
        .max(MIN_WIDTH)
}

fn to_json<T: Serialize>(report: &T) -> Result<String, ApiError> {
    serde_json::to_string_pretty(report).map_err(|error| ApiError {
        kind: ErrorKind::System,
        message: format!("the answer has no JSON form: {error}"),
    })
}

/// Breaks text at spaces into lines of at most `width` characters, those after the first of `hang` fewer. A word that is longer
/// than a line is cut.
pub(super) fn wrap(text: &str, width: usize, hang: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut room = width.max(1);
    for word in text.split_whitespace() {
        let mut word = word;
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > room {
            lines.push(std::mem::take(&mut line));
            room = width.saturating_sub(hang).max(1);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        while let Some((cut, _)) = word.char_indices().nth(room).filter(|_| line.is_empty()) {
            let (head, tail) = word.split_at(cut);
            lines.push(head.to_owned());
            word = tail;
            room = width.saturating_sub(hang).max(1);
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

/// Writes to standard output. Whether somebody still reads: a reader that has gone away, such as `head`, is not an error.
pub(super) fn print(text: &str) -> Result<bool, ApiError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(ApiError {
            kind: ErrorKind::System,
            message: format!("cannot write the answer: {error}"),
        }),
    }
}

/// Tells what failed: as JSON on standard output, or in words on standard error.
pub(super) fn print_error(json: bool, error: &ApiError) {
    if json {
        let shown = serde_json::json!({ "error": error });
        // Nothing is left to do when even this cannot be written: the exit code tells.
        drop(print(&format!("{shown:#}\n")));
    } else {
        drop(writeln!(io::stderr().lock(), "error: {}", error.message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_and_long_words_are_cut() {
        assert_eq!(wrap("aa bbb cccc d", 6, 0), ["aa bbb", "cccc d"]);
        assert_eq!(wrap("aa bbb cccc d", 6, 2), ["aa bbb", "cccc", "d"]);
        assert_eq!(wrap("x 0123456789 y", 4, 1), ["x", "012", "345", "678", "9 y"]);
        assert!(wrap("  ", 4, 1).is_empty());
    }

    #[test]
    fn each_line_of_a_paragraph_is_coloured_for_itself() {
        let view = View {
            json: false,
            color: true,
            width: 10,
            now: 0,
        };
        let shown = view.paragraph(Tone::Good, 2, "one two three");
        assert_eq!(
            shown,
            "  \u{1b}[32mone two\u{1b}[0m\n      \u{1b}[32mthre\u{1b}[0m\n      \u{1b}[32me\u{1b}[0m\n"
        );
    }
}
