//! The demo's network: namespaces for a client, the load balancer, a switch and four servers.
//!
//! ```text
//! client 10.80.1.2 ── 10.80.1.1 lb 10.80.2.1 ── switch ─┬─ s1 10.80.2.11
//!                     VIP 10.80.1.100                   ├─ s2 10.80.2.12 …
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, Command},
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::leftovers;
use crate::{interrupt, shell};

/// The servers' names, which are also what they answer.
pub(super) const SERVERS: [&str; 4] = ["s1", "s2", "s3", "s4"];

/// A lab; it is taken down when this is dropped, unless it is kept.
#[derive(Debug)]
pub(super) struct Lab {
    id: u32,
    directory: PathBuf,
    kept: bool,
}

impl Lab {
    /// Makes the namespaces and the wires between them.
    ///
    /// # Errors
    /// When the kernel refuses; what was made is removed again.
    pub(super) fn new() -> Result<Self> {
        let id = process::id();
        let directory = leftovers::directory(id);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let lab = Self {
            id,
            directory,
            kept: false,
        };
        lab.make_namespaces()?;
        lab.connect(
            "client",
            "eth0",
            Some("10.80.1.2/24"),
            "lb",
            "client0",
            Some("10.80.1.1/24"),
        )?;
        lab.connect("switch", "uplink", None, "lb", "servers0", Some("10.80.2.1/24"))?;
        for (server, host) in SERVERS.iter().zip(11..) {
            lab.connect(
                server,
                "eth0",
                Some(&format!("10.80.2.{host}/24")),
                "switch",
                server,
                None,
            )?;
        }
        lab.make_switch()?;
        Ok(lab)
    }

    /// Number of this lab, part of every name that it gives.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Directory of configuration, logs and sockets.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The full name of a namespace.
    pub(super) fn namespace(&self, role: &str) -> String {
        leftovers::namespace(self.id, role)
    }

    /// A command that will run inside a namespace. Not through `ip netns exec`: that hides the BPF file system.
    pub(super) fn inside(&self, role: &str, program: &str) -> Command {
        let mut command = shell::command("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace(role)));
        command.arg(shell::find(program).unwrap_or_else(|| program.into()));
        command
    }

    /// Leaves everything up.
    ///
    /// # Errors
    /// When the mark that protects it from the next demo cannot be written.
    pub(super) fn keep(mut self) -> Result<()> {
        leftovers::mark_kept(self.id)?;
        self.kept = true;
        Ok(())
    }

    fn make_namespaces(&self) -> Result<()> {
        for role in ["client", "lb", "switch"].into_iter().chain(SERVERS) {
            interrupt::check()?;
            shell::output(shell::command("ip").args(["netns", "add", &self.namespace(role)]))?;
            shell::output(self.inside(role, "ip").args(["link", "set", "lo", "up"]))?;
        }
        Ok(())
    }

    /// A wire from `device` in namespace `role` to `peer_device` in namespace `peer`.
    fn connect(
        &self,
        role: &str,
        device: &str,
        address: Option<&str>,
        peer: &str,
        peer_device: &str,
        peer_address: Option<&str>,
    ) -> Result<()> {
        let mut link = self.inside(role, "ip");
        link.args(["link", "add", device, "type", "veth", "peer", "name", peer_device]);
        shell::output(link.args(["netns", &self.namespace(peer)]))?;
        self.bring_up(role, device, address)?;
        self.bring_up(peer, peer_device, peer_address)
    }

    fn bring_up(&self, role: &str, device: &str, address: Option<&str>) -> Result<()> {
        if let Some(address) = address {
            shell::output(self.inside(role, "ip").args(["address", "add", address, "dev", device]))?;
        }
        shell::output(self.inside(role, "ip").args(["link", "set", device, "up"]))?;
        // A packet that XDP sends into a veth is received by NAPI, which veth runs only with GRO or a program of its own.
        // A local stack leaves checksums to the hardware, which a veth is not: XDP would see them unfinished.
        shell::output(
            self.inside(role, "ethtool")
                .args(["-K", device, "gro", "on", "tx", "off"]),
        )?;
        Ok(())
    }

    fn make_switch(&self) -> Result<()> {
        shell::output(
            self.inside("switch", "ip")
                .args(["link", "add", "bridge0", "type", "bridge"]),
        )?;
        for port in ["uplink"].into_iter().chain(SERVERS) {
            shell::output(
                self.inside("switch", "ip")
                    .args(["link", "set", port, "master", "bridge0"]),
            )?;
        }
        shell::output(self.inside("switch", "ip").args(["link", "set", "bridge0", "up"]))?;
        interrupt::pause(Duration::from_millis(50))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.kept {
            leftovers::remove(self.id);
        }
    }
}
