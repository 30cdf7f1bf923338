//! `cargo xtask demo`: the real `lb` between a real client and four real servers, seen at work.

mod balancer;
mod lab;
mod leftovers;
pub(crate) mod load;
mod plot;
pub(crate) mod sample;
mod screen;
mod servers;
mod story;
mod traffic;

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::{
    build::{self, Profile},
    interrupt,
    setup::{self, Scope},
    shell,
};
use balancer::Balancer;
use lab::{Lab, SERVERS};
use servers::Servers;
use story::Story;

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Leave client, load balancer and servers up at the end, and say how to play with them.
    #[arg(long, conflicts_with = "clean")]
    keep: bool,
    /// Remove labs that were kept, and do nothing else.
    #[arg(long)]
    clean: bool,
    /// Where the plot goes; without it, target/demo.svg.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Show this lb instead of building one.
    #[arg(long, value_name = "FILE")]
    lb: Option<PathBuf>,
}

/// Runs the demo.
///
/// # Errors
/// When the machine lacks something, the lab cannot be made, or `lb` does not do what the demo promises.
pub(crate) fn run(args: &Args) -> Result<()> {
    setup::ensure(Scope::Kernel)?;
    if args.clean {
        leftovers::remove_all();
        return Ok(());
    }
    let plot = plot_path(args)?;
    let binary = match &args.lb {
        Some(lb) => lb
            .canonicalize()
            .with_context(|| format!("there is no lb at {}", lb.display()))?,
        None => build::binary(Profile::Release)?,
    };
    leftovers::remove_stale();
    interrupt::listen()?;
    let lab = Lab::new()?;
    let broken = show(&lab, binary, &plot, args.keep)?;
    if args.keep {
        lab.keep()?;
    } else {
        drop(lab);
        println!("  Removed: namespaces, servers, lb.");
    }
    if !broken.is_empty() {
        bail!("not as promised:\n- {}", broken.join("\n- "));
    }
    Ok(())
}

fn plot_path(args: &Args) -> Result<PathBuf> {
    match &args.plot {
        // Relative to where the operator stands, whatever cargo makes the current directory.
        Some(path) => Ok(env::current_dir()
            .context("cannot tell the current directory")?
            .join(path)),
        None => Ok(shell::target_directory()?.join("demo.svg")),
    }
}

/// Plays the story in a lab, and returns the promises that were not kept.
fn show(lab: &Lab, binary: PathBuf, plot: &std::path::Path, keep: bool) -> Result<Vec<String>> {
    let servers = Servers::start_all(lab)?;
    let mut balancer = Balancer::new(lab, binary)?;
    balancer.start()?;
    let mut story = Story::new(lab, servers, balancer);
    story.tell()?;
    plot::draw(plot, story.phases(), &SERVERS)?;
    if keep {
        hints(lab, story.balancer(), story.servers());
    } else {
        story.detach()?;
    }
    println!("\n  Plot: {}", plot.display());
    Ok(story.into_broken_promises())
}

/// What to try in a lab that is left up.
fn hints(lab: &Lab, balancer: &Balancer<'_>, servers: &Servers<'_>) {
    let lb = format!(
        "{} --socket {}",
        balancer.binary().display(),
        balancer.socket().display()
    );
    let client = format!("nsenter --net=/run/netns/{}", lab.namespace("client"));
    println!("\nThe lab stays up. Ask the service as the client, watch lb, change something:");
    println!("  {client} curl http://10.80.1.100/");
    println!("  {lb} status");
    println!("  {lb} backend set web s1 --weight 3");
    println!("  {lb} backend drain web s2");
    println!("  {lb} flows");
    if let Some(process) = servers.process("s3") {
        println!("Pull the plug of s3 (its nginx is process group {process}):");
        println!("  kill -9 -- -{process}");
    }
    println!("Logs and configuration: {}", lab.directory().display());
    println!("Remove it all:");
    println!("  cargo xtask demo --clean");
}
