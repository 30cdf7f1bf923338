//! What a backend needs in each forwarding mode: `plan` says it, `system` does it and takes it back, `memory` keeps what was
//! there before. Runs on the backend, without a daemon.

mod host;
mod memory;
mod plan;
mod system;

use std::{io, net::IpAddr, path::Path};

use serde::Serialize;

use self::memory::Memory;
pub use self::{
    host::Host,
    plan::{Action, Plan, Step, Wish, plan},
};
use crate::datapath::{
    DatapathError,
    decap::{Decap, Unwrapping},
};

/// Why a backend could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// `ip` is not there or refuses.
    #[error("`{command}`: {cause}")]
    Command {
        /// The command line.
        command: String,
        /// Its complaint.
        cause: String,
    },
    /// A kernel setting cannot be read or written.
    #[error("{key}: {cause}; run as root, in the host's own network namespace")]
    Setting {
        /// Its name as `sysctl` has it.
        key: String,
        /// The kernel's word.
        cause: io::Error,
    },
    /// There is no such interface.
    #[error("no interface `{0}`: `ip link` lists those there are")]
    NoInterface(String),
    /// The host cannot be an end of the tunnel.
    #[error("this host has no {0} address that tunnels could end at: give one with --tunnel-address")]
    NoTunnelAddress(&'static str),
    /// What was there before could not be written down.
    #[error("{path}: {cause}")]
    Memory {
        /// The file.
        path: String,
        /// The system's word.
        cause: io::Error,
    },
    /// The unwrapping program.
    #[error(transparent)]
    Decap(#[from] DatapathError),
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is as it should be.
    Done,
    /// It is not.
    Missing,
    /// It was not, and is now.
    Applied,
    /// It was taken back.
    Removed,
}

/// A step and where it stands.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// What it is for.
    pub title: String,
    /// Why a backend needs it.
    pub why: String,
    /// Command lines, as they would be typed.
    pub commands: Vec<String>,
    /// Where it stands.
    pub standing: Standing,
}

/// What to do about a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Look.
    Show,
    /// Bring it about.
    Apply,
    /// Take it back.
    Remove,
}

/// Who sets up.
#[derive(Debug, Clone)]
pub struct Site<'a> {
    /// Mount point of the BPF file system.
    pub bpffs: &'a Path,
    /// Directory of what is kept until a reboot (`/run/lb`).
    pub state_dir: &'a Path,
    /// Separates what several set up on one machine, as in containers that share its file systems.
    pub instance: &'a str,
}

/// Looks at each step of a plan, does it, or takes it back; steps are taken back in the opposite order.
///
/// # Errors
/// The first step that failed. Those before it stand; the same call again goes on where it broke off.
pub fn carry_out(plan: &Plan, verb: Verb, site: &Site<'_>) -> Result<Vec<Outcome>, SetupError> {
    let decap = Decap::new(site.bpffs, site.instance, &plan.interface, plan.ifindex);
    let mut memory = Memory::load(site.state_dir, site.instance);
    let mut outcomes = Vec::new();
    if verb == Verb::Remove {
        memory.forget(plan.vip);
    }
    let order: Box<dyn Iterator<Item = &Step>> = match verb {
        Verb::Remove => Box::new(plan.steps.iter().rev()),
        Verb::Show | Verb::Apply => Box::new(plan.steps.iter()),
    };
    for step in order {
        let mut standing = Standing::Done;
        for action in &step.actions {
            let done = system::is_done(action, &decap)?;
            match verb {
                Verb::Show if !done => standing = Standing::Missing,
                Verb::Apply if !done => {
                    if let Action::Sysctl { key, .. } = action {
                        memory.remember(plan.vip, key, &system::setting(key)?);
                        memory.save()?;
                    }
                    system::apply(action, &decap)?;
                    standing = Standing::Applied;
                }
                Verb::Remove => {
                    system::undo(action, &decap, &memory)?;
                    standing = Standing::Removed;
                }
                // A newer program, or another port.
                Verb::Apply if matches!(action, Action::Unwrap { .. }) => system::apply(action, &decap)?,
                Verb::Show | Verb::Apply => {}
            }
        }
        outcomes.push(Outcome {
            title: step.title.clone(),
            why: step.why.clone(),
            commands: step.actions.iter().map(ToString::to_string).collect(),
            standing,
        });
    }
    match verb {
        Verb::Show => {}
        Verb::Apply => {
            memory.serve(plan.vip);
            memory.save()?;
        }
        Verb::Remove => memory.save()?,
    }
    Ok(outcomes)
}

/// What the unwrapping program of an interface does, if it is there.
///
/// # Errors
/// When its pins are not readable.
pub fn unwrapping(plan: &Plan, site: &Site<'_>) -> Result<Option<Unwrapping>, SetupError> {
    Ok(Decap::new(site.bpffs, site.instance, &plan.interface, plan.ifindex).state()?)
}

/// `192.0.2.10/32`, `2001:db8::10/128`.
fn whole(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 })
}
