//! How backends are checked.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

use super::Protocol;

/// How the backends of a service are checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked of the backend.
    pub probe: Probe,
    /// Port to ask, if not the backend's own.
    pub port: Option<u16>,
    /// Between two checks of a backend whose state is settled.
    pub interval: Duration,
    /// Between two checks while the state is changing.
    pub fast_interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// Successes in a row that bring a backend up.
    pub rise: u32,
    /// Failures in a row that bring a backend down.
    pub fall: u32,
    /// The first check is delayed by a random time up to this, so that checks do not come in step.
    pub start_jitter: Duration,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            port: None,
            interval: Duration::from_secs(2),
            fast_interval: Duration::from_millis(500),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 3,
            start_jitter: Duration::from_millis(200),
        }
    }
}

impl HealthCheck {
    /// The check of a service whose operator asked for none in particular.
    #[must_use]
    pub fn default_for(protocol: Protocol) -> Self {
        let probe = match protocol {
            Protocol::Tcp => Probe::Tcp,
            Protocol::Udp => Probe::None,
        };
        Self {
            probe,
            ..Self::default()
        }
    }
}

/// What a health check asks of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// Nothing: the backend is always taken as healthy.
    None,
    /// A TCP connection can be opened.
    Tcp,
    /// `GET` over HTTP/1.1 is answered as expected.
    Http(HttpProbe),
}

/// An HTTP health check.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpProbe {
    /// Path and query, beginning with `/`.
    pub path: String,
    /// `Host` header; without it, the target's address.
    pub host: Option<String>,
    /// Status codes that count as healthy, such as `200..=399`.
    pub status: RangeInclusive<u16>,
    /// Text that the first 64 KiB of the body must hold.
    pub body: Option<String>,
}

/// What one check talks to: services that share it share the check.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HealthTarget {
    /// Address and port that are asked.
    pub address: SocketAddr,
    /// How.
    pub check: HealthCheck,
}

impl HttpProbe {
    /// `GET path`, with any status from 200 to 399 taken as healthy.
    #[must_use]
    pub const fn new(path: String) -> Self {
        Self {
            path,
            host: None,
            status: 200..=399,
            body: None,
        }
    }
}
