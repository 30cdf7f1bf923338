//! The kernel's own way in the middle of a chain: plain forwarding, with one route and no address translated.
//!
//! As with nftables, the last device discards frames as somebody else's, which costs less than a program would.

use std::net::IpAddr;

use anyhow::Result;

use super::chain::Chain;

/// Puts plain routing into a chain.
pub(crate) fn forward(mut chain: Chain) -> Result<Chain> {
    allow(&chain);
    route(&chain, &chain.traffic().vip().to_string());
    chain.attach("pass", "in")?;
    Ok(chain)
}

/// Has the kernel forward packets.
pub(super) fn allow(chain: &Chain) {
    chain.namespace().sh(match chain.traffic().vip() {
        IpAddr::V4(_) => {
            "for c in all default in out; do echo 0 >/proc/sys/net/ipv4/conf/$c/rp_filter; done
             echo 1 >/proc/sys/net/ipv4/ip_forward"
        }
        IpAddr::V6(_) => {
            "for c in all default in out; do echo 0 >/proc/sys/net/ipv6/conf/$c/disable_ipv6; done
             echo 1 >/proc/sys/net/ipv6/conf/all/forwarding"
        }
    });
}

/// Routes a destination to a router at the chain's end.
pub(super) fn route(chain: &Chain, destination: &str) {
    let (family, router) = match chain.traffic().vip() {
        IpAddr::V4(_) => ("-4", "10.203.0.1"),
        IpAddr::V6(_) => ("-6", "fe80::9"),
    };
    chain.namespace().sh(&format!(
        "ip {family} route add {destination} via {router} dev out onlink
         ip {family} neigh replace {router} lladdr 02:00:00:00:00:09 dev out nud permanent"
    ));
}
