//! Reads the facts. What cannot be read is left out.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Daemon, Device, Facts};
use crate::api::{HealthState, Status};

/// Features that merge packets before XDP sees them, as `ethtool -k` lists them and as `ethtool -K` takes them.
const MERGING: [(&str, &str); 2] = [("large-receive-offload", "lro"), ("rx-gro-hw", "rx-gro-hw")];

/// Where files are.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            proc: "/proc".into(),
        }
    }
}

impl Roots {
    /// What there is to know of the host, of the interfaces that a daemon has, and of further ones.
    #[must_use]
    pub fn facts(&self, status: Option<&Status>, further: &[String]) -> Facts {
        let proc = |path: &str| read(&self.proc.join(path));
        let mut attached: BTreeMap<String, Option<String>> = further.iter().map(|name| (name.clone(), None)).collect();
        for interface in status.into_iter().flat_map(|s| &s.interfaces) {
            attached.insert(interface.name.clone(), Some(interface.xdp.clone()));
        }
        let devices: Vec<Device> = attached
            .into_iter()
            .filter_map(|(name, xdp)| self.device(&name, xdp))
            .collect();
        let number = |path: &str| proc(path)?.parse().ok();
        let thresh = |family: &str| number(&format!("sys/net/{family}/neigh/default/gc_thresh3"));
        let tracked = || {
            Some((
                number("sys/net/netfilter/nf_conntrack_count")?,
                number("sys/net/netfilter/nf_conntrack_max")?,
            ))
        };
        Facts {
            cpus: read(&self.sys.join("devices/system/cpu/online")).map_or(1, |list| cpus(&list).len().max(1)),
            devices,
            has_ethtool: ethtool(&["--version"]).is_some(),
            jit: proc("sys/net/core/bpf_jit_enable").and_then(|text| text.parse().ok()),
            irqbalance: self.runs("irqbalance"),
            tracked: tracked(),
            neighbours: [thresh("ipv4"), thresh("ipv6")],
            memory: proc("meminfo").and_then(|text| memory(&text)),
            daemon: status.map(|status| self.daemon(status)),
        }
    }

    fn daemon(&self, status: &Status) -> Daemon {
        let limits = read(&self.proc.join(format!("{}/limits", status.pid)));
        let backends = || status.services.iter().flat_map(|s| &s.backends);
        let hops: std::collections::BTreeSet<IpAddr> = backends()
            .filter_map(|b| b.next_hop.as_ref()?.split_whitespace().next()?.parse().ok())
            .collect();
        let of = |v4: bool| hops.iter().filter(|ip| ip.is_ipv4() == v4).count() as u64;
        Daemon {
            open_files: limits.and_then(|text| open_files(&text)),
            checks: backends().filter(|b| b.health.state != HealthState::Unchecked).count() as u64,
            next_hops: [of(true), of(false)],
            maps: status.maps.iter().map(|map| map.bytes).sum(),
        }
    }

    fn device(&self, name: &str, xdp: Option<String>) -> Option<Device> {
        let files = self.sys.join("class/net").join(name);
        let mtu = read(&files.join("mtu"))?.parse().ok()?;
        let driver = fs::read_link(files.join("device/driver")).ok();
        let driver = driver.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let queues = |prefix: &str| names(&files.join("queues")).filter(|q| q.starts_with(prefix)).count();
        let real = driver.is_some();
        let ask = |option: &str| ethtool(&[option, name]).filter(|_| real);
        Some(Device {
            xdp,
            mtu,
            rx_queues: queues("rx-"),
            tx_queues: queues("tx-"),
            most_queues: ask("-l").and_then(|text| most_queues(&text)),
            ring: ask("-g").and_then(|text| ring(&text)),
            merging: ask("-k").map_or_else(Vec::new, |text| merging(&text)),
            interrupts: self.interrupts(&files),
            name: name.to_owned(),
            driver,
        })
    }

    /// A device on a bus of its own, such as virtio's, has its interrupts one level up.
    fn interrupts(&self, files: &Path) -> BTreeMap<u32, Vec<usize>> {
        let of = |directory: &str| {
            names(&files.join(directory))
                .filter_map(|irq| irq.parse().ok())
                .collect::<Vec<u32>>()
        };
        let mut irqs = of("device/msi_irqs");
        if irqs.is_empty() {
            irqs = of("device/../msi_irqs");
        }
        let takers = |irq: u32| {
            let file = |name: &str| read(&self.proc.join(format!("irq/{irq}/{name}"))).filter(|list| !list.is_empty());
            let list = file("effective_affinity_list").or_else(|| file("smp_affinity_list"))?;
            Some((irq, cpus(&list)))
        };
        irqs.into_iter().filter_map(takers).collect()
    }

    fn runs(&self, program: &str) -> bool {
        let processes = names(&self.proc).filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
        let mut comms = processes.filter_map(|pid| read(&self.proc.join(pid).join("comm")));
        comms.any(|comm| comm == program)
    }
}

/// A file's text without the newline at its end.
fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

fn names(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// What `ethtool` prints, in English.
fn ethtool(arguments: &[&str]) -> Option<String> {
    let output = Command::new("ethtool")
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `0-3,8`.
fn cpus(list: &str) -> Vec<usize> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(part).flatten().collect()
}

/// `ethtool -l`: the first block is what there may be.
fn most_queues(text: &str) -> Option<usize> {
    let most = text.split("Current").next()?;
    let value = |name: &str| number_after(most, name).filter(|n| *n > 0);
    value("Combined:")
        .or_else(|| value("RX:"))
        .and_then(|n| n.try_into().ok())
}

/// `ethtool -g`: what there is, and what there may be.
fn ring(text: &str) -> Option<(u32, u32)> {
    let (most, current) = text.split_once("Current")?;
    Some((number_after(current, "RX:")?, number_after(most, "RX:")?))
}

fn number_after(text: &str, name: &str) -> Option<u32> {
    text.lines()
        .find_map(|line| line.trim().strip_prefix(name)?.trim().parse().ok())
}

/// `ethtool -k`.
fn merging(text: &str) -> Vec<String> {
    let on = |name: &str| {
        text.lines().any(|line| {
            line.trim()
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(": on"))
        })
    };
    MERGING
        .into_iter()
        .filter(|(listed, _)| on(listed))
        .map(|(_, name)| name.to_owned())
        .collect()
}

/// `/proc/meminfo`: all and what is available, in bytes.
fn memory(text: &str) -> Option<(u64, u64)> {
    let of = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(value.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
    };
    Some((of("MemTotal:")?, of("MemAvailable:")?))
}

/// `/proc/PID/limits`: the soft limit.
fn open_files(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn files_of_a_host_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for (path, text) in [
            ("sys/devices/system/cpu/online", "0-3\n"),
            ("sys/class/net/lbt0/mtu", "9000\n"),
            ("sys/class/net/lbt0/queues/rx-0/x", ""),
            ("sys/class/net/lbt0/queues/rx-1/x", ""),
            ("sys/class/net/lbt0/queues/tx-0/x", ""),
            ("sys/class/net/lbt0/device/msi_irqs/45", "msix\n"),
            ("sys/class/net/lbt0/device/msi_irqs/46", "msix\n"),
            ("proc/irq/45/effective_affinity_list", "2\n"),
            ("proc/irq/46/effective_affinity_list", "\n"),
            ("proc/irq/46/smp_affinity_list", "0,2-3\n"),
            ("proc/sys/net/core/bpf_jit_enable", "0\n"),
            ("proc/sys/net/ipv4/neigh/default/gc_thresh3", "1024\n"),
            ("proc/sys/net/netfilter/nf_conntrack_count", "7\n"),
            ("proc/sys/net/netfilter/nf_conntrack_max", "262144\n"),
            (
                "proc/meminfo",
                "MemTotal:       2048 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\n",
            ),
            ("proc/77/comm", "irqbalance\n"),
        ] {
            write(root, path, text);
        }
        symlink("/drivers/ixgbe", root.join("sys/class/net/lbt0/device/driver")).unwrap();
        let roots = Roots {
            sys: root.join("sys"),
            proc: root.join("proc"),
        };
        let facts = roots.facts(None, &["lbt0".to_owned(), "lbt1".to_owned()]);
        assert_eq!((facts.cpus, facts.jit, facts.irqbalance), (4, Some(0), true));
        assert_eq!(
            (facts.tracked, facts.neighbours),
            (Some((7, 262_144)), [Some(1024), None])
        );
        assert_eq!(facts.memory, Some((2 << 20, 1 << 20)));
        let [device] = &facts.devices[..] else {
            panic!("{:?}", facts.devices)
        };
        assert_eq!((device.driver.as_deref(), device.mtu), (Some("ixgbe"), 9000));
        assert_eq!((device.rx_queues, device.tx_queues), (2, 1));
        assert_eq!(device.interrupts, BTreeMap::from([(45, vec![2]), (46, vec![0, 2, 3])]));
    }

    /// As ethtool 6.1 prints it.
    #[test]
    fn ethtools_words_are_understood() {
        let channels = "Channel parameters for eth0:\nPre-set maximums:\nRX:\t\tn/a\nTX:\t\tn/a\nOther:\t\tn/a\nCombined:\t63\nCurrent hardware settings:\nRX:\t\tn/a\nTX:\t\tn/a\nOther:\t\tn/a\nCombined:\t8\n";
        assert_eq!(most_queues(channels), Some(63));
        let rings = "Ring parameters for eth0:\nPre-set maximums:\nRX:\t\t\t8192\nRX Mini:\t\tn/a\nTX:\t\t\t8192\nCurrent hardware settings:\nRX:\t\t\t512\nRX Mini:\t\tn/a\nTX:\t\t\t1024\n";
        assert_eq!(ring(rings), Some((512, 8192)));
        let features =
            "Features for eth0:\ngeneric-receive-offload: on\nlarge-receive-offload: on\nrx-gro-hw: off [fixed]\n";
        assert_eq!(merging(features), ["lro"]);
        assert_eq!((most_queues(""), ring(""), merging("")), (None, None, Vec::new()));
    }

    #[test]
    fn limits_of_a_process_are_understood() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 524288               files     \n";
        assert_eq!(open_files(limits), Some(1024));
        let own = fs::read_to_string("/proc/self/limits").unwrap();
        assert!(open_files(&own).is_some_and(|n| n > 0), "{own}");
    }
}
