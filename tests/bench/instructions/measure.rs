//! One path's figure: what its packets cost, less what it costs to make them.

use std::{collections::HashMap, thread, time::Duration};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::path::{Bed, Path, Place, label};
use crate::bed::{
    chain::{Chain, Run},
    traffic::Traffic,
};

/// Flows that take turns, where flows are established.
const FLOWS: u32 = 1_000;
/// Packets of established flows.
const PACKETS: u32 = 20_000;
/// Packets that open a flow each; as many more warm up as the next constant says.
const OPENINGS: u32 = 16_384;
const WARM_UP: u32 = 1_024;
/// What the kernel has to do with new devices and rules is done by then. An idle emulated machine skips the time.
const SETTLED: Duration = Duration::from_secs(2);

/// What a path costs.
pub(super) struct Figure {
    packets: u32,
    total: Duration,
    generator: Duration,
    /// Why it does not count.
    pub(super) objection: Option<String>,
}

impl Figure {
    /// Its line of the report.
    #[expect(clippy::cast_precision_loss, reason = "well below 2^52")]
    pub(super) fn to_json(&self, path: &Path) -> Value {
        let own = self.total.as_nanos() as f64 - self.generator.as_nanos() as f64;
        // More digits would tell of timers, not of packets.
        let hundredths = (own / f64::from(self.packets) * 100.0).round();
        json!({
            "path": path.to_string(),
            "way": path.way.to_string(),
            "place": path.place.to_string(),
            "traffic": label(path.traffic),
            "packets": self.packets,
            "total": self.total.as_nanos(),
            "generator": self.generator.as_nanos(),
            "per_packet": hundredths / 100.0,
            "void": self.objection,
        })
    }
}

/// Measures paths, and remembers what the generator alone takes.
#[derive(Default)]
pub(super) struct Meter {
    generators: HashMap<(&'static str, u32), Duration>,
}

impl Meter {
    /// Sets a path up, warms it up and measures it.
    pub(super) fn measure(&mut self, path: &Path) -> Result<Figure> {
        let packets = if path.place == Place::First { OPENINGS } else { PACKETS };
        let generator = self.generator(path.traffic, packets)?;
        let mut bed = path.build()?;
        thread::sleep(SETTLED);
        let run = match path.place {
            Place::First => first(&mut bed)?,
            Place::Established | Place::Any => established(&mut bed, path)?,
        };
        Ok(Figure {
            packets,
            total: run.0.took(),
            generator,
            objection: run.1,
        })
    }

    /// What it takes to make so many packets and to discard them as they come in.
    fn generator(&mut self, traffic: Traffic, packets: u32) -> Result<Duration> {
        let key = (traffic.generator(), packets);
        if let Some(known) = self.generators.get(&key) {
            return Ok(*known);
        }
        let mut chain = Chain::new(traffic)?.discard()?;
        thread::sleep(SETTLED);
        chain.flows(0, FLOWS)?;
        chain.send(WARM_UP)?;
        let run = chain.send(packets)?;
        if let Some(objection) = lost(&run) {
            bail!("the generator alone: {objection}");
        }
        self.generators.insert(key, run.took());
        Ok(run.took())
    }
}

/// Packets that open a flow each, after some that did so before.
fn first(bed: &mut Bed) -> Result<(Run, Option<String>)> {
    bed.chain().flows(0, u32::MAX)?;
    bed.chain().send(WARM_UP)?;
    observed(bed, OPENINGS, OPENINGS)
}

/// Packets of flows that are there: each flow has had two packets, and one of the kind that is measured.
fn established(bed: &mut Bed, path: &Path) -> Result<(Run, Option<String>)> {
    let chain = bed.chain();
    chain.flows(0, FLOWS)?;
    chain.send(2 * FLOWS)?;
    if let (Bed::Balancer(balancer), Traffic::AckV4) = (&*bed, path.traffic) {
        balancer.establish()?;
    }
    let chain = bed.chain();
    chain.carry(path.traffic)?;
    chain.send(FLOWS)?;
    observed(bed, PACKETS, 0)
}

/// A run, and why it does not show what it should: every packet at its end, and so many flows opened.
fn observed(bed: &mut Bed, packets: u32, opened: u32) -> Result<(Run, Option<String>)> {
    Ok(match bed {
        Bed::Chain(chain) => {
            let run = chain.send(packets)?;
            (run, lost(&run))
        }
        Bed::Balancer(balancer) => {
            let before = balancer.counts()?;
            let run = balancer.chain.send(packets)?;
            let objection = balancer.counts()?.objection(&before, &[run], opened.into());
            (run, objection.or_else(|| lost(&run)))
        }
    })
}

fn lost(run: &Run) -> Option<String> {
    (run.arrived != run.sent).then(|| format!("of {} packets {} arrived", run.sent, run.arrived))
}
