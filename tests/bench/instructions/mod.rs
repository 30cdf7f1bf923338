//! Instructions per packet, of `lb` and of what it is compared with.
//!
//! Time is what is measured. It is a number of instructions where the machine's clock counts these, as that of an emulated
//! machine can; `cargo xtask vm instructions` starts this in such machines. Anywhere else the figures are nanoseconds and
//! good for nothing but to see that everything works.

mod measure;
mod path;

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use aya::programs::{ProgramInfo, loaded_programs};
use lb_userspace::model::Limits;
use serde_json::{Value, json};

use crate::{
    bed::balancer::PacketPath,
    interrupt,
    report::{Report, Table, figure::Unit, goals},
};
use measure::Meter;
use path::Path;

/// The figures that the gate compares with.
const CHECKED_IN: &str = include_str!("figures.toml");
/// The series of kernels that goals are for.
const SERIES: &str = "6.1";

const TABLE: &str = "instructions";

/// Declares the table.
pub(crate) fn declare(report: &mut Report) {
    report.table(Table {
        id: TABLE.to_owned(),
        title: "Instructions per packet above the generator's, as checked in".to_owned(),
        rows: "path",
        axis: None,
    });
}

/// Figures of one series of kernels.
#[derive(Debug, serde::Deserialize)]
struct Taken {
    kernel: String,
    instructions: BTreeMap<String, f64>,
}

/// Adds the figures that are checked in. They are none of this run, and do not depend on this machine.
///
/// # Errors
/// When they are not what `cargo xtask vm instructions --update` writes.
pub(crate) fn checked_in(report: &mut Report) -> Result<()> {
    let all: BTreeMap<String, Taken> =
        toml::from_str(CHECKED_IN).context("cannot understand tests/bench/instructions/figures.toml")?;
    for (series, taken) in &all {
        report.section(&format!(
            "Instructions per packet above the generator's, as checked in, Linux {series} ({})",
            taken.kernel
        ));
        for (path, instructions) in &taken.instructions {
            let goal = goals::instructions(path);
            let aloud = series == SERIES && report.has_goal(&goal);
            let figure = if aloud {
                report.add(path, Unit::Instructions, &[*instructions], Some(&goal), None)
            } else {
                report.put(path, Unit::Instructions, &[*instructions], None)
            };
            figure.cell(TABLE, path, &format!("Linux {series}"));
        }
    }
    Ok(())
}

/// Exit code when all paths were measured and a figure does not count.
const VOID: u8 = 2;

/// Prints a line of JSON for each program of the packet path and for each path that a packet may take.
///
/// # Errors
/// When something cannot be set up.
pub(crate) fn run(filter: &str) -> Result<ExitCode> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("measuring needs root, for namespaces and BPF: run it with sudo");
    }
    interrupt::listen()?;
    for program in programs()? {
        println!("{program}");
    }
    let mut meter = Meter::default();
    let mut sound = true;
    for path in Path::all().iter().filter(|path| path.to_string().contains(filter)) {
        let figure = meter.measure(path)?;
        sound &= figure.objection.is_none();
        println!("{}", figure.to_json(path));
    }
    Ok(if sound { ExitCode::SUCCESS } else { VOID.into() })
}

/// Limits that leave a small machine some memory, and no table full.
const fn limits() -> Limits {
    Limits {
        flows_ipv4: 1 << 16,
        half_open_ipv4: 1 << 16,
        half_open_ipv6: 1 << 16,
        flows_ipv6: 1 << 16,
        flows_mixed: 1 << 10,
        services: 16,
        service_ports: 16,
        backends: 64,
        new_flows_per_core: 0,
        syn_cookies_above: 10_000,
        icmp_per_second: 1000,
        slots: 1 << 17,
        affinity: 1 << 10,
    }
}

/// What the kernel says of the programs that the packet path consists of.
fn programs() -> Result<Vec<Value>> {
    let all = || -> Result<Vec<ProgramInfo>> { Ok(loaded_programs().collect::<Result<_, _>>()?) };
    let before: Vec<u32> = all()?.iter().map(ProgramInfo::id).collect();
    let _packet_path = PacketPath::load(&format!("lbt-{}-programs", std::process::id()), limits())?;
    let own = all()?.into_iter().filter(|program| !before.contains(&program.id()));
    let describe = |program: ProgramInfo| {
        json!({
            "program": program.name_as_str(),
            "verified": program.verified_instruction_count(),
            "translated_bytes": program.size_translated(),
            "jited_bytes": program.size_jitted(),
        })
    };
    Ok(own.map(describe).collect())
}
