//! The real `lb` in its namespace: its configuration, its daemon, its command line.

use std::{
    fs::{self, OpenOptions},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{lab::Lab, leftovers};
use crate::{interrupt, shell};

/// How long the daemon may take to start and to find all backends healthy.
const PATIENCE: Duration = Duration::from_secs(15);
/// The end of the daemon's log that an error shows, in lines.
const LOG_TAIL: usize = 15;

/// Time between two health checks while nothing changes; [`HEALTH`] says it to `lb`.
pub(super) const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// Failed checks in a row that take a backend out of rotation.
pub(super) const HEALTH_FALL: u32 = 2;
const HEALTH: &str = r#"
[service.health]
type = "http"
path = "/"
interval = "500ms"
fast-interval = "200ms"
timeout = "400ms"
rise = 2
fall = 2
"#;

/// `lb`, running or not.
#[derive(Debug)]
pub(super) struct Balancer<'a> {
    lab: &'a Lab,
    binary: PathBuf,
    configuration: PathBuf,
    daemon: Option<Child>,
}

impl<'a> Balancer<'a> {
    /// Writes the configuration; starts nothing yet.
    ///
    /// # Errors
    /// When the lab's directory cannot be written.
    pub(super) fn new(lab: &'a Lab, binary: PathBuf) -> Result<Self> {
        let configuration = lab.directory().join("lb.toml");
        fs::write(&configuration, configuration_text(lab.id(), lab.directory()))
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        Ok(Self {
            lab,
            binary,
            configuration,
            daemon: None,
        })
    }

    /// Starts the daemon and waits until it answers and finds every backend healthy.
    ///
    /// # Errors
    /// When it ends, or does not get there in time; the error shows the end of its log.
    pub(super) fn start(&mut self) -> Result<Value> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())
            .context("cannot open the daemon's log")?;
        let mut daemon = self.lab.inside("lb", &self.binary.to_string_lossy());
        daemon.arg("run").arg("--config").arg(&self.configuration);
        daemon
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        self.daemon = Some(daemon.spawn().context("cannot start lb")?);
        self.wait_until_healthy()
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it does not run.
    pub(super) fn kill(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("lb is not running")?;
        daemon.kill().context("cannot kill lb")?;
        daemon.wait().context("cannot wait for lb")?;
        Ok(())
    }

    /// Ends the daemon and its packet path with `lb detach`, and returns pins that it left behind.
    ///
    /// # Errors
    /// When the command fails.
    pub(super) fn detach(&mut self) -> Result<Vec<PathBuf>> {
        self.command(&["detach"])?;
        if let Some(mut daemon) = self.daemon.take() {
            daemon.wait().context("cannot wait for lb")?;
        }
        Ok(leftovers::pins(self.lab.id()))
    }

    /// Runs an `lb` command against the daemon and returns what it printed.
    ///
    /// # Errors
    /// When the command fails.
    pub(super) fn command(&self, arguments: &[&str]) -> Result<String> {
        shell::output(
            Command::new(&self.binary)
                .arg("--socket")
                .arg(self.socket())
                .args(arguments),
        )
    }

    /// What `lb --json status` says.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub(super) fn status(&self) -> Result<Value> {
        let said = self.command(&["--json", "status"])?;
        serde_json::from_str(&said).with_context(|| format!("`lb --json status` printed no JSON: {said}"))
    }

    /// The control socket.
    pub(super) fn socket(&self) -> PathBuf {
        socket(self.lab.directory())
    }

    /// The binary.
    pub(super) fn binary(&self) -> &Path {
        &self.binary
    }

    fn log(&self) -> PathBuf {
        self.lab.directory().join("lb.log")
    }

    fn wait_until_healthy(&mut self) -> Result<Value> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(daemon) = &mut self.daemon
                && let Some(status) = daemon.try_wait().context("cannot ask for lb")?
            {
                bail!("lb ended ({status}); the end of its log:\n{}", self.log_tail());
            }
            let answer = self.status();
            match answer {
                Ok(status) if ill(&status).is_empty() => return Ok(status),
                answer if Instant::now() > end => {
                    let why = answer.map_or_else(|error| format!("{error:#}"), |status| ill(&status).join(", "));
                    bail!(
                        "lb is not ready after {} s: {why}; the end of its log:\n{}",
                        PATIENCE.as_secs(),
                        self.log_tail()
                    );
                }
                _ => interrupt::pause(Duration::from_millis(50))?,
            }
        }
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines
            .get(lines.len().saturating_sub(LOG_TAIL)..)
            .unwrap_or_default()
            .join("\n")
    }
}

/// Backends that cannot serve, each with the reason; something also when there are no backends at all.
fn ill(status: &Value) -> Vec<String> {
    let services = status.get("services").and_then(Value::as_array);
    let backends: Vec<&Value> = services
        .into_iter()
        .flatten()
        .filter_map(|service| service.get("backends")?.as_array())
        .flatten()
        .collect();
    if backends.is_empty() {
        return vec!["no backends in `lb --json status`".to_owned()];
    }
    backends
        .into_iter()
        .filter(|backend| !is_well(backend))
        .map(describe)
        .collect()
}

fn is_well(backend: &Value) -> bool {
    let up = backend.pointer("/health/state").and_then(Value::as_str) == Some("up");
    let in_rotation = backend.get("in_rotation").and_then(Value::as_bool) == Some(true);
    let standby = backend.get("tier").and_then(Value::as_u64).is_some_and(|tier| tier > 0);
    up && (in_rotation || standby)
}

fn describe(backend: &Value) -> String {
    let text = |key: &str| {
        backend
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or("no reason given")
            .to_owned()
    };
    format!("{}: {}", text("name"), text("why_not"))
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("lb.sock")
}

fn configuration_text(id: u32, directory: &Path) -> String {
    let mut text = format!(
        r#"instance = "{}"
socket = "{}"
state-dir = "{}"

[[interface]]
name = "client0"

[[interface]]
name = "servers0"

[[service]]
name = "web"
vip = "10.80.1.100:80"
{HEALTH}"#,
        leftovers::instance(id),
        socket(directory).display(),
        directory.display(),
    );
    for (server, host) in super::lab::SERVERS.iter().zip(11..) {
        text.push_str(&backend(server, host, false));
    }
    text.push_str("\n[[service]]\nname = \"failover\"\nvip = \"10.80.1.100:81\"\n");
    text.push_str(HEALTH);
    text.push_str(&backend("s1", 11, false));
    text.push_str(&backend("s2", 12, true));
    text
}

fn backend(name: &str, host: u8, backup: bool) -> String {
    format!(
        "\n[[service.backend]]\nname = \"{name}\"\naddress = \"10.80.2.{host}:80\"\nweight = 1\nbackup = {backup}\n"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_standby_is_well_and_one_without_next_hop_is_not() {
        let backend = |name: &str, tier: u8, rotation: bool, state: &str| json!({"name": name, "tier": tier, "in_rotation": rotation, "why_not": "because", "health": {"state": state}});
        let status = |backends: Value| json!({"services": [{"backends": backends}]});
        assert!(
            ill(&status(json!([
                backend("a", 0, true, "up"),
                backend("b", 1, false, "up")
            ])))
            .is_empty()
        );
        assert_eq!(ill(&status(json!([backend("a", 0, false, "up")]))), ["a: because"]);
        assert_eq!(ill(&status(json!([backend("b", 1, false, "unknown")]))), ["b: because"]);
        assert_eq!(ill(&json!({})).len(), 1);
    }

    #[test]
    fn the_health_check_is_as_the_verdict_assumes() {
        assert!(HEALTH.contains(&format!("\ninterval = \"{}ms\"", HEALTH_INTERVAL.as_millis())));
        assert!(HEALTH.contains(&format!("\nfall = {HEALTH_FALL}\n")));
    }

    #[test]
    fn both_services_have_their_backends() {
        let text = configuration_text(7, Path::new("/tmp/lbdemo-7"));
        assert_eq!(text.matches("[[service]]").count(), 2);
        assert_eq!(text.matches("[[service.backend]]").count(), 6);
        assert_eq!(text.lines().filter(|line| *line == "backup = true").count(), 1);
        assert_eq!(text.lines().next().unwrap(), "instance = \"demo-7\"");
    }
}
