//! What the kernel itself offers between client and server: routing, nftables, IPVS.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::{
    bed::{Bed, Middle},
    contender::Absence,
    process::require,
};

/// Plain forwarding: the client asks the first server by its own address.
pub(super) fn route(bed: &Bed, middle: &Middle) -> Result<()> {
    middle.sh("echo 1 >/proc/sys/net/ipv4/ip_forward")?;
    bed.client_sh(&format!(
        "ip route add {} via {}",
        middle.server_net(),
        middle.gateway()
    ))
}

/// Destination NAT, servers in turn. Replies come back this way, as the middle is the servers' gateway: no masquerading.
pub(super) fn nftables(middle: &Middle) -> Result<()> {
    require("nft")?;
    middle.sh(&format!(
        "echo 1 >/proc/sys/net/ipv4/ip_forward
         ip address add {vip}/32 dev client0
         nft '{rules}'",
        vip = middle.vip(),
        rules = rules(middle.vip(), &middle.servers())
    ))
}

fn rules(vip: Ipv4Addr, servers: &[Ipv4Addr]) -> String {
    let map: Vec<_> = (0..)
        .zip(servers)
        .map(|(n, ip): (u8, _)| format!("{n} : {ip}"))
        .collect();
    format!(
        "add table ip lb; add chain ip lb pre {{ type nat hook prerouting priority dstnat; }}; \
         add rule ip lb pre ip daddr {vip} tcp dport 80 dnat to numgen inc mod {} map {{ {} }}",
        servers.len(),
        map.join(", ")
    )
}

/// IPVS in mode NAT (`-m`), servers in turn.
pub(super) fn ipvs(middle: &Middle) -> Result<(), Absence> {
    // Where it is a module, this loads it; the table of the namespace tells whether it is there.
    let _may_be_built_in = middle.namespace().try_sh("modprobe --quiet ip_vs");
    if middle.namespace().try_sh("cat /proc/net/ip_vs").status.success() {
        balance_with_ipvs(middle).map_err(Absence::Failed)
    } else {
        Err(Absence::NotHere("not in this kernel".to_owned()))
    }
}

fn balance_with_ipvs(middle: &Middle) -> Result<()> {
    require("ipvsadm")?;
    let vip = middle.vip();
    let servers: Vec<_> = middle
        .servers()
        .iter()
        .map(|server| format!("ipvsadm -a -t {vip}:80 -r {server}:80 -m"))
        .collect();
    middle.sh(&format!(
        "echo 1 >/proc/sys/net/ipv4/ip_forward
         ip address add {vip}/32 dev client0
         ipvsadm -A -t {vip}:80 -s rr
         {}",
        servers.join("\n")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_has_every_server() {
        let rules = rules(
            Ipv4Addr::new(10, 91, 2, 100),
            &[Ipv4Addr::new(10, 92, 2, 11), Ipv4Addr::new(10, 92, 2, 12)],
        );
        assert!(
            rules.ends_with("dnat to numgen inc mod 2 map { 0 : 10.92.2.11, 1 : 10.92.2.12 }"),
            "{rules}"
        );
    }
}
