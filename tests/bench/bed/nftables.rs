//! The kernel's own way in the middle of a chain: forwarding with nftables' destination NAT over the same backends.
//!
//! Its last device discards frames as somebody else's, which costs the kernel less than a program would.

use std::{fs, net::IpAddr};

use anyhow::Result;
use lb_userspace::model::Protocol;

use super::{balancer::BACKENDS, chain::Chain, traffic::PORT};

/// Puts nftables into a chain.
pub(crate) fn forward(mut chain: Chain) -> Result<Chain> {
    let traffic = chain.traffic();
    let protocol = match traffic.protocol() {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let backends: Vec<IpAddr> = (0..BACKENDS).map(|n| traffic.backend(n)).collect();
    let map: Vec<_> = (0..)
        .zip(&backends)
        .map(|(n, ip): (u8, _)| format!("{n} : {ip}"))
        .collect();
    let vip = traffic.vip();
    chain.namespace().sh(&format!(
        "for c in all default in out; do echo 0 >/proc/sys/net/ipv4/conf/$c/rp_filter; done
         echo 1 >/proc/sys/net/ipv4/ip_forward
         ip address add 10.201.0.254/16 dev out
         nft 'add table ip lb; add chain ip lb pre {{ type nat hook prerouting priority dstnat; }};
              add rule ip lb pre ip daddr {vip} {protocol} dport {PORT} dnat to numgen inc mod {BACKENDS} map {{ {} }}'",
        map.join(", ")
    ));
    for backend in backends {
        chain.namespace().sh(&format!(
            "ip neigh replace {backend} lladdr 02:00:00:00:00:09 dev out nud permanent"
        ));
    }
    chain.attach("pass", "in")?;
    Ok(chain)
}

/// How many connections the kernel tracks at most.
pub(crate) fn most_flows() -> u32 {
    fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}
