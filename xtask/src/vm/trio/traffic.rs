//! Requests of the client's guest: so many, or until told otherwise; and what became of them.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    guest::Guest,
    service::{SERVERS, Service},
};
use crate::interrupt;

/// Requests at a time, which an end or a mark finds under way.
pub(super) const CLIENTS: u64 = 4;

/// How long the next requests of a load may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What became of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Answered, by server.
    pub(super) served: BTreeMap<String, u64>,
    /// Failed, by how.
    pub(super) failed: BTreeMap<String, u64>,
}

impl Counts {
    /// Reads lines of `uniq --count`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut counts = Self::default();
        for line in text.lines() {
            let (number, outcome) = line.trim().split_once(' ').with_context(|| format!("`{line}`"))?;
            let number = number.parse().with_context(|| format!("`{line}`"))?;
            match outcome.strip_prefix("served:") {
                Some(server) => counts.served.insert(server.to_owned(), number),
                None => counts.failed.insert(outcome.to_owned(), number),
            };
        }
        Ok(counts)
    }

    pub(super) fn total_served(&self) -> u64 {
        self.served.values().sum()
    }

    pub(super) fn total_failed(&self) -> u64 {
        self.failed.values().sum()
    }

    pub(super) fn by(&self, server: &str) -> u64 {
        self.served.get(server).copied().unwrap_or(0)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = self.served.iter().chain(&self.failed).collect();
        let words: Vec<_> = words.iter().map(|(what, count)| format!("{what} {count}")).collect();
        f.write_str(&words.join(", "))
    }
}

/// Makes so many requests and waits for them.
///
/// # Errors
/// When the guest is off.
pub(super) fn request(client: &mut Guest, service: Service, count: u64) -> Result<Counts> {
    let (protocol, vip) = (service.protocol, service.vip());
    let said = client.run(&format!(
        "xtask vm-guest load {protocol} {vip} --count {count} --clients {CLIENTS} | sort | uniq -c"
    ))?;
    Counts::parse(&said)
}

/// Equal shares.
pub(super) fn even(requests: u64) -> Counts {
    let each = requests / SERVERS.len() as u64;
    Counts {
        served: SERVERS.iter().map(|server| ((*server).to_owned(), each)).collect(),
        failed: BTreeMap::new(),
    }
}

/// Requests in a closed loop, in the background. One at a time.
#[derive(Debug)]
pub(super) struct Load;

/// A point in a load: so many requests had ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Load {
    /// Starts it.
    ///
    /// # Errors
    /// When the guest is off.
    pub(super) fn start(client: &mut Guest, service: Service) -> Result<Self> {
        let (protocol, vip) = (service.protocol, service.vip());
        // The file is there before the process in the background is.
        client.run(&format!(
            "> /run/load; xtask vm-guest load {protocol} {vip} --clients {CLIENTS} >>/run/load & load=$!"
        ))?;
        Ok(Self)
    }

    /// Now.
    ///
    /// # Errors
    /// When the load ended by itself.
    pub(super) fn mark(&self, client: &mut Guest) -> Result<Mark> {
        let said = client
            .run("kill -0 $load && wc -l </run/load")
            .context("the load ended")?;
        Ok(Mark(said.parse().with_context(|| format!("`{said}`"))?))
    }

    /// Waits until `count` requests more have ended, and returns that point.
    ///
    /// # Errors
    /// When they take too long.
    pub(super) fn wait_for(&self, client: &mut Guest, count: u64) -> Result<Mark> {
        let first = self.mark(client)?;
        let end = Instant::now() + PATIENCE;
        loop {
            let now = self.mark(client)?;
            if now.0 >= first.0 + count {
                return Ok(now);
            }
            if Instant::now() > end {
                bail!("only {} of {count} requests ended within {PATIENCE:?}", now.0 - first.0);
            }
            interrupt::pause(Duration::from_millis(200))?;
        }
    }

    /// What became of the requests between two points.
    ///
    /// # Errors
    /// When the guest is off.
    pub(super) fn between(&self, client: &mut Guest, from: Mark, to: Mark) -> Result<Counts> {
        let (first, number) = (from.0 + 1, to.0.saturating_sub(from.0));
        let said = client.run(&format!(
            "tail -n +{first} /run/load | head -n {number} | sort | uniq -c"
        ))?;
        Counts::parse(&said)
    }

    /// Ends it and returns what became of all its requests.
    ///
    /// # Errors
    /// When the load ended before.
    pub(super) fn stop(self, client: &mut Guest) -> Result<Counts> {
        let end = self.mark(client)?;
        let counts = self.between(client, Mark(0), end);
        client.run("kill $load; wait $load; true")?;
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_as_uniq_writes_them() {
        let counts = Counts::parse("    600 served:s1\n      3 refused\n").unwrap();
        assert_eq!(
            (counts.by("s1"), counts.total_served(), counts.total_failed()),
            (600, 600, 3)
        );
        assert_eq!(counts.to_string(), "s1 600, refused 3");
        assert!(Counts::parse("what?").is_err());
    }
}
