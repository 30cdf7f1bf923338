//! What the operator asked for: the validated configuration, in the field's own terms.
//!
//! Nothing here knows TOML, the kernel or the network. `config/` makes these values, the CLI changes them,
//! `plan/` turns them into map contents, and `api/` shows them.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A whole, validated configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Names this daemon among several on one host: part of its pins, its lock and its socket.
    pub instance: String,
    /// Unix socket of the control interface.
    pub socket: PathBuf,
    /// Where the BPF file system is mounted.
    pub bpffs: PathBuf,
    /// Directory of the lock file and of what must survive the daemon (`/run/lb`).
    pub state_dir: PathBuf,
    /// Whether frames with VLAN tags are forwarded. `None`: if one of the interfaces has VLAN devices when the packet path
    /// is loaded.
    pub vlans: Option<bool>,
    /// Network interfaces that carry the packet path; at least one.
    pub interfaces: Vec<Interface>,
    /// Sizes of the kernel maps.
    pub limits: Limits,
    /// Source addresses and ports of `full-nat`.
    pub full_nat: FullNat,
    /// What tunnelled packets come from and go to, in modes `ipip` and `gue`.
    pub tunnel: Tunnel,
    /// How often each next hop is asked whether it still has its MAC address; zero: never.
    pub neighbour_poll: Duration,
    /// Services, in the order of the file.
    pub services: Vec<Service>,
}

impl Config {
    /// How often next hops are asked: so that another host under the address of a backend is found within a second.
    pub const NEIGHBOUR_POLL: Duration = Duration::from_millis(500);
}

/// An interface that the packet path is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Kernel name, such as `eth0`.
    pub name: String,
    /// How XDP is attached.
    pub xdp: XdpMode,
}

/// How XDP is attached to an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum XdpMode {
    /// In the driver; in the generic path, aloud, where the driver has no native support.
    #[default]
    Auto,
    /// In the driver or not at all.
    Native,
    /// In the kernel's generic path, which is slower.
    Generic,
}

/// Sizes of the kernel maps, in entries, which are fixed when the packet path is first loaded; and rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// IPv4 flows; a flow takes two entries, one per direction.
    pub flows_ipv4: u32,
    /// IPv6 flows.
    pub flows_ipv6: u32,
    /// Flows between IPv6 clients and IPv4 backends, or the other way round.
    pub flows_mixed: u32,
    /// IPv4 flows that are opening: what a flood of SYNs or datagrams can take.
    pub half_open_ipv4: u32,
    /// IPv6 flows that are opening.
    pub half_open_ipv6: u32,
    /// Services.
    pub services: u32,
    /// Ports of all services of one family, counted once per protocol; all ports of a VIP count as one.
    pub service_ports: u32,
    /// Backends, counted once per service that they stand in.
    pub backends: u32,
    /// Flows that a core may open in a second; 0: any number.
    pub new_flows_per_core: u32,
    /// ICMP messages that the packet path may send in a second, on each CPU.
    #[serde(default = "icmp_per_second")]
    pub icmp_per_second: u32,
    /// Slots of all schedules. A Maglev table takes its size up to three times: as it is, as it was before the last change,
    /// and while it changes.
    pub slots: u32,
    /// Clients that stay with their backend, for each of IPv4 and IPv6.
    pub affinity: u32,
}

/// As many as Linux sends by default (`net.ipv4.icmp_msgs_per_sec`), though that is for all CPUs together.
const fn icmp_per_second() -> u32 {
    1000
}

impl Limits {
    /// Ports of services, unless there may be more services than that.
    pub const SERVICE_PORTS: u32 = 4096;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows_ipv4: 1 << 20,
            flows_ipv6: 1 << 18,
            flows_mixed: 1 << 16,
            half_open_ipv4: 1 << 17,
            half_open_ipv6: 1 << 15,
            services: 1024,
            service_ports: Self::SERVICE_PORTS,
            backends: 4096,
            new_flows_per_core: 0,
            icmp_per_second: icmp_per_second(),
            // 16 MiB: twenty Maglev tables of the default size.
            slots: 1 << 22,
            affinity: 1 << 16,
        }
    }
}

/// Source addresses and ports that `full-nat` gives to connections towards backends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullNat {
    /// Empty: the address that the kernel's route to a backend prefers.
    pub source_addresses: Vec<IpAddr>,
    /// Ports; disjoint from the kernel's ephemeral range.
    pub source_ports: RangeInclusive<u16>,
}

impl Default for FullNat {
    fn default() -> Self {
        Self {
            source_addresses: Vec::new(),
            source_ports: 2048..=32767,
        }
    }
}

/// The outer header of tunnelled packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Outer sources, one for each family. A family without one has the address that the kernel's route to a backend
    /// prefers.
    pub sources: Vec<TunnelSource>,
    /// UDP port that packets go to, in mode `gue`.
    pub port: u16,
}

impl Tunnel {
    /// UDP port that IANA assigned to Generic UDP Encapsulation.
    pub const PORT: u16 = 6080;
}

impl Default for Tunnel {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            port: Self::PORT,
        }
    }
}

/// An outer source: one address, or a prefix whose addresses flows are spread over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TunnelSource {
    /// The address, or the first of the prefix.
    pub base: IpAddr,
    /// Length of the prefix, in bits.
    pub prefix: u8,
}

impl TunnelSource {
    /// More bits of an address than these do not vary by flow: receivers have no use for more sources than that.
    const SPREAD_BITS: u8 = 16;

    /// One address.
    #[must_use]
    pub const fn address(base: IpAddr) -> Self {
        Self {
            base,
            prefix: Self::bits(base),
        }
    }

    /// How many consecutive addresses from the base on are used: a power of two, 65536 at most.
    #[must_use]
    pub fn spread(&self) -> u32 {
        let host = Self::bits(self.base).saturating_sub(self.prefix);
        1 << host.min(Self::SPREAD_BITS)
    }

    /// Bits of an address of the family.
    #[must_use]
    pub const fn bits(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }
}

impl fmt::Display for TunnelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == Self::bits(self.base) {
            write!(f, "{}", self.base)
        } else {
            write!(f, "{}/{}", self.base, self.prefix)
        }
    }
}

/// Transport protocol of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One protocol, or both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocols {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// TCP and UDP.
    TcpUdp,
}

impl Protocols {
    /// The one that identifies a service, and whether UDP comes beside it.
    #[must_use]
    pub const fn split(self) -> (Protocol, bool) {
        match self {
            Self::Tcp => (Protocol::Tcp, false),
            Self::Udp => (Protocol::Udp, false),
            Self::TcpUdp => (Protocol::Tcp, true),
        }
    }
}

/// A virtual address with its ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vip {
    /// Address and first port; port 0 stands for all ports.
    pub first: SocketAddr,
    /// How many ports follow the first.
    pub more_ports: u16,
}

/// What identifies a service on the wire: the first of what [`Service::keys`] lists, port 0 standing for all ports. It
/// never changes during a service's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceId {
    /// Virtual address and port.
    pub vip: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vip, self.protocol)
    }
}

/// A VIP with a port, and the pool behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Unique name, for people.
    pub name: String,
    /// Address, port and protocol: the first, if there are several.
    pub id: ServiceId,
    /// What else it covers.
    pub extent: Extent,
    /// How packets reach the backends.
    pub mode: ForwardingMode,
    /// How a new flow finds its backend.
    pub scheduler: Scheduler,
    /// What else decides where flows go.
    #[serde(default)]
    pub scheduling: Scheduling,
    /// Whether `lb` puts the VIP on an interface, so that the kernel answers ARP and neighbour discovery for it.
    pub vip_address: VipAddress,
    /// What happens to the flows of a backend that is down.
    pub on_down: OnDown,
    /// Whether a recovered lower tier takes new flows back from a higher one.
    pub failback: bool,
    /// Idle timeouts of flows.
    pub timeouts: Timeouts,
    /// How backends are checked.
    pub health: HealthCheck,
    /// The pool.
    pub backends: Vec<Backend>,
}

/// What a service covers beside the port and the protocol that identify it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// How many ports follow the first.
    pub more_ports: u16,
    /// UDP beside TCP.
    pub udp_too: bool,
}

/// Who puts the VIP on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VipAddress {
    /// `lb` adds the address (as a /32 or /128) to the named interface and removes it on detach. Without a name: to the
    /// interface whose subnet holds the VIP, else to the first one.
    Add(Option<String>),
    /// The operator sees to it.
    Manual,
}

/// How packets reach the backends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardingMode {
    /// Destination and source are rewritten; replies come back through `lb`. Works everywhere.
    #[default]
    FullNat,
    /// The destination is rewritten; `lb` must be the backends' gateway. They see the client's address.
    Nat,
    /// The MAC addresses are rewritten; backends on the same Ethernet have the VIP and answer clients themselves.
    L2Dsr,
    /// Packets are wrapped in IP; backends anywhere unwrap them, have the VIP and answer clients themselves.
    Ipip,
    /// As `Ipip`, wrapped in UDP.
    Gue,
}

impl ForwardingMode {
    /// Whether backends answer clients themselves: then they need the VIP, and `lb` changes no port.
    #[must_use]
    pub const fn direct_return(self) -> bool {
        matches!(self, Self::L2Dsr | Self::Ipip | Self::Gue)
    }

    /// Whether packets are wrapped.
    #[must_use]
    pub const fn tunnels(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }

    /// Bytes by which a packet to such a backend grows.
    #[must_use]
    pub const fn overhead(self, backend: IpAddr) -> u32 {
        let outer = if backend.is_ipv4() { 20 } else { 40 };
        match self {
            Self::FullNat | Self::Nat | Self::L2Dsr => 0,
            Self::Ipip => outer,
            Self::Gue => outer + 8,
        }
    }
}

impl fmt::Display for ForwardingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::FullNat => "full-nat",
            Self::Nat => "nat",
            Self::L2Dsr => "l2-dsr",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
        })
    }
}

/// How a new flow finds its backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheduler {
    /// Smooth weighted round-robin.
    #[default]
    RoundRobin,
    /// Fewest active flows for the weight.
    LeastConn,
    /// Hash of the client's address, over a Maglev table.
    SourceHash,
    /// Hash of the 5-tuple, over a Maglev table.
    Maglev,
}

impl Scheduler {
    /// Whether the packet alone decides.
    #[must_use]
    pub const fn by_hash(self) -> bool {
        matches!(self, Self::SourceHash | Self::Maglev)
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::RoundRobin => "round-robin",
            Self::LeastConn => "least-conn",
            Self::SourceHash => "source-hash",
            Self::Maglev => "maglev",
        })
    }
}

/// What decides where flows go, besides the scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// Slots of the Maglev table; a prime number.
    pub maglev_table_size: u32,
    /// How long the table before the last change counts for TCP connections that are not in the flow table; zero: not
    /// at all.
    pub rehash_window: Duration,
    /// How long a client stays with its backend after its last new flow; zero: not at all.
    pub affinity: Duration,
    /// Each UDP datagram is scheduled by itself.
    pub one_packet: bool,
    /// How long the share of a backend that returns takes to climb; zero: it has it at once.
    pub slow_start: Duration,
    /// After so long a drained backend's flows are treated as `on-down` says; zero: never.
    pub drain_timeout: Duration,
}

impl Scheduling {
    /// Idle timeout of the reply to a datagram that is scheduled by itself, unless the operator says otherwise: each takes
    /// a source port for so long.
    pub const ONE_PACKET_TIMEOUT: Duration = Duration::from_secs(5);
}

impl Default for Scheduling {
    fn default() -> Self {
        Self {
            maglev_table_size: crate::plan::maglev::DEFAULT_SIZE,
            // Long enough for a connection to say something again: many applications, and proxies, keep idle ones alive
            // once a minute or so. Short enough that a table is given back soon.
            rehash_window: Duration::from_mins(5),
            affinity: Duration::ZERO,
            one_packet: false,
            slow_start: Duration::ZERO,
            drain_timeout: Duration::ZERO,
        }
    }
}

/// What happens to the flows of a backend that is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDown {
    /// The client's next packet is answered with a TCP RST, so that it reconnects at once.
    Reset,
    /// The client's next packet opens a flow to another backend.
    Move,
    /// Packets go on to the backend, in case it still lives.
    Keep,
}

impl OnDown {
    /// What is done unless the operator says otherwise.
    #[must_use]
    pub const fn default_for(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Reset,
            Protocol::Udp => Self::Move,
        }
    }
}

impl fmt::Display for OnDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Reset => "reset",
            Self::Move => "move",
            Self::Keep => "keep",
        })
    }
}

/// Idle timeouts of flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// A SYN was seen, the handshake is not complete.
    pub tcp_syn: Duration,
    /// The connection is open, at least in one direction.
    pub tcp_established: Duration,
    /// The client sent FIN, in modes where the backend's FIN is not seen; in the others, `tcp_established` goes on.
    pub tcp_fin: Duration,
    /// Both sides sent FIN, or one sent RST.
    pub tcp_closing: Duration,
    /// A UDP flow.
    pub udp: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn: Duration::from_secs(30),
            // Longer than the two hours after which Linux sends its first keep-alive.
            tcp_established: Duration::from_mins(130),
            // As long as the Linux kernel's IPVS gives a connection of which it has seen one FIN.
            tcp_fin: Duration::from_mins(2),
            tcp_closing: Duration::from_secs(10),
            udp: Duration::from_secs(60),
        }
    }
}

/// One server in the pool of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// Unique within its service.
    pub name: String,
    /// Where connections go; port 0: to the port that the client asked for.
    pub address: SocketAddr,
    /// Share of new flows, 0 to 256; 0 takes none.
    pub weight: u16,
    /// 0 serves first; a higher tier only while every lower one has no healthy backend. `backup = true` is tier 1.
    pub tier: u8,
    /// What the operator decided.
    pub admin: AdminState,
    /// How many active flows it takes at most; `None`: any number.
    #[serde(default)]
    pub max_connections: Option<u32>,
    /// When its drain ends, in seconds since the Unix epoch; `None`: when its last flow does.
    #[serde(default)]
    pub drain_until: Option<u64>,
}

impl Backend {
    /// Largest weight.
    pub const MAX_WEIGHT: u16 = 256;

    /// An enabled backend of weight 1 in tier 0, named by its address.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            name: endpoint_name(address),
            address,
            weight: 1,
            tier: 0,
            admin: AdminState::default(),
            max_connections: None,
            drain_until: None,
        }
    }
}

/// `ADDRESS:PORT`; where the port is the client's, the address alone.
#[must_use]
pub fn endpoint_name(address: SocketAddr) -> String {
    match address {
        SocketAddr::V6(v6) if v6.port() == 0 => format!("[{}]", v6.ip()),
        SocketAddr::V4(v4) if v4.port() == 0 => v4.ip().to_string(),
        _ => address.to_string(),
    }
}

/// What the operator decided about a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdminState {
    /// In rotation while healthy.
    #[default]
    Enabled,
    /// No new flows; those that exist go on.
    Drain,
    /// No new flows; those that exist are treated as `on-down` says. Not health-checked.
    Disabled,
}

impl fmt::Display for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Enabled => "enabled",
            Self::Drain => "drain",
            Self::Disabled => "disabled",
        })
    }
}

/// How the backends of a service are checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked of the backend.
    pub probe: Probe,
    /// Port to ask, if not the backend's own.
    pub port: Option<u16>,
    /// Between two checks of a backend whose state is settled.
    pub interval: Duration,
    /// Between two checks while the state is changing.
    pub fast_interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up.
    pub rise: u32,
    /// Failures in a row that bring a backend down.
    pub fall: u32,
    /// The first check is delayed by a random time up to this, so that checks do not come in step.
    pub start_jitter: Duration,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            port: None,
            interval: Duration::from_secs(2),
            fast_interval: Duration::from_millis(500),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            start_jitter: Duration::from_millis(200),
        }
    }
}

impl HealthCheck {
    /// The check of a service whose operator asked for none in particular.
    #[must_use]
    pub fn default_for(protocol: Protocol) -> Self {
        let probe = match protocol {
            Protocol::Tcp => Probe::Tcp,
            Protocol::Udp => Probe::None,
        };
        Self {
            probe,
            ..Self::default()
        }
    }
}

/// What a health check asks of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// Nothing: the backend is always taken as healthy.
    None,
    /// A TCP connection can be opened.
    Tcp,
    /// `GET` over HTTP/1.1 is answered as expected.
    Http(HttpProbe),
}

/// An HTTP health check.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpProbe {
    /// Path and query, beginning with `/`.
    pub path: String,
    /// `Host` header; without it, the target's address.
    pub host: Option<String>,
    /// Status codes that count as healthy, such as `200..=399`.
    pub status: RangeInclusive<u16>,
    /// Text that the first 64 KiB of the body must hold.
    pub body: Option<String>,
}

/// What one check talks to: services that share it share the check.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HealthTarget {
    /// Address and port that are asked.
    pub address: SocketAddr,
    /// How.
    pub check: HealthCheck,
}

impl HttpProbe {
    /// `GET path`, with any status from 200 to 399 taken as healthy.
    #[must_use]
    pub const fn new(path: String) -> Self {
        Self {
            path,
            host: None,
            status: 200..=399,
            body: None,
        }
    }
}

impl Service {
    /// A service without backends, with the defaults of its protocol: connections over TCP are checked with a TCP connect
    /// and reset when their backend is down; UDP flows, which have no such answer, are not checked and move.
    #[must_use]
    pub fn new(name: String, id: ServiceId) -> Self {
        Self {
            name,
            id,
            extent: Extent::default(),
            mode: ForwardingMode::default(),
            scheduler: Scheduler::default(),
            scheduling: Scheduling::default(),
            vip_address: VipAddress::Add(None),
            on_down: OnDown::default_for(id.protocol),
            failback: true,
            timeouts: Timeouts::default(),
            health: HealthCheck::default_for(id.protocol),
            backends: Vec::new(),
        }
    }

    /// Every address, port and protocol that packets of this service are addressed to; the first is its identity. Port 0
    /// stands for all ports.
    pub fn keys(&self) -> impl Iterator<Item = ServiceId> + use<> {
        let (id, udp_too) = (self.id, self.extent.udp_too);
        let ports = *self.ports().start()..=*self.ports().end();
        ports.flat_map(move |port| {
            let vip = SocketAddr::new(id.vip.ip(), port);
            let udp = udp_too.then_some(Protocol::Udp);
            [Some(id.protocol), udp]
                .into_iter()
                .flatten()
                .map(move |protocol| ServiceId { vip, protocol })
        })
    }

    /// The ports of [`Service::keys`].
    #[must_use]
    pub const fn ports(&self) -> RangeInclusive<u16> {
        let first = self.id.vip.port();
        first..=first.saturating_add(self.extent.more_ports)
    }

    /// Whether it is one port's. Then every backend has a port of its own.
    #[must_use]
    pub const fn has_one_port(&self) -> bool {
        self.id.vip.port() != 0 && self.extent.more_ports == 0
    }

    /// Whether a port is among its ports.
    #[must_use]
    pub fn covers_port(&self, port: u16) -> bool {
        self.id.vip.port() == 0 || self.ports().contains(&port)
    }

    /// Whether a protocol is among its protocols.
    #[must_use]
    pub fn covers_protocol(&self, protocol: Protocol) -> bool {
        self.id.protocol == protocol || (self.extent.udp_too && protocol == Protocol::Udp)
    }

    /// VIP, ports and protocols as people write them: `192.0.2.10:5000-5100/tcp+udp`, `192.0.2.10:*/udp`.
    #[must_use]
    pub fn address(&self) -> String {
        let ip = endpoint_name(SocketAddr::new(self.id.vip.ip(), 0));
        let (first, last) = (*self.ports().start(), *self.ports().end());
        let ports = match (first, last) {
            (0, _) => "*".to_owned(),
            _ if first == last => first.to_string(),
            _ => format!("{first}-{last}"),
        };
        let udp_too = if self.extent.udp_too { "+udp" } else { "" };
        format!("{ip}:{ports}/{}{udp_too}", self.id.protocol)
    }

    /// Gives a backend without a port the service's, if that has one only.
    pub fn complete(&self, backend: &mut Backend) {
        if backend.address.port() != 0 || !self.has_one_port() {
            return;
        }
        let unnamed = backend.name == endpoint_name(backend.address);
        backend.address.set_port(self.id.vip.port());
        if unnamed {
            backend.name = endpoint_name(backend.address);
        }
    }

    /// The health-check target of one of this service's backends.
    #[must_use]
    pub fn health_target(&self, backend: &Backend) -> HealthTarget {
        let mut address = backend.address;
        if let Some(port) = self.health.port {
            address.set_port(port);
        }
        HealthTarget {
            address,
            check: self.health.clone(),
        }
    }
}
