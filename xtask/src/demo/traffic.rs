//! The demo's side of its client: starts it, collects what it tells, and counts.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader},
    mem,
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{lab::Lab, sample::Sample};

/// A client at work. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Traffic {
    child: Child,
    /// The client works until this is closed.
    input: Option<ChildStdin>,
    reader: Option<JoinHandle<Result<()>>>,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Traffic {
    /// Starts a client: `count` requests, or until [`Traffic::finish`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub(super) fn start(lab: &Lab, target: &str, rate: u32, count: Option<u64>) -> Result<Self> {
        let this = env::current_exe().context("cannot tell where xtask is")?;
        let mut client = lab.inside("client", &this.to_string_lossy());
        client.args(["demo-load", target, "--rate", &rate.to_string()]);
        client.args(count.iter().flat_map(|count| ["--count".to_owned(), count.to_string()]));
        client
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = client.spawn().context("cannot start the client")?;
        let samples = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&samples);
        let output = child.stdout.take().context("the client has no output")?;
        let reader = thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let sample = line?.parse()?;
                into.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
            }
            Ok(())
        });
        let input = child.stdin.take();
        Ok(Self {
            child,
            input,
            reader: Some(reader),
            samples,
        })
    }

    /// Calls `look` with all requests so far.
    pub(super) fn with<T>(&self, look: impl FnOnce(&[Sample]) -> T) -> T {
        look(&self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the client has made all its requests.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(super) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("cannot ask for the client")?.is_some())
    }

    /// Lets the client bring what it began to an end, and returns all its requests in the order of their beginning.
    ///
    /// # Errors
    /// When the client failed.
    pub(super) fn finish(mut self) -> Result<Vec<Sample>> {
        drop(self.input.take());
        let status = self.child.wait().context("cannot wait for the client")?;
        if !status.success() {
            bail!("the client failed ({status})");
        }
        if let Some(Ok(read)) = self.reader.take().map(JoinHandle::join) {
            read.context("cannot read what the client tells")?;
        }
        let mut samples = mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner));
        samples.sort_by_key(|sample| sample.at);
        Ok(samples)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Counts of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Served at the first try, by server.
    pub(super) served: BTreeMap<String, u64>,
    /// Failed at the first try.
    pub(super) failed: u64,
    /// Of these, served at the second.
    pub(super) saved: u64,
}

impl Counts {
    /// Counts these requests.
    pub(super) fn of<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Self {
        let mut counts = Self::default();
        for sample in samples {
            match sample.server() {
                Some(server) => *counts.served.entry(server.to_owned()).or_default() += 1,
                None => {
                    counts.failed += 1;
                    counts.saved += u64::from(sample.saved_by_retry());
                }
            }
        }
        counts
    }

    /// Requests that this server served.
    pub(super) fn by(&self, server: &str) -> u64 {
        self.served.get(server).copied().unwrap_or(0)
    }

    /// Requests that any server served.
    pub(super) fn total_served(&self) -> u64 {
        self.served.values().sum()
    }

    /// The difference between the most and the least busy of these servers.
    pub(super) fn spread(&self, servers: &[&str]) -> u64 {
        let counts = || servers.iter().map(|server| self.by(server));
        counts().max().unwrap_or(0) - counts().min().unwrap_or(0)
    }
}

/// The time that half of the requests stay below.
pub(super) fn median(samples: &[Sample]) -> Duration {
    let mut times: Vec<Duration> = samples.iter().map(|sample| sample.took).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::sample::Outcome;

    fn sample(outcome: Outcome, retry: Option<Outcome>) -> Sample {
        Sample {
            at: Duration::ZERO,
            took: Duration::from_millis(1),
            outcome,
            retry,
        }
    }

    #[test]
    fn a_request_saved_by_its_retry_still_counts_as_failed() {
        let served = |name: &str| Outcome::Served(name.to_owned());
        let counts = Counts::of(&[
            sample(served("s1"), None),
            sample(served("s2"), None),
            sample(served("s1"), None),
            sample(Outcome::Reset, Some(served("s2"))),
            sample(Outcome::Refused, Some(Outcome::Refused)),
            sample(Outcome::Timeout, None),
        ]);
        assert_eq!(
            (counts.by("s1"), counts.by("s2"), counts.failed, counts.saved),
            (2, 1, 3, 1)
        );
        assert_eq!(counts.spread(&["s1", "s2"]), 1);
        assert_eq!(counts.spread(&["s1", "s3"]), 2);
    }
}
