//! The command line: one file a verb. Verbs ask the daemon over its control socket and show the answer as a table or as JSON.

mod attach;
mod backend;
mod backend_setup;
mod backend_test;
mod bench;
mod detach;
mod doctor;
mod flows;
mod grid;
pub(crate) mod human;
pub mod run;
mod service;
mod service_page;
mod status;
mod status_page;
mod values;
mod verdict;
mod version;
mod view;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod tests;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind as ClapError};

pub use self::run::RunArgs;
use self::view::View;
use crate::api::{ApiError, ErrorKind, Reply, Request, client::Client};

/// Where sockets are, if the configuration does not say otherwise.
pub const RUN_DIR: &str = "/run/lb";

/// How long the daemon may take to show something.
const QUICK: Duration = Duration::from_secs(5);

/// How long the daemon may take to change something, or to walk through its flows.
const SLOW: Duration = Duration::from_secs(30);

/// lb: a layer-4 load balancer in XDP.
#[derive(Debug, Parser)]
#[command(
    name = "lb",
    max_term_width = 80,
    version,
    after_help = "\
Exit codes: 0 done, 1 the system refused, 2 wrong usage or request,
3 no such thing, 4 conflict, 5 the daemon is not there or does not answer.

Examples:
  lb run --config /etc/lb/lb.toml           start the daemon
  lb status                                 is everything served?
  lb backend drain web web-3                no new flows, old ones go on
  lb backend set web web-1 --weight 10      takes effect on the next new flow
  lb status --json | jq '.services[].name'  everything, for scripts
  lb bench traffic http --help              load for your own installation"
)]
pub struct Cli {
    /// Options of every verb.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every verb.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Control socket [default: /run/lb/INSTANCE.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Which daemon, if several run here [default: default]
    #[arg(long, global = true, value_name = "NAME", value_parser = values::instance)]
    pub instance: Option<String>,

    /// Mount point of the BPF file system
    #[arg(long, global = true, value_name = "DIR", default_value = "/sys/fs/bpf", hide = true)]
    pub bpffs: PathBuf,

    /// Print JSON, errors included
    #[arg(long, global = true)]
    pub json: bool,

    /// Colours: auto, always or never
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value_t,
        hide_possible_values = true
    )]
    pub color: ColorChoice,
}

impl Global {
    fn client(&self) -> Client {
        let instance = self.instance.clone().unwrap_or_else(|| "default".to_owned());
        let socket = self
            .socket
            .clone()
            .unwrap_or_else(|| Path::new(RUN_DIR).join(format!("{instance}.sock")));
        Client {
            socket,
            instance,
            bpffs: self.bpffs.clone(),
        }
    }
}

/// When output is coloured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The verbs.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Run the daemon
    Run(RunArgs),
    /// Show whether everything is served, and what is not
    Status(status::StatusArgs),
    /// List, add, change and remove services
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// List, add, change, drain and remove backends
    #[command(subcommand)]
    Backend(backend::BackendCommand),
    /// Set a backend up for a forwarding mode; run it there
    BackendSetup(backend_setup::BackendSetupArgs),
    /// Test from lb's host whether backends answer for their VIP
    BackendTest(backend_test::BackendTestArgs),
    /// Attach the packet path to one more interface
    Attach(attach::AttachArgs),
    /// Detach from an interface, or take everything down
    Detach(detach::DetachArgs),
    /// Look for what the host and its devices could do better
    Doctor(doctor::DoctorArgs),
    /// Show, count or end flows
    Flows(flows::FlowsArgs),
    /// Send load to your own installation, and measure it
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Show the versions of this command and of the daemon
    Version(version::VersionArgs),
}

/// What the verbs need from the rest of the program besides the daemon's answers.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Layout of the pinned maps that this program knows.
    pub abi: u32,
    /// Takes the packet path of an instance down when no daemon runs: links, pins, addresses. Arguments: instance name, mount
    /// point of the BPF file system. Returns what was removed, one phrase each; nothing to remove is no error.
    pub detach_offline: fn(&str, &Path) -> Result<Vec<String>, ApiError>,
}

/// Parses a command line. What there is to say, help or an error, is printed; the error is the exit code then.
///
/// # Errors
/// 0 after help was asked for, else 2.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, u8> {
    let args: Vec<_> = args.into_iter().collect();
    let json = args.iter().any(|arg| arg == "--json");
    try_parse(args).map_err(|error| {
        let code = u8::try_from(error.exit_code()).unwrap_or(2);
        if json && error.use_stderr() {
            let error = ApiError {
                kind: ErrorKind::Invalid,
                message: error.to_string().trim().trim_start_matches("error: ").to_owned(),
            };
            view::print_error(true, &error);
        } else {
            // Without standard output or error, the exit code has to do.
            drop(error.print());
        }
        code
    })
}

/// Whether a command line, program name first, is one that [`parse`] understands. Nothing is printed.
pub fn understands(args: impl IntoIterator<Item = OsString>) -> bool {
    try_parse(args).is_ok()
}

fn try_parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let cli = Cli::try_parse_from(args)?;
    if matches!(cli.command, Command::Run(_)) && (cli.global.socket.is_some() || cli.global.instance.is_some()) {
        return Err(Cli::command().error(
            ClapError::ArgumentConflict,
            "lb run takes the instance and the socket from its configuration: set `instance` and `socket` there",
        ));
    }
    Ok(cli)
}

/// Does what a verb asks for; returns the exit code. `run` is done by the caller's `daemon`, whose error is printed here.
pub fn execute(cli: Cli, hooks: &Hooks, daemon: impl FnOnce(RunArgs) -> Result<(), ApiError>) -> u8 {
    let json = cli.global.json;
    let done = if let Command::Run(args) = cli.command {
        daemon(args)
    } else {
        ask(&cli.command, &cli.global, hooks)
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            view::print_error(json, &error);
            error.kind.exit_code()
        }
    }
}

fn ask(command: &Command, global: &Global, hooks: &Hooks) -> Result<(), ApiError> {
    let session = Session {
        client: global.client(),
        view: View::of_stdout(global.json, global.color),
    };
    let shown = match command {
        // The caller's.
        Command::Run(_) => return Ok(()),
        Command::Status(args) => return args.run(&session),
        Command::Service(command) => command.run(&session),
        Command::Backend(command) => command.run(&session),
        Command::BackendSetup(args) => args.run(&session),
        Command::BackendTest(args) => args.run(&session),
        Command::Attach(args) => args.run(&session),
        Command::Detach(args) => args.run(&session, hooks),
        Command::Doctor(args) => args.run(&session),
        Command::Flows(args) => args.run(&session),
        // Does not talk to the daemon; shows its plan before its results.
        Command::Bench(command) => return command.run(&session.view),
        Command::Version(args) => args.run(&session, hooks),
    };
    view::print(&shown?).map(drop)
}

/// A daemon to ask, and how its answers look.
#[derive(Debug)]
struct Session {
    client: Client,
    view: View,
}

impl Session {
    /// Asks for a change, and shows the daemon's sentence about it.
    fn change(&self, request: &Request) -> Result<String, ApiError> {
        let reply = self.client.call(request, SLOW)?;
        let Reply::Done { message } = reply else {
            return Err(misfit(&reply));
        };
        self.done(&message)
    }

    /// A sentence about what was done, as every mutation ends with.
    fn done(&self, message: &str) -> Result<String, ApiError> {
        self.view
            .show(&serde_json::json!({ "message": message }), |_| message.to_owned())
    }
}

/// The daemon answered something else than what was asked.
fn misfit(reply: &Reply) -> ApiError {
    let kind = match reply {
        Reply::Done { .. } => "done",
        Reply::Status { .. } => "status",
        Reply::Version { .. } => "version",
        Reply::Services { .. } => "services",
        Reply::Flows { .. } => "flows",
        Reply::FlowCounts { .. } => "flow-counts",
        Reply::FlowsKilled { .. } => "flows-killed",
        Reply::Error { error } => return error.clone(),
    };
    ApiError {
        kind: ErrorKind::System,
        message: format!("the daemon's answer (`{kind}`) does not fit the question: compare versions with lb version"),
    }
}
