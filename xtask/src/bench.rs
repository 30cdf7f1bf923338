//! `cargo xtask bench`: the packet path's speed beside that of bare XDP programs and nftables, and HTTP through `lb` beside
//! HTTP through others.

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
    /// Fewer rounds and no run of a million flows: under two minutes.
    #[arg(long)]
    quick: bool,
    /// Also write the figures to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Builds and runs `lb-bench`. The exit code is that of failure when a figure is void, not when a target is missed: that
/// depends on the machine and on what else it does.
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
    bench.arg("peers").env("LB_BIN", binary);
    if args.quick {
        bench.arg("--quick");
    }
    if let Some(file) = &args.json {
        bench.arg("--json").arg(path::absolute(file)?);
    }
    let status = bench.status().context("cannot start lb-bench")?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
