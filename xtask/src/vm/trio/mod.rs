//! `cargo xtask vm trio`: a client, the real `lb`, and servers, each in a guest of its own, joined by virtio-net. `lb` runs in
//! the driver.

mod balancer;
mod devices;
mod driver;
mod guest;
mod lab;
pub(crate) mod program;
mod promise;
mod queues;
mod service;
mod story;
mod traffic;

use std::{thread, time::Instant};

use anyhow::{Result, bail};

use super::kernel::Kernel;
use crate::{interrupt, test::tally::Tally};
use lab::Lab;
use promise::Promises;
use story::Story;

/// Tells the story in all kernels, side by side: a good part of it is waiting.
///
/// # Errors
/// At Ctrl-C.
pub(super) fn run(kernels: &[Kernel]) -> Result<Vec<(String, Tally)>> {
    thread::scope(|scope| {
        let stories: Vec<_> = kernels.iter().map(|kernel| scope.spawn(|| run_in(kernel))).collect();
        let results = stories.into_iter().map(|story| story.join());
        results
            .map(|result| result.unwrap_or_else(|_| bail!("a thread panicked")))
            .collect()
    })
}

/// Tells it in one kernel. What fails shows the last lines of all consoles.
fn run_in(kernel: &Kernel) -> Result<(String, Tally)> {
    let mut promises = Promises::new(format!("trio, Linux {}", kernel.series));
    // What fails is counted already; the second part has nothing to do with the first.
    let _counted = tell(kernel, &mut promises);
    interrupt::check()?;
    let begin = Instant::now();
    let shown = devices::show(kernel, &mut promises);
    let _counted = promises.end_part("devices", begin, shown);
    interrupt::check()?;
    Ok(promises.finish())
}

fn tell(kernel: &Kernel, promises: &mut Promises) -> Result<()> {
    let begin = Instant::now();
    let mut lab = promises.end_part("boot", begin, Lab::start(kernel))?;
    let told = Story::new(&mut lab, promises).tell();
    if !promises.all_kept() {
        println!("{}", lab.tails());
    }
    told
}
