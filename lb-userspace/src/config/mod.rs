//! The configuration: a TOML file becomes a validated [`Config`], or a list of everything that is wrong with it.
//!
//! Two layers. The file layer (`section`, `file`, `service`) reads TOML into the types of [`crate::model`] and
//! complains about spelling, types and single values. The rule layer (`rules`) looks at the model only, so that the
//! daemon holds services and backends that are added at run time to the very same rules. A rule names the key that
//! breaks it, such as `service[0].backend[2].weight`; the file layer finds the line and column of that key.

mod error;
mod file;
mod host;
mod rules;
mod section;
mod service;
mod source;
#[cfg(test)]
mod tests;
pub mod value;

use std::{fs, path::Path};

use toml::de::DeTable;

pub use self::{
    error::{ConfigErrors, Place, Problem, Related},
    host::{check_source_ports, ephemeral_ports},
    rules::{validate, validate_backend, validate_service},
};
use self::{section::Sink, source::Source};
use crate::model::Config;

/// Where the lock, the socket and what must survive the daemon stand unless the configuration says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/run/lb";

/// Reads and validates a configuration file.
///
/// # Errors
/// [`ConfigErrors`] with every problem that was found; also when the file cannot be read.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let name = path.display().to_string();
    let bytes = fs::read(path).map_err(|error| ConfigErrors::unreadable(&name, &error))?;
    match str::from_utf8(&bytes) {
        Ok(text) => parse(&name, text),
        Err(error) => Err(not_utf8(&name, &bytes, error.valid_up_to())),
    }
}

/// Validates the text of a configuration file; `file_name` is for the messages only.
///
/// # Errors
/// [`ConfigErrors`] with every problem that was found. Text that is not TOML is reported as such, without a look at
/// what it might have meant.
pub fn parse(file_name: &str, text: &str) -> Result<Config, ConfigErrors> {
    let source = Source::new(file_name, text);
    let (document, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        return Err(source.syntax_errors(&syntax));
    }
    let sink = Sink::default();
    let config = file::read(document.get_ref(), &sink);
    let read = sink.into_problems();
    let broken = rules::check(&config);
    let problems = source.locate(document.get_ref(), read, broken);
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigErrors::in_file(file_name, problems))
    }
}

fn not_utf8(name: &str, bytes: &[u8], valid_up_to: usize) -> ConfigErrors {
    let text = String::from_utf8_lossy(bytes);
    // Up to the first invalid byte the lossy text is the same as the file.
    let place = Source::new(name, &text).place(valid_up_to..valid_up_to);
    let problem = Problem::new("", "the file is not UTF-8 text").expected("a TOML file in UTF-8");
    ConfigErrors::in_file(
        name,
        vec![Problem {
            place: Some(place),
            ..problem
        }],
    )
}
