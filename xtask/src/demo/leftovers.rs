//! Taking labs down: this one at its end, those of demos that were killed, and kept ones when asked.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::Pid,
};

use crate::shell;

/// Begins every name of a namespace or directory.
const PREFIX: &str = "lbdemo-";
/// Where named network namespaces are.
const NAMESPACES: &str = "/run/netns";
/// Below this are the pins of `lb`.
const PINS: &str = "/sys/fs/bpf";
/// A lab with this file in its directory outlives its demo.
const KEPT: &str = "kept";

/// The directory of a lab.
pub(super) fn directory(id: u32) -> PathBuf {
    env::temp_dir().join(format!("{PREFIX}{id}"))
}

/// The name of a lab's namespace.
pub(super) fn namespace(id: u32, role: &str) -> String {
    format!("{PREFIX}{id}-{role}")
}

/// The name under which a lab's `lb` runs.
pub(super) fn instance(id: u32) -> String {
    format!("demo-{id}")
}

/// Protects a lab from [`remove_stale`].
///
/// # Errors
/// When the lab's directory cannot be written.
pub(super) fn mark_kept(id: u32) -> Result<()> {
    let mark = directory(id).join(KEPT);
    fs::write(&mark, "").with_context(|| format!("cannot write {}", mark.display()))
}

/// Removes labs whose demo was killed.
pub(super) fn remove_stale() {
    for id in labs()
        .into_iter()
        .filter(|&id| !is_running(id) && !directory(id).join(KEPT).exists())
    {
        complain(&format!("removing what demo {id} left behind"));
        remove(id);
    }
}

/// Removes every lab whose demo does not run any more, and says so.
pub(super) fn remove_all() {
    let (running, ended): (Vec<u32>, Vec<u32>) = labs().into_iter().partition(|&id| is_running(id));
    for id in running {
        println!("lab {id}: its demo is still running; press Ctrl-C there");
    }
    for &id in &ended {
        remove(id);
        println!("lab {id}: removed");
    }
    if ended.is_empty() {
        println!("no lab to remove");
    }
}

/// Takes a lab down: processes, namespaces, pins, files. Goes on past errors and reports them.
pub(super) fn remove(id: u32) {
    let names: Vec<String> = entries(NAMESPACES)
        .into_iter()
        .filter(|name| lab_of(name) == Some(id))
        .collect();
    for name in &names {
        kill_all_in(name);
    }
    for name in &names {
        if let Err(error) = shell::output(shell::command("ip").args(["netns", "delete", name])) {
            complain(&format!("{error:#}"));
        }
    }
    for pins in pins(id) {
        report(&pins, fs::remove_dir_all(&pins));
        // What all instances share goes with the last of them.
        if let Some(shared) = pins.parent() {
            let _others_use_it = fs::remove_dir(shared);
        }
    }
    report(&directory(id), fs::remove_dir_all(directory(id)));
}

/// Directories on the BPF file system that hold a lab's pins.
pub(super) fn pins(id: u32) -> Vec<PathBuf> {
    find_directories(Path::new(PINS), &instance(id), 2)
}

/// Unlike `eprintln!` this cannot panic, as when the terminal has gone: the rest is still to be removed.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "demo: {text}");
}

fn report(path: &Path, removed: io::Result<()>) {
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        complain(&format!("cannot remove {}: {error}", path.display()));
    }
}

fn kill_all_in(namespace: &str) {
    let pids = shell::output(shell::command("ip").args(["netns", "pids", namespace])).unwrap_or_default();
    for pid in pids
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .map(Pid::from_raw)
    {
        // It may have ended by itself meanwhile, and only this demo's own children can be waited for.
        let _ = kill(pid, Signal::SIGKILL);
        let _ = waitpid(pid, None);
    }
}

fn labs() -> BTreeSet<u32> {
    let temporary = env::temp_dir();
    let names = entries(NAMESPACES).into_iter().chain(entries(&temporary));
    names.filter_map(|name| lab_of(&name)).collect()
}

/// The number in `lbdemo-NUMBER` and `lbdemo-NUMBER-ROLE`.
fn lab_of(name: &str) -> Option<u32> {
    let rest = name.strip_prefix(PREFIX)?;
    rest.split('-').next()?.parse().ok()
}

/// Whether the process is there and is a demo, not another that got its number since.
fn is_running(id: u32) -> bool {
    fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.trim() == "xtask")
}

fn entries(directory: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}

fn find_directories(below: &Path, name: &str, depth: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(below)
        .into_iter()
        .map(|entry| below.join(entry))
        .filter(|path| path.is_dir())
    {
        if path.file_name().is_some_and(|file| file == name) {
            found.push(path);
        } else if depth > 0 {
            found.extend(find_directories(&path, name, depth - 1));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labs_are_taken_for_labs() {
        assert_eq!(lab_of("lbdemo-42"), Some(42));
        assert_eq!(lab_of(&namespace(42, "client")), Some(42));
        assert_eq!(lab_of("lbdemo-"), None);
        assert_eq!(lab_of("lbdemo-x-client"), None);
        assert_eq!(lab_of("somebody-42-client"), None);
    }

    #[test]
    fn pins_are_found_by_their_whole_name() {
        let root = env::temp_dir().join(format!("xtask-pins-{}", std::process::id()));
        fs::create_dir_all(root.join("lb/v1/demo-4")).unwrap();
        fs::create_dir_all(root.join("lb/v1/demo-42")).unwrap();
        let found = find_directories(&root, "demo-4", 2);
        let expected = [root.join("lb/v1/demo-4")];
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found, expected);
    }
}
