//! What is there on the backend, as `ip -json` tells it.

use std::{net::IpAddr, process::Command};

use serde::Deserialize;

use super::SetupError;

/// The backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The interface that packets come in by.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// Its largest IP packet, in bytes.
    pub mtu: u32,
    /// Addresses of the host that others can reach, loopback and link-local left out.
    pub addresses: Vec<IpAddr>,
    /// The gateways and interfaces of the default routes for IPv4 and IPv6: `via 10.0.0.1 dev eth0`.
    pub default_routes: [Option<String>; 2],
}

#[derive(Deserialize)]
struct Link {
    ifindex: u32,
    mtu: u32,
}

#[derive(Deserialize)]
struct Addresses {
    ifname: String,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    local: Option<IpAddr>,
    scope: String,
}

#[derive(Deserialize)]
struct Route {
    gateway: Option<IpAddr>,
    dev: Option<String>,
}

impl Host {
    /// Looks at the host. Without an interface, that of the default route is taken.
    ///
    /// # Errors
    /// Without `ip`, or without such an interface.
    pub fn look(interface: Option<&str>) -> Result<Self, SetupError> {
        let default_routes = [default_route("-4")?, default_route("-6")?];
        let of_route = || {
            let mut devices = default_routes.iter().flatten().filter_map(|route| route.1.clone());
            devices.next()
        };
        let interface = interface.map(str::to_owned).or_else(of_route);
        let interface = interface.ok_or_else(|| SetupError::NoInterface("--interface".to_owned()))?;
        let links: Vec<Link> = json(&["-json", "link", "show", "dev", &interface])
            .map_err(|_| SetupError::NoInterface(interface.clone()))?;
        let link = links
            .first()
            .ok_or_else(|| SetupError::NoInterface(interface.clone()))?;
        let all: Vec<Addresses> = json(&["-json", "address", "show"])?;
        let reachable = all.iter().filter(|of| of.ifname != "lo").flat_map(|of| &of.addr_info);
        Ok(Self {
            ifindex: link.ifindex,
            mtu: link.mtu,
            interface,
            addresses: reachable
                .filter(|a| a.scope == "global")
                .filter_map(|a| a.local)
                .collect(),
            default_routes: default_routes.map(|route| route.map(|(words, _)| words)),
        })
    }
}

/// As `ip route` words it, and its interface.
fn default_route(family: &str) -> Result<Option<(String, Option<String>)>, SetupError> {
    let routes: Vec<Route> = json(&[family, "-json", "route", "show", "default"])?;
    let words = |route: &Route| {
        let via = route
            .gateway
            .map(|gateway| format!("via {gateway} "))
            .unwrap_or_default();
        let dev = route.dev.as_ref()?;
        Some((format!("{via}dev {dev}"), route.dev.clone()))
    };
    Ok(routes.first().and_then(words))
}

fn json<T: for<'de> Deserialize<'de>>(arguments: &[&str]) -> Result<Vec<T>, SetupError> {
    let text = ip(arguments)?;
    // Without any, `ip` prints nothing, or a list with an empty object for what it left out.
    let values: Vec<serde_json::Value> = serde_json::from_str(text.trim()).unwrap_or_default();
    Ok(values
        .into_iter()
        .filter_map(|v| serde_json::from_value(v).ok())
        .collect())
}

/// What `ip` prints.
pub(super) fn ip<S: AsRef<str>>(arguments: &[S]) -> Result<String, SetupError> {
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    let refuse = |cause: String| SetupError::Command {
        command: format!("ip {}", arguments.join(" ")),
        cause,
    };
    let output = Command::new("ip").args(&arguments).output();
    let output = output.map_err(|e| refuse(format!("{e}; iproute2 is needed")))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(refuse(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}
