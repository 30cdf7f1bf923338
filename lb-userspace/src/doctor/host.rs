//! The host and its kernel.

use super::{
    Facts, Finding,
    Weight::{Hint, Problem},
    finding,
};
use crate::health::room;

const HOST: &str = "host";
/// In percent: from here on a table of the kernel's is worth a word.
const NEARLY_FULL: u64 = 80;
/// Available memory below this part of all, in percent, is scarce.
const SCARCE: u64 = 10;

/// What should be otherwise about the host.
pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let checks = [
        jit(facts),
        ethtool(facts),
        tracked(facts),
        neighbours(facts, 0),
        neighbours(facts, 1),
        open_files(facts),
        memory(facts),
    ];
    checks.into_iter().flatten().collect()
}

fn jit(facts: &Facts) -> Option<Finding> {
    let off = facts.jit == Some(0);
    off.then(|| {
        let what = "the kernel interprets BPF programs instead of translating them: many times slower".to_owned();
        finding(Hint, HOST, what, [sysctl("net.core.bpf_jit_enable", "1")])
    })
}

fn ethtool(facts: &Facts) -> Option<Finding> {
    let unknown = !facts.has_ethtool && facts.devices.iter().any(|d| d.driver.is_some());
    unknown.then(|| {
        let what = "ethtool is not there, so rings, offloads and further queues were not looked at".to_owned();
        finding(Hint, HOST, what, ["apt-get install ethtool"])
    })
}

/// What `lb` forwards is never tracked; what it passes to the kernel is.
fn tracked(facts: &Facts) -> Option<Finding> {
    let (tracked, most) = facts.tracked.filter(|(_, most)| *most > 0)?;
    let percent = tracked.saturating_mul(100) / most;
    (percent >= NEARLY_FULL).then(|| {
        let what = format!(
            "the kernel tracks {tracked} connections of {most} ({percent} %); beyond that it drops new ones, health checks too"
        );
        let remedy = [
            sysctl("net.netfilter.nf_conntrack_max", &(most.saturating_mul(2)).to_string()),
            "or let rules track less: what lb forwards needs no tracking".to_owned(),
        ];
        finding(Problem, HOST, what, remedy)
    })
}

fn neighbours(facts: &Facts, family: usize) -> Option<Finding> {
    let most = facts.neighbours.get(family).copied().flatten()?;
    let hops = facts.daemon.as_ref()?.next_hops.get(family).copied()?;
    (hops.saturating_mul(100) >= most.saturating_mul(NEARLY_FULL)).then(|| {
        let name = if family == 0 { "ipv4" } else { "ipv6" };
        let what = format!(
            "{hops} next hops and room for {most} neighbours on this machine: those that do not fit take no new flows"
        );
        let key = |n: u32| format!("net.{name}.neigh.default.gc_thresh{n}");
        let room = hops.saturating_mul(4).next_power_of_two();
        let remedy = [
            sysctl(&key(3), &room.to_string()),
            sysctl(&key(2), &(room / 2).to_string()),
            sysctl(&key(1), &(room / 4).to_string()),
        ];
        finding(Problem, HOST, what, remedy)
    })
}

/// Each check that is under way has a file descriptor.
fn open_files(facts: &Facts) -> Option<Finding> {
    let daemon = facts.daemon.as_ref()?;
    let open_files = daemon.open_files?;
    let at_a_time = room::for_checks(open_files) as u64;
    (daemon.checks.min(room::MOST as u64) > at_a_time).then(|| {
        let what = format!(
            "{} checks and {open_files} files that lb may open: when many backends are silent at once, {at_a_time} are checked at \
             a time, and checks come late",
            daemon.checks
        );
        let wanted = (daemon.checks + room::RESERVED).next_power_of_two();
        let remedy = [format!("LimitNOFILE={wanted} in lb's systemd unit, and restart it")];
        finding(Problem, HOST, what, remedy)
    })
}

fn memory(facts: &Facts) -> Option<Finding> {
    let (all, available) = facts.memory.filter(|(all, _)| *all > 0)?;
    if available.saturating_mul(100) / all >= SCARCE {
        return None;
    }
    let mebibytes = |bytes: u64| bytes >> 20;
    let maps = facts.daemon.as_ref().map_or(0, |d| d.maps);
    let what = format!(
        "{} MiB of memory are available of {} MiB; the maps have {} MiB, and the daemon grows with backends and checks",
        mebibytes(available),
        mebibytes(all),
        mebibytes(maps)
    );
    let remedy = ["lower limits.flows-ipv4, -ipv6, -mixed or limits.slots, then `lb detach` and start again"];
    Some(finding(Problem, HOST, what, remedy))
}

fn sysctl(key: &str, value: &str) -> String {
    format!("sysctl -w {key}={value}")
}
