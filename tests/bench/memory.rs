//! Memory of the maps, as the kernel accounts it, and of what nftables keeps of as many flows.

use std::fs;

use anyhow::{Context as _, Result};
use lb_userspace::{api::MapReport, datapath::Datapath as _, model::Limits};

use crate::{
    bed::{balancer::PacketPath, chain::Chain, nftables, traffic::Traffic},
    report::{Report, figure::Unit, goals, thousands},
};

/// Numbers of flows that tables have room for.
const FLOWS: [u32; 2] = [1_000_000, 4_000_000];
/// The map of established flows over IPv4, and the entries of a flow in it.
const TABLE: &str = "FLOWS_V4";
const DIRECTIONS: f64 = 2.0;
/// Maps of fewer bytes are told together.
const SMALL: u64 = 1 << 20;

/// Measures the memory of each map, and what flows take.
pub(crate) fn measure(report: &mut Report) -> Result<()> {
    report.section("Memory of the maps in the default configuration");
    let maps = maps(Limits::default())?;
    let (large, small): (Vec<_>, Vec<_>) = maps.iter().cloned().partition(|map| map.bytes >= SMALL);
    for map in &large {
        let name = format!("{} ({} entries)", map.name, map.max_entries);
        report.add(&name, Unit::Mebibytes, &[mebibytes(map.bytes)], None, None);
    }
    let name = format!("{} smaller ones", small.len());
    report.add(&name, Unit::Mebibytes, &[mebibytes(total(&small))], None, None);
    report.add(
        "all",
        Unit::Mebibytes,
        &[mebibytes(total(&maps))],
        Some(goals::MEMORY),
        None,
    );

    report.section(
        "Memory of the maps with room for so many established flows over IPv4, replies tracked, all else by default",
    );
    for flows in FLOWS {
        sized(flows, report)?;
    }
    conntrack(report)
}

/// Maps with room for so many flows.
fn sized(flows: u32, report: &mut Report) -> Result<()> {
    let limits = Limits {
        flows_ipv4: flows,
        ..Limits::default()
    };
    let maps = maps(limits)?;
    let name = format!("{} flows: all maps", thousands(flows));
    report.add(&name, Unit::Mebibytes, &[mebibytes(total(&maps))], None, None);
    let table = maps.iter().find(|map| map.name == TABLE).context("no flow table")?;
    let name = format!("{} flows: the flow table", thousands(flows));
    report.add(&name, Unit::Mebibytes, &[mebibytes(table.bytes)], None, None);
    let each = bytes(table.bytes) / f64::from(flows) / DIRECTIONS;
    let name = format!("{} flows: for a flow and direction", thousands(flows));
    report.add(&name, Unit::Bytes, &[each], None, None);
    Ok(())
}

/// What the kernel keeps of as many flows: an entry of connection tracking, and what it hangs on it for address translation.
fn conntrack(report: &mut Report) -> Result<()> {
    let [flows, _] = FLOWS;
    report.section(&format!(
        "Memory of nftables DNAT: connection tracking of {} flows, which has both directions in one entry",
        thousands(flows)
    ));
    if nftables::most_flows() < flows {
        report.leave_out("memory of connection tracking", "the kernel tracks fewer connections");
        return Ok(());
    }
    let mut chain = nftables::forward(Chain::new(Traffic::UdpV4)?)?;
    chain.flows(0, u32::MAX)?;
    let before = slabs()?;
    chain.send(flows)?;
    let grown = slabs()?.saturating_sub(before);
    report.add(
        "the kernel's slabs grew by",
        Unit::Mebibytes,
        &[mebibytes(grown)],
        None,
        None,
    );
    let each = bytes(grown) / f64::from(flows);
    report.add("for a flow", Unit::Bytes, &[each], None, None);
    if let Some(object) = object_size("nf_conntrack") {
        report.add("of that the entry itself", Unit::Bytes, &[object], None, None);
    }
    Ok(())
}

fn maps(limits: Limits) -> Result<Vec<MapReport>> {
    let instance = format!("lbt-{}-memory", std::process::id());
    Ok(PacketPath::load(&instance, limits)?.0.maps()?)
}

fn total(maps: &[MapReport]) -> u64 {
    maps.iter().map(|map| map.bytes).sum()
}

#[expect(clippy::cast_precision_loss, reason = "gigabytes")]
const fn bytes(bytes: u64) -> f64 {
    bytes as f64
}

fn mebibytes(number: u64) -> f64 {
    bytes(number) / f64::from(1 << 20)
}

/// Bytes in slabs, of the whole machine: what else runs is in it, which is little beside what is measured.
fn slabs() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    slab_bytes(&text).context("/proc/meminfo does not tell the slabs' size")
}

fn slab_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Slab:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Bytes of an object with its share of the slab, by `/proc/slabinfo` (slabinfo(5)).
fn object_size(slab: &str) -> Option<f64> {
    let text = fs::read_to_string("/proc/slabinfo").ok()?;
    slab_object(&text, slab)
}

fn slab_object(slabinfo: &str, slab: &str) -> Option<f64> {
    let line = slabinfo
        .lines()
        .find(|line| line.split_whitespace().next() == Some(slab))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let meminfo = "MemTotal:       24683780 kB\nSlab:             221184 kB\nSReclaimable:     175000 kB\n";
        assert_eq!(slab_bytes(meminfo), Some(221_184 * 1024));
        let slabinfo =
            "slabinfo - version: 2.1\nnf_conntrack_expect 0 0 208 19 1\nnf_conntrack 112 176 256 16 1 : tunables\n";
        assert_eq!(slab_object(slabinfo, "nf_conntrack"), Some(256.0));
        assert_eq!(slab_object(slabinfo, "nothing"), None);
    }
}
