//! `lb-bench`: measures the packet path against bare XDP programs and the kernel's own ways, in network namespaces of its
//! own.
//!
//! Absolute rates depend on the machine and on what else it does; ratios within one run hold. A figure is void, and the
//! exit code that of failure, when the counters say that packets did not go the way that was to be measured.

mod bed;
mod control;
mod cores;
mod flip;
mod flood;
mod http;
mod instructions;
mod interrupt;
mod machine;
mod many_services;
mod memory;
mod parts;
mod peers;
mod report;
mod scale;
mod schedulers;
mod sweep;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use parts::{Part, Run};
use report::Report;

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
    /// The parts that have targets, with fewer rounds and points: eight minutes at most.
    #[arg(long)]
    quick: bool,
    /// Only some parts.
    #[arg(long, value_name = "PART", value_delimiter = ',', conflicts_with = "docs")]
    only: Vec<Part>,
    /// Write the report there: `report.md`, `report.json` and a picture for each group of curves.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Also write the figures to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also fill the tables of DIR/docs/performance.md and DIR/README.md, and put the pictures into DIR/docs/performance.
    #[arg(long, value_name = "DIR")]
    docs: Option<PathBuf>,
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
    let machine = machine::describe();
    println!("{machine}\nall of a chain's work on packets is done on one core");
    let watch = machine::Watch::start();

    let mut report = Report::new(args.quick);
    Run::new(args.quick, &args.only).measure(&mut report)?;

    let conditions = watch.stop(machine);
    report.write(&args.out, &conditions)?;
    report.summarize();
    println!("\n{conditions}\n{}", args.out.join("report.md").display());
    if let Some(path) = &args.json {
        report::store(path, &report.json(&conditions))?;
    }
    if let Some(directory) = &args.docs {
        report.write_docs(directory, &conditions)?;
    }
    Ok(if report.is_sound() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
