//! `cargo xtask vm`: the real `lb` in virtual machines with other kernels than this machine's.

mod image;
mod instructions;
mod kernel;
mod machine;
mod tests;
pub(crate) mod trio;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    interrupt,
    setup::{self, Scope},
    test,
};
use kernel::{Kernel, Series};
use machine::Machine;

/// Arguments of `vm`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to run in the guests; without it, everything.
    part: Option<Part>,
    /// Only with this kernel.
    #[arg(long, value_name = "SERIES")]
    kernel: Option<Series>,
    /// Only tests whose name contains this, also such as are otherwise left out of guests.
    #[arg(long, value_name = "NAME", conflicts_with = "shell")]
    filter: Option<String>,
    /// A console in a guest with everything inside, in place of the tests.
    #[arg(long, conflicts_with = "part")]
    shell: bool,
    #[command(flatten)]
    instructions: instructions::Options,
}

/// Something to run in guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Single packets and the end-to-end tests.
    Tests,
    /// Instructions per packet, which decide whether the packet path has become dearer.
    Instructions,
    /// Client, lb and servers, each in a guest of its own, over virtio-net.
    Trio,
}

impl Part {
    /// In the order in which they run.
    const ALL: [Self; 3] = [Self::Tests, Self::Instructions, Self::Trio];
}

/// Gets kernels, makes images, boots guests, and adds up what they say.
///
/// # Errors
/// When the machine lacks something, or an image cannot be made.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(Scope::Machines)?;
    if !args.shell {
        interrupt::listen()?;
    }
    let kernels = kernels(args.kernel)?;
    if args.shell {
        return shell(&kernels);
    }
    let filter = args.filter.as_deref();
    let parts = match (args.part, filter) {
        (Some(Part::Trio), Some(_)) => bail!("--filter is for names of tests; trio is one story"),
        (Some(part), _) => vec![part],
        // Nothing but tests has names to look in.
        (None, Some(_)) => vec![Part::Tests],
        (None, None) => Part::ALL.to_vec(),
    };
    let mut results = Vec::new();
    for part in parts {
        match part {
            Part::Tests => results.extend(tests::run(&kernels, filter)?),
            Part::Instructions => results.extend(instructions::run(&kernels, &args.instructions)?),
            Part::Trio => results.extend(trio::run(&kernels)?),
        }
    }
    Ok(test::summarize(&results, filter))
}

fn shell(kernels: &[Kernel]) -> Result<ExitCode> {
    let kernel = kernels.first().context("there is no kernel")?;
    let image = tests::image(kernel, &tests::Binaries::build()?, None)?;
    let machine = Machine::new(kernel, &image, image::SHELL).memory(tests::MEMORY);
    machine.steady().interact()?;
    Ok(ExitCode::SUCCESS)
}

fn kernels(only: Option<Series>) -> Result<Vec<Kernel>> {
    let series = Series::ALL
        .into_iter()
        .filter(|series| only.is_none_or(|only| only == *series));
    series.map(Kernel::fetch).collect()
}
