//! `lb detach`: works without a daemon too, so that a host can always be cleaned.

use clap::Args;

use super::{Hooks, SLOW, Session, misfit};
use crate::api::{ApiError, Reply, Request, client::exchange};

/// Options of `lb detach`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Without IFACE everything is taken down: the packet path, its pins, the addresses
that lb added, and the daemon. This also works when no daemon runs.

Examples:
  lb detach eth1     one interface; the others go on
  lb detach          everything: established connections end")]
pub struct DetachArgs {
    /// Network interface; without it, everything
    #[arg(value_name = "IFACE")]
    interface: Option<String>,
}

impl DetachArgs {
    pub(super) fn run(&self, session: &Session, hooks: &Hooks) -> Result<String, ApiError> {
        match &self.interface {
            Some(interface) => session.change(&Request::Detach {
                interface: interface.clone(),
            }),
            None => detach_all(session, hooks),
        }
    }
}

fn detach_all(session: &Session, hooks: &Hooks) -> Result<String, ApiError> {
    let client = &session.client;
    match exchange(&client.socket, &Request::Shutdown, SLOW) {
        Ok(Reply::Done { message }) => session.done(&message),
        Ok(other) => Err(misfit(&other)),
        // Only when it is certain that no daemon would be surprised.
        Err(error) if error.is_absent() => {
            let removed = (hooks.detach_offline)(&client.instance, &client.bpffs)?;
            session.done(&offline_message(&client.instance, &removed))
        }
        Err(error) => Err(client.explain(&error)),
    }
}

fn offline_message(instance: &str, removed: &[String]) -> String {
    if removed.is_empty() {
        format!("Instance `{instance}`: no daemon runs and nothing is attached.")
    } else {
        format!("Instance `{instance}`: no daemon runs; removed {}.", removed.join(", "))
    }
}
