//! The packet path as the controller sees it. Only this room knows aya.
//!
//! [`Datapath`] is what the controller writes to and reads from; the kernel implements it, and so does an in-memory
//! fake for tests.

mod advice;
mod batch;
mod clock;
pub mod decap;
mod detach;
mod direct;
#[cfg(test)]
pub(crate) mod fake;
mod flow_cache;
mod flows;
mod kernel;
mod links;
pub mod loader;
pub mod maps;
pub mod pins;
pub mod traffic;
mod vips;

pub use flows::KernelFlowTables;
pub use kernel::{KernelDatapath, pinned_services};

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
    path::PathBuf,
    time::Duration,
};

use lb_common::{
    abi::{Backend, Previous, Rotation, Service, SlotPage},
    flow::Tick,
};
use serde::{Deserialize, Serialize};

use crate::{
    api::{ErrorKind, MapReport},
    model::{ServiceId, XdpMode},
    plan::slots::Pages,
};

/// What an attached interface runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Kernel name.
    pub interface: String,
    /// Kernel index.
    pub ifindex: u32,
    /// Native (in the driver) rather than generic.
    pub native: bool,
    /// Why the generic path is used, when it was not asked for.
    pub note: Option<String>,
}

/// Traffic counters of one backend, summed over CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackendCounters {
    /// See [`lb_common::abi::BackendStats`].
    pub packets_in: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Flows opened.
    pub opened: u64,
    /// Flows that the packet path saw end.
    pub closed: u64,
}

/// What the kernel maps hold, as far as the controller wrote it: what a new daemon adopts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Services by address, port and protocol, each that leads to one; port 0 stands for all ports that have no service.
    pub services: BTreeMap<ServiceId, Service>,
    /// Rotations of those services, by service index.
    pub rotations: BTreeMap<u32, Rotation>,
    /// What takes over from those rotations when every backend in them is full, by service index.
    pub spills: BTreeMap<u32, Rotation>,
    /// The rotations before the last change, as long as they count, by service index.
    pub previous: BTreeMap<u32, Previous>,
    /// Slot pages of the schedules that all of these refer to, by the number of the first.
    pub pages: BTreeMap<u32, Pages>,
    /// Backend entries that are not free, by index.
    pub backends: BTreeMap<u32, Backend>,
    /// Source addresses by place in the source arena, for those that backends refer to.
    pub sources: BTreeMap<u32, IpAddr>,
}

/// A flow as the sweep and `lb flows` see it: the entry of the client's direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowEntry {
    /// Client address and port.
    pub client: SocketAddr,
    /// VIP and port.
    pub vip: SocketAddr,
    /// Source that the backend sees.
    pub source: SocketAddr,
    /// Backend address and port.
    pub backend_address: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Backend index.
    pub backend: u32,
    /// Phase.
    pub phase: lb_common::flow::Phase,
    /// When it was made.
    pub opened: Tick,
    /// When it expires if nothing comes.
    pub expires: Tick,
}

/// Result of one sweep over the flow tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Live flows per backend index, phase [`lb_common::flow::Phase::CLOSING`] not counted.
    pub active: BTreeMap<u32, u64>,
    /// All unexpired flows per backend index, closing ones counted: an index is free for reuse only when it has none.
    pub present: BTreeMap<u32, u64>,
    /// Established flows (entries of the client's direction) of IPv4 and of IPv6; and all those between the two.
    pub flows: [u64; 3],
    /// Half-open ones.
    pub half_open: [u64; 2],
    /// Expired flows that were removed.
    pub expired: u64,
    /// Entries that were read.
    pub entries: u64,
    /// Processor time that it took.
    pub cpu: Duration,
}

/// Where a walk over the flow tables goes on. The default is the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowPlace {
    /// How many tables are done.
    pub table: usize,
    /// The place in the next one, as the kernel gave it.
    pub bucket: Option<u32>,
}

/// Errors of the packet path; each says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// An interface does not exist.
    #[error("no interface `{0}`: `ip link` lists those there are")]
    NoInterface(String),
    /// The driver has no native XDP and native was demanded.
    #[error("{interface}: {reason}; set xdp = \"auto\" or \"generic\" to use the slower generic path")]
    NoNativeXdp {
        /// Interface.
        interface: String,
        /// The kernel's word.
        reason: String,
    },
    /// Another XDP program holds the interface.
    #[error(
        "{interface} already has an XDP program that is not lb's (`ip link show {interface}` shows its id); detach it first"
    )]
    InterfaceBusy {
        /// Interface.
        interface: String,
    },
    /// Another XDP program, which may be lb's, is where the load generator or its sink wants to be.
    #[error(
        "{interface} already has an XDP program (`ip link show {interface}` shows its id), which stays; use another interface, or detach it first (`lb detach` if it is lb's)"
    )]
    InterfaceInUse {
        /// Interface.
        interface: String,
    },
    /// The BPF file system is not mounted.
    #[error("{0} is not a mounted BPF file system: mount -t bpf bpf {0}")]
    NoBpffs(PathBuf),
    /// Pins of another ABI version are in the way.
    #[error(
        "{path} holds a packet path of another lb version (map layout {found}, this lb has {expected}): end its daemon and run `lb detach`, which cuts its connections, or start the lb version that made it"
    )]
    AbiMismatch {
        /// Pin directory.
        path: PathBuf,
        /// Version found.
        found: String,
        /// Ours.
        expected: u32,
    },
    /// A pinned map has another shape than the configuration asks for.
    #[error(
        "pinned map {map} has {found} where the configuration asks for {expected}: map sizes change only after `lb detach`"
    )]
    MapMismatch {
        /// Map.
        map: String,
        /// What it has.
        found: String,
        /// What was asked for.
        expected: String,
    },
    /// Capabilities are missing.
    #[error("missing capabilities {0}: run as root, or grant them")]
    Capabilities(String),
    /// A map is full.
    #[error("{what} is full ({limit}): raise `limits.{key}` in the configuration, then `lb detach` and start again")]
    Full {
        /// What.
        what: &'static str,
        /// Its size.
        limit: u64,
        /// Configuration key.
        key: &'static str,
    },
    /// The kernel refused.
    #[error("{context}: {cause}")]
    Kernel {
        /// What was tried.
        context: String,
        /// The kernel's word, verifier log included where there is one.
        cause: String,
    },
}

impl DatapathError {
    /// Its class, which the exit code follows.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::NoInterface(_) => ErrorKind::NotFound,
            Self::InterfaceBusy { .. }
            | Self::InterfaceInUse { .. }
            | Self::AbiMismatch { .. }
            | Self::MapMismatch { .. } => ErrorKind::Conflict,
            Self::NoNativeXdp { .. }
            | Self::NoBpffs(_)
            | Self::Capabilities(_)
            | Self::Full { .. }
            | Self::Kernel { .. } => ErrorKind::System,
        }
    }
}

/// The packet path. Every write is one or more map updates; which of them packets see when is said at each.
pub trait Datapath: Send {
    /// What the maps hold now.
    fn contents(&self) -> Result<Contents, DatapathError>;

    /// Publishes a service at one of its ports, 0 for all: from now on its packets are taken. Its rotation must have been written before.
    fn set_service(&mut self, id: ServiceId, service: Service) -> Result<(), DatapathError>;
    /// Takes a service away from one of its ports: its packets are the kernel's again, except those of existing flows.
    fn remove_service(&mut self, id: ServiceId) -> Result<(), DatapathError>;
    /// Says whether echo requests to an address are answered while it is a service's VIP, because the kernel may not have
    /// it. They are not, unless this says so.
    fn answer_echo(&mut self, vip: IpAddr, on: bool) -> Result<(), DatapathError>;
    /// Fills slot pages that no rotation refers to.
    fn write_pages(&mut self, first: u32, pages: &[SlotPage]) -> Result<(), DatapathError>;
    /// Flips a service to another schedule: one 64-bit store.
    fn set_rotation(&mut self, service: u32, rotation: Rotation) -> Result<(), DatapathError>;
    /// What takes over from a service's rotation when every backend in it is full: one 64-bit store.
    fn set_spill(&mut self, service: u32, rotation: Rotation) -> Result<(), DatapathError>;
    /// Keeps the rotation that is about to be replaced for packets of flows that are not in the table.
    fn set_previous(&mut self, service: u32, previous: Previous) -> Result<(), DatapathError>;
    /// Publishes a new version of a backend: packets see the old or the new one.
    fn set_backend(&mut self, index: u32, backend: Backend) -> Result<(), DatapathError>;
    /// Writes a source address at a place of the arena that no backend refers to yet.
    fn set_source(&mut self, place: u32, address: IpAddr) -> Result<(), DatapathError>;

    /// Attaches to an interface, or adopts the link that is pinned for it. Also makes it a redirect target.
    fn attach(&mut self, interface: &str, mode: XdpMode) -> Result<Attachment, DatapathError>;
    /// Takes the packet path off an interface, which may be gone already.
    fn detach(&mut self, interface: &str) -> Result<(), DatapathError>;
    /// Detaches everything and removes every pin.
    fn destroy(&mut self) -> Result<(), DatapathError>;

    /// Counters of a backend.
    fn backend_counters(&self, index: u32) -> Result<BackendCounters, DatapathError>;
    /// How many active flows the packet path takes a backend to have.
    fn active(&self, index: u32) -> Result<u32, DatapathError>;
    /// Corrects that.
    fn set_active(&mut self, index: u32, flows: u32) -> Result<(), DatapathError>;
    /// Packets by reason, in the order of [`lb_common::reason`]'s counters.
    fn reasons(&self) -> Result<Vec<u64>, DatapathError>;
    /// Sets a backend's counters to zero, before its index is used again.
    fn clear_backend_counters(&mut self, index: u32) -> Result<(), DatapathError>;
    /// Memory of each map.
    fn maps(&self) -> Result<Vec<MapReport>, DatapathError>;
}

/// The flow tables by themselves, so that a walk over a million flows keeps nobody from publishing a change. A handle
/// is used from threads that may block.
pub trait FlowTables: Send + Sync + 'static {
    /// Walks the tables: counts flows, removes expired ones, and gives those that are neither to `watch`, each once at least.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn sweep_watching(&self, watch: Option<&mut dyn FnMut(&FlowEntry)>) -> Result<Sweep, DatapathError>;
    /// Walks the tables: counts flows, removes expired ones.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn sweep(&self) -> Result<Sweep, DatapathError> {
        self.sweep_watching(None)
    }
    /// Walks the tables from a place on and gives unexpired flows to `visit`, each once, until some time after it asks for a
    /// break. Gives the place to go on from; `None` at the end.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn walk(
        &self,
        from: FlowPlace,
        visit: &mut dyn FnMut(&FlowEntry) -> ControlFlow<()>,
    ) -> Result<Option<FlowPlace>, DatapathError>;
    /// Walks the tables and gives each unexpired flow to `visit`, once.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn for_each_flow(&self, visit: &mut dyn FnMut(&FlowEntry)) -> Result<(), DatapathError> {
        let mut visit = |flow: &FlowEntry| {
            visit(flow);
            ControlFlow::Continue(())
        };
        self.walk(FlowPlace::default(), &mut visit).map(drop)
    }
    /// Removes the flows that are `wanted`, and says how many there were.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn kill(&self, wanted: &dyn Fn(&FlowEntry) -> bool) -> Result<u64, DatapathError>;
    /// The packet path's clock.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn now(&self) -> Result<Tick, DatapathError>;
}
