//! `cargo xtask build`: the `lb` binary, with the packet path inside it.

use std::path::PathBuf;

use anyhow::Result;

use crate::{
    setup::{self, Scope},
    shell,
};

/// Arguments of `build`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Build quickly and run slowly, with debug assertions: ./target/debug/lb.
    #[arg(long, conflicts_with = "release")]
    debug: bool,
    /// Build ./target/release/lb, which is the default.
    #[arg(long)]
    release: bool,
}

/// How the binary is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build; what tests use.
    Debug,
    /// What operators use.
    Release,
}

/// Builds and prints the path of the result.
///
/// # Errors
/// When the machine lacks something or the build fails.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(Scope::Build)?;
    let profile = if args.debug { Profile::Debug } else { Profile::Release };
    println!("{}", binary(profile)?.display());
    Ok(())
}

/// Builds `lb` and returns where it is.
///
/// # Errors
/// When the build fails.
pub(crate) fn binary(profile: Profile) -> Result<PathBuf> {
    executable("lb-userspace", "lb", profile)
}

/// Builds `lb-bench` and returns where it is.
///
/// # Errors
/// When the build fails.
pub(crate) fn bench(profile: Profile) -> Result<PathBuf> {
    executable("lb-tests", "lb-bench", profile)
}

fn executable(package: &str, name: &str, profile: Profile) -> Result<PathBuf> {
    let mut cargo = shell::cargo()?;
    cargo.args(["build", "--package", package, "--bin", name]);
    let directory = match profile {
        Profile::Debug => "debug",
        Profile::Release => {
            cargo.arg("--release");
            "release"
        }
    };
    shell::run(&mut cargo)?;
    Ok(shell::target_directory()?.join(directory).join(name))
}
