//! `cargo xtask test`: builds every test once, runs what was asked for, and adds it all up.

pub(crate) mod suite;
pub(crate) mod tally;

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{
    build::{self, Profile},
    setup::{self, Scope},
    shell,
};
use tally::Tally;

/// Packages whose tests need neither root nor a kernel of their own.
const HOST_PACKAGES: [&str; 3] = ["lb-common", "lb-userspace", "xtask"];
/// The package whose tests need the real kernel.
pub(crate) const KERNEL_PACKAGE: &str = "lb-tests";
/// Packages with examples in their documentation.
const DOCUMENTED: [&str; 2] = ["lb-common", "lb-userspace"];

/// Arguments of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this.
    filter: Option<String>,
    /// Only what needs no root: logic, property tests, snapshots.
    #[arg(long, conflicts_with_all = ["packets", "netns"])]
    host_only: bool,
    /// Only single packets through the real packet path.
    #[arg(long, conflicts_with = "netns")]
    packets: bool,
    /// Only the end-to-end tests in network namespaces.
    #[arg(long)]
    netns: bool,
}

impl Args {
    /// The one target of the kernel tests that was asked for.
    fn target(&self) -> Option<&'static str> {
        match (self.packets, self.netns) {
            (true, _) => Some("packet"),
            (_, true) => Some("netns"),
            (false, false) => None,
        }
    }

    fn packages(&self) -> Vec<&'static str> {
        let host = HOST_PACKAGES.into_iter().filter(|_| self.target().is_none());
        host.chain((!self.host_only).then_some(KERNEL_PACKAGE)).collect()
    }
}

/// Runs tests, prints each suite's result, and `N passed, N failed` as the last line. The exit code is that of failure
/// also when a suite that should have tests ran none.
///
/// # Errors
/// When the machine lacks something or the build fails.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(if args.host_only { Scope::Build } else { Scope::Kernel })?;
    let suites = suite::build(&args.packages(), args.target())?;
    let mut results = Vec::new();
    let binary = if args.host_only {
        None
    } else {
        Some(build::binary(Profile::Debug)?)
    };
    for suite in &suites {
        let mut command = suite.command();
        if let Some(binary) = &binary {
            command.env("LB_BIN", binary);
        }
        results.push((suite.name.clone(), run_suite(command, args, suite.must_have_tests)?));
    }
    if args.target().is_none() {
        let tally = run_suite(documentation_tests()?, args, false)?;
        results.push(("documentation".to_owned(), tally));
    }
    Ok(summarize(&results, args.filter.as_deref()))
}

fn documentation_tests() -> Result<Command> {
    let mut cargo = shell::cargo()?;
    cargo.args(["test", "--quiet", "--doc", "--no-fail-fast"]);
    for package in DOCUMENTED {
        cargo.args(["--package", package]);
    }
    cargo.arg("--");
    Ok(cargo)
}

fn run_suite(mut command: Command, args: &Args, must_have_tests: bool) -> Result<Tally> {
    command.args(&args.filter);
    let mut tally = tally::run(&mut command)?;
    if must_have_tests && args.filter.is_none() && tally.ran() == 0 {
        tally.fail("no test ran, although there should be some");
    }
    Ok(tally)
}

/// Prints the results; the totals come last, whatever happened.
pub(crate) fn summarize(results: &[(String, Tally)], filter: Option<&str>) -> ExitCode {
    let total: Tally = results.iter().map(|(_, tally)| tally).sum();
    println!();
    for (name, tally) in results.iter().filter(|(_, tally)| tally.ran() + tally.ignored > 0) {
        let Tally {
            passed,
            failed,
            ignored,
            took,
            ..
        } = tally;
        println!(
            "{name:<28} {passed:>5} passed {failed:>4} failed {ignored:>4} ignored {:>7.1} s",
            took.as_secs_f64()
        );
    }
    for (name, tally) in results {
        for failure in &tally.failures {
            println!("FAILED {name}: {failure}");
        }
    }
    let none = total.ran() == 0;
    if let (Some(filter), true) = (filter, none) {
        println!("no test's name contains `{filter}`");
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    if total.failed > 0 || none {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64) -> Tally {
        Tally {
            passed,
            failed,
            ..Tally::default()
        }
    }

    #[test]
    fn the_verdict_is_good_only_when_something_ran_and_nothing_failed() {
        let verdict = |tallies: &[Tally]| {
            let results: Vec<_> = tallies
                .iter()
                .map(|tally| ("suite".to_owned(), tally.clone()))
                .collect();
            summarize(&results, Some("name")) == ExitCode::SUCCESS
        };
        assert!(verdict(&[tally(3, 0), tally(0, 0)]));
        assert!(!verdict(&[tally(3, 0), tally(2, 1)]));
        assert!(!verdict(&[tally(0, 0)]));
        assert!(!verdict(&[]));
    }
}
