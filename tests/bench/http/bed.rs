//! The network: one client, one server, and for each contender a middle of its own between them.
//!
//! ```text
//!         c0 ================================= s0           directly
//! client  c1 ==== client0 [middle] servers0 ==== s1  server
//!         c2 ==== client0 [middle] servers0 ==== s2
//! ```
//!
//! The cables are the same for all: at the ends of client and server, checksums are computed in software and GRO is on,
//! because frames that XDP redirects arrive there only so.

use std::{net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result, bail};
use lb_tests::Namespace;
use tempfile::TempDir;

/// Addresses of the server on each cable.
pub(super) const SERVERS: u8 = 4;

/// Lets a host open many connections: all ports, and those in TIME-WAIT again after a second.
pub(super) const MANY_CONNECTIONS: &str = "echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range
         echo 1 >/proc/sys/net/ipv4/tcp_tw_reuse";

/// Client and server.
///
/// Fields are dropped in this order.
#[derive(Debug)]
pub(super) struct Bed {
    client: Namespace,
    server: Namespace,
    directory: TempDir,
}

/// What is between client and server on one way.
#[derive(Debug)]
pub(super) struct Middle {
    namespace: Namespace,
    number: u8,
}

impl Bed {
    /// Makes client and server, not yet connected.
    pub(super) fn new() -> Result<Self> {
        let prefix = prefix();
        let bed = Self {
            client: Namespace::create(&format!("{prefix}-client")),
            server: Namespace::create(&format!("{prefix}-server")),
            directory: tempfile::Builder::new()
                .prefix(&prefix)
                .tempdir()
                .context("cannot make a temporary directory")?,
        };
        bed.client_sh(MANY_CONNECTIONS)?;
        Ok(bed)
    }

    /// The client's namespace.
    pub(super) const fn client(&self) -> &Namespace {
        &self.client
    }

    /// The server's namespace.
    pub(super) const fn server(&self) -> &Namespace {
        &self.server
    }

    /// For files, removed at the end.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Runs shell lines on the client.
    pub(super) fn client_sh(&self, script: &str) -> Result<()> {
        sh(&self.client, script)
    }

    /// A cable from client to server; returns the server's address on it.
    pub(super) fn connect_directly(&self) -> Result<Ipv4Addr> {
        let (client, server) = (self.client.name(), self.server.name());
        let address = server_address(0, 0);
        sh(
            &self.client,
            &format!("ip link add c0 netns {client} type veth peer name s0 netns {server}"),
        )?;
        plug(&self.client, "c0", &[Ipv4Addr::new(10, 92, 0, 2)])?;
        plug(&self.server, "s0", &[address])?;
        Ok(address)
    }

    /// A namespace in the middle, with a cable to the client and one to the server. It forwards nothing yet.
    pub(super) fn middle(&self, number: u8, name: &str) -> Result<Middle> {
        let middle = Middle {
            namespace: Namespace::create(&format!("{}-{name}", prefix())),
            number,
        };
        let (c, s) = (format!("c{number}"), format!("s{number}"));
        middle.sh(&format!(
            "ip link add client0 type veth peer name {c} netns {client}
             ip link add servers0 type veth peer name {s} netns {server}
             ip address add {gateway}/24 dev client0
             ip address add {source}/24 dev servers0
             ip link set client0 up
             ip link set servers0 up",
            client = self.client.name(),
            server = self.server.name(),
            gateway = middle.gateway(),
            source = middle.source(),
        ))?;
        plug(&self.client, &c, &[middle.client()])?;
        plug(&self.server, &s, &middle.servers())?;
        // The middle is the server's gateway to this client address, so that replies can come back through it.
        sh(
            &self.server,
            &format!("ip route add 10.91.{number}.0/24 via {}", middle.source()),
        )?;
        Ok(middle)
    }
}

impl Middle {
    /// Its namespace.
    pub(super) const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Runs shell lines in it.
    pub(super) fn sh(&self, script: &str) -> Result<()> {
        sh(&self.namespace, script)
    }

    /// The address where the service is to be.
    pub(super) const fn vip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 91, self.number, 100)
    }

    /// The client's address on this way.
    pub(super) const fn client(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 91, self.number, 2)
    }

    /// Its own address towards the client.
    pub(super) const fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 91, self.number, 1)
    }

    /// Its own address towards the server.
    pub(super) const fn source(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 92, self.number, 1)
    }

    /// The network towards the server.
    pub(super) fn server_net(&self) -> String {
        format!("10.92.{}.0/24", self.number)
    }

    /// The server's addresses on this way.
    pub(super) fn servers(&self) -> Vec<Ipv4Addr> {
        (0..SERVERS).map(|n| server_address(self.number, n)).collect()
    }
}

const fn server_address(way: u8, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 92, way, 11 + n)
}

/// Namespaces of a run that was killed are removed by their names.
fn prefix() -> String {
    format!("{}-{}-http", lb_tests::leftovers::PREFIX, std::process::id())
}

/// Brings a device of client or server up. GRO comes after that: only then does the kernel tell the other end, which may be
/// up already, that XDP can redirect to it.
fn plug(namespace: &Namespace, device: &str, addresses: &[Ipv4Addr]) -> Result<()> {
    let addresses: Vec<_> = addresses
        .iter()
        .map(|address| format!("ip address add {address}/24 dev {device}"))
        .collect();
    sh(
        namespace,
        &format!(
            "{}
             ip link set {device} up
             ethtool -K {device} tx off gro on >/dev/null",
            addresses.join("\n")
        ),
    )
}

/// Runs shell lines, and fails with what they say.
fn sh(namespace: &Namespace, script: &str) -> Result<()> {
    let output = namespace.try_sh(script);
    if !output.status.success() {
        bail!(
            "in {}: {}: {}",
            namespace.name(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | ")
        );
    }
    Ok(())
}
