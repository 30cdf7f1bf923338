//! `cargo xtask setup`: what this machine lacks, and how it gets it.
//!
//! Every other verb asks [`ensure`] first. Nothing is remembered between runs, so nothing can be out of date: all checks
//! together take a fraction of a second.

mod kernel;
mod packages;
mod toolchain;

use std::{env, process::Command};

use anyhow::{Result, bail};

use crate::shell;

/// What a verb is about to do, and so what must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Compile, and run what needs no privileges.
    Build,
    /// Load the packet path, and make network namespaces.
    Kernel,
    /// The same, and measure it beside others.
    Bench,
    /// Boot virtual machines, in which the packet path is loaded. Needs root only to install what is missing.
    Machines,
}

impl Scope {
    /// Whether it takes root.
    const fn is_privileged(self) -> bool {
        matches!(self, Self::Kernel | Self::Bench)
    }
}

/// Something that is missing.
#[derive(Debug)]
struct Missing {
    /// What it is, and what for.
    what: String,
    /// How to get it.
    remedy: Remedy,
}

/// How to get what is missing.
#[derive(Debug)]
enum Remedy {
    /// Run this.
    Run(Command),
    /// A Debian package; all of them are installed in one go.
    Package(&'static str),
    /// Not ours to change: an explanation with the command.
    Tell(String),
}

/// Arguments of `setup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also what measurements and virtual machines take.
    #[arg(long)]
    all: bool,
}

/// `cargo xtask setup`.
///
/// # Errors
/// When something is missing that it could not or may not install.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure(Scope::Kernel)?;
    if args.all {
        ensure(Scope::Bench)?;
        ensure(Scope::Machines)?;
    }
    println!("This machine has all that lb needs: toolchain, bpf-linker, programs, BPF file system, kernel features.");
    Ok(())
}

/// Makes sure that everything for `scope` is there; silent when it is.
///
/// # Errors
/// When not root although the scope needs it, and when something remains missing.
pub(crate) fn ensure(scope: Scope) -> Result<()> {
    if scope.is_privileged() && !shell::is_root() {
        bail!(
            "this needs root, to load BPF programs and make network namespaces; run:\n  {}",
            as_root()
        );
    }
    // The second round is for what can be checked only once the first has brought the programs for it.
    for _ in 0..2 {
        let missing = find(scope)?;
        if missing.is_empty() {
            return Ok(());
        }
        for missing in &missing {
            eprintln!("setup: missing: {}", missing.what);
        }
        install(missing);
    }
    let left = find(scope)?;
    if left.is_empty() {
        return Ok(());
    }
    bail!("{}", explain(&left));
}

/// The line that repeats this very invocation as root, with this user's toolchain.
fn as_root() -> String {
    let arguments: Vec<String> = env::args().skip(1).collect();
    format!("sudo -E env \"PATH=$PATH\" cargo xtask {}", arguments.join(" "))
}

fn find(scope: Scope) -> Result<Vec<Missing>> {
    let mut missing = toolchain::missing()?;
    if scope != Scope::Build {
        missing.extend(packages::missing(packages::PROGRAMS));
    }
    if scope == Scope::Bench {
        missing.extend(packages::missing(packages::BENCH_PROGRAMS));
    }
    if scope == Scope::Machines {
        missing.extend(machines());
        missing.extend(packages::missing(packages::MACHINE_PROGRAMS));
    }
    if scope.is_privileged() {
        // The kernel is probed with these programs.
        if packages::can_probe() {
            missing.extend(kernel::missing());
        }
    }
    Ok(missing)
}

/// Guests run this machine's own programs, and there are recipes for one kind of machine.
fn machines() -> Option<Missing> {
    (!cfg!(target_arch = "x86_64")).then(|| Missing {
        what: "an x86-64 machine, whose programs the virtual machines run".into(),
        remedy: Remedy::Tell("run the tests on this machine's own kernel instead: cargo xtask test".into()),
    })
}

/// Does what may be done. A failed installation is reported, and the others are still tried.
fn install(missing: Vec<Missing>) {
    let mut packages = Vec::new();
    for Missing { what, remedy } in missing {
        match remedy {
            Remedy::Run(mut command) => report(&what, shell::run(&mut command)),
            Remedy::Package(name) => packages.push(name),
            Remedy::Tell(_) => {}
        }
    }
    if !packages.is_empty() {
        report(&packages.join(", "), packages::install(&packages));
    }
}

fn report(what: &str, installed: Result<()>) {
    if let Err(error) = installed {
        eprintln!("setup: {what}: {error:#}");
    }
}

fn explain(left: &[Missing]) -> String {
    let mut text = String::from("setup: this must be seen to by hand:");
    for Missing { what, remedy } in left {
        let how = match remedy {
            Remedy::Run(command) => shell::line(command),
            Remedy::Package(name) => format!("apt-get install -y --no-install-recommends {name}"),
            Remedy::Tell(how) => how.clone(),
        };
        text.push_str(&format!("\n- {what}\n    {how}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named_with_its_command() {
        let mut command = Command::new("rustup");
        command.args(["component", "add", "rust-src"]);
        let left = [
            Missing {
                what: "rust-src".into(),
                remedy: Remedy::Run(command),
            },
            Missing {
                what: "nginx".into(),
                remedy: Remedy::Package("nginx-light"),
            },
        ];
        let text = explain(&left);
        assert!(text.contains("- rust-src\n    rustup component add rust-src"), "{text}");
        assert!(
            text.contains("apt-get install -y --no-install-recommends nginx-light"),
            "{text}"
        );
    }
}
