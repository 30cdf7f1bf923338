//! `lb`: parses the command line, starts the daemon or asks it, and turns the result into an exit code.

use std::{env, process::ExitCode};

use lb_userspace::{
    api::{ApiError, ErrorKind},
    cli::{self, Hooks},
    daemon,
};

fn main() -> ExitCode {
    let hooks = Hooks {
        abi: lb_common::abi::ABI_VERSION,
        detach_offline: daemon::detach,
    };
    let code = match cli::parse(env::args_os()) {
        Ok(cli) => cli::execute(cli, &hooks, |args| daemon::run(&args).map_err(to_api_error)),
        Err(code) => code,
    };
    ExitCode::from(code)
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
