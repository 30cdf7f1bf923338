//! Network namespaces: made, entered, removed.

use std::{
    fs::File,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::{self, JoinHandle},
};

use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps its names.
pub const DIRECTORY: &str = "/run/netns";

/// A named network namespace, removed on drop.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes the namespace with loopback up and without duplicate address detection, which would delay IPv6 addresses.
    #[must_use]
    pub fn create(name: &str) -> Self {
        succeed(Command::new("ip").args(["netns", "add", name]));
        let namespace = Self { name: name.to_owned() };
        namespace.sh("for c in all default; do
                 echo 0 >/proc/sys/net/ipv6/conf/$c/accept_dad
                 echo 0 >/proc/sys/net/ipv6/conf/$c/accept_ra
             done
             ip link set lo up");
        namespace
    }

    /// Its name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A handle to the same namespace that other threads can own.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// A command that will run inside. `ip netns exec` would hide the BPF file system, so `nsenter` does it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Runs shell lines inside and returns what they print.
    ///
    /// # Panics
    /// When a line fails.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        succeed(self.command("sh").args(["-euc", script]))
    }

    /// Runs shell lines inside that may fail.
    #[must_use]
    pub fn try_sh(&self, script: &str) -> Output {
        self.command("sh")
            .args(["-euc", script])
            .output()
            .expect("nsenter starts")
    }

    /// Runs `work` inside, on a thread of its own, and returns its result. Threads that it starts are inside, too.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                enter(&path);
                work()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Starts `work` inside on a thread of its own.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let path = self.path();
        thread::spawn(move || {
            enter(&path);
            work()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// Removes a namespace by name; a failure is only told, as there is nothing a test could do about it.
pub fn remove(name: &str) {
    let removed = Command::new("ip").args(["netns", "del", name]).output();
    if let Ok(output) = removed
        && !output.status.success()
    {
        eprintln!("ip netns del {name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Moves the calling thread into a namespace.
pub(crate) fn enter(path: &Path) {
    let handle = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    setns(handle, CloneFlags::CLONE_NEWNET).unwrap_or_else(|e| panic!("setns {}: {e}", path.display()));
}

/// Runs a command that must succeed and returns its standard output.
///
/// # Panics
/// When it cannot be started or fails.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}:\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
