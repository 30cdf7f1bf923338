//! The control plane with thousands of backends and as many checks: what grows with what.

use std::{thread, time::Duration};

use anyhow::{Result, anyhow};
use lb_tests::control::{self, Check, Size};

use crate::{
    interrupt,
    report::{Report, figure::Unit, thousands},
};

const fn size(services: u16, backends: u16, check: Check) -> Size {
    Size {
        services,
        backends,
        check,
        on_link: false,
    }
}

const FULL: [Size; 7] = [
    size(1, 100, Check::Tcp),
    size(1, 1000, Check::Tcp),
    size(1, 10_000, Check::Tcp),
    size(100, 100, Check::Tcp),
    size(1, 10_000, Check::Http),
    size(1, 10_000, Check::None),
    Size {
        on_link: true,
        ..size(1, 400, Check::None)
    },
];
const QUICK: [Size; 2] = [FULL[1], FULL[6]];

/// Measures each size once.
pub(crate) fn measure(quick: bool, report: &mut Report) -> Result<()> {
    for size in if quick { &QUICK[..] } else { &FULL[..] } {
        interrupt::check()?;
        one(*size, report)?;
    }
    Ok(())
}

fn one(size: Size, report: &mut Report) -> Result<()> {
    let ways = if size.on_link { ", each a next hop" } else { "" };
    report.section(&format!(
        "Control plane: {} service(s) of {} backends, {}{ways}",
        thousands(size.services.into()),
        thousands(size.backends.into()),
        size.check
    ));
    // The harness ends a thread of its own when a step fails.
    let taken = thread::spawn(move || control::measure(size)).join();
    let taken = taken.map_err(|_| anyhow!("a step failed; what it was stands above"))?;
    let mut time = |name: &str, took: Duration| {
        report.add(name, Unit::Milliseconds, &[took.as_secs_f64() * 1e3], None, None);
    };
    time("from the start to all backends in rotation", taken.start.0);
    time("processor time of that", taken.start.1);
    time("processor time in a second of rest", taken.rest);
    time("a weight, by the command line", taken.change);
    time("lb status --json", taken.status.0);
    time("lb status", taken.page);
    time("from a restart with one more service until that serves", taken.reload.0);
    time("processor time of the restart", taken.reload.1);
    #[expect(clippy::cast_precision_loss, reason = "gigabytes at most")]
    let mut memory = |name: &str, bytes: u64| {
        let mebibytes = bytes as f64 / f64::from(1 << 20);
        report.add(name, Unit::Mebibytes, &[mebibytes], None, None);
    };
    memory("the daemon's memory", taken.resident);
    memory("length of lb status --json", taken.status.1);
    Ok(())
}
