//! `cargo xtask vm instructions`: instructions per packet, which repeat exactly, beside those that were checked in.
//!
//! Guests whose clock is their count of instructions run `lb-bench instructions`. What is gated is `lb`'s own paths: each
//! against its checked-in figure, and those of established flows against IPVS.

mod figures;
mod guest;
mod report;
mod verdict;

use std::{fs, path::PathBuf, thread};

use anyhow::{Context as _, Result, bail};

use super::kernel::Kernel;
use crate::{build, test::tally::Tally};
use figures::Figures;
use guest::Measured;

/// Options of `vm instructions`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Of `instructions`: check in what is measured as what counts from now on.
    #[arg(long)]
    update: bool,
    /// Of `instructions`: also write all figures to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures in all kernels side by side, prints the figures and judges them.
///
/// # Errors
/// When something cannot be built or a guest does not come to its end.
pub(super) fn run(kernels: &[Kernel], options: &Options) -> Result<Vec<(String, Tally)>> {
    let lb_bench = build::bench(build::Profile::Debug)?;
    let measured = thread::scope(|scope| {
        let guests: Vec<_> = kernels
            .iter()
            .map(|kernel| scope.spawn(|| guest::measure(kernel, &lb_bench)))
            .collect();
        guests
            .into_iter()
            .map(|guest| guest.join().unwrap_or_else(|_| bail!("a thread panicked")))
            .collect::<Result<Vec<_>>>()
    })?;
    if let Some(file) = &options.json {
        let all = serde_json::to_string_pretty(&measured)?;
        fs::write(file, all + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let mut figures = Figures::read()?;
    println!("{}", report::report(&measured, &figures));
    if options.update {
        update(&mut figures, &measured)?;
    }
    Ok(measured.iter().map(|guest| judge(guest, &figures)).collect())
}

fn update(figures: &mut Figures, measured: &[Measured]) -> Result<()> {
    if let Some(void) = measured
        .iter()
        .flat_map(|guest| &guest.readings)
        .find(|r| r.void.is_some())
    {
        bail!(
            "{}: not what it should be, so nothing is checked in: {}",
            void.path,
            void.void.as_deref().unwrap_or_default()
        );
    }
    for guest in measured {
        figures.set(guest);
    }
    let file = figures.write()?;
    println!(
        "{} holds these figures now; commit it with the change that made them",
        file.display()
    );
    Ok(())
}

/// Counts what holds and what does not, and tells what is worth knowing; the summary of all tests tells what fails.
fn judge(guest: &Measured, figures: &Figures) -> (String, Tally) {
    let mut tally = Tally {
        took: guest.took,
        ..Tally::default()
    };
    for (subject, findings) in verdict::judge(guest, figures.of(&guest.series)) {
        let mut fails = false;
        for finding in findings {
            if finding.fails() {
                fails = true;
                tally.failures.push(format!("{subject}: {finding}"));
            } else {
                println!("Linux {}: {subject}: {finding}", guest.series);
            }
        }
        if fails { tally.failed += 1 } else { tally.passed += 1 }
    }
    (format!("instructions, Linux {}", guest.series), tally)
}
