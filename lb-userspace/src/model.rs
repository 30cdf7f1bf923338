//! What the operator asked for: the validated configuration, in the field's own terms.
//!
//! Nothing here knows TOML, the kernel or the network. `config/` makes these values, the CLI changes them,
//! `plan/` turns them into map contents, and `api/` shows them.

mod backend;
mod health;
mod service;

use std::{fmt, net::IpAddr, ops::RangeInclusive, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    backend::{AdminState, Backend, endpoint_name},
    health::{HealthCheck, HealthTarget, HttpProbe, Probe},
    service::{
        Extent, FlowTracking, ForwardingMode, OnDown, Protocol, Protocols, Scheduler, Scheduling, Service, ServiceId,
        SynCookies, Timeouts, Vip, VipAddress,
    },
};

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
    /// SYNs that a core opens flows for in a second, of services whose `syn-cookies` are `under-flood`; the others are answered
    /// with cookies.
    #[serde(default = "syn_cookies_above")]
    pub syn_cookies_above: u32,
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

/// More than clients of most sites do, and few enough for the table of half-open flows.
const fn syn_cookies_above() -> u32 {
    10_000
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
            // The rare case: 5 MiB in both directions.
            flows_mixed: 1 << 14,
            half_open_ipv4: 1 << 17,
            half_open_ipv6: 1 << 15,
            services: 1024,
            service_ports: Self::SERVICE_PORTS,
            backends: 4096,
            new_flows_per_core: 0,
            syn_cookies_above: syn_cookies_above(),
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
