//! `cargo xtask bench`: the packet path's speed beside that of bare XDP programs and the kernel's own ways, and HTTP through
//! `lb` beside HTTP through others.

use std::{
    path::{self, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Profile},
    setup::{self, Scope},
    shell,
};

/// Arguments of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The parts that have targets, with fewer rounds and points: eight
    /// minutes at most, where everything takes up to 35.
    #[arg(long)]
    quick: bool,
    /// Only some parts: instructions, main, new, flows, http, many-services,
    /// flood, flip, memory, cores, schedulers, scale, control, sweep,
    /// services, backends, size.
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    only: Vec<String>,
    /// Where the report goes: report.md, report.json and a picture for each group of curves [default: TARGET/bench].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also write the figures to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also fill the tables of docs/performance.md and README.md, and draw
    /// the pictures of the former. Wants a quiet machine.
    #[arg(long, conflicts_with_all = ["quick", "only"])]
    docs: bool,
}

/// Builds and runs `lb-bench`. The exit code is that of failure when a figure is void or a part came to no end, not when a
/// target is missed: that depends on the machine and on what else it does.
///
/// # Errors
/// When the machine lacks something, the build fails, or this is not root.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Scope::Bench)?;
    if !shell::is_root() {
        bail!("measuring needs root, for namespaces and BPF: sudo -E env \"PATH=$PATH\" cargo xtask bench");
    }
    let binary = build::binary(Profile::Release)?;
    let mut bench = shell::command(&build::bench(Profile::Release)?.to_string_lossy());
    bench.arg("peers").env("LB_BIN", binary).arg("--out");
    bench.arg(match &args.out {
        Some(directory) => path::absolute(directory)?,
        None => shell::target_directory()?.join("bench"),
    });
    if args.quick {
        bench.arg("--quick");
    }
    if !args.only.is_empty() {
        bench.arg("--only").arg(args.only.join(","));
    }
    if let Some(file) = &args.json {
        bench.arg("--json").arg(path::absolute(file)?);
    }
    if args.docs {
        bench.arg("--docs").arg(shell::workspace()?);
    }
    let status = bench.status().context("cannot start lb-bench")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
