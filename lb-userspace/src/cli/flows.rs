//! `lb flows`.

use std::io::{self, Write};

use clap::{Args, Subcommand, builder::PossibleValuesParser};
use serde::Serialize;

use super::{
    SLOW, Session,
    grid::{Grid, Kind},
    human, misfit,
    view::{Tone, View},
};
use crate::{
    api::{ApiError, Clients, ErrorKind, FlowCount, FlowFilter, FlowReport, Reply, Request},
    datapath::FlowPlace,
};

/// Options of `lb flows`.
#[derive(Debug, Clone, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
CLIENT is ADDRESS, ADDRESS:PORT or ADDRESS/PREFIX. STATE is half-open, which
is all that are opening, or syn-seen, syn-answered, established, client-fin,
backend-fin, closing, udp-new, udp. Services with --flow-tracking moved have
flows of moved slots only.

Examples:
  lb flows
  lb flows --service web --backend web-3     what a drained one still has
  lb flows --client 198.51.100.0/24 --state half-open --count
  lb flows --limit 1000000 --json
  lb flows kill --service web --client 198.51.100.7"
)]
pub struct FlowsArgs {
    #[command(subcommand)]
    verb: Option<FlowsVerb>,

    #[command(flatten)]
    filter: FilterArgs,

    /// Say how many there are, by service, backend and state
    #[arg(long, conflicts_with = "limit")]
    count: bool,

    /// Show at most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// What else can be done with flows.
#[derive(Debug, Clone, Subcommand)]
enum FlowsVerb {
    /// End flows: TCP clients are reset at their next packet
    Kill(KillArgs),
}

/// Options of `lb flows kill`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
CLIENT and STATE are those of lb flows.

Examples:
  lb flows kill --service web --client 198.51.100.0/24
  lb flows kill --state half-open")]
struct KillArgs {
    #[command(flatten)]
    filter: FilterArgs,

    /// All flows there are
    #[arg(long)]
    all: bool,
}

/// Which flows.
#[derive(Debug, Clone, Args)]
struct FilterArgs {
    /// Only flows of this service
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,

    /// Only flows to this backend
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,

    /// Only flows of these clients (see below)
    #[arg(long, value_name = "CLIENT")]
    client: Option<Clients>,

    /// Only flows in this state (see below)
    #[arg(
        long,
        value_name = "STATE",
        value_parser = PossibleValuesParser::new(FlowFilter::states()),
        hide_possible_values = true
    )]
    state: Option<String>,
}

impl FilterArgs {
    fn filter(&self) -> FlowFilter {
        FlowFilter {
            service: self.service.clone(),
            backend: self.backend.clone(),
            client: self.client.clone(),
            state: self.state.clone(),
        }
    }
}

/// What `lb flows --json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Flows {
    pub(super) flows: Vec<FlowReport>,
    pub(super) total: u64,
}

impl FlowsArgs {
    pub(super) fn run(&self, session: &Session) -> Result<String, ApiError> {
        match &self.verb {
            Some(FlowsVerb::Kill(kill)) => kill.run(session),
            None if self.count => count(session, self.filter.filter()),
            None => self.list(session),
        }
    }

    /// The flows, page by page: none but the last is held when the next comes.
    fn list(&self, session: &Session) -> Result<String, ApiError> {
        let (mut shown, mut total, mut from) = (0, 0, FlowPlace::default());
        loop {
            let (page, next) = self.page(session, from, shown)?;
            total += page.total;
            let first = shown == 0;
            shown += page.flows.len();
            match (next, first) {
                (None, true) => return session.view.show(&page, |view| text(&page, view)),
                (None, false) => return Ok(last(&page, shown, total, &session.view)),
                (Some(place), _) => from = place,
            }
            print(&part(&page.flows, first, &session.view))?;
        }
    }

    fn page(&self, session: &Session, from: FlowPlace, shown: usize) -> Result<(Flows, Option<FlowPlace>), ApiError> {
        let reply = session.client.call(&self.request(from, shown), SLOW)?;
        let Reply::Flows { flows, total, next } = reply else {
            return Err(misfit(&reply));
        };
        Ok((Flows { flows, total }, next))
    }

    pub(super) fn request(&self, from: FlowPlace, shown: usize) -> Request {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        Request::Flows {
            limit: limit.saturating_sub(shown),
            filter: self.filter.filter(),
            from,
        }
    }
}

impl KillArgs {
    fn run(&self, session: &Session) -> Result<String, ApiError> {
        let filter = self.filter.filter();
        if filter.is_any() != self.all {
            return Err(ApiError {
                kind: ErrorKind::Invalid,
                message: "say which flows: --service, --backend, --client or --state; or --all, and no other"
                    .to_owned(),
            });
        }
        let reply = session.client.call(&Request::FlowsKill { filter }, SLOW)?;
        let Reply::FlowsKilled { flows } = reply else {
            return Err(misfit(&reply));
        };
        let text = |_: &View| match flows {
            1 => "1 flow ended".to_owned(),
            flows => format!("{flows} flows ended"),
        };
        session.view.show(&serde_json::json!({ "killed": flows }), text)
    }
}

fn count(session: &Session, filter: FlowFilter) -> Result<String, ApiError> {
    let reply = session.client.call(&Request::FlowCounts { filter }, SLOW)?;
    let Reply::FlowCounts { counts } = reply else {
        return Err(misfit(&reply));
    };
    session.view.show(&counts, |view| counts_text(&counts, view))
}

pub(super) fn counts_text(counts: &[FlowCount], view: &View) -> String {
    let columns = [
        ("SERVICE", Kind::Text),
        ("BACKEND", Kind::Text),
        ("STATE", Kind::Text),
        ("FLOWS", Kind::Number),
    ];
    let mut grid = Grid::new(2, columns);
    for count in counts {
        grid.row([
            count.service.as_str().into(),
            count.backend.as_str().into(),
            count.phase.as_str().into(),
            count.flows.to_string().into(),
        ]);
    }
    let total = match counts.iter().map(|count| count.flows).sum() {
        0 => "No flows.".to_owned(),
        1 => "1 flow.".to_owned(),
        total => format!("{total} flows."),
    };
    format!("{}{}", grid.render(view), view.paragraph(Tone::Dim, 0, &total))
}

/// A page that is not the last. In JSON, all pages are one document.
fn part(flows: &[FlowReport], first: bool, view: &View) -> String {
    if !view.json {
        return grid(flows).render(view);
    }
    let lead = if first { "{\"flows\":[\n" } else { ",\n" };
    format!("{lead}{}", objects(flows))
}

/// The last page of several.
fn last(page: &Flows, shown: usize, total: u64, view: &View) -> String {
    if view.json {
        let comma = if page.flows.is_empty() { "" } else { ",\n" };
        return format!("{comma}{}],\n\"total\":{total}}}\n", objects(&page.flows));
    }
    format!("{}{}", grid(&page.flows).render(view), summary(shown, total, view))
}

fn objects(flows: &[FlowReport]) -> String {
    let object = |flow| serde_json::to_string(flow).unwrap_or_default();
    flows.iter().map(object).collect::<Vec<_>>().join(",\n")
}

fn print(text: &str) -> Result<(), ApiError> {
    io::stdout().write_all(text.as_bytes()).map_err(|error| ApiError {
        kind: ErrorKind::System,
        message: format!("cannot write: {error}"),
    })
}

pub(super) fn text(answer: &Flows, view: &View) -> String {
    let summary = summary(answer.flows.len(), answer.total, view);
    format!("{}{summary}", grid(&answer.flows).render(view))
}

fn grid(flows: &[FlowReport]) -> Grid {
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
    for flow in flows {
        grid.row([
            flow.client.to_string().into(),
            format!("{}/{}", flow.vip, flow.protocol).into(),
            flow.backend.as_str().into(),
            flow.phase.as_str().into(),
            human::span(flow.age_ms / 1000).into(),
            human::span(flow.expires_in_ms.div_ceil(1000)).into(),
        ]);
    }
    grid
}

fn summary(shown: usize, total: u64, view: &View) -> String {
    let text = match total {
        0 => "No flows.".to_owned(),
        total if total > shown as u64 => format!("{shown} of {total} flows; --limit N shows more."),
        1 => "1 flow.".to_owned(),
        total => format!("{total} flows."),
    };
    view.paragraph(Tone::Dim, 0, &text)
}
