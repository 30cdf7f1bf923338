//! What can go wrong in `net/`, and what the operator can do about it.

use std::{io, net::IpAddr};

use super::types::Mac;

/// The kernel or the link refused.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {source}; run `lb` as root or with CAP_NET_ADMIN and CAP_NET_RAW")]
    Open {
        /// What the kernel said.
        source: io::Error,
    },
    /// Not allowed.
    #[error("not allowed to {action}; run `lb` as root or with CAP_NET_ADMIN and CAP_NET_RAW")]
    NotPermitted {
        /// What was tried.
        action: String,
    },
    /// Refused for another reason.
    #[error("the kernel refused to {action}: {source}")]
    Refused {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// No answer.
    #[error("the kernel did not answer the request to {action} within {seconds} s")]
    NoReply {
        /// What was tried.
        action: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The netlink connection ended.
    #[error("the netlink connection is closed; restart `lb` (the packet path goes on without it)")]
    Closed,
    /// No such interface.
    #[error("there is no interface {name}; `ip link` lists those that exist")]
    NoSuchInterface {
        /// The name that was asked for.
        name: String,
    },
    /// The interface cannot send.
    #[error("interface {name} is down; `ip link set {name} up`, or see to its cable or peer")]
    InterfaceDown {
        /// Its name.
        name: String,
    },
    /// Another host has the VIP.
    #[error(
        "{vip} is already used by {mac} on {interface}; take it off that host, choose another VIP, or, if that host is \
         a standby that shares it, manage the VIP yourself and tell `lb` not to add it"
    )]
    VipInUse {
        /// The VIP.
        vip: IpAddr,
        /// Who answered for it.
        mac: Mac,
        /// Where.
        interface: String,
    },
    /// This host has the VIP, but does not use it, because another host has it too.
    #[error(
        "{vip} is on {interface}, but the kernel does not use it because another host has it too; take it off that \
         host, then `ip address del {vip} dev {interface}`"
    )]
    VipDadFailed {
        /// The VIP.
        vip: IpAddr,
        /// Where.
        interface: String,
    },
    /// IPv6 is off on the interface.
    #[error("IPv6 is disabled on {interface}; `sysctl -w net.ipv6.conf.{interface}.disable_ipv6=0`")]
    Ipv6Disabled {
        /// The interface.
        interface: String,
    },
}

impl NetError {
    /// Wraps an error of the kernel.
    pub(super) fn from_io(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        if source.raw_os_error() == Some(libc::EPERM) {
            Self::NotPermitted { action }
        } else {
            Self::Refused { action, source }
        }
    }

    /// The error number of the kernel, if it refused with one.
    pub(super) fn errno(&self) -> Option<i32> {
        match self {
            Self::Open { source } | Self::Refused { source, .. } => source.raw_os_error(),
            Self::NotPermitted { .. } => Some(libc::EPERM),
            Self::NoReply { .. }
            | Self::Closed
            | Self::NoSuchInterface { .. }
            | Self::InterfaceDown { .. }
            | Self::VipInUse { .. }
            | Self::VipDadFailed { .. }
            | Self::Ipv6Disabled { .. } => None,
        }
    }
}

/// Why a backend has no next hop: `lb status` shows it as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NextHopError {
    /// No route.
    #[error("no route to {to}")]
    NoRoute {
        /// The backend.
        to: IpAddr,
    },
    /// A route that leads nowhere.
    #[error("the route to {to} is of type {kind}")]
    Rejected {
        /// The backend.
        to: IpAddr,
        /// `unreachable`, `blackhole` or `prohibit`, as `ip route` says it.
        kind: &'static str,
    },
    /// One of our own addresses.
    #[error("backend is an address of this host")]
    Local,
    /// Not the address of one host.
    #[error("{to} is a {kind} address, not that of one server")]
    NotUnicast {
        /// The backend.
        to: IpAddr,
        /// `broadcast`, `multicast` or `anycast`.
        kind: &'static str,
    },
    /// An address that means nothing without an interface.
    #[error("{to} is a link-local address; give the backend a global one")]
    LinkLocal {
        /// The backend.
        to: IpAddr,
    },
    /// The route encapsulates.
    #[error("the route to {to} leads through a tunnel, which `lb` does not follow")]
    Encapsulated {
        /// The backend.
        to: IpAddr,
    },
    /// The interface cannot send.
    #[error("interface {interface} is down")]
    InterfaceDown {
        /// Its name.
        interface: String,
    },
    /// The interface is up, its link is not.
    #[error("interface {interface} has no carrier")]
    NoCarrier {
        /// Its name.
        interface: String,
    },
    /// A tunnel or such.
    #[error("interface {interface} has no MAC address: `lb` sends through Ethernet interfaces only")]
    NotEthernet {
        /// Its name.
        interface: String,
    },
    /// Asked, no answer yet.
    #[error("waiting for {address} to answer {} on {interface}", protocol(*.address))]
    Resolving {
        /// The backend or its gateway.
        address: IpAddr,
        /// Where it was asked.
        interface: String,
    },
    /// Asked often enough.
    #[error("{address} does not answer {} on {interface}", protocol(*.address))]
    NoAnswer {
        /// The backend or its gateway.
        address: IpAddr,
        /// Where it was asked.
        interface: String,
    },
    /// No room for one more neighbour.
    #[error("the kernel's neighbour table is full; raise net.{}.neigh.default.gc_thresh3", sysctl_family(*.address))]
    NeighbourTableFull {
        /// The backend or its gateway.
        address: IpAddr,
    },
    /// The kernel could not be asked.
    #[error("{message}")]
    Kernel {
        /// What went wrong and what to do.
        message: String,
    },
}

impl From<NetError> for NextHopError {
    fn from(error: NetError) -> Self {
        Self::Kernel {
            message: error.to_string(),
        }
    }
}

const fn protocol(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "ARP",
        IpAddr::V6(_) => "neighbour discovery",
    }
}

const fn sysctl_family(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "ipv4",
        IpAddr::V6(_) => "ipv6",
    }
}
