//! What is wrong with a configuration, and how it is shown.

use std::{fmt, io};

use crate::api::{ApiError, ErrorKind};

/// Everything that is wrong with a configuration, in the order of the file.
///
/// `Display` renders all of it, over several lines: place, key, what is wrong, the line of the file and what was
/// expected instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    /// Name of the file, if the configuration came from one.
    pub file: Option<String>,
    /// At least one.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path of the key, such as `service[0].backend[2].weight`; empty when no key is to blame.
    pub key: String,
    /// The offending value, as written.
    pub value: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub expected: Option<String>,
    /// Whether the value is fine as such, and only collides with another.
    pub conflict: bool,
    /// Where it stands in the file.
    pub place: Option<Place>,
    /// The other side of a conflict.
    pub related: Option<Related>,
}

/// Another place that a problem has to do with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Related {
    /// Path of the key.
    pub key: String,
    /// What it has to do with the problem.
    pub note: String,
    /// Where it stands in the file.
    pub place: Option<Place>,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Line, counted from 1.
    pub line: usize,
    /// Column in characters, counted from 1.
    pub column: usize,
    /// Width of the marked text in characters; at least 1.
    pub width: usize,
    /// The line itself, fit for a terminal.
    pub text: String,
}

impl Problem {
    /// A problem with the value of a key.
    pub(super) fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: None,
            message: message.into(),
            expected: None,
            conflict: false,
            place: None,
            related: None,
        }
    }

    pub(super) fn value(mut self, value: impl fmt::Display) -> Self {
        self.value = Some(value.to_string());
        self
    }

    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// Names another key that has to do with it.
    pub(super) fn related(mut self, key: impl Into<String>, note: impl Into<String>) -> Self {
        self.related = Some(Related {
            key: key.into(),
            note: note.into(),
            place: None,
        });
        self
    }

    pub(super) fn conflict(mut self) -> Self {
        self.conflict = true;
        self
    }
}

impl ConfigErrors {
    pub(super) fn in_file(file: &str, problems: Vec<Problem>) -> Self {
        Self {
            file: Some(file.to_owned()),
            problems,
        }
    }

    /// `Ok` when there are no problems. For configuration that came from elsewhere than a file.
    pub(super) fn check(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        Err(Self { file: None, problems })
    }

    pub(super) fn unreadable(file: &str, error: &io::Error) -> Self {
        let advice = if error.kind() == io::ErrorKind::NotFound {
            "the path of a configuration file (see --config)"
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            "a file that this user may read; lb is usually run by root"
        } else {
            "a readable file"
        };
        let problem = Problem::new("", format!("cannot read the file: {error}")).expected(advice);
        Self::in_file(file, vec![problem])
    }

    /// [`ErrorKind::Conflict`] when every problem is a collision with something that exists, else
    /// [`ErrorKind::Invalid`].
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        if self.problems.iter().all(|problem| problem.conflict) {
            ErrorKind::Conflict
        } else {
            ErrorKind::Invalid
        }
    }
}

impl From<ConfigErrors> for ApiError {
    fn from(errors: ConfigErrors) -> Self {
        Self {
            kind: errors.kind(),
            message: errors.to_string(),
        }
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            self.write_heading(f, problem)?;
            write_body(f, problem)?;
        }
        if let (Some(file), count @ 2..) = (&self.file, self.problems.len()) {
            write!(f, "\n{count} problems in {file}")?;
        }
        Ok(())
    }
}

impl ConfigErrors {
    /// `lb.toml:12:10: service[0].backend[2].weight: 300 is out of range`
    fn write_heading(&self, f: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
            if let Some(place) = &problem.place {
                write!(f, "{}:{}:", place.line, place.column)?;
            }
            write!(f, " ")?;
        }
        if !problem.key.is_empty() {
            write!(f, "{}: ", problem.key)?;
        }
        write!(f, "{}", problem.message)
    }
}

fn write_body(f: &mut fmt::Formatter<'_>, problem: &Problem) -> fmt::Result {
    let expected = problem.expected.as_deref();
    match (&problem.place, expected) {
        (Some(place), _) => {
            let label = expected.map(|text| format!("expected {text}")).unwrap_or_default();
            write_snippet(f, place, '^', &label)?;
        }
        (None, Some(expected)) => write!(f, "; expected {expected}")?,
        (None, None) => {}
    }
    match &problem.related {
        Some(Related {
            place: Some(place),
            note,
            ..
        }) => write_snippet(f, place, '-', note),
        _ => Ok(()),
    }
}

/// The line of the file, and under it the marks and a label.
fn write_snippet(f: &mut fmt::Formatter<'_>, place: &Place, mark: char, label: &str) -> fmt::Result {
    let Place {
        line,
        column,
        width,
        text,
    } = place;
    let indent: String = text
        .chars()
        .chain(std::iter::repeat(' '))
        .take(column.saturating_sub(1))
        .map(|c| if c == '\t' { '\t' } else { ' ' })
        .collect();
    let marks: String = std::iter::repeat_n(mark, *width).collect();
    write!(f, "\n{line:>6} | {text}\n       | {indent}{marks}")?;
    if label.is_empty() {
        return Ok(());
    }
    write!(f, " {label}")
}
