//! Servers and balancers that run while it is measured.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lb_tests::Namespace;

/// How long a program may take until it serves: generous, as the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where administrators' programs are; a plain user's `PATH` often lacks these.
const ADMIN_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A program, ended on drop.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program with its messages in a file of `directory`.
    pub(super) fn start(name: &'static str, command: &mut Command, directory: &Path) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, child, log })
    }

    /// Process ID.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Looks until `ready` is true, and fails when the program ends before or the time is up.
    pub(super) fn wait(&mut self, mut ready: impl FnMut() -> Result<(), String>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let Err(why_not) = ready() else { return Ok(()) };
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}: {}", self.name, self.said());
            }
            if Instant::now() > end {
                bail!(
                    "{} was not ready after {PATIENCE:?}: {why_not} {}",
                    self.name,
                    self.said()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until something in `namespace` accepts connections.
    pub(super) fn wait_listening(&mut self, namespace: &Namespace, address: Ipv4Addr) -> Result<()> {
        let address = SocketAddr::from((address, 80));
        self.wait(|| {
            let connected = namespace.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)));
            connected.map(drop).map_err(|error| format!("{address}: {error}"))
        })
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log)
            .unwrap_or_default()
            .trim()
            .replace('\n', " | ")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _already_dead = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Fails when a program is not installed.
pub(super) fn require(program: &str) -> Result<()> {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path)
        .chain(ADMIN_DIRECTORIES.iter().map(PathBuf::from))
        .any(|directory| directory.join(program).is_file());
    if !found {
        bail!("{program} is not installed (cargo xtask bench installs it)");
    }
    Ok(())
}
