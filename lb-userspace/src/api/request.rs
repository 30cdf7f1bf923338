//! What a client may ask of the daemon, and how the daemon refuses.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::filter::FlowFilter;
use super::report::{FlowCount, FlowReport, ServiceReport, Status, VersionReport};
use crate::{
    datapath::FlowPlace,
    model::{AdminState, Backend, Interface, OnDown, Scheduler, Scheduling, Service, Timeouts},
};

/// A request. Services and backends are named as in the configuration; a service also by `VIP:PORT/PROTOCOL`,
/// a backend also by `ADDRESS:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// Everything that `lb status` shows.
    Status,
    /// Versions of the daemon and its packet path.
    Version,
    /// All services with their backends.
    ServiceList,
    /// A new service.
    ServiceAdd {
        /// The service, validated by the client and again by the daemon.
        service: Box<Service>,
    },
    /// Changes to a service.
    ServiceSet {
        /// Which.
        service: String,
        /// What.
        change: ServiceChange,
    },
    /// Removes a service; its flows end.
    ServiceRemove {
        /// Which.
        service: String,
    },
    /// A new backend.
    BackendAdd {
        /// Service that it joins.
        service: String,
        /// The backend.
        backend: Backend,
    },
    /// Changes to a backend.
    BackendSet {
        /// Its service, or `*` for every service that has it.
        service: String,
        /// Which.
        backend: String,
        /// What.
        change: BackendChange,
    },
    /// Removes a backend; its flows are treated as `on-down` says.
    BackendRemove {
        /// Its service.
        service: String,
        /// Which.
        backend: String,
    },
    /// Attaches the packet path to one more interface.
    Attach {
        /// Which, and how.
        interface: Interface,
    },
    /// Detaches the packet path from an interface.
    Detach {
        /// Kernel name.
        interface: String,
    },
    /// Detaches everything, removes pins and addresses, and ends the daemon.
    Shutdown,
    /// Flows in the tables, a page of them.
    Flows {
        /// At most so many.
        limit: usize,
        /// Which.
        filter: FlowFilter,
        /// Where the last page ended.
        from: FlowPlace,
    },
    /// How many flows there are, by service, backend and state.
    FlowCounts {
        /// Which.
        filter: FlowFilter,
    },
    /// Ends flows.
    FlowsKill {
        /// Which.
        filter: FlowFilter,
    },
}

/// Changes to a service; `None` leaves a thing as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceChange {
    /// What happens to the flows of a backend that is down.
    pub on_down: Option<OnDown>,
    /// Whether a recovered lower tier takes new flows back.
    pub failback: Option<bool>,
    /// Idle timeouts of flows.
    pub timeouts: Option<Timeouts>,
    /// How a new flow finds its backend.
    #[serde(default)]
    pub scheduler: Option<Scheduler>,
    /// What else decides where flows go.
    #[serde(default)]
    pub scheduling: Option<Scheduling>,
}

/// Changes to a backend; `None` leaves a thing as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendChange {
    /// Share of new flows, 0 to 256.
    pub weight: Option<u16>,
    /// Tier.
    pub tier: Option<u8>,
    /// Enabled, drain or disabled.
    pub admin: Option<AdminState>,
    /// How long a drain may last; `None`: as the service says.
    #[serde(default)]
    pub drain_timeout: Option<Duration>,
    /// Active flows at most; 0: any number.
    #[serde(default)]
    pub max_connections: Option<u32>,
}

/// The daemon's reply.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Done; a sentence says what changed.
    Done {
        /// For the operator.
        message: String,
    },
    /// See [`Request::Status`].
    Status {
        /// The report.
        status: Box<Status>,
    },
    /// See [`Request::Version`].
    Version {
        /// The report.
        version: VersionReport,
    },
    /// See [`Request::ServiceList`].
    Services {
        /// The report.
        services: Vec<ServiceReport>,
    },
    /// See [`Request::Flows`].
    Flows {
        /// The flows, each once (not once per direction).
        flows: Vec<FlowReport>,
        /// How many match, as far as the walk came.
        total: u64,
        /// Where the next page begins, if more were asked for than a page takes.
        next: Option<FlowPlace>,
    },
    /// See [`Request::FlowCounts`].
    FlowCounts {
        /// Flows by service, backend and state, in this order.
        counts: Vec<FlowCount>,
    },
    /// See [`Request::FlowsKill`].
    FlowsKilled {
        /// How many.
        flows: u64,
    },
    /// Refused or failed.
    Error {
        /// What is wrong, and what to do next.
        error: ApiError,
    },
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// For scripts.
    pub kind: ErrorKind,
    /// What is wrong, and what to do next.
    pub message: String,
}

/// Classes of errors; the CLI's exit codes follow them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The request itself is wrong. Exit code 2.
    Invalid,
    /// There is no such service, backend or interface. Exit code 3.
    NotFound,
    /// It exists already, or stands in the way of another. Exit code 4.
    Conflict,
    /// The daemon is not there, or does not answer. Exit code 5.
    Unreachable,
    /// The kernel or the system refused. Exit code 1.
    System,
}

impl ErrorKind {
    /// The process exit code of a CLI command that failed so.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::System => 1,
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unreachable => 5,
        }
    }
}

/// `ADDRESS:PORT` of a backend, or its name.
#[must_use]
pub fn backend_matches(backend: &Backend, wanted: &str) -> bool {
    backend.name == wanted || wanted.parse::<SocketAddr>().is_ok_and(|a| a == backend.address)
}

/// `VIP:PORT/PROTOCOL` of a service, whole or of its first port, or its name.
#[must_use]
pub fn service_matches(service: &Service, wanted: &str) -> bool {
    let by_address = || service.id.to_string() == wanted || service.address() == wanted;
    // Every address bears a protocol: names are not to cost two strings for each service that is passed over.
    service.name == wanted || (wanted.contains('/') && by_address())
}
