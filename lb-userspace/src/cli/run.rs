//! `lb run`: what the daemon is started with. The daemon itself is not the command line's business.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Options of `lb run`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = "\
The instance name and the control socket stand in the configuration.
At its end (SIGTERM, Ctrl-C) the daemon leaves the packet path running, so that
the next lb run adopts it without a lost packet. lb detach takes it down.
Levels: error, warn, info, debug, trace; for the packet path also off, which
costs nothing; for the daemon also a filter such as info,lb_userspace=debug.

Examples:
  lb run --config /etc/lb/lb.toml
  lb run --config lb.toml --check
  lb run --config lb.toml --detach-on-exit --log debug")]
pub struct RunArgs {
    /// Configuration, in TOML
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,

    /// Validate the configuration, touch nothing, exit
    #[arg(long)]
    pub check: bool,

    /// Take the packet path down when the daemon ends
    #[arg(long)]
    pub detach_on_exit: bool,

    /// Drop what lb commands changed; use the file
    #[arg(long)]
    pub forget_runtime_changes: bool,

    /// What the packet path logs
    #[arg(long, value_name = "LEVEL", value_enum, hide_possible_values = true, default_value_t)]
    pub datapath_log: DatapathLog,

    /// What the daemon logs
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: String,
}

/// What the packet path logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum DatapathLog {
    /// Nothing: the verifier removes the code.
    #[default]
    Off,
    /// What should not happen.
    Error,
    /// Drops that hurt.
    Warn,
    /// Flows that open and close.
    Info,
    /// Every decision about a new flow.
    Debug,
    /// Every packet.
    Trace,
}

impl DatapathLog {
    /// As the packet path counts: 0 says nothing, 5 everything.
    #[must_use]
    pub const fn level(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Error => 1,
            Self::Warn => 2,
            Self::Info => 3,
            Self::Debug => 4,
            Self::Trace => 5,
        }
    }
}
