//! The client: wrk with 64 connections, for a fraction of a second or some seconds.
//!
//! wrk times a request from when it is written to when the answer has been read: opening the connection is not in it. Its
//! percentiles are corrected for requests that a slow answer kept from being sent (`stats_correct` in wrk 4.1).

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lb_tests::Namespace;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;

/// Connections at a time.
pub(crate) const CONNECTIONS: u32 = 64;
/// wrk ends by itself this much later than it should, in case the signal that ends it came before wrk listened for it.
const GRACE: Duration = Duration::from_secs(2);
/// Fewer requests say nothing.
const FEWEST: u64 = 100;
/// Has wrk print what its own text leaves out.
const SCRIPT: &str = include_str!("percentiles.lua");
/// How the line begins that the script prints.
const MARK: &str = "lb-bench ";

/// What connections are used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// One request after the other.
    KeepAlive,
    /// One request each.
    PerRequest,
}

impl Pattern {
    /// The table of its figures.
    pub(crate) const fn table(self) -> &'static str {
        match self {
            Self::KeepAlive => "http-keep-alive",
            Self::PerRequest => "http-per-request",
        }
    }

    /// As readers see it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::PerRequest => "a connection per request",
        }
    }
}

/// What a run of wrk gave.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Sample {
    /// How long it took, in microseconds.
    pub(crate) duration_us: u64,
    /// Requests that were answered.
    pub(crate) requests: u64,
    connect: u64,
    read: u64,
    write: u64,
    status: u64,
    timeout: u64,
    /// Half of the requests took this many microseconds at most.
    pub(crate) p50_us: u64,
    /// 99 in a hundred did.
    pub(crate) p99_us: u64,
    /// 999 in a thousand did.
    pub(crate) p999_us: u64,
}

/// wrk with its script.
#[derive(Debug)]
pub(super) struct Wrk {
    script: PathBuf,
}

impl Wrk {
    /// Writes the script to a directory.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let script = directory.join("percentiles.lua");
        std::fs::write(&script, SCRIPT).with_context(|| format!("cannot write {}", script.display()))?;
        Ok(Self { script })
    }

    /// Asks `url` for `time`, and says what came of it, or why nothing did.
    pub(super) fn run(
        &self,
        client: &Namespace,
        url: &str,
        pattern: Pattern,
        time: Duration,
    ) -> Result<Sample, String> {
        let mut command = client.command("wrk");
        self.arguments(&mut command, url, pattern, time);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.map_err(|error| format!("wrk does not start: {error}"))?;
        let output = end_after(child, time).map_err(|error| format!("{error:#}"))?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let sample = parse(&stdout).map_err(|why| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!("{why} ({}): {} {}", output.status, said.trim(), stdout.trim())
        })?;
        match sample.objection() {
            Some(objection) => Err(objection),
            None => Ok(sample),
        }
    }

    fn arguments(&self, command: &mut Command, url: &str, pattern: Pattern, time: Duration) {
        command
            .arg("--threads=1")
            .arg(format!("--connections={CONNECTIONS}"))
            .arg(format!("--duration={}s", (time + GRACE).as_secs()))
            .arg("--script")
            .arg(&self.script);
        if pattern == Pattern::PerRequest {
            command.args(["--header", "Connection: close"]);
        }
        command.arg(url);
    }
}

/// Interrupts wrk when its time is over, upon which it reports as if it had ended by itself: its own durations are
/// whole seconds, too coarse for a quick run. Where nothing answers at all it hangs before it listens for signals.
fn end_after(mut child: Child, time: Duration) -> Result<Output> {
    if !has_ended(&mut child, time)? {
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).context("cannot interrupt wrk")?;
        if !has_ended(&mut child, 2 * GRACE)? {
            child.kill().context("cannot end wrk")?;
            child.wait()?;
            bail!("wrk hangs: nothing answers");
        }
    }
    child.wait_with_output().context("cannot read what wrk says")
}

/// Waits for the end of a process, but not longer than `time`.
fn has_ended(child: &mut Child, time: Duration) -> Result<bool> {
    let end = Instant::now() + time;
    loop {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        thread::sleep(left.min(Duration::from_millis(10)));
    }
}

/// Reads the line of the script.
fn parse(stdout: &str) -> Result<Sample, String> {
    let line = stdout.lines().find_map(|line| line.strip_prefix(MARK));
    let line = line.ok_or_else(|| "wrk gave no figures".to_owned())?;
    serde_json::from_str(line).map_err(|error| format!("wrk's figures cannot be read: {error}"))
}

impl Sample {
    /// Requests a second.
    #[expect(clippy::cast_precision_loss, reason = "millions")]
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 * 1e6 / self.duration_us as f64
    }

    /// Why it does not count.
    fn objection(&self) -> Option<String> {
        let kinds = [
            (self.connect, "connect errors"),
            (self.read, "read errors"),
            (self.write, "write errors"),
            (self.timeout, "timeouts"),
            (self.status, "answers of status 400 or more"),
        ];
        let seen: Vec<_> = kinds
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, kind)| format!("{count} {kind}"))
            .collect();
        if !seen.is_empty() {
            return Some(format!(
                "wrk reports {} beside {} answers",
                seen.join(", "),
                self.requests
            ));
        }
        (self.requests < FEWEST).then(|| format!("only {} requests were answered", self.requests))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As wrk 4.1.0 printed it.
    const GOOD: &str = r#"Running 1s test @ http://127.0.0.1/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     2.70ms    1.25ms  11.86ms   80.65%
    Req/Sec    14.35k     1.11k   15.40k    80.00%
  14391 requests in 1.01s, 2.24MB read
Requests/sec:  14225.06
Transfer/sec:      2.21MB
lb-bench {"duration_us":1011665,"requests":14391,"connect":0,"read":0,"write":0,"status":0,"timeout":0,"p50_us":2571,"p99_us":7102,"p999_us":11519}
"#;

    /// The same, when nginx was killed half-way.
    const KILLED: &str = r#"  70519 requests in 2.00s, 11.30MB read
  Socket errors: connect 0, read 64, write 9859, timeout 0
Requests/sec:  35200.28
Transfer/sec:      5.64MB
lb-bench {"duration_us":2003365,"requests":70519,"connect":0,"read":64,"write":9859,"status":0,"timeout":0,"p50_us":664,"p99_us":917,"p999_us":4308}
"#;

    #[test]
    fn a_run_without_errors_counts() {
        let sample = parse(GOOD).unwrap();
        assert_eq!(sample.objection(), None);
        assert_eq!((sample.p50_us, sample.p99_us, sample.p999_us), (2571, 7102, 11519));
        // As wrk itself says, in its line "Requests/sec".
        assert!((sample.rate() - 14225.06).abs() < 0.01, "{}", sample.rate());
    }

    #[test]
    fn socket_errors_make_it_void() {
        let objection = parse(KILLED).unwrap().objection().unwrap();
        assert_eq!(
            objection,
            "wrk reports 64 read errors, 9859 write errors beside 70519 answers"
        );
    }

    #[test]
    fn refusals_by_the_server_make_it_void() {
        let text = GOOD.replace("\"status\":0", "\"status\":7");
        let objection = parse(&text).unwrap().objection().unwrap();
        assert_eq!(
            objection,
            "wrk reports 7 answers of status 400 or more beside 14391 answers"
        );
    }

    #[test]
    fn a_handful_of_requests_is_void() {
        let text = GOOD.replace("14391,", "12,");
        assert_eq!(
            parse(&text).unwrap().objection().unwrap(),
            "only 12 requests were answered"
        );
    }

    #[test]
    fn no_figures_are_not_taken_for_zero() {
        let why = parse("unable to connect to 127.0.0.1:81 Connection refused\n").unwrap_err();
        assert_eq!(why, "wrk gave no figures");
    }
}
