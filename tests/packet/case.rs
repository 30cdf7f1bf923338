//! What rows are repeated over: IP versions, protocols, modes, arms.

use std::{
    env,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use lb_common::abi::Mode;
use lb_userspace::model::Protocol;

/// IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// An address, by network and host number.
    pub(crate) fn ip(self, network: u8, host: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, network, 0, host).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, network.into(), 0x1234, 0, 0xabcd, 0, host.into()).into(),
        }
    }

    /// The bytes of a header without options.
    pub(crate) const fn header(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }
}

/// What rows are repeated over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
    pub(crate) mode: Mode,
    /// IP version of a tunnel's outer header; elsewhere the same as `family`.
    pub(crate) outer: Family,
    /// Backends are behind the clients' interface.
    pub(crate) one_arm: bool,
}

impl Case {
    /// IPv4, TCP, `full-nat`, two arms.
    pub(crate) const PLAIN: Self = Self {
        family: Family::V4,
        protocol: Protocol::Tcp,
        mode: Mode::FULL_NAT,
        outer: Family::V4,
        one_arm: false,
    };

    /// As [`Case::PLAIN`], with UDP.
    pub(crate) const UDP: Self = Self {
        protocol: Protocol::Udp,
        ..Self::PLAIN
    };

    /// Every combination.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for family in [Family::V4, Family::V6] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for (mode, outer) in Self::modes(family) {
                    for one_arm in [false, true] {
                        all.push(Self {
                            family,
                            protocol,
                            mode,
                            outer,
                            one_arm,
                        });
                    }
                }
            }
        }
        all
    }

    /// Every mode for clients of a family; tunnels over both.
    fn modes(family: Family) -> [(Mode, Family); 7] {
        [
            (Mode::FULL_NAT, family),
            (Mode::NAT, family),
            (Mode::L2_DSR, family),
            (Mode::IPIP, Family::V4),
            (Mode::IPIP, Family::V6),
            (Mode::GUE, Family::V4),
            (Mode::GUE, Family::V6),
        ]
    }

    /// Those over UDP, with two arms.
    pub(crate) fn udp() -> Vec<Self> {
        Self::two_arms()
            .into_iter()
            .filter(|case| case.protocol == Protocol::Udp)
            .collect()
    }

    /// Those with two arms whose replies come back through the packet path.
    pub(crate) fn both_ways() -> Vec<Self> {
        Self::two_arms()
            .into_iter()
            .filter(|case| case.mode.sees_replies())
            .collect()
    }

    /// Those among them over TCP.
    pub(crate) fn tcp_both_ways() -> Vec<Self> {
        let mut cases = Self::both_ways();
        cases.retain(|case| case.protocol == Protocol::Tcp);
        cases
    }

    /// Those with two arms whose replies do not.
    pub(crate) fn one_way() -> Vec<Self> {
        Self::two_arms()
            .into_iter()
            .filter(|case| !case.mode.sees_replies())
            .collect()
    }

    /// Those with two arms and a tunnel.
    pub(crate) fn tunnels() -> Vec<Self> {
        Self::two_arms().into_iter().filter(|case| case.tunnel()).collect()
    }

    /// Those over TCP, with two arms.
    pub(crate) fn tcp() -> Vec<Self> {
        Self::all()
            .into_iter()
            .filter(|case| case.protocol == Protocol::Tcp && !case.one_arm)
            .collect()
    }

    /// Those with two arms.
    pub(crate) fn two_arms() -> Vec<Self> {
        Self::all().into_iter().filter(|case| !case.one_arm).collect()
    }

    /// IPv4 and IPv6, TCP and UDP, in `full-nat`.
    pub(crate) fn full_nat() -> Vec<Self> {
        Self::two_arms()
            .into_iter()
            .filter(|case| case.mode == Mode::FULL_NAT)
            .collect()
    }

    /// Cases of which each loads a packet path of its own. In guests, whose emulated CPU takes seconds for that, one in four:
    /// each mode is among them.
    pub(crate) fn sample(cases: Vec<Self>) -> Vec<Self> {
        let step = if is_guest() { 4 } else { 1 };
        cases.into_iter().step_by(step).collect()
    }

    /// An address of the case's family, by network and host number.
    pub(crate) fn ip(self, network: u8, host: u8) -> IpAddr {
        self.family.ip(network, host)
    }

    /// A server's address.
    pub(crate) fn server(self, network: u8, host: u8) -> IpAddr {
        self.outer.ip(network, host)
    }

    /// Whether packets are wrapped.
    pub(crate) const fn tunnel(self) -> bool {
        matches!(self.mode, Mode::IPIP | Mode::GUE)
    }

    /// Bytes that are put before the IP packet.
    pub(crate) const fn overhead(self) -> usize {
        let ip = self.outer.header();
        match self.mode {
            Mode::IPIP => ip,
            Mode::GUE => ip + 8,
            _ => 0,
        }
    }

    /// The same case, in the family of an address.
    pub(crate) const fn like(self, address: SocketAddr) -> Self {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        Self { family, ..self }
    }

    /// A client's address.
    pub(crate) fn client(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(200, 10), port)
    }

    /// Source addresses of `full-nat`; of tunnels, the first is the base.
    pub(crate) fn source(self, place: u8) -> IpAddr {
        if self.tunnel() {
            self.outer.ip(101, 64 + place)
        } else {
            self.ip(100, 2 + place)
        }
    }

    /// The bytes of an IP header without options.
    pub(crate) const fn ip_header(self) -> usize {
        self.family.header()
    }
}

/// Whether this is a guest of `cargo xtask vm`.
pub(crate) fn is_guest() -> bool {
    env::var_os("LB_TEST_GUEST").is_some()
}
