//! `lb backend`.

use std::{net::SocketAddr, time::Duration};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    QUICK, Session,
    grid::{Cell, Grid, Kind},
    service::{is_service, no_such_service, services},
    status_page::{grouped, health_word, unserved_notes},
    values,
    view::{Tone, View},
};
use crate::{
    api::{ApiError, BackendChange, BackendReport, Request, ServiceReport},
    model::{AdminState, Backend, endpoint_name},
};

const NAMES: &str = "\
SERVICE is a name, ADDRESS:PORT/PROTOCOL, or '*' for every service that has the
backend. BACKEND is a name or ADDRESS:PORT.

";

/// `lb backend`.
#[derive(Debug, Clone, Subcommand)]
pub enum BackendCommand {
    /// List backends with their state and next hop
    List {
        /// Only this service's
        service: Option<String>,
    },
    /// Add a backend to a service
    #[command(after_help = "\
Examples:
  lb backend add web 10.0.0.11:8080
  lb backend add web 10.0.0.12:8080 --name web-2 --weight 5
  lb backend add web [2001:db8::9]:8080 --backup")]
    Add(AddArgs),
    /// Change a backend's weight, tier or limit
    #[command(override_usage = "lb backend set [OPTIONS] <SERVICE> <BACKEND>", after_help = format!("{NAMES}\
Examples:
  lb backend set web web-1 --weight 10     from the next new flow on
  lb backend set web web-2 --weight 0      takes no new flows
  lb backend set '*' 10.0.0.11:80 --tier 1"))]
    Set(SetArgs),
    /// Remove a backend; its flows are treated as on-down says
    Remove(Which),
    /// Let a backend take new flows while it is healthy
    #[command(after_help = format!("{NAMES}Example:\n  lb backend enable web web-1"))]
    Enable(Which),
    /// Take a backend out; its flows are treated as on-down says
    #[command(after_help = format!("{NAMES}Example:\n  lb backend disable web web-1"))]
    Disable(Which),
    /// Give a backend no new flows; those that it has go on
    #[command(after_help = format!("{NAMES}\
Example: before maintenance
  lb backend drain '*' 10.0.0.11:80
  lb flows --backend 10.0.0.11:80     until there are none
  lb backend drain web web-1 --timeout 10m   then on-down applies"))]
    Drain(DrainArgs),
}

/// A backend of a service.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Its service
    service: String,
    /// Its name or address
    backend: String,
}

/// Options of `lb backend drain`.
#[derive(Debug, Clone, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    which: Which,

    /// After that on-down applies [default: the service's]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    timeout: Option<Duration>,
}

/// Options of `lb backend add`.
#[derive(Debug, Clone, Args)]
pub struct AddArgs {
    /// Service that it joins
    service: String,

    /// Where connections go [default port: the client's]
    #[arg(value_name = "ADDRESS[:PORT]", value_parser = values::backend_endpoint)]
    address: SocketAddr,

    /// Name, unique in the service [default: its address]
    #[arg(long)]
    name: Option<String>,

    /// Share of new flows, to 256; 0: none
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = values::weight)]
    weight: u16,

    /// Serve only while no other can: same as --tier 1
    #[arg(long, conflicts_with = "tier")]
    backup: bool,

    /// Serve only while lower tiers cannot
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = values::tier)]
    tier: u8,

    /// Active flows at most; 0 sets no limit
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = values::connections)]
    max_connections: u32,
}

/// Options of `lb backend set`.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = true, args = ["weight", "tier", "max_connections"])]
pub struct SetArgs {
    #[command(flatten)]
    which: Which,

    /// Share of new flows, 0 to 256; 0 takes none
    #[arg(long, value_name = "N", value_parser = values::weight)]
    weight: Option<u16>,

    /// 0 serves first
    #[arg(long, value_name = "N", value_parser = values::tier)]
    tier: Option<u8>,

    /// Active flows at most; 0 sets no limit
    #[arg(long, value_name = "N", value_parser = values::connections)]
    max_connections: Option<u32>,
}

impl BackendCommand {
    pub(super) fn run(&self, session: &Session) -> Result<String, ApiError> {
        if let Self::List { service } = self {
            list(session, service.as_deref())
        } else {
            session.change(&self.request())
        }
    }

    pub(super) fn request(&self) -> Request {
        match self {
            Self::List { .. } => Request::ServiceList,
            Self::Add(args) => Request::BackendAdd {
                service: args.service.clone(),
                backend: args.backend(),
            },
            Self::Set(args) => args.which.set(BackendChange {
                weight: args.weight,
                tier: args.tier,
                max_connections: args.max_connections,
                ..BackendChange::default()
            }),
            Self::Remove(which) => Request::BackendRemove {
                service: which.service.clone(),
                backend: which.backend.clone(),
            },
            Self::Enable(which) => which.set_admin(AdminState::Enabled),
            Self::Disable(which) => which.set_admin(AdminState::Disabled),
            Self::Drain(args) => args.which.set(BackendChange {
                admin: Some(AdminState::Drain),
                drain_timeout: args.timeout,
                ..BackendChange::default()
            }),
        }
    }
}

fn list(session: &Session, wanted: Option<&str>) -> Result<String, ApiError> {
    let mut found = services(session, QUICK)?;
    if let Some(wanted) = wanted {
        found.retain(|service| is_service(service, wanted));
        if found.is_empty() {
            return Err(no_such_service(wanted));
        }
    }
    session.view.show(&rows(&found), |view| text(&found, view))
}

impl Which {
    fn set(&self, change: BackendChange) -> Request {
        Request::BackendSet {
            service: self.service.clone(),
            backend: self.backend.clone(),
            change,
        }
    }

    fn set_admin(&self, admin: AdminState) -> Request {
        self.set(BackendChange {
            admin: Some(admin),
            ..BackendChange::default()
        })
    }
}

impl AddArgs {
    fn backend(&self) -> Backend {
        let mut backend = Backend::new(self.address);
        if let Some(name) = &self.name {
            name.clone_into(&mut backend.name);
        }
        backend.weight = self.weight;
        backend.max_connections = Some(self.max_connections).filter(|n| *n > 0);
        backend.tier = if self.backup { 1 } else { self.tier };
        backend
    }
}

/// What `lb backend list --json` prints.
#[derive(Debug, Serialize)]
struct Row<'a> {
    service: &'a str,
    #[serde(flatten)]
    backend: &'a BackendReport,
}

fn rows(services: &[ServiceReport]) -> Vec<Row<'_>> {
    services.iter().flat_map(rows_of).collect()
}

fn rows_of(service: &ServiceReport) -> impl Iterator<Item = Row<'_>> {
    let row = |backend| Row {
        service: &service.name,
        backend,
    };
    service.backends.iter().map(row)
}

pub(super) fn text(services: &[ServiceReport], view: &View) -> String {
    let sections: Vec<_> = services.iter().map(|service| section(service, view)).collect();
    if sections.is_empty() {
        return "No services. Add one: lb service add --help\n".to_owned();
    }
    sections.join("\n")
}

fn section(service: &ServiceReport, view: &View) -> String {
    let mut shown = view.paragraph(Tone::Title, 0, &format!("{} {}", service.name, service.address));
    if service.backends.is_empty() {
        shown.push_str(&view.paragraph(Tone::Warn, 2, "no backends"));
    }
    let mut grid = Grid::new(
        2,
        [
            ("BACKEND", Kind::Text),
            ("ADDRESS", Kind::Text),
            ("WEIGHT", Kind::Number),
            ("TIER", Kind::Number),
            ("ADMIN", Kind::Text),
            ("HEALTH", Kind::Text),
            ("ROTATION", Kind::Text),
        ],
    )
    .indented(2);
    for backend in &service.backends {
        let (word, tone) = health_word(backend.health.state);
        grid.row([
            backend.name.as_str().into(),
            endpoint_name(backend.address).into(),
            backend.weight.to_string().into(),
            backend.tier.to_string().into(),
            backend.admin.to_string().into(),
            Cell::toned(word, tone),
            if backend.in_rotation { "yes" } else { "no" }.into(),
        ]);
    }
    shown.push_str(&grid.render(view));
    shown.push_str(&unserved_notes(service, view));
    let hops = service
        .backends
        .iter()
        .filter_map(|b| Some((b.next_hop.as_deref()?, b.name.as_str())));
    for (hop, names) in grouped(hops) {
        shown.push_str(&view.paragraph(Tone::Dim, 2, &format!("via {hop}: {names}")));
    }
    shown
}
