//! Sinks and generators on hosts of a lab.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use lb_tests::{
    Outcome,
    balancer::{PATIENCE, program},
    eventually,
    lab::Host,
};
use serde_json::Value;

/// A sink on a host's `eth0`, killed on drop.
pub(crate) struct Sink(Option<Child>);

impl Sink {
    /// Starts it and waits until it is attached.
    pub(crate) fn start(host: &Host, arguments: &[&str]) -> Self {
        let mut command = host.ns.command(program());
        command
            .args([
                "bench",
                "sink",
                "--json",
                "--interface",
                "eth0",
                "--duration",
                "40s",
                "--idle",
                "2s",
            ])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let sink = Self(Some(command.spawn().expect("lb starts")));
        eventually("the sink to be attached", PATIENCE, || {
            let link = host.ns.sh("ip -oneline link show eth0");
            if link.contains("xdp") { Ok(()) } else { Err(link) }
        });
        sink
    }

    /// Waits for its end, which comes when nothing does, and returns what it prints.
    pub(crate) fn end(mut self) -> Value {
        let output = self.0.take().expect("a sink").wait_with_output().expect("lb ends");
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{e} in {text}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Runs `lb bench traffic` on a host's `eth0` to its end.
pub(crate) fn traffic(host: &Host, kind: &str, to: &str, arguments: &[&str]) -> Outcome {
    let mut command: Command = host.ns.command("timeout");
    command
        .args(["--kill-after=1", "40"])
        .arg(program())
        .args(["bench", "traffic", kind, "--json", "--interface", "eth0", "--to", to])
        .args(arguments);
    Outcome::of(&mut command)
}

/// A figure of what `lb bench --json` prints.
#[track_caller]
pub(crate) fn figure(outcome: &Value, name: &str) -> u64 {
    outcome
        .pointer(&format!("/figures/{name}"))
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no figure {name} in {outcome:#}"))
}

/// A pause in which a packet that is under way arrives.
pub(crate) fn settle() {
    std::thread::sleep(Duration::from_millis(200));
}
