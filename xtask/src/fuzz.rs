//! `cargo xtask fuzz`: random input, guided by coverage, for everything that reads what others write.

use std::{fs, num::NonZeroU32, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    setup::{self, Scope},
    shell,
};

/// What to fuzz, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Target, as in fuzz/fuzz_targets; all of them unless given
    target: Option<String>,
    /// Seconds for each target
    #[arg(long, default_value = "60", value_name = "SECONDS")]
    seconds: NonZeroU32,
}

/// Runs the targets one after the other. What made one fail is kept by cargo-fuzz, which says where.
///
/// # Errors
/// When the machine lacks something, there is no such target, or one found something.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(Scope::Build)?;
    if shell::find("cargo-fuzz").is_none() {
        bail!("cargo-fuzz is not installed: cargo install cargo-fuzz --locked");
    }
    let targets = targets()?;
    let chosen = match &args.target {
        Some(target) if targets.contains(target) => vec![target.clone()],
        Some(target) => bail!("no fuzz target `{target}`; there are: {}", targets.join(", ")),
        None => targets,
    };
    for target in chosen {
        shell::run(&mut fuzz(&target, args.seconds)?)?;
    }
    Ok(())
}

fn targets() -> Result<Vec<String>> {
    let directory = shell::workspace()?.join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let stem = |entry: fs::DirEntry| entry.path().file_stem()?.to_str().map(str::to_owned);
    let mut targets: Vec<String> = entries.filter_map(Result::ok).filter_map(stem).collect();
    targets.sort();
    Ok(targets)
}

/// The pinned compiler is a stable one; it instruments only when told to act as its own bootstrap. No sanitizer: there is no
/// unsafe code in what is fuzzed, and sanitizers want a standard library of their own.
fn fuzz(target: &str, seconds: NonZeroU32) -> Result<Command> {
    let mut cargo = shell::cargo()?;
    let directory = shell::workspace()?.join("fuzz");
    let (corpus, seeds) = (format!("corpus/{target}"), format!("seeds/{target}"));
    fs::create_dir_all(directory.join(&corpus)).context("cannot make room for the corpus")?;
    cargo.args(["fuzz", "run", "--sanitizer", "none", target, &corpus]);
    if directory.join(&seeds).exists() {
        cargo.arg(seeds);
    }
    cargo.env("RUSTC_BOOTSTRAP", "1").current_dir(directory).arg("--");
    cargo.args([
        &format!("-max_total_time={seconds}"),
        "-timeout=10",
        "-rss_limit_mb=2048",
    ]);
    Ok(cargo)
}
