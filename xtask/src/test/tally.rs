//! Passed and failed tests, read off what a test executable prints.

use std::{
    io::{BufRead as _, BufReader},
    iter::Sum,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::shell;

/// Results of one or several test executables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed, and executables that did not come to an end.
    pub(crate) failed: u64,
    /// Tests that were not run.
    pub(crate) ignored: u64,
    /// Names of what failed.
    pub(crate) failures: Vec<String>,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Tally {
    /// Tests that ran.
    pub(crate) fn ran(&self) -> u64 {
        self.passed + self.failed
    }

    /// Counts one failure more.
    pub(crate) fn fail(&mut self, what: &str) {
        self.failed += 1;
        self.failures.push(what.to_owned());
    }

    /// Takes in one line of output; `true` when it is the line with an executable's result.
    pub(crate) fn read(&mut self, line: &str) -> bool {
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
        let Some(counts) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        else {
            return false;
        };
        for count in counts.1.split("; ") {
            let (number, what) = count.split_once(' ').unwrap_or((count, ""));
            let number: u64 = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
        true
    }
}

impl<'a> Sum<&'a Tally> for Tally {
    fn sum<I: Iterator<Item = &'a Tally>>(tallies: I) -> Self {
        tallies.fold(Self::default(), |mut sum, tally| {
            sum.passed += tally.passed;
            sum.failed += tally.failed;
            sum.ignored += tally.ignored;
            sum.failures.extend_from_slice(&tally.failures);
            sum.took += tally.took;
            sum
        })
    }
}

/// Runs a test executable, lets it print, and counts.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn run(command: &mut Command) -> Result<Tally> {
    let line = shell::line(command);
    eprintln!("$ {line}");
    let begin = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let mut tally = Tally::default();
    let mut finished = false;
    if let Some(output) = child.stdout.take() {
        for said in BufReader::new(output).split(b'\n') {
            let said = said.with_context(|| format!("cannot read what `{line}` prints"))?;
            let said = String::from_utf8_lossy(&said);
            println!("{said}");
            finished |= tally.read(&said);
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{line}`"))?;
    if !finished || (!status.success() && tally.failed == 0) {
        tally.fail(&format!("ended before its result ({status})"));
    }
    tally.took = begin.elapsed();
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_executables_add_up() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test checksum::wraps ... ok",
            "test flow::port_reuse ... FAILED",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.01s",
            "test result: ok. 4 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s",
        ] {
            tally.read(line);
        }
        assert_eq!((tally.passed, tally.failed, tally.ignored), (5, 1, 1));
        assert_eq!(tally.failures, ["flow::port_reuse"]);
    }

    #[test]
    fn an_executable_that_dies_has_failed() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'running 2 tests'; kill -9 $$"]);
        let tally = run(&mut command).unwrap();
        assert_eq!((tally.passed, tally.failed), (0, 1));
    }
}
