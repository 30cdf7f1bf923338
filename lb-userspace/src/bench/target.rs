//! Where load may go: to one host, by the interface that the operator named, and never to this host itself.

use std::net::{IpAddr, SocketAddr};

use crate::{
    api::{ApiError, ErrorKind},
    net::{KernelNetwork, NetError, Network, NextHopError, Way},
};

/// A destination that was found to be what the operator means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where traffic goes.
    pub to: SocketAddr,
    /// The interface by which it leaves, as named.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// The router on the way, if there is one.
    pub gateway: Option<IpAddr>,
}

/// Why no traffic is sent there.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A mistyped interface.
    #[error("there is no interface {name}; this host has {}", .have.join(", "))]
    NoInterface {
        /// As given.
        name: String,
        /// Those that exist.
        have: Vec<String>,
    },
    /// The interface cannot send.
    #[error("interface {name} is down; `ip link set {name} up`, or see to its cable or peer")]
    Down {
        /// Its name.
        name: String,
    },
    /// Multicast, broadcast and the like.
    #[error("{to} is a {kind} address: load goes to one host only; give --to the address of a service")]
    NotOneHost {
        /// As given.
        to: IpAddr,
        /// What kind it is.
        kind: &'static str,
    },
    /// An address of this host.
    #[error(
        "{to} is an address of this host, and what is sent to it never reaches {interface}; run lb bench on another \
         machine than lb"
    )]
    Local {
        /// As given.
        to: IpAddr,
        /// As given.
        interface: String,
    },
    /// Another way than the operator thinks.
    #[error(
        "{to} is reached by {by}, not by {interface}; give --interface {by}, or add a route: ip route add {to} dev \
         {interface}"
    )]
    OtherInterface {
        /// As given.
        to: IpAddr,
        /// As given.
        interface: String,
        /// What the routing table says.
        by: String,
    },
    /// No way at all.
    #[error("{reason}; `ip route get {to}` shows what this host would do")]
    NoWay {
        /// As given.
        to: IpAddr,
        /// What the routing table says.
        reason: String,
    },
    /// An address to send from that is none of this host's.
    #[error("--source {address} is no address of this host; `ip address add {address} dev {interface}` makes it one")]
    NotOurs {
        /// As given.
        address: IpAddr,
        /// As given.
        interface: String,
    },
    /// IPv4 on one side and IPv6 on the other.
    #[error("--source {address} and --to {to} are of different families: give both IPv4 or both IPv6 addresses")]
    Families {
        /// As given.
        address: IpAddr,
        /// As given.
        to: IpAddr,
    },
    /// The kernel could not be asked.
    #[error(transparent)]
    Network(#[from] NetError),
}

impl From<TargetError> for ApiError {
    fn from(error: TargetError) -> Self {
        let kind = match error {
            TargetError::NoInterface { .. } => ErrorKind::NotFound,
            TargetError::NotOneHost { .. }
            | TargetError::Local { .. }
            | TargetError::OtherInterface { .. }
            | TargetError::NotOurs { .. }
            | TargetError::Families { .. } => ErrorKind::Invalid,
            TargetError::Down { .. } | TargetError::NoWay { .. } | TargetError::Network(_) => ErrorKind::System,
        };
        Self {
            kind,
            message: error.to_string(),
        }
    }
}

impl Target {
    /// Asks the kernel whether packets to this address leave by this interface, to one host. Sends nothing.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub async fn find(interface: &str, to: SocketAddr) -> Result<Self, TargetError> {
        let (network, _events) = KernelNetwork::start().await?;
        let address = to.ip();
        check_address(address)?;
        let Some(link) = network.interface(interface) else {
            let mut have: Vec<_> = network.interfaces().into_iter().map(|i| i.name).collect();
            have.sort();
            return Err(TargetError::NoInterface {
                name: interface.to_owned(),
                have,
            });
        };
        if !link.up {
            return Err(TargetError::Down {
                name: interface.to_owned(),
            });
        }
        let way = network
            .way_to(address)
            .await
            .map_err(|e| no_way(interface, address, &e))?;
        check_way(interface, address, &way)?;
        Ok(Self {
            to,
            interface: interface.to_owned(),
            ifindex: link.index,
            gateway: way.gateway,
        })
    }

    /// Whether all these are addresses of this host that can send there. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// The first that is not.
    pub async fn check_sources(&self, sources: &[IpAddr]) -> Result<(), TargetError> {
        if sources.is_empty() {
            return Ok(());
        }
        let (network, _events) = KernelNetwork::start().await?;
        let ours = network.addresses().await?;
        for &address in sources {
            let to = self.to.ip();
            if address.is_ipv4() != to.is_ipv4() {
                return Err(TargetError::Families { address, to });
            }
            if !ours.iter().any(|own| own.address == address) {
                let interface = self.interface.clone();
                return Err(TargetError::NotOurs { address, interface });
            }
        }
        Ok(())
    }
}

/// What needs no routing table to be refused.
fn check_address(to: IpAddr) -> Result<(), TargetError> {
    let kind = match to {
        _ if to.is_unspecified() => "unspecified",
        _ if to.is_multicast() => "multicast",
        IpAddr::V4(v4) if v4.is_broadcast() => "broadcast",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "link-local",
        _ => return Ok(()),
    };
    Err(TargetError::NotOneHost { to, kind })
}

fn check_way(interface: &str, to: IpAddr, way: &Way) -> Result<(), TargetError> {
    if way.interface == interface {
        return Ok(());
    }
    Err(TargetError::OtherInterface {
        to,
        interface: interface.to_owned(),
        by: way.interface.clone(),
    })
}

fn no_way(interface: &str, to: IpAddr, error: &NextHopError) -> TargetError {
    match error {
        NextHopError::Local => TargetError::Local {
            to,
            interface: interface.to_owned(),
        },
        NextHopError::NotUnicast { kind, .. } => TargetError::NotOneHost { to, kind },
        other => TargetError::NoWay {
            to,
            reason: other.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_one_host_are_taken() {
        for bad in ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "fe80::1"] {
            let error = check_address(bad.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("one host"), "{error}");
        }
        for good in ["192.0.2.1", "2001:db8::1"] {
            assert!(check_address(good.parse().unwrap()).is_ok(), "{good}");
        }
    }

    #[test]
    fn another_way_is_named() {
        let way = Way {
            interface: "eth1".into(),
            gateway: None,
        };
        let to = "192.0.2.1".parse().unwrap();
        let error = check_way("eth0", to, &way).unwrap_err().to_string();
        assert!(error.contains("--interface eth1"), "{error}");
        assert!(check_way("eth1", to, &way).is_ok());
    }
}
