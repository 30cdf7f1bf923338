//! A service: what it answers to, and how packets reach its backends.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Backend, HealthCheck, HealthTarget, endpoint_name};

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
    /// Which SYNs are answered with cookies before a flow is opened.
    #[serde(default)]
    pub syn_cookies: SynCookies,
    /// Which flows are stored.
    #[serde(default)]
    pub flow_tracking: FlowTracking,
}

/// Which flows of a service are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowTracking {
    /// All.
    #[default]
    All,
    /// Those whose slot of the hash table got another backend lately; the others go where the table says.
    Moved,
}

impl fmt::Display for FlowTracking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::All => "all",
            Self::Moved => "moved",
        })
    }
}

/// Which SYNs of a service are answered with cookies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SynCookies {
    /// None.
    #[default]
    Off,
    /// Those beyond `limits.syn-cookies-above` and `limits.new-flows-per-core`.
    UnderFlood,
    /// All.
    Always,
}

impl fmt::Display for SynCookies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Off => "off",
            Self::UnderFlood => "under-flood",
            Self::Always => "always",
        })
    }
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
            syn_cookies: SynCookies::Off,
            flow_tracking: FlowTracking::All,
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
