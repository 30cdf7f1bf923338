//! Memory of the default configuration's maps, as the kernel accounts it.

use anyhow::Result;
use lb_userspace::{datapath::Datapath as _, model::Limits};

use crate::{
    bed::balancer::PacketPath,
    report::{
        Report,
        figure::{Target, Unit},
    },
};

/// Measures the memory of each map.
#[expect(clippy::cast_precision_loss, reason = "hundreds of megabytes")]
pub(crate) fn measure(report: &mut Report) -> Result<()> {
    report.section("Memory of the maps in the default configuration");
    let instance = format!("lbt-{}-memory", std::process::id());
    let maps = PacketPath::load(&instance, Limits::default())?.0.maps()?;
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for map in &maps {
        let name = format!("{} ({} entries)", map.name, map.max_entries);
        report.add(&name, Unit::Mebibytes, &[mebibytes(map.bytes)], None, None);
    }
    let total = mebibytes(maps.iter().map(|map| map.bytes).sum());
    report.add("all", Unit::Mebibytes, &[total], Some(Target::AtMost(400.0)), None);
    Ok(())
}
