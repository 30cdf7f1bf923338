//! HAProxy as a layer-4 balancer: mode `tcp`, one thread.

use std::{fmt::Write as _, fs, net::Ipv4Addr};

use anyhow::{Context as _, Result};

use super::{
    bed::{Bed, Middle},
    process::{Process, require},
};

/// Starts it between client and server, and waits until it listens.
pub(super) fn start(bed: &Bed, middle: &Middle) -> Result<Process> {
    require("haproxy")?;
    // It opens a connection of its own for each of the client's.
    middle.sh(&format!(
        "{}
         ip address add {}/32 dev client0",
        super::bed::MANY_CONNECTIONS,
        middle.vip()
    ))?;
    let directory = bed.directory().join("haproxy");
    fs::create_dir_all(&directory)?;
    let configuration = directory.join("haproxy.cfg");
    fs::write(&configuration, text(middle.vip(), &middle.servers()))?;
    let mut command = middle.namespace().command("haproxy");
    command.arg("-db").arg("-f").arg(&configuration);
    let mut process = Process::start("haproxy", &mut command, &directory)?;
    process
        .wait_listening(middle.namespace(), middle.vip())
        .context("HAProxy does not serve")?;
    Ok(process)
}

/// `splice-auto` leaves it to HAProxy where splicing in the kernel pays: small answers are copied. The smart options
/// save an ACK on each side where data follow at once.
fn text(vip: Ipv4Addr, servers: &[Ipv4Addr]) -> String {
    let mut text = format!(
        "global
    nbthread 1
    maxconn 2048
defaults
    mode tcp
    balance roundrobin
    option splice-auto
    option tcp-smart-accept
    option tcp-smart-connect
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen web
    bind {vip}:80 backlog 4096
    default-server check inter 2s
"
    );
    for (n, server) in (1..).zip(servers) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    server s{n} {server}:80");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_is_in_the_configuration() {
        let text = text(
            Ipv4Addr::new(10, 91, 3, 100),
            &[Ipv4Addr::new(10, 92, 3, 11), Ipv4Addr::new(10, 92, 3, 12)],
        );
        assert!(text.contains("    bind 10.91.3.100:80 "), "{text}");
        assert!(
            text.ends_with("    server s1 10.92.3.11:80\n    server s2 10.92.3.12:80\n"),
            "{text}"
        );
    }
}
