//! What an operator can do about a host, its devices and its kernel, so that the packet path gets what it can from them.
//!
//! [`gather`] reads, from `/sys`, `/proc` and `ethtool`; [`examine`] judges, and is pure. Nothing is changed: every finding
//! that can be mended by a command says which.

mod devices;
pub mod gather;
mod host;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Serialize;

/// What is known of the host. What could not be read is `None` and is not judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// CPUs that are online.
    pub cpus: usize,
    /// The interfaces that carry the packet path, or shall.
    pub devices: Vec<Device>,
    /// Whether `ethtool` could be run.
    pub has_ethtool: bool,
    /// `net.core.bpf_jit_enable`.
    pub jit: Option<u32>,
    /// Whether `irqbalance` is running.
    pub irqbalance: bool,
    /// Connections that the kernel tracks, and how many it may; `None`: it tracks none.
    pub tracked: Option<(u64, u64)>,
    /// Neighbours that the kernel keeps at most (`gc_thresh3`), by family: IPv4, IPv6.
    pub neighbours: [Option<u64>; 2],
    /// Memory of the machine and what of it is available, in bytes.
    pub memory: Option<(u64, u64)>,
    /// What the daemon says, if one runs.
    pub daemon: Option<Daemon>,
}

/// What matters of a running daemon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Daemon {
    /// Files that it may have open: its soft limit.
    pub open_files: Option<u64>,
    /// Backends that are checked.
    pub checks: u64,
    /// Next hops, by family: IPv4, IPv6.
    pub next_hops: [u64; 2],
    /// Memory of the maps, in bytes.
    pub maps: u64,
}

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Kernel name.
    pub name: String,
    /// How the packet path is attached: `native`, `generic`; `None` if it is not.
    pub xdp: Option<String>,
    /// Kernel driver; `None` for a device without hardware, such as a veth.
    pub driver: Option<String>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Queues that packets are received in.
    pub rx_queues: usize,
    /// Queues that packets are sent from.
    pub tx_queues: usize,
    /// How many queues there may be (`ethtool -l`, combined or receive).
    pub most_queues: Option<usize>,
    /// Places of a receive ring, and how many it may have (`ethtool -g`).
    pub ring: Option<(u32, u32)>,
    /// Features that are on, as `ethtool -k` calls them, those that matter here.
    pub merging: Vec<String>,
    /// CPUs that take each interrupt of the device.
    pub interrupts: BTreeMap<u32, Vec<usize>>,
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weight {
    /// Packets, flows or checks are lost, or will be.
    Problem,
    /// It would be faster otherwise.
    Hint,
}

/// One thing that should be otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub weight: Weight,
    /// An interface, or `host`.
    pub about: String,
    /// What is so, and what comes of it.
    pub what: String,
    /// What to do: commands, one a line, or words.
    pub remedy: Vec<String>,
}

/// What should be otherwise, the most important first.
#[must_use]
pub fn examine(facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = host::examine(facts);
    findings.extend(facts.devices.iter().flat_map(|device| devices::examine(device, facts)));
    findings.sort_by_key(|finding| finding.weight);
    findings
}

fn finding<R: Into<String>>(weight: Weight, about: &str, what: String, remedy: impl IntoIterator<Item = R>) -> Finding {
    Finding {
        weight,
        about: about.to_owned(),
        what,
        remedy: remedy.into_iter().map(Into::into).collect(),
    }
}
