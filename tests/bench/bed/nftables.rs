//! The kernel's own way in the middle of a chain: forwarding with nftables' destination NAT over the same backends.
//!
//! Its last device discards frames as somebody else's, which costs the kernel less than a program would.

use std::{fmt::Write as _, fs, net::IpAddr};

use anyhow::{Context as _, Result};
use lb_userspace::model::Protocol;

use super::{
    chain::Chain,
    routing::{allow, route},
    traffic::{Load, PORT},
};

/// Puts nftables into a chain, with the services and backends that the chain's load is for.
pub(crate) fn forward(mut chain: Chain) -> Result<Chain> {
    let file = tempfile::NamedTempFile::new().context("cannot make a file for the rule set")?;
    fs::write(file.path(), rules(&chain))?;
    allow(&chain);
    // With a million flows in turn, and other contenders' runs in between, it takes long until a flow's next packet.
    chain
        .namespace()
        .sh("echo 3600 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout
         echo 3600 >/proc/sys/net/netfilter/nf_conntrack_udp_timeout_stream");
    // One next hop for all backends, as where they stand behind a router.
    route(
        &chain,
        match chain.traffic().vip() {
            IpAddr::V4(_) => "10.201.0.0/16",
            IpAddr::V6(_) => "fd00:c9::/64",
        },
    );
    chain.namespace().sh(&format!("nft -f {}", file.path().display()));
    chain.attach("pass", "in")?;
    Ok(chain)
}

/// A verdict map from port to chain, and a chain for each service, in whose map the backends take turns.
fn rules(chain: &Chain) -> String {
    let Load {
        traffic,
        services,
        backends,
        ..
    } = chain.load();
    let protocol = match traffic.protocol() {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let (vip, ip) = match traffic.vip() {
        vip @ IpAddr::V4(_) => (vip, "ip"),
        vip @ IpAddr::V6(_) => (vip, "ip6"),
    };
    let (mut chains, mut ports) = (String::new(), Vec::new());
    for service in 0..services {
        let map: Vec<_> = (0..backends)
            .map(|n| format!("{n} : {}", traffic.backend(service * backends + n)))
            .collect();
        // Writing to a string cannot fail.
        let _ = writeln!(
            chains,
            "chain s{service} {{ dnat to numgen inc mod {backends} map {{ {} }}; }}",
            map.join(", ")
        );
        ports.push(format!("{} : goto s{service}", PORT + service));
    }
    format!(
        "table {ip} lb {{
         {chains}
         chain pre {{
             type nat hook prerouting priority dstnat;
             {ip} daddr {vip} {protocol} dport vmap {{ {} }}
         }}
         }}\n",
        ports.join(", ")
    )
}

/// How many connections the kernel tracks at most, in each namespace.
pub(crate) fn most_flows() -> u32 {
    read(MOST).unwrap_or(0)
}

const MOST: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
const BUCKETS: &str = "/proc/sys/net/netfilter/nf_conntrack_buckets";

/// Lets the kernel track more connections, with as many buckets to find them in, until it is dropped. Both are settings of the
/// whole machine: in a network namespace of one's own they can only be read.
pub(crate) struct Tracking {
    most: u32,
    buckets: u32,
}

impl Tracking {
    /// Makes room for so many and a fourth more, unless there is.
    pub(crate) fn raise(flows: u32) -> Option<Self> {
        let wanted = flows / 4 * 5;
        let before = Self {
            most: read(MOST)?,
            buckets: read(BUCKETS)?,
        };
        if before.most >= wanted {
            return None;
        }
        // Where it must not be written, the report says what is not measured for that.
        fs::write(MOST, wanted.to_string()).ok()?;
        let _slower_with_fewer = fs::write(BUCKETS, wanted.to_string());
        Some(before)
    }
}

impl Drop for Tracking {
    fn drop(&mut self) {
        for (file, value) in [(MOST, self.most), (BUCKETS, self.buckets)] {
            if let Err(error) = fs::write(file, value.to_string()) {
                eprintln!("cannot set {file} to {value} again: {error}");
            }
        }
    }
}

fn read(file: &str) -> Option<u32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}
