//! Typed reading of one TOML table. Every getter says what is wrong and gives `None`, so that reading goes on and all
//! problems of a file are found at once.

use std::{cell::RefCell, fmt, ops::RangeInclusive};

use toml::de::{DeTable, DeValue};

use super::{
    error::Problem,
    source::ReadProblem,
    value::{ValueError, quoted},
};

/// Where problems go while a file is read.
#[derive(Default)]
pub(super) struct Sink(RefCell<Vec<ReadProblem>>);

impl Sink {
    fn push(&self, problem: Problem) {
        self.0.borrow_mut().push(ReadProblem { problem, span: None });
    }

    pub(super) fn into_problems(self) -> Vec<ReadProblem> {
        self.0.into_inner()
    }
}

/// A table, or the absence of one, which reads like an empty one.
pub(super) struct Section<'a> {
    path: String,
    table: Option<&'a DeTable<'a>>,
    /// Keys that were asked for: the valid ones.
    asked: Vec<&'static str>,
    sink: &'a Sink,
}

impl<'a> Section<'a> {
    pub(super) const fn root(table: &'a DeTable<'a>, sink: &'a Sink) -> Self {
        Self {
            path: String::new(),
            table: Some(table),
            asked: Vec::new(),
            sink,
        }
    }

    fn sub(&self, path: String, table: Option<&'a DeTable<'a>>) -> Self {
        Self {
            path,
            table,
            asked: Vec::new(),
            sink: self.sink,
        }
    }

    /// The path of a key of this table.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Reports a problem.
    pub(super) fn push(&self, problem: Problem) {
        self.sink.push(problem);
    }

    /// Reports a key that is not there, unless the whole table is missing, which has been reported.
    pub(super) fn require(&self, key: &str, expected: &str) {
        if self.table.is_some() && !self.has(key) {
            self.push(Problem::new(self.path_of(key), "this key is missing").expected(expected));
        }
    }

    fn wrong(&self, key: &str, value: impl fmt::Display, message: impl Into<String>, expected: impl Into<String>) {
        let problem = Problem::new(self.path_of(key), message).expected(expected).value(value);
        self.sink.push(problem);
    }

    fn get(&mut self, key: &'static str) -> Option<&'a DeValue<'a>> {
        self.asked.push(key);
        Some(self.table?.get(key)?.get_ref())
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(key))
    }

    /// Reports keys that nobody asked for. To be called last.
    pub(super) fn finish(self) {
        for (key, _) in self.table.into_iter().flatten() {
            let name = key.get_ref().as_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let expected = match nearest(name, &self.asked) {
                Some(near) => format!("`{near}`"),
                None => format!("one of {}", self.asked.join(", ")),
            };
            let problem = Problem::new(self.path_of(&presentable_key(name)), "there is no such key").expected(expected);
            self.sink.0.borrow_mut().push(ReadProblem {
                problem: problem.value(name),
                span: Some(key.span()),
            });
        }
    }
}

/// Values.
impl<'a> Section<'a> {
    pub(super) fn string(&mut self, key: &'static str, expected: &str) -> Option<&'a str> {
        let value = self.get(key)?;
        let text = value.as_str();
        if text.is_none() {
            self.wrong_type(key, value, expected);
        }
        text
    }

    /// A string that has a meaning of its own.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Option<T> {
        let text = self.string(key, expected)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.wrong(key, text, error.message, error.expected);
                None
            }
        }
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let all = words
            .iter()
            .map(|word| format!("\"{word}\""))
            .collect::<Vec<_>>()
            .join(" or ");
        let text = self.string(key, &all)?;
        let choice = choices.iter().find(|(word, _)| *word == text);
        if choice.is_none() {
            let expected = match nearest(text, &words) {
                Some(near) if words.len() > 1 => format!("{all}; did you mean \"{near}\"?"),
                _ => all,
            };
            self.wrong(
                key,
                text,
                format!("{} is not a value of this key", quoted(text)),
                expected,
            );
        }
        choice.map(|(_, value)| *value)
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        let boolean = value.as_bool();
        if boolean.is_none() {
            self.wrong_type(key, value, "true or false, without quotation marks");
        }
        boolean
    }

    pub(super) fn integer<T>(&mut self, key: &'static str, range: &RangeInclusive<T>) -> Option<T>
    where
        T: Copy + PartialOrd + fmt::Display + TryFrom<i128>,
    {
        let value = self.get(key)?;
        let expected = format!("an integer from {} to {}", range.start(), range.end());
        let Some(integer) = value.as_integer() else {
            self.wrong_type(key, value, &expected);
            return None;
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.and_then(|n| T::try_from(n).ok()).filter(|n| range.contains(n));
        if number.is_none() {
            self.wrong(key, integer, format!("{integer} is out of range"), expected);
        }
        number
    }

    /// A list of strings that have a meaning of their own. An item that is wrong becomes the stand-in, so that the others
    /// keep their index.
    pub(super) fn list<T: Copy>(
        &mut self,
        key: &'static str,
        expected: &str,
        stand_in: T,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Vec<T> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let Some(array) = value.as_array() else {
            self.wrong_type(key, value, &format!("a list of {expected}, in brackets"));
            return Vec::new();
        };
        let items = array.iter().enumerate().map(|(index, item)| {
            let parsed = item.get_ref().as_str().and_then(&parse);
            if parsed.is_none() {
                let (text, key) = (as_written(item.get_ref()), format!("{key}[{index}]"));
                self.wrong(&key, &text, format!("{text} is not {expected}"), expected);
            }
            parsed.unwrap_or(stand_in)
        });
        items.collect()
    }

    fn wrong_type(&self, key: &str, value: &DeValue<'_>, expected: &str) {
        let text = as_written(value);
        let message = match value.type_str() {
            kind @ ("array" | "integer") => format!("{text} is an {kind}"),
            kind => format!("{text} is a {kind}"),
        };
        self.wrong(key, text, message, expected);
    }
}

/// Tables inside.
impl<'a> Section<'a> {
    /// `[name]`, or nothing but defaults.
    pub(super) fn table(&mut self, key: &'static str) -> Section<'a> {
        let value = self.get(key);
        let table = value.and_then(DeValue::as_table);
        if let (Some(value), None) = (value, table) {
            self.wrong_type(key, value, &format!("a table: [{}]", header(&self.path_of(key))));
        }
        self.sub(self.path_of(key), table)
    }

    /// `[[name]]`, as often as it is there.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let path = self.path_of(key);
        let expected = format!("a table for each: [[{}]]", header(&path));
        let Some(array) = value.as_array() else {
            self.wrong_type(key, value, &expected);
            return Vec::new();
        };
        let sections = array.iter().enumerate().map(|(index, item)| {
            let table = item.get_ref().as_table();
            if table.is_none() {
                self.wrong_type(&format!("{key}[{index}]"), item.get_ref(), &expected);
            }
            self.sub(format!("{path}[{index}]"), table)
        });
        sections.collect()
    }
}

/// The name that stands in a table's header: without indices.
fn header(path: &str) -> String {
    path.split('.')
        .map(|part| part.split('[').next().unwrap_or(part))
        .collect::<Vec<_>>()
        .join(".")
}

/// A key may hold anything when it is quoted.
fn presentable_key(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !name.is_empty() && name.len() <= 60 && name.chars().all(plain) {
        name.to_owned()
    } else {
        quoted(name)
    }
}

fn as_written(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(boolean) => boolean.to_string(),
        DeValue::Datetime(datetime) => datetime.to_string(),
        DeValue::Array(_) => "[…]".to_owned(),
        DeValue::Table(_) => "{…}".to_owned(),
    }
}

/// The valid word that was probably meant.
fn nearest<'w>(text: &str, words: &[&'w str]) -> Option<&'w str> {
    /// Above it, words look alike to people.
    const ALIKE: f64 = 0.85;
    let normal = text.to_lowercase().replace('_', "-");
    let scored = words
        .iter()
        .map(|word| (strsim::damerau_levenshtein(&normal, word), *word));
    let (distance, word) = scored.min_by_key(|(distance, _)| *distance)?;
    let alike = distance <= 2 && distance < word.chars().count().div_ceil(2);
    (alike || strsim::jaro_winkler(&normal, word) > ALIKE).then_some(word)
}
