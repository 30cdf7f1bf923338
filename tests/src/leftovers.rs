//! Removes what test runs left behind that were killed before they could clean up.

use std::{env, fs, path::Path, process::Command, sync::Once};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::netns;

/// Every namespace and instance of a lab is named `lbt-PID-N…`.
pub const PREFIX: &str = "lbt";

/// Where a lab's pins are, one directory per instance.
pub const PINS: &str = "/sys/fs/bpf/lb";

/// Where the pins of the labs' backends are.
const BACKEND_PINS: &str = "/sys/fs/bpf/lb-decap";

/// Removes, once per process, namespaces (with the processes in them), pins and temporary directories whose test process is gone.
pub fn sweep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for name in orphans(Path::new(netns::DIRECTORY)) {
            end_processes(&name);
            netns::remove(&name);
        }
        for name in orphans(Path::new(PINS)) {
            remove_pins(&name);
        }
        for name in orphans(Path::new(BACKEND_PINS)) {
            let _not_vital = fs::remove_dir_all(Path::new(BACKEND_PINS).join(name));
        }
        for name in orphans(&env::temp_dir()) {
            let _not_vital = fs::remove_dir_all(env::temp_dir().join(name));
        }
    });
}

/// Removes the pins of an instance, which frees its maps and programs.
pub fn remove_pins(instance: &str) {
    let path = Path::new(PINS).join(instance);
    if path.exists()
        && let Err(error) = fs::remove_dir_all(&path)
    {
        eprintln!("{}: {error}", path.display());
    }
}

/// Names in a directory that belong to a test process that no longer lives.
fn orphans(directory: &Path) -> Vec<String> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| owner(name).is_some_and(|pid| !Path::new("/proc").join(pid).exists()))
        .collect()
}

/// The process ID in a name.
fn owner(name: &str) -> Option<&str> {
    let pid = name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-').next()?;
    pid.bytes().all(|b| b.is_ascii_digit()).then_some(pid)
}

/// Ends the processes that still run in a namespace: daemons and servers of the dead test.
fn end_processes(namespace: &str) {
    let Ok(output) = Command::new("ip").args(["netns", "pids", namespace]).output() else {
        return;
    };
    for pid in String::from_utf8_lossy(&output.stdout).lines() {
        if let Ok(pid) = pid.trim().parse() {
            let _already_gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
