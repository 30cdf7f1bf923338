//! `lb status`.

use std::{
    io::{self, IsTerminal},
    thread,
    time::Duration,
};

use clap::Args;

use super::{QUICK, Session, misfit, status_page, values, view};
use crate::api::{ApiError, Reply, Request};

/// To the upper left corner, with the screen cleared.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

/// Options of `lb status`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The first line is the verdict: OK, DEGRADED (new flows are served, but something
that should work does not) or DOWN (some service refuses new flows).

Examples:
  lb status
  lb status --watch 2
  lb status --json | jq -r '.services[] | select(.active_tier == null) | .name'")]
pub struct StatusArgs {
    /// Show it again every so many seconds, until Ctrl-C
    #[arg(long, value_name = "SECONDS", value_parser = values::pause)]
    watch: Option<Duration>,
}

impl StatusArgs {
    pub(super) fn run(&self, session: &Session) -> Result<(), ApiError> {
        match self.watch {
            None => view::print(&page(session)?).map(drop),
            Some(pause) => watch(session, pause),
        }
    }
}

/// Ends by Ctrl-C, or when nobody reads any more. A daemon that is away is shown as such: it may come back.
fn watch(session: &Session, pause: Duration) -> Result<(), ApiError> {
    let redraw = !session.view.json && io::stdout().is_terminal();
    let mut session = Session {
        client: session.client.clone(),
        view: session.view,
    };
    loop {
        session.view.refresh();
        let shown = match page(&session) {
            Ok(page) => page,
            Err(error) if session.view.json => {
                format!("{}\n", serde_json::json!({ "error": error }))
            }
            Err(error) => format!(
                "{}: {}\n",
                session.view.paint(view::Tone::Bad, "UNKNOWN"),
                error.message
            ),
        };
        let text = if redraw {
            format!("{CLEAR}{shown}")
        } else {
            format!("{shown}\n")
        };
        if !view::print(&text)? {
            return Ok(());
        }
        thread::sleep(pause);
    }
}

fn page(session: &Session) -> Result<String, ApiError> {
    let reply = session.client.call(&Request::Status, QUICK)?;
    let Reply::Status { status } = reply else {
        return Err(misfit(&reply));
    };
    session.view.show(&status, |view| status_page::text(&status, view))
}
