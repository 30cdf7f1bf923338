//! The kernel's own way in the middle of a chain: plain forwarding, with one route and no address translated.
//!
//! As with nftables, the last device discards frames as somebody else's, which costs less than a program would.

use std::net::IpAddr;

use anyhow::Result;

use super::chain::Chain;

/// Puts plain routing into a chain.
pub(crate) fn forward(mut chain: Chain) -> Result<Chain> {
    let vip = chain.traffic().vip();
    let family = match vip {
        IpAddr::V4(_) => {
            "for c in all default in out; do echo 0 >/proc/sys/net/ipv4/conf/$c/rp_filter; done
             echo 1 >/proc/sys/net/ipv4/ip_forward
             ip='ip -4'"
        }
        IpAddr::V6(_) => {
            "for c in all default in out; do echo 0 >/proc/sys/net/ipv6/conf/$c/disable_ipv6; done
             echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
             ip='ip -6'"
        }
    };
    chain.namespace().sh(&format!(
        "{family}
         $ip route add {vip} dev out
         $ip neigh replace {vip} lladdr 02:00:00:00:00:09 dev out nud permanent"
    ));
    chain.attach("pass", "in")?;
    Ok(chain)
}
