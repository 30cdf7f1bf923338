//! `lb bench traffic tcp` and `http`: closed-loop load.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use clap::Args;

use super::{
    super::{values, view::View},
    DEFAULT_DURATION, OutputArgs, run_duration,
};
use crate::{
    api::{ApiError, ErrorKind},
    bench::report::{Plan, Value},
};

/// Options that both kinds have.
#[derive(Debug, Clone, Args)]
struct LoadArgs {
    /// Interface by which to send
    #[arg(long, value_name = "NAME")]
    interface: String,

    /// Address and port to send to
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = values::endpoint)]
    to: SocketAddr,

    /// Own addresses to send from, for more ports [default: the kernel's choice]
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    source: Vec<IpAddr>,

    /// End after this time [default: 10s, or none with --requests]
    #[arg(long, value_name = "DURATION", value_parser = run_duration)]
    duration: Option<Duration>,

    #[command(flatten)]
    output: OutputArgs,
}

/// Options of `lb bench traffic tcp`.
#[derive(Debug, Clone, Args)]
pub struct TcpArgs {
    #[command(flatten)]
    load: LoadArgs,
}

/// Options of `lb bench traffic http`.
#[derive(Debug, Clone, Args)]
pub struct HttpArgs {
    #[command(flatten)]
    load: LoadArgs,
}

impl TcpArgs {
    pub(super) fn run(&self, view: &View) -> Result<(), ApiError> {
        self.load.run(&format!("TCP connections to {}", self.load.to), view)
    }
}

impl HttpArgs {
    pub(super) fn run(&self, view: &View) -> Result<(), ApiError> {
        self.load.run(&format!("HTTP requests to {}", self.load.to), view)
    }
}

impl LoadArgs {
    fn run(&self, title: &str, view: &View) -> Result<(), ApiError> {
        let plan = Plan::new(title)
            .line("interface", Value::Text(self.interface.clone()))
            .line("duration", Value::Time(self.duration.unwrap_or(DEFAULT_DURATION)));
        self.output.conduct(view, &plan, |_, _| {
            Err(ApiError {
                kind: ErrorKind::System,
                message: "closed-loop traffic is not part of this version".to_owned(),
            })
        })
    }
}
