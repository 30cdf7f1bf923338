//! `lb bench`: load for one's own installation. It does not talk to the daemon.

mod closed;
mod open;
mod show;
mod sink;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use super::{
    values,
    view::{self, View},
};
use crate::{
    api::{ApiError, ErrorKind},
    bench::{
        plot,
        progress::Progress,
        report::{Outcome, Plan},
        stop::Stop,
    },
};

/// How long a run lasts if nothing else is said.
pub(super) const DEFAULT_DURATION: Duration = Duration::from_secs(10);
/// The longest run that can be asked for, and the end of one that is limited by its count.
pub(super) const MAX_DURATION: Duration = Duration::from_hours(24);

/// The verbs of `lb bench`.
#[derive(Debug, Clone, Subcommand)]
pub enum BenchCommand {
    /// Send traffic of one kind to an address, for a bounded time
    #[command(subcommand)]
    Traffic(TrafficCommand),
    /// Count what udp, syn, ack and handshake sent, where it arrives
    Sink(sink::SinkArgs),
}

/// The kinds of traffic.
#[derive(Debug, Clone, Subcommand)]
#[command(after_help = "\
Open loop (udp, syn, ack, handshake): packets made in the kernel, at a rate that
does not wait for answers. They measure what the load balancer bears.
Closed loop (tcp, http): real connections of this host's kernel; each waits for
its answer before the next. They measure what clients see.

Load goes only by the interface and to the address that you name. The plan is
shown before the first packet, every run ends by itself, and Ctrl-C ends it
early, with its results. Load only what is yours. docs/load-testing.md says how
to set it up and how to read the figures.")]
pub enum TrafficCommand {
    /// Send UDP datagrams
    Udp(Box<open::UdpArgs>),
    /// Send TCP connection requests, and never go on with them
    Syn(Box<open::SynArgs>),
    /// Send TCP segments of connections that were opened before
    Ack(Box<open::AckArgs>),
    /// Do one TCP handshake for each flow
    Handshake(Box<open::HandshakeArgs>),
    /// Open TCP connections: how many a second, how fast
    Tcp(Box<closed::TcpArgs>),
    /// Ask over HTTP/1.1: how many a second, how fast
    Http(Box<closed::HttpArgs>),
}

impl BenchCommand {
    pub(super) fn run(&self, view: &View) -> Result<(), ApiError> {
        match self {
            Self::Sink(args) => args.run(view),
            Self::Traffic(TrafficCommand::Udp(args)) => args.run(view),
            Self::Traffic(TrafficCommand::Syn(args)) => args.run(view),
            Self::Traffic(TrafficCommand::Ack(args)) => args.run(view),
            Self::Traffic(TrafficCommand::Handshake(args)) => args.run(view),
            Self::Traffic(TrafficCommand::Tcp(args)) => args.run(view),
            Self::Traffic(TrafficCommand::Http(args)) => args.run(view),
        }
    }
}

/// What becomes of the results, besides the summary.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Results")]
struct OutputArgs {
    /// Draw the results into this file, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

impl OutputArgs {
    /// A run from its plan to its results: shows the plan, lets `work` do it, shows and draws the outcome.
    fn conduct(
        &self,
        view: &View,
        plan: &Plan,
        work: impl FnOnce(&Stop, &mut Progress) -> Result<Outcome, ApiError>,
    ) -> Result<(), ApiError> {
        let stop = Stop::on_signals().map_err(|error| ApiError {
            kind: ErrorKind::System,
            message: format!("cannot catch Ctrl-C: {error}"),
        })?;
        if !view.json {
            view::print(&show::plan(plan, view))?;
        }
        let mut progress = Progress::on_stderr(view.json);
        let outcome = work(&stop, &mut progress)?;
        progress.finish();
        view::print(&view.show(&outcome.to_json(), |view| show::outcome(&outcome, view))?)?;
        self.draw(view, &outcome)
    }

    fn draw(&self, view: &View, outcome: &Outcome) -> Result<(), ApiError> {
        let Some(path) = &self.plot else { return Ok(()) };
        plot::draw(path, outcome).map_err(|error| ApiError {
            kind: ErrorKind::System,
            message: error.to_string(),
        })?;
        if !view.json {
            view::print(&format!("\nPlot: {}\n", path.display()))?;
        }
        Ok(())
    }
}

/// A duration that a run may last.
fn run_duration(text: &str) -> Result<Duration, String> {
    values::duration(text).and_then(|duration| {
        if duration <= MAX_DURATION {
            Ok(duration)
        } else {
            Err("must be 24h at most".to_owned())
        }
    })
}
