//! `lb-bench`: measures the packet path against bare XDP programs and nftables, in network namespaces of its own.
//!
//! Absolute rates depend on the machine and on what else it does; ratios within one run hold. A figure is void, and the
//! exit code that of failure, when the counters say that packets did not go the way that was to be measured.

mod bed;
mod figure;
mod flip;
mod http;
mod instructions;
mod interrupt;
mod machine;
mod memory;
mod opening;
mod throughput;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use figure::Report;
use serde_json::json;

/// Measure the packet path.
#[derive(Debug, Parser)]
#[command(name = "lb-bench")]
struct Cli {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Debug, Subcommand)]
enum Measurement {
    /// Speed beside that of peers and targets.
    Peers(Peers),
    /// Instructions per packet of the packet path and its peers, as JSON lines, in a virtual machine whose clock counts
    /// instructions.
    Instructions {
        /// Only paths whose name contains this.
        #[arg(default_value = "")]
        filter: String,
    },
}

#[derive(Debug, clap::Args)]
struct Peers {
    /// Fewer rounds and no run of a million flows: under two minutes.
    #[arg(long)]
    quick: bool,
    /// Also write the figures to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().measurement {
        Measurement::Peers(args) => run(&args),
        Measurement::Instructions { filter } => instructions::run(&filter),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Peers) -> Result<ExitCode> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("measuring needs root, for namespaces and BPF: run it with sudo");
    }
    interrupt::listen()?;
    lb_tests::leftovers::sweep();
    let before = machine::describe();
    println!("{before}\n");

    let mut report = Report::default();
    throughput::measure(args.quick, &mut report)?;
    opening::measure(args.quick, &mut report)?;
    flip::measure(&mut report)?;
    memory::measure(&mut report)?;
    http::measure(args.quick, &mut report)?;

    let load = machine::load();
    println!("\nload average at the end: {load}");
    report.summarize();
    if let Some(path) = &args.json {
        let all = json!({ "machine": before.to_json(), "load_at_end": load, "quick": args.quick, "figures": report.to_json() });
        fs::write(path, format!("{all:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(if report.has_void() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
