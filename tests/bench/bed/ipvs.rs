//! The kernel's own load balancer in the middle of a chain: IPVS, round-robin, rewriting the destination (NAT), over the
//! same backends.
//!
//! As with nftables, the last device discards frames as somebody else's, which costs less than a program would.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use lb_userspace::model::Protocol;

use super::{balancer::BACKENDS, chain::Chain, traffic::PORT};

/// Puts IPVS into a chain.
pub(crate) fn forward(mut chain: Chain) -> Result<Chain> {
    let traffic = chain.traffic();
    let vip = traffic.vip();
    let service = match traffic.protocol() {
        Protocol::Tcp => format!("-t {}", SocketAddr::new(vip, PORT)),
        Protocol::Udp => format!("-u {}", SocketAddr::new(vip, PORT)),
    };
    let family = match vip {
        IpAddr::V4(_) => {
            "for c in all default in out; do echo 0 >/proc/sys/net/ipv4/conf/$c/rp_filter; done
             echo 1 >/proc/sys/net/ipv4/ip_forward
             ip address add 10.201.0.254/16 dev out
             ip='ip -4'"
        }
        IpAddr::V6(_) => {
            "for c in all default in out; do echo 0 >/proc/sys/net/ipv6/conf/$c/disable_ipv6; done
             echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
             ip address add fd00:c9::ff/64 dev out nodad
             ip='ip -6'"
        }
    };
    chain.namespace().sh(&format!(
        "{family}
         $ip address add {vip} dev in
         ipvsadm -A {service} -s rr"
    ));
    for backend in (0..BACKENDS).map(|n| traffic.backend(n)) {
        let server = SocketAddr::new(backend, 8080);
        chain.namespace().sh(&format!(
            "ipvsadm -a {service} -r {server} -m
             ip neigh replace {backend} lladdr 02:00:00:00:00:09 dev out nud permanent"
        ));
    }
    chain.attach("pass", "in")?;
    Ok(chain)
}
