//! Which flows are meant: the filters of `lb flows`.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use lb_common::flow::Phase;
use serde::{Deserialize, Serialize};

/// The state of a flow that is opening, whatever its phase.
pub const HALF_OPEN: &str = "half-open";

/// What flows have to have in common; the default matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowFilter {
    /// Of this service.
    pub service: Option<String>,
    /// To this backend.
    pub backend: Option<String>,
    /// Of these clients.
    pub client: Option<Clients>,
    /// In this phase, by its name, or [`HALF_OPEN`].
    pub state: Option<String>,
}

impl FlowFilter {
    /// Whether a flow's client and phase are meant.
    #[must_use]
    pub fn matches(&self, client: SocketAddr, phase: Phase) -> bool {
        let state = |wanted: &String| match wanted.as_str() {
            HALF_OPEN => phase.is_half_open(),
            name => phase.as_str() == name,
        };
        self.client.as_ref().is_none_or(|clients| clients.contain(client)) && self.state.as_ref().is_none_or(state)
    }

    /// Whether all flows are meant.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a state has this name.
    #[must_use]
    pub fn is_state(name: &str) -> bool {
        Self::states().any(|known| known == name)
    }

    /// Names of all states.
    pub fn states() -> impl Iterator<Item = &'static str> {
        [HALF_OPEN].into_iter().chain(Phase::ALL.into_iter().map(Phase::as_str))
    }
}

/// Clients: an address or a network, and perhaps a port. Written `10.0.0.1`, `10.0.0.1:5000`, `10.0.0.0/8`, `2001:db8::/32`,
/// `[2001:db8::1]:5000`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Clients {
    address: IpAddr,
    prefix: u8,
    port: Option<u16>,
}

/// Why a text names no clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected ADDRESS, ADDRESS:PORT or ADDRESS/PREFIX, such as 10.0.0.0/8 or [2001:db8::1]:5000")]
pub struct NoClients;

impl Clients {
    /// Whether a client is one of them.
    #[must_use]
    pub fn contain(&self, client: SocketAddr) -> bool {
        let differ = match (self.address, client.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
            (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
            _ => return false,
        };
        let same = differ.leading_zeros() >= u32::from(self.prefix);
        same && self.port.is_none_or(|port| port == client.port())
    }

    const fn bits(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }
}

impl FromStr for Clients {
    type Err = NoClients;

    fn from_str(text: &str) -> Result<Self, NoClients> {
        if let Ok(client) = text.parse::<SocketAddr>() {
            return Ok(Self {
                address: client.ip(),
                prefix: Self::bits(client.ip()),
                port: Some(client.port()),
            });
        }
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| NoClients)?;
        let bits = Self::bits(address);
        let prefix = prefix.map_or(Ok(bits), str::parse).map_err(|_| NoClients)?;
        let port = None;
        (prefix <= bits)
            .then_some(Self { address, prefix, port })
            .ok_or(NoClients)
    }
}

impl fmt::Display for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.address, port)),
            None => write!(f, "{}/{}", self.address, self.prefix),
        }
    }
}

impl TryFrom<String> for Clients {
    type Error = NoClients;

    fn try_from(text: String) -> Result<Self, NoClients> {
        text.parse()
    }
}

impl From<Clients> for String {
    fn from(clients: Clients) -> Self {
        clients.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_by_address_port_and_network() {
        let contain = |clients: &str, client: &str| {
            let clients: Clients = clients.parse().unwrap();
            assert_eq!(clients.to_string().parse::<Clients>().unwrap(), clients);
            clients.contain(client.parse().unwrap())
        };
        assert!(contain("10.0.0.1", "10.0.0.1:5000"));
        assert!(!contain("10.0.0.1", "10.0.0.2:5000"));
        assert!(contain("10.0.0.1:5000", "10.0.0.1:5000"));
        assert!(!contain("10.0.0.1:5001", "10.0.0.1:5000"));
        assert!(contain("10.0.0.0/8", "10.255.0.1:1"));
        assert!(!contain("10.0.0.0/8", "11.0.0.1:1"));
        assert!(contain("0.0.0.0/0", "11.0.0.1:1") && !contain("0.0.0.0/0", "[::1]:1"));
        assert!(contain("2001:db8::/32", "[2001:db8:ffff::1]:1"));
        assert!(!contain("2001:db8::/32", "[2001:db9::1]:1"));
        assert!(contain("[2001:db8::1]:5", "[2001:db8::1]:5"));
        for wrong in ["", "10.0.0.1/33", "10.0.0", "10.0.0.0/8:80", "host:80", "::/129"] {
            assert_eq!(wrong.parse::<Clients>(), Err(NoClients), "{wrong}");
        }
    }

    #[test]
    fn states_by_phase_and_together() {
        let client = "10.0.0.1:1".parse().unwrap();
        let matches = |state: &str, phase| {
            let state = Some(state.to_owned());
            let filter = FlowFilter {
                state,
                ..FlowFilter::default()
            };
            filter.matches(client, phase)
        };
        assert!(matches("established", Phase::ESTABLISHED) && !matches("established", Phase::UDP));
        assert!(matches(HALF_OPEN, Phase::SYN_SEEN) && matches(HALF_OPEN, Phase::UDP_NEW));
        assert!(!matches(HALF_OPEN, Phase::ESTABLISHED));
        assert!(FlowFilter::is_state("half-open") && FlowFilter::is_state("closing") && !FlowFilter::is_state("open"));
    }
}
