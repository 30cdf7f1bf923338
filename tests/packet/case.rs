//! What rows are repeated over: IP versions, protocols, modes, arms.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::abi::Mode;
use lb_userspace::model::Protocol;

/// IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// What rows are repeated over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) family: Family,
    pub(crate) protocol: Protocol,
    pub(crate) mode: Mode,
    /// Backends are behind the clients' interface.
    pub(crate) one_arm: bool,
}

impl Case {
    /// IPv4, TCP, `full-nat`, two arms.
    pub(crate) const PLAIN: Self = Self {
        family: Family::V4,
        protocol: Protocol::Tcp,
        mode: Mode::FULL_NAT,
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
                for mode in [Mode::FULL_NAT, Mode::NAT] {
                    for one_arm in [false, true] {
                        all.push(Self {
                            family,
                            protocol,
                            mode,
                            one_arm,
                        });
                    }
                }
            }
        }
        all
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

    /// An address of the case's family, by network and host number.
    pub(crate) fn ip(self, network: u8, host: u8) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(10, network, 0, host).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, network.into(), 0x1234, 0, 0xabcd, 0, host.into()).into(),
        }
    }

    /// A client's address.
    pub(crate) fn client(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(200, 10), port)
    }

    /// Source addresses of `full-nat`.
    pub(crate) fn source(self, place: u8) -> IpAddr {
        self.ip(100, 2 + place)
    }

    /// The bytes of an IP header without options.
    pub(crate) const fn ip_header(self) -> usize {
        match self.family {
            Family::V4 => 20,
            Family::V6 => 40,
        }
    }
}
