//! `lb flows`.

use clap::Args;
use serde::Serialize;

use super::{
    SLOW, Session,
    grid::{Grid, Kind},
    human, misfit,
    view::{Tone, View},
};
use crate::api::{ApiError, FlowReport, Reply, Request};

/// Most flows that one answer can carry.
const MAX_LIMIT: i64 = 100_000;

/// Options of `lb flows`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  lb flows
  lb flows --service web --backend web-3     what a drained one still has
  lb flows --limit 100000 --json")]
pub struct FlowsArgs {
    /// Only flows of this service
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,

    /// Only flows to this backend
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,

    /// Show at most so many, up to 100000
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=MAX_LIMIT))]
    limit: u32,
}

/// What `lb flows --json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Flows {
    pub(super) flows: Vec<FlowReport>,
    pub(super) total: u64,
}

impl FlowsArgs {
    pub(super) fn run(&self, session: &Session) -> Result<String, ApiError> {
        let reply = session.client.call(&self.request(), SLOW)?;
        let Reply::Flows { flows, total } = reply else {
            return Err(misfit(&reply));
        };
        let answer = Flows { flows, total };
        session.view.show(&answer, |view| text(&answer, view))
    }

    pub(super) fn request(&self) -> Request {
        Request::Flows {
            limit: usize::try_from(self.limit).unwrap_or(usize::MAX),
            service: self.service.clone(),
            backend: self.backend.clone(),
        }
    }
}

pub(super) fn text(answer: &Flows, view: &View) -> String {
    let mut grid = Grid::new(
        2,
        [
            ("CLIENT", Kind::Text),
            ("VIP", Kind::Text),
            ("BACKEND", Kind::Text),
            ("PHASE", Kind::Text),
            ("AGE", Kind::Number),
            ("EXPIRES", Kind::Number),
        ],
    );
    for flow in &answer.flows {
        grid.row([
            flow.client.to_string().into(),
            format!("{}/{}", flow.vip, flow.protocol).into(),
            flow.backend.as_str().into(),
            flow.phase.as_str().into(),
            human::span(flow.age_ms / 1000).into(),
            human::span(flow.expires_in_ms.div_ceil(1000)).into(),
        ]);
    }
    let shown = answer.flows.len();
    let total = match answer.total {
        0 => "No flows.".to_owned(),
        total if total > shown as u64 => format!("{shown} of {total} flows; --limit N shows more."),
        1 => "1 flow.".to_owned(),
        total => format!("{total} flows."),
    };
    format!("{}{}", grid.render(view), view.paragraph(Tone::Dim, 0, &total))
}
