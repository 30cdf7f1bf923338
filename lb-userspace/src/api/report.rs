//! What the daemon tells: the JSON that `--json` prints, and what the tables are made of.
//! Times are seconds since the Unix epoch, durations milliseconds, unless a name says otherwise.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    datapath::Sweep,
    model::{AdminState, FlowTracking, ForwardingMode, OnDown, Protocol, Scheduler, Scheduling, SynCookies, Timeouts},
};

/// Everything that `lb status` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Instance name.
    pub instance: String,
    /// Process ID of the daemon.
    pub pid: u32,
    /// When the daemon started.
    pub started_at: u64,
    /// Whether this daemon adopted a packet path that was already running.
    pub adopted: bool,
    /// What needs the operator's attention, one sentence each, most urgent first.
    pub warnings: Vec<String>,
    /// Interfaces.
    pub interfaces: Vec<InterfaceReport>,
    /// Services with their backends.
    pub services: Vec<ServiceReport>,
    /// Packets that left the packet path another way than to a backend or a client, by reason; those that are zero too.
    pub reasons: Vec<ReasonReport>,
    /// The flow tables.
    pub flow_tables: Vec<FlowTableReport>,
    /// The last walk over them.
    #[serde(default)]
    pub sweep: Option<SweepReport>,
    /// Kernel memory per map.
    pub maps: Vec<MapReport>,
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceReport {
    /// Kernel name.
    pub name: String,
    /// Kernel index; absent while the interface is.
    pub index: Option<u32>,
    /// `native`, `generic`, or why not: `missing`, `not attached`.
    pub xdp: String,
    /// A remark, such as why the generic path is used.
    pub note: Option<String>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceReport {
    /// Name.
    pub name: String,
    /// Virtual address and port: the first, if there are several; 0 stands for all ports.
    pub vip: SocketAddr,
    /// Protocol; TCP where UDP comes beside it.
    pub protocol: Protocol,
    /// VIP, ports and protocols in one: `192.0.2.10:5000-5100/tcp+udp`.
    pub address: String,
    /// Mode.
    pub mode: ForwardingMode,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// What else decides where flows go.
    pub scheduling: SchedulingReport,
    /// What happens to the flows of a backend that is down.
    pub on_down: OnDown,
    /// Whether a recovered lower tier takes new flows back.
    pub failback: bool,
    /// Idle timeouts of flows.
    pub timeouts: TimeoutsReport,
    /// UDP port that packets are wrapped for, in mode `gue`.
    pub tunnel_port: Option<u16>,
    /// Interface that has the VIP by `lb`'s doing.
    pub vip_interface: Option<String>,
    /// The tier that takes new flows; absent when no backend can.
    pub active_tier: Option<u8>,
    /// Sum over its backends, those that were removed included.
    pub counters: Counters,
    /// Backends.
    pub backends: Vec<BackendReport>,
}

/// Idle timeouts of flows, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeoutsReport {
    /// A SYN was seen, the handshake is not complete.
    pub tcp_syn_ms: u64,
    /// The connection is open, at least in one direction.
    pub tcp_established_ms: u64,
    /// The client sent FIN, in modes where the backend's FIN is not seen.
    pub tcp_fin_ms: u64,
    /// Both sides sent FIN, or one sent RST.
    pub tcp_closing_ms: u64,
    /// A UDP flow.
    pub udp_ms: u64,
}

impl From<Timeouts> for TimeoutsReport {
    fn from(timeouts: Timeouts) -> Self {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            tcp_syn_ms: ms(timeouts.tcp_syn),
            tcp_established_ms: ms(timeouts.tcp_established),
            tcp_fin_ms: ms(timeouts.tcp_fin),
            tcp_closing_ms: ms(timeouts.tcp_closing),
            udp_ms: ms(timeouts.udp),
        }
    }
}

impl From<TimeoutsReport> for Timeouts {
    fn from(report: TimeoutsReport) -> Self {
        Self {
            tcp_syn: Duration::from_millis(report.tcp_syn_ms),
            tcp_established: Duration::from_millis(report.tcp_established_ms),
            tcp_fin: Duration::from_millis(report.tcp_fin_ms),
            tcp_closing: Duration::from_millis(report.tcp_closing_ms),
            udp: Duration::from_millis(report.udp_ms),
        }
    }
}

/// What decides where flows go, besides the scheduler; durations in milliseconds, 0 where it is off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulingReport {
    /// Slots of the Maglev table.
    pub maglev_table_size: u32,
    /// How long the table before the last change counts for TCP connections that are not in the flow table.
    pub rehash_window_ms: u64,
    /// How long a client stays with its backend after its last new flow.
    pub affinity_ms: u64,
    /// Each UDP datagram is scheduled by itself.
    pub one_packet: bool,
    /// How long the share of a backend that returns takes to climb.
    pub slow_start_ms: u64,
    /// After so long a drained backend's flows are treated as `on-down` says.
    pub drain_timeout_ms: u64,
    /// Which SYNs are answered with cookies.
    #[serde(default)]
    pub syn_cookies: SynCookies,
    /// Which flows are stored.
    #[serde(default)]
    pub flow_tracking: FlowTracking,
}

impl From<Scheduling> for SchedulingReport {
    fn from(scheduling: Scheduling) -> Self {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Self {
            maglev_table_size: scheduling.maglev_table_size,
            rehash_window_ms: ms(scheduling.rehash_window),
            affinity_ms: ms(scheduling.affinity),
            one_packet: scheduling.one_packet,
            slow_start_ms: ms(scheduling.slow_start),
            drain_timeout_ms: ms(scheduling.drain_timeout),
            syn_cookies: scheduling.syn_cookies,
            flow_tracking: scheduling.flow_tracking,
        }
    }
}

impl From<SchedulingReport> for Scheduling {
    fn from(report: SchedulingReport) -> Self {
        Self {
            maglev_table_size: report.maglev_table_size,
            rehash_window: Duration::from_millis(report.rehash_window_ms),
            affinity: Duration::from_millis(report.affinity_ms),
            one_packet: report.one_packet,
            slow_start: Duration::from_millis(report.slow_start_ms),
            drain_timeout: Duration::from_millis(report.drain_timeout_ms),
            syn_cookies: report.syn_cookies,
            flow_tracking: report.flow_tracking,
        }
    }
}

/// One backend of one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendReport {
    /// Name.
    pub name: String,
    /// Address; port 0: the port that the client asked for.
    pub address: SocketAddr,
    /// Weight.
    pub weight: u16,
    /// Tier.
    pub tier: u8,
    /// What the operator decided.
    pub admin: AdminState,
    /// Active flows at most; absent: any number.
    pub max_connections: Option<u32>,
    /// How much of its share it has, in percent, while that climbs after its return; absent: all.
    pub slow_start_percent: Option<u32>,
    /// Milliseconds until its drain ends and `on-down` applies to the flows that are left; absent: it lasts until the last
    /// of them has ended.
    pub drain_left_ms: Option<u64>,
    /// Health.
    pub health: HealthReport,
    /// Whether new flows go to it.
    pub in_rotation: bool,
    /// Why not, if not: `down: connection refused`, `no next hop: 10.0.0.1 does not answer ARP`, `weight 0`, `standby (tier 1)`.
    pub why_not: Option<String>,
    /// Next hop as `ADDRESS (MAC) dev INTERFACE`, when known.
    pub next_hop: Option<String>,
    /// Counters.
    pub counters: Counters,
}

/// Health of a backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthReport {
    /// State.
    pub state: HealthState,
    /// Since when.
    pub since: u64,
    /// Last result in words: `connection refused`, `timeout after 2 s`, `HTTP 503`, `HTTP 200`, `connected`.
    pub last_result: Option<String>,
    /// How long the last check took, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Results in a row that contradict the state, and how many flip it: (2, 3) is "2 of 3 failures".
    pub progress: (u32, u32),
}

/// Health as the state machine sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthState {
    /// Not checked yet; treated as down until the first result.
    Unknown,
    /// Healthy.
    Up,
    /// Ill.
    Down,
    /// Not checked, because there is no check or the backend is disabled; treated as up.
    Unchecked,
}

/// Traffic counters, since the packet path was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients, Ethernet headers included.
    pub bytes_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
    /// Flows opened.
    pub new_flows: u64,
    /// Flows open now.
    pub active_flows: u64,
}

/// Packets by reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonReport {
    /// `pass` (to the kernel) or `drop` (includes those answered with RST).
    pub outcome: String,
    /// Name, such as `not-a-service`.
    pub name: String,
    /// What it means.
    pub meaning: String,
    /// Packets.
    pub packets: u64,
}

/// A flow table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTableReport {
    /// `ipv4`, `ipv6`, or `mixed` for flows between the two.
    pub family: String,
    /// Flows at the last sweep.
    pub flows: u64,
    /// Capacity in flows.
    pub capacity: u64,
    /// Half-open flows at the last sweep; they have a table of their own.
    #[serde(default)]
    pub half_open: u64,
    /// Capacity of that.
    #[serde(default)]
    pub half_open_capacity: u64,
}

/// The last walk over the flow tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepReport {
    /// How long it took, pauses included, in milliseconds.
    pub took_ms: u64,
    /// Processor time of it, in microseconds.
    pub cpu_us: u64,
    /// Entries that it read; a flow has two.
    pub entries: u64,
    /// Expired flows that it removed.
    pub expired: u64,
}

impl SweepReport {
    /// Of a sweep that took so long.
    #[must_use]
    pub fn new(sweep: &Sweep, took: Duration) -> Self {
        Self {
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            cpu_us: u64::try_from(sweep.cpu.as_micros()).unwrap_or(u64::MAX),
            entries: sweep.entries,
            expired: sweep.expired,
        }
    }
}

/// Memory of a map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapReport {
    /// Name.
    pub name: String,
    /// Entries at most.
    pub max_entries: u32,
    /// Bytes of kernel memory.
    pub bytes: u64,
}

/// A flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReport {
    /// Service name.
    pub service: String,
    /// Backend name.
    pub backend: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Client.
    pub client: SocketAddr,
    /// VIP.
    pub vip: SocketAddr,
    /// Source that the backend sees.
    pub source: SocketAddr,
    /// Backend address.
    pub backend_address: SocketAddr,
    /// `syn-seen`, `syn-answered`, `established`, `client-fin`, `backend-fin`, `closing`, `udp-new`, `udp`.
    pub phase: String,
    /// Age in milliseconds.
    pub age_ms: u64,
    /// Milliseconds until it expires, if nothing comes.
    pub expires_in_ms: u64,
}

/// Flows that have all this in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCount {
    /// Service name.
    pub service: String,
    /// Backend name.
    pub backend: String,
    /// As [`FlowReport::phase`].
    pub phase: String,
    /// How many.
    pub flows: u64,
}

/// Versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionReport {
    /// Version of `lb`.
    pub version: String,
    /// Layout of the pinned maps.
    pub abi: u32,
}
