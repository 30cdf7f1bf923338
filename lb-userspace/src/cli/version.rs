//! `lb version`: this command's version, and the daemon's where one runs.

use clap::Args;
use serde::Serialize;

use super::{Hooks, QUICK, Session, misfit};
use crate::api::{ApiError, Reply, Request, VersionReport};

/// Options of `lb version`.
#[derive(Debug, Clone, Args)]
pub struct VersionArgs {}

/// What `lb version --json` prints.
#[derive(Debug, Serialize)]
struct Versions {
    client: VersionReport,
    daemon: Option<VersionReport>,
    /// Why the daemon's is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon_error: Option<ApiError>,
}

impl VersionArgs {
    #[expect(clippy::unused_self, reason = "every verb is called alike")]
    pub(super) fn run(&self, session: &Session, hooks: &Hooks) -> Result<String, ApiError> {
        let client = VersionReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: hooks.abi,
        };
        let (daemon, daemon_error) = match session.client.call(&Request::Version, QUICK) {
            Ok(Reply::Version { version }) => (Some(version), None),
            Ok(other) => (None, Some(misfit(&other))),
            Err(error) => (None, Some(error)),
        };
        let versions = Versions {
            client,
            daemon,
            daemon_error,
        };
        session.view.show(&versions, |_| versions.text())
    }
}

impl Versions {
    fn text(&self) -> String {
        let Self { client, daemon, .. } = self;
        let mut text = format!("lb      {} (map layout {})\n", client.version, client.abi);
        match (daemon, &self.daemon_error) {
            (Some(daemon), _) => {
                text.push_str(&format!("daemon  {} (map layout {})\n", daemon.version, daemon.abi));
                if daemon != client {
                    text.push_str("The daemon runs another version than this command: restart it with lb run.\n");
                }
            }
            (None, Some(error)) => text.push_str(&format!("daemon  unknown: {}\n", error.message)),
            (None, None) => {}
        }
        text
    }
}
