//! `cargo xtask vm tests`: the real `lb` in each kernel.

use std::time::Duration;

use anyhow::Result;

use super::{image::Image, kernel::Kernel, machine::Machine};
use crate::{
    build::{self, Profile},
    test::tally::Tally,
};

/// How long a guest may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs the tests in one kernel.
///
/// # Errors
/// When something cannot be built, or a guest does not come up.
pub(super) fn run(kernel: &Kernel) -> Result<Vec<(String, Tally)>> {
    let lb = build::binary(Profile::Debug)?;
    let mut image = Image::new(kernel)?;
    image
        .stripped("bin/lb", &lb)?
        .modules(&["veth", "bridge"])?
        .job("version", "uname -a; lsmod; lb version");
    let image = image.write("tests")?;
    let machine = Machine::new(kernel, &image, "version").memory(1024);
    let outcome = machine.run(LIMIT, |line| println!("{}: {line}", kernel.series))?;
    let mut tally = Tally {
        took: outcome.took,
        ..Tally::default()
    };
    if outcome.code == 0 {
        tally.passed += 1;
    } else {
        tally.fail(&format!("exit code {}", outcome.code));
    }
    Ok(vec![(format!("Linux {}", kernel.series), tally)])
}
