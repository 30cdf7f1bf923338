//! Where keys stand in the text of a file.

use std::{collections::HashMap, ops::Range};

use toml::de::{DeTable, DeValue, Error as TomlError};

use super::error::{ConfigErrors, Place, Problem};

/// Longest part of a line that is shown.
const SHOWN_CHARS: usize = 160;

/// A file's text.
pub(super) struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

/// A problem that was met while reading, with its place where the key path does not tell it.
pub(super) struct ReadProblem {
    pub(super) problem: Problem,
    pub(super) span: Option<Range<usize>>,
}

impl<'a> Source<'a> {
    pub(super) const fn new(name: &'a str, text: &'a str) -> Self {
        Self { name, text }
    }

    /// Text that is not TOML. The parser recovers as well as it can; what it finds on a line after the first error of
    /// that line is more often an echo than a second mistake, and is left out.
    pub(super) fn syntax_errors(&self, errors: &[TomlError]) -> ConfigErrors {
        let mut problems: Vec<Problem> = Vec::new();
        for error in errors {
            let place = self.place(error.span().unwrap_or(0..0));
            if problems
                .iter()
                .any(|p| p.place.as_ref().is_some_and(|seen| seen.line == place.line))
            {
                continue;
            }
            let (what, expected) = match error.message().split_once(", expected ") {
                Some((what, "literal string")) => (
                    what,
                    Some("text in quotation marks, or a number, true or false".to_owned()),
                ),
                Some((what, expected)) => (what, Some(expected.to_owned())),
                None => (error.message(), None),
            };
            problems.push(Problem {
                expected,
                place: Some(place),
                ..Problem::new("", format!("not valid TOML: {what}"))
            });
        }
        sort(&mut problems);
        ConfigErrors::in_file(self.name, problems)
    }

    /// Puts both kinds of problems in the order of the file. A broken rule about a value that could not even be read is
    /// left out: it would blame the stand-in.
    pub(super) fn locate(&self, document: &DeTable<'_>, read: Vec<ReadProblem>, broken: Vec<Problem>) -> Vec<Problem> {
        let spans = Spans::of(document);
        let unread: Vec<String> = read.iter().map(|r| r.problem.key.clone()).collect();
        let is_unread = |key: &str| unread.iter().any(|u| u == key || is_below(key, u));
        let broken = broken.into_iter().filter(|problem| {
            let related = problem.related.as_ref().is_some_and(|r| is_unread(&r.key));
            !related && !is_unread(&problem.key)
        });
        let mut problems: Vec<Problem> = read
            .into_iter()
            .map(|r| (r.problem, r.span))
            .chain(broken.map(|problem| (problem, None)))
            .map(|(mut problem, span)| {
                let span = span.or_else(|| spans.nearest(&problem.key));
                problem.place = span.map(|span| self.place(span));
                if let Some(related) = &mut problem.related {
                    related.place = spans.nearest(&related.key).map(|span| self.place(span));
                }
                problem
            })
            .collect();
        sort(&mut problems);
        problems
    }

    /// Line and column of a byte range.
    pub(super) fn place(&self, span: Range<usize>) -> Place {
        let start = floor_char(self.text, span.start);
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = self.text.get(line_start..).unwrap_or_default();
        let line = line.lines().next().unwrap_or_default();
        let column = self.text.get(line_start..start).unwrap_or_default().chars().count() + 1;
        let end = floor_char(self.text, span.end.max(start)).min(line_start + line.len());
        let width = self.text.get(start..end).unwrap_or_default().chars().count();
        Place {
            line: before.matches('\n').count() + 1,
            column,
            width: width.clamp(1, SHOWN_CHARS),
            text: presentable(line),
        }
    }
}

/// What does not fit a terminal is replaced: escape sequences in a file must not reach it.
fn presentable(line: &str) -> String {
    let mut shown: String = line
        .chars()
        .take(SHOWN_CHARS)
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect();
    if line.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    shown
}

fn floor_char(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at.min(text.len()))
}

fn sort(problems: &mut [Problem]) {
    problems.sort_by_key(|problem| problem.place.as_ref().map(|place| (place.line, place.column)));
}

/// Whether `key` lies inside the table or array `parent`.
fn is_below(key: &str, parent: &str) -> bool {
    key.strip_prefix(parent)
        .is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// The place of every value, by key path.
struct Spans(HashMap<String, Range<usize>>);

impl Spans {
    fn of(document: &DeTable<'_>) -> Self {
        let mut spans = Self(HashMap::new());
        spans.add_table("", document);
        spans
    }

    fn add_table(&mut self, path: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path = if path.is_empty() {
                key.get_ref().to_string()
            } else {
                format!("{path}.{}", key.get_ref())
            };
            self.add_value(path, value.span(), value.get_ref());
        }
    }

    // Recursion is bounded: the TOML parser refuses deep nesting.
    fn add_value(&mut self, path: String, span: Range<usize>, value: &DeValue<'_>) {
        if let Some(table) = value.as_table() {
            self.add_table(&path, table);
        } else if let Some(array) = value.as_array() {
            for (index, item) in array.iter().enumerate() {
                self.add_value(format!("{path}[{index}]"), item.span(), item.get_ref());
            }
        }
        self.0.insert(path, span);
    }

    /// The place of a key, or of the innermost table around it when the key is not there.
    fn nearest(&self, key: &str) -> Option<Range<usize>> {
        let mut key = key;
        loop {
            if let Some(span) = self.0.get(key) {
                return Some(span.clone());
            }
            key = key.get(..key.rfind(['.', '['])?)?;
        }
    }
}
