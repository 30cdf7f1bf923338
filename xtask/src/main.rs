//! `cargo xtask VERB`: everything there is to do with this repository, from a bare machine to a verdict.

mod bench;
mod build;
mod demo;
mod fuzz;
mod interrupt;
mod lint;
mod setup;
mod shell;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, try and test lb.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Find what this machine lacks, and install what may be installed.
    Setup(setup::Args),
    /// Build the lb binary and print its path.
    Build(build::Args),
    /// Show lb at work: four real servers, a real client, a weight change, a fail-over, a killed daemon.
    Demo(demo::Args),
    /// Run the tests; the last line is `N passed, N failed`.
    Test(test::Args),
    /// Measure the packet path beside bare XDP programs and the kernel, into a report with curves.
    Bench(bench::Args),
    /// Run the real lb in virtual machines with Debian's kernels; the last line is `N passed, N failed`.
    Vm(vm::Args),
    /// Feed random input to everything that reads what others write.
    Fuzz(fuzz::Args),
    /// Check format, lints and documentation.
    Lint,
    /// The demo's client, started inside the client's network namespace.
    #[command(hide = true)]
    DemoLoad(demo::load::Args),
    /// Servers and clients inside virtual machines.
    #[command(hide = true, subcommand)]
    VmGuest(vm::trio::program::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().verb {
        Verb::Setup(args) => setup::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Build(args) => build::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Demo(args) => demo::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Test(args) => test::run(&args),
        Verb::Bench(args) => bench::run(&args),
        Verb::Vm(args) => vm::run(&args),
        Verb::Fuzz(args) => fuzz::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::Lint => lint::run().map(|()| ExitCode::SUCCESS),
        Verb::DemoLoad(args) => demo::load::run(&args).map(|()| ExitCode::SUCCESS),
        Verb::VmGuest(args) => vm::trio::program::run(&args).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
