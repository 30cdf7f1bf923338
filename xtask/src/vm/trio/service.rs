//! The services of the balancer: both protocols, both families, with one arm and with two.

use std::fmt;

/// The servers; each has an address in both networks.
pub(super) const SERVERS: [&str; 4] = ["s1", "s2", "s3", "s4"];
/// Numbers of the networks, and of the interfaces in them.
pub(super) const NETWORKS: [u8; 2] = [0, 1];
/// Where the servers answer HTTP.
pub(super) const HTTP_PORT: u16 = 80;
/// Where they answer datagrams.
pub(super) const ECHO_PORT: u16 = 9000;

/// Last part of the VIPs.
const VIP: u8 = 100;
/// Last part of the first server's addresses.
const FIRST_SERVER: u8 = 11;

/// How a backend that is down is found out, and how soon. An emulated machine may stop for a second.
const HEALTH: &str = r#"
[service.health]
type = "tcp"
port = 80
interval = "1s"
fast-interval = "300ms"
timeout = "3s"
rise = 2
fall = 2
"#;

/// The servers with the last part of their addresses.
pub(super) fn servers() -> impl Iterator<Item = (&'static str, u8)> {
    SERVERS.into_iter().zip(FIRST_SERVER..)
}

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn address(self, network: u8, host: u8) -> String {
        match self {
            Self::V4 => format!("10.90.{network}.{host}"),
            Self::V6 => format!("fd90:0:0:{network}::{host}"),
        }
    }

    /// As it stands before a port.
    pub(super) fn bracketed(self, network: u8, host: u8) -> String {
        let address = self.address(network, host);
        match self {
            Self::V4 => address,
            Self::V6 => format!("[{address}]"),
        }
    }

    /// Bits of a network's prefix.
    pub(super) fn prefix(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    pub(super) fn subnet(self, network: u8) -> String {
        match self {
            Self::V4 => format!("10.90.{network}.0/24"),
            Self::V6 => format!("fd90:0:0:{network}::/64"),
        }
    }

    /// The option of `ip`.
    pub(super) fn option(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    /// What `ip address add` is told so that the address can be used at once.
    pub(super) fn nodad(self) -> &'static str {
        match self {
            Self::V4 => "",
            Self::V6 => "nodad",
        }
    }
}

/// How packets go through the balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arms {
    /// In and out by `eth0`, in mode `full-nat`.
    One,
    /// In by one interface and out by the other, in mode `nat`.
    Two,
}

impl Arms {
    fn mode(self) -> &'static str {
        match self {
            Self::One => "full-nat",
            Self::Two => "nat",
        }
    }

    /// The network of the servers.
    fn network(self) -> u8 {
        match self {
            Self::One => 0,
            Self::Two => 1,
        }
    }
}

/// A service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Service {
    /// `tcp` or `udp`.
    pub(super) protocol: &'static str,
    pub(super) family: Family,
    pub(super) arms: Arms,
}

impl Service {
    /// All of them.
    pub(super) fn all() -> Vec<Self> {
        let mut services = Vec::new();
        for protocol in ["tcp", "udp"] {
            for family in Family::ALL {
                services.extend([Arms::One, Arms::Two].map(|arms| Self { protocol, family, arms }));
            }
        }
        services
    }

    /// As the configuration names it.
    pub(super) fn name(self) -> String {
        let family = match self.family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        format!("{}-{family}-{}", self.protocol, self.arms.mode())
    }

    /// VIP and port. What has two arms is one port further.
    pub(super) fn vip(self) -> String {
        let port = self.server_port() + u16::from(self.arms == Arms::Two);
        format!("{}:{port}", self.family.bracketed(0, VIP))
    }

    fn server_port(self) -> u16 {
        match self.protocol {
            "tcp" => HTTP_PORT,
            _ => ECHO_PORT,
        }
    }

    fn configuration(self) -> String {
        let mut text = format!(
            "\n[[service]]\nname = \"{}\"\nvip = \"{}\"\nprotocol = \"{}\"\nmode = \"{}\"\nvip-interface = \"eth0\"\n{HEALTH}",
            self.name(),
            self.vip(),
            self.protocol,
            self.arms.mode(),
        );
        for (server, host) in servers() {
            let address = self.family.bracketed(self.arms.network(), host);
            let port = self.server_port();
            text.push_str(&format!(
                "\n[[service.backend]]\nname = \"{server}\"\naddress = \"{address}:{port}\"\n"
            ));
        }
        text
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// The balancer's configuration file.
pub(super) fn configuration() -> String {
    let mut text = String::new();
    for network in NETWORKS {
        text.push_str(&format!("[[interface]]\nname = \"eth{network}\"\nxdp = \"native\"\n\n"));
    }
    text.push_str("[limits]\nflows-ipv4 = 16384\nflows-ipv6 = 16384\n");
    text.extend(Service::all().into_iter().map(Service::configuration));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_a_name_and_a_vip_of_its_own() {
        let services = Service::all();
        assert_eq!(services.len(), 8);
        for (i, a) in services.iter().enumerate() {
            for b in services.iter().skip(i + 1) {
                assert_ne!(a.name(), b.name());
                assert_ne!((a.protocol, a.vip()), (b.protocol, b.vip()));
            }
        }
        assert_eq!(services.last().unwrap().vip(), "[fd90:0:0:0::100]:9001");
    }
}
