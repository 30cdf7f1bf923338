//! `lb run` between client and server, as an operator would start it.

use std::{
    env,
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use lb_tests::leftovers;
use lb_userspace::api::Status;

use super::{
    bed::{Bed, Middle},
    process::Process,
};

/// A running daemon and its packet path, both gone on drop.
///
/// Fields are dropped in this order.
#[derive(Debug)]
pub(super) struct Daemon {
    process: Process,
    pins: Pins,
    program: PathBuf,
    socket: PathBuf,
    /// Flows opened before anything was measured.
    opened: u64,
}

impl Daemon {
    /// Starts it and waits until every server is in rotation.
    pub(super) fn start(bed: &Bed, middle: &Middle, mode: &str) -> Result<Self> {
        let program = program()?;
        let instance = middle.namespace().name().to_owned();
        let directory = bed.directory().join(mode);
        fs::create_dir_all(&directory)?;
        let configuration = directory.join("lb.toml");
        let text = text(&instance, &directory, mode, middle.vip(), &middle.servers());
        fs::write(&configuration, text)?;
        let mut command = middle.namespace().command(&program);
        command.args(["run", "--config"]).arg(&configuration);
        let mut daemon = Self {
            process: Process::start("lb", &mut command, &directory)?,
            pins: Pins(instance),
            program,
            socket: directory.join("lb.sock"),
            opened: 0,
        };
        daemon.wait_ready(middle)?;
        Ok(daemon)
    }

    fn wait_ready(&mut self, middle: &Middle) -> Result<()> {
        let pid = self.process.pid();
        let (program, socket, instance) = (&self.program, &self.socket, &self.pins.0);
        self.process.wait(|| {
            let status = status(middle, program, instance, socket).map_err(|error| format!("{error:#}"))?;
            let mut backends = status.services.iter().flat_map(|service| &service.backends);
            if status.pid == pid && backends.all(|backend| backend.in_rotation) {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        })
    }

    /// Counts from now on.
    pub(super) fn mark(&mut self, middle: &Middle) -> Result<()> {
        self.opened = opened(&self.status(middle)?);
        Ok(())
    }

    /// Why figures do not show its packet path: it is not the driver that runs it, or connections went another way.
    pub(super) fn objection(&self, middle: &Middle, connections: u64) -> Result<Option<String>> {
        let status = self.status(middle)?;
        if let Some(other) = status.interfaces.iter().find(|interface| interface.xdp != "native") {
            return Ok(Some(format!("XDP on {} is {}, not native", other.name, other.xdp)));
        }
        let opened = opened(&status).saturating_sub(self.opened);
        Ok((opened < connections)
            .then(|| format!("of {connections} connections and more, {opened} went through the packet path")))
    }

    fn status(&self, middle: &Middle) -> Result<Status> {
        status(middle, &self.program, &self.pins.0, &self.socket)
    }
}

/// The pins of an instance, removed on drop.
#[derive(Debug)]
struct Pins(String);

impl Drop for Pins {
    fn drop(&mut self) {
        leftovers::remove_pins(&self.0);
    }
}

/// Where the program is: `LB_BIN`, or next to this one.
fn program() -> Result<PathBuf> {
    if let Some(path) = env::var_os("LB_BIN") {
        return Ok(path.into());
    }
    let path = env::current_exe()?.with_file_name("lb");
    if !path.is_file() {
        bail!(
            "{} is missing: `cargo xtask bench` builds it, or set LB_BIN",
            path.display()
        );
    }
    Ok(path)
}

fn status(middle: &Middle, program: &Path, instance: &str, socket: &Path) -> Result<Status> {
    let mut command = middle.namespace().command(program);
    command
        .args(["--instance", instance, "--socket"])
        .arg(socket)
        .args(["--json", "status"]);
    let output = command.output().context("cannot start lb status")?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("lb status: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn opened(status: &Status) -> u64 {
    status.services.iter().map(|service| service.counters.new_flows).sum()
}

/// Everything that is not said has its default, tables of a million entries among it.
fn text(instance: &str, directory: &Path, mode: &str, vip: Ipv4Addr, servers: &[Ipv4Addr]) -> String {
    let directory = directory.display();
    let mut text = format!(
        r#"instance = "{instance}"
state-dir = "{directory}"
socket = "{directory}/lb.sock"
[[interface]]
name = "client0"
xdp = "native"
[[interface]]
name = "servers0"
xdp = "native"
[[service]]
name = "web"
vip = "{vip}:80"
protocol = "tcp"
mode = "{mode}"
[service.health]
type = "tcp"
"#
    );
    for server in servers {
        // Writing to a string cannot fail.
        let _ = write!(text, "[[service.backend]]\naddress = \"{server}:80\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lb_takes_the_configuration() {
        for mode in ["full-nat", "nat"] {
            let servers = [Ipv4Addr::new(10, 92, 4, 11), Ipv4Addr::new(10, 92, 4, 12)];
            let text = text(
                "lbt-1-http",
                Path::new("/tmp/x"),
                mode,
                Ipv4Addr::new(10, 91, 4, 100),
                &servers,
            );
            let config = lb_userspace::config::parse("lb.toml", &text).unwrap();
            let backends: Vec<_> = config.services.iter().flat_map(|service| &service.backends).collect();
            assert_eq!(backends.len(), 2, "{text}");
        }
    }
}
