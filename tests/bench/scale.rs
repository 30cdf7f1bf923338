//! A daemon with a thousand services of a hundred backends each, and a million flows: what it takes.

use std::{thread, time::Duration};

use anyhow::{Result, anyhow};
use lb_tests::scale::{self, Size};

use crate::report::{Report, figure::Unit, thousands};

const FULL: Size = Size {
    services: 1000,
    backends: 100,
    flows: 1_000_000,
};
const QUICK: Size = Size {
    services: 100,
    flows: 100_000,
    ..FULL
};

/// Measures all of it once.
pub(crate) fn measure(quick: bool, report: &mut Report) -> Result<()> {
    let size = if quick { QUICK } else { FULL };
    report.section(&format!(
        "Scale: {} services of {} backends each, in turn of both families and every scheduler, and {} flows",
        thousands(size.services.into()),
        size.backends,
        thousands(size.flows),
    ));
    // The harness ends a thread of its own when a step fails.
    let taken = thread::spawn(move || scale::measure(size)).join();
    let taken = taken.map_err(|_| anyhow!("a step failed; what it was stands above"))?;
    let mut time = |name: &str, took: Duration| {
        report.add(name, Unit::Milliseconds, &[took.as_secs_f64() * 1e3], None, None);
    };
    time("from the start to all backends in rotation", taken.start);
    for (scheduler, took) in taken.changes {
        time(&format!("a weight, by the command line, {scheduler}"), took);
    }
    time("lb status --json", taken.status);
    time("lb flows --count", taken.count);
    #[expect(clippy::cast_precision_loss, reason = "gigabytes at most")]
    let mut memory = |name: &str, bytes: u64| {
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        report.add(name, Unit::Mebibytes, &[mebibytes], None, None);
    };
    memory("the daemon's memory", taken.resident);
    memory("the maps' memory", taken.maps);
    Ok(())
}
