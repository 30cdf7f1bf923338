//! What the kernel's answer to `RTM_GETROUTE` means for a backend.

use std::net::IpAddr;

use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType, RouteVia,
};

use super::{
    error::{NetError, NextHopError},
    message::{family, host_prefix_len},
};

/// A route to one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) ifindex: u32,
    pub(super) gateway: Option<IpAddr>,
    pub(super) source: Option<IpAddr>,
    pub(super) mtu: Option<u32>,
}

/// "Which way to this address?"
pub(super) fn question(to: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(to),
        destination_prefix_length: host_prefix_len(to),
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::from(to))];
    message
}

/// Refuses addresses that no route can lead to one server.
pub(super) const fn check_address(to: IpAddr) -> Result<(), NextHopError> {
    let link_local = match to {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if link_local {
        return Err(NextHopError::LinkLocal { to });
    }
    if to.is_multicast() {
        return Err(NextHopError::NotUnicast { to, kind: "multicast" });
    }
    Ok(())
}

/// The kernel answered with a route.
pub(super) fn answer(to: IpAddr, message: &RouteMessage) -> Result<Route, NextHopError> {
    check_type(to, message.header.kind)?;
    let mut route = Route {
        ifindex: 0,
        gateway: None,
        source: None,
        mtu: None,
    };
    for attribute in &message.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            route.ifindex = *index;
        } else if let RouteAttribute::Gateway(address) = attribute {
            route.gateway = ip(address);
        } else if let RouteAttribute::Via(via) = attribute {
            route.gateway = via_ip(via);
        } else if let RouteAttribute::PrefSource(address) = attribute {
            route.source = ip(address);
        } else if let RouteAttribute::Metrics(metrics) = attribute {
            route.mtu = metrics.iter().find_map(mtu);
        } else if let RouteAttribute::Encap(_) = attribute {
            return Err(NextHopError::Encapsulated { to });
        }
    }
    if route.ifindex == 0 {
        return Err(NextHopError::NoRoute { to });
    }
    Ok(route)
}

/// The kernel answered with an error. IPv4 tells the types of routes that lead nowhere by error numbers
/// (`fib_props` in `net/ipv4/fib_semantics.c`). `None`: the error says nothing about the route.
pub(super) fn refusal(to: IpAddr, error: &NetError) -> Option<NextHopError> {
    match error.errno()? {
        libc::ENETUNREACH | libc::ESRCH => Some(NextHopError::NoRoute { to }),
        libc::EHOSTUNREACH => Some(NextHopError::Rejected {
            to,
            kind: "unreachable",
        }),
        libc::EINVAL => Some(NextHopError::Rejected { to, kind: "blackhole" }),
        libc::EACCES => Some(NextHopError::Rejected { to, kind: "prohibit" }),
        _ => None,
    }
}

const fn check_type(to: IpAddr, kind: RouteType) -> Result<(), NextHopError> {
    Err(match kind {
        RouteType::Unicast => return Ok(()),
        RouteType::Local => NextHopError::Local,
        RouteType::Broadcast => NextHopError::NotUnicast { to, kind: "broadcast" },
        RouteType::Multicast => NextHopError::NotUnicast { to, kind: "multicast" },
        RouteType::Anycast => NextHopError::NotUnicast { to, kind: "anycast" },
        RouteType::BlackHole => NextHopError::Rejected { to, kind: "blackhole" },
        RouteType::Unreachable => NextHopError::Rejected {
            to,
            kind: "unreachable",
        },
        RouteType::Prohibit => NextHopError::Rejected { to, kind: "prohibit" },
        // The kernel never answers with the remaining types: "throw" goes on to the next table.
        RouteType::Unspec
        | RouteType::Throw
        | RouteType::Nat
        | RouteType::ExternalResolve
        | RouteType::Other(_)
        | _ => NextHopError::NoRoute { to },
    })
}

const fn ip(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = address {
        Some(IpAddr::V4(*address))
    } else if let RouteAddress::Inet6(address) = address {
        Some(IpAddr::V6(*address))
    } else {
        None
    }
}

/// A gateway of the other family: IPv4 routes may lead to an IPv6 neighbour (RFC 8950 networks).
const fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    if let RouteVia::Inet(address) = via {
        Some(IpAddr::V4(*address))
    } else if let RouteVia::Inet6(address) = via {
        Some(IpAddr::V6(*address))
    } else {
        None
    }
}

const fn mtu(metric: &RouteMetric) -> Option<u32> {
    if let RouteMetric::Mtu(mtu) = metric {
        Some(*mtu)
    } else {
        None
    }
}
