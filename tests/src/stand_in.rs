//! The kernel's own NAT in place of `lb`: what fails with it, too, is the lab's fault and not `lb`'s.

use std::{fmt::Write, net::SocketAddr};

use crate::lab::Lab;

/// Balances TCP connections to `vip` over all servers, port 80, with nftables' DNAT in turn, and masquerades them.
///
/// # Panics
/// When nftables refuses.
pub fn balance(lab: &Lab, vip: SocketAddr) {
    lab.let_kernel_forward();
    let (protocol, mask) = if vip.is_ipv4() { ("ip", 32) } else { ("ip6", 128) };
    let mut targets = String::new();
    for (i, server) in lab.servers.iter().enumerate() {
        let address = if vip.is_ipv4() {
            server.v4.to_string()
        } else {
            server.v6.to_string()
        };
        write!(targets, "{}{i} : {address}", if i == 0 { "" } else { ", " }).expect("writing to a string");
    }
    lab.lb.ns.sh(&format!(
        "ip addr add {ip}/{mask} dev {device} {nodad}
         nft 'table inet stand_in {{
             chain before {{ type nat hook prerouting priority -100;
                 {protocol} daddr {ip} tcp dport {port} dnat {protocol} to numgen inc mod {count} map {{ {targets} }}; }}
             chain after {{ type nat hook postrouting priority 100; ct status dnat masquerade; }}
         }}'",
        ip = vip.ip(),
        device = lab.interfaces()[0],
        nodad = if vip.is_ipv4() { "" } else { "nodad" },
        port = vip.port(),
        count = lab.servers.len(),
    ));
}
