//! `lb`: parses the command line, starts the daemon or asks it, and turns the result into an exit code.

use std::{env, path::Path, process::ExitCode};

use anyhow::{Context, bail};
use lb_userspace::{
    api::{ApiError, ErrorKind},
    cli::{self, Hooks, RunArgs},
};

fn main() -> ExitCode {
    let hooks = Hooks {
        abi: lb_common::abi::ABI_VERSION,
        detach_offline,
    };
    let code = match cli::parse(env::args_os()) {
        Ok(cli) => cli::execute(cli, &hooks, |args| run(args).map_err(to_api_error)),
        Err(code) => code,
    };
    ExitCode::from(code)
}

/// Stands where the daemon will be called.
fn run(args: RunArgs) -> anyhow::Result<()> {
    let path = args.config.display().to_string();
    std::fs::read_to_string(&args.config).with_context(|| format!("cannot read {path}"))?;
    bail!("this build has no daemon")
}

/// Stands where the packet path's clean-up will be called.
fn detach_offline(_instance: &str, _bpffs: &Path) -> Result<Vec<String>, ApiError> {
    Ok(Vec::new())
}

/// An error that already says its kind keeps it; any other is the system's.
fn to_api_error(error: anyhow::Error) -> ApiError {
    match error.downcast::<ApiError>() {
        Ok(told) => told,
        Err(error) => ApiError {
            kind: ErrorKind::System,
            message: format!("{error:#}"),
        },
    }
}
