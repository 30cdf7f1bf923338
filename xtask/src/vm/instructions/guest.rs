//! The guest that counts, and what it says.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::vm::{image::Image, kernel::Kernel, machine::Machine};

/// How long a guest may take; on an idle machine it takes a minute.
const LIMIT: Duration = Duration::from_secs(1200);
const JOB: &str = "instructions";
/// The exit code of `lb-bench instructions` when all was measured and a figure, which says so itself, does not count.
const VOID: i32 = 2;

/// What is loaded: devices, connection tracking with destination NAT, and IPVS.
const MODULES: &[&str] = &[
    "veth",
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_numgen",
    "ip_vs",
    "ip_vs_rr",
];

/// What one kernel's guest measured.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Measured {
    /// The kernel's series.
    pub(super) series: String,
    /// The version of its package.
    pub(super) version: String,
    /// The packet path's programs.
    pub(super) programs: Vec<Program>,
    /// The paths of packets.
    pub(super) readings: Vec<Reading>,
    /// From power-on to power-off.
    #[serde(skip)]
    pub(super) took: Duration,
}

/// One of the packet path's programs, as this kernel has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Program {
    /// Its name.
    pub(super) program: String,
    /// Instructions that the verifier looked at, of the million that it looks at most.
    pub(super) verified: u32,
    /// Bytes of BPF, eight or sixteen an instruction.
    pub(super) translated_bytes: u32,
    /// Bytes of machine code.
    pub(super) jited_bytes: u32,
}

/// One path of packets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Reading {
    /// All that follows in one, as people read it.
    pub(super) path: String,
    /// Who forwards.
    pub(super) way: String,
    /// Which packets of a flow.
    pub(super) place: String,
    /// IP version and transport.
    pub(super) traffic: String,
    /// How many.
    pub(super) packets: u32,
    /// Instructions for all of them.
    pub(super) total: u64,
    /// Those that it takes to make the packets and to discard them at once.
    pub(super) generator: u64,
    /// The difference, for each packet, in hundredths.
    pub(super) per_packet: f64,
    /// Why it does not count.
    pub(super) void: Option<String>,
}

impl Reading {
    /// Whether this is one of `lb`'s own paths.
    pub(super) fn is_own(&self) -> bool {
        self.way.starts_with("lb ")
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Program(Program),
    Reading(Reading),
}

/// Boots a kernel, measures in it, and returns when it is off.
///
/// # Errors
/// When the image cannot be made, or the guest does not come to its end.
pub(super) fn measure(kernel: &Kernel, lb_bench: &Path) -> Result<Measured> {
    let mut image = Image::new(kernel)?;
    image
        .stripped("bin/lb-bench", lb_bench)?
        // busybox has an `nsenter` as well, which would start busybox's own shell.
        .program("nsenter")?
        .program("ipvsadm")?
        .program("nft")?
        .modules(MODULES)?
        .job(JOB, "exec lb-bench instructions\n");
    let image = image.write(JOB)?;
    let machine = Machine::new(kernel, &image, JOB).counting_instructions();
    let outcome = machine.run(LIMIT, |line| {
        if let Ok(Line::Reading(reading)) = serde_json::from_str(line) {
            eprintln!("Linux {}: {}: {:.2}", kernel.series, reading.path, reading.per_packet);
        }
    })?;
    let measured = read(kernel, &outcome.lines, outcome.took)?;
    if ![0, VOID].contains(&outcome.code) {
        bail!(
            "lb-bench failed in Linux {}:\n{}",
            kernel.release,
            outcome.lines.join("\n")
        );
    }
    Ok(measured)
}

fn read(kernel: &Kernel, console: &[String], took: Duration) -> Result<Measured> {
    let (programs, readings) = parse(console)?;
    Ok(Measured {
        series: kernel.series.to_string(),
        version: kernel.version.clone(),
        programs,
        readings,
        took,
    })
}

/// The lines of JSON among what the console shows.
fn parse(console: &[String]) -> Result<(Vec<Program>, Vec<Reading>)> {
    let mut programs = Vec::new();
    let mut readings = Vec::new();
    for line in console.iter().filter(|line| line.starts_with('{')) {
        match serde_json::from_str(line).with_context(|| format!("not a figure: {line}"))? {
            Line::Program(program) => programs.push(program),
            Line::Reading(reading) => readings.push(reading),
        }
    }
    Ok((programs, readings))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_among_what_a_console_shows() {
        let console = [
            "[    0.1] starting",
            r#"{"jited_bytes":26293,"program":"lb","translated_bytes":48336,"verified":175091}"#,
            r#"{"generator":300,"packets":100,"path":"IPVS, established, UDP over IPv4","per_packet":2.5,
                "place":"established","total":550,"traffic":"UDP over IPv4","void":null,"way":"IPVS"}"#,
        ]
        .map(String::from);
        let (programs, readings) = parse(&console).unwrap();
        assert_eq!(programs[0].verified, 175_091);
        assert_eq!((readings[0].per_packet, readings[0].is_own()), (2.5, false));
    }

    #[test]
    fn half_a_line_is_an_error() {
        let error = parse(&[r#"{"generator":300,"#.to_owned()]).unwrap_err();
        assert!(error.to_string().contains("generator"), "{error}");
    }
}
