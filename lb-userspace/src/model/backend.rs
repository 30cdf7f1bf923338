//! A server in the pool of a service.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

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
