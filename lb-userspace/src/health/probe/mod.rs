//! One check of one target. Nothing outside this module opens sockets to backends.
//!
//! A probe leaves no socket behind in TIME_WAIT, on neither side: at one check a second, hundreds of backends would
//! otherwise eat the host's ephemeral ports.

mod http;
mod tcp;
#[cfg(test)]
mod tests;

use std::{future::Future, io, time::Duration};

use tokio::time::{Instant, timeout};

use super::machine::CheckResult;
use crate::model::{HealthTarget, Probe};

/// What a probe found, in words: what it is glad of, or what is wrong.
pub type Verdict = Result<String, String>;

/// Asks a target. The runner is generic over it, so that tests can decide what targets answer.
pub trait Prober: Send + Sync + 'static {
    /// Asks once. Need not mind the time; dropping the future must end whatever it does.
    fn probe(&self, target: &HealthTarget) -> impl Future<Output = Verdict> + Send;
}

/// Asks over the network.
#[derive(Debug, Clone, Copy, Default)]
pub struct NetworkProber;

impl Prober for NetworkProber {
    async fn probe(&self, target: &HealthTarget) -> Verdict {
        match &target.check.probe {
            Probe::None => Ok("not checked".to_owned()),
            Probe::Tcp => tcp::probe(target.address).await,
            Probe::Http(expected) => http::probe(target.address, expected).await,
        }
    }
}

/// One check: a probe within the target's timeout, which covers all of it, and the time that it took.
pub async fn check(prober: &impl Prober, target: &HealthTarget) -> CheckResult {
    let started = Instant::now();
    let limit = target.check.timeout;
    let verdict = timeout(limit, prober.probe(target)).await;
    let verdict = verdict.unwrap_or_else(|_| Err(format!("timeout after {}", spaced(limit))));
    let healthy = verdict.is_ok();
    let (Ok(words) | Err(words)) = verdict;
    CheckResult {
        healthy,
        words,
        latency: started.elapsed(),
    }
}

/// `2 s`, `1.5 s`, `200 ms`.
fn spaced(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds >= 1.0 {
        format!("{seconds} s")
    } else {
        format!("{} ms", seconds * 1000.0)
    }
}

/// I/O errors for which the system's own words are too long or too vague.
const WORDS: [(io::ErrorKind, &str); 10] = [
    (io::ErrorKind::ConnectionRefused, "connection refused"),
    (io::ErrorKind::ConnectionReset, "connection reset"),
    (io::ErrorKind::BrokenPipe, "connection closed by the backend"),
    (io::ErrorKind::ConnectionAborted, "connection closed by the backend"),
    (
        io::ErrorKind::UnexpectedEof,
        "connection closed before the answer was complete",
    ),
    (io::ErrorKind::HostUnreachable, "no route to host"),
    (io::ErrorKind::NetworkUnreachable, "network unreachable"),
    (io::ErrorKind::TimedOut, "connection timed out"),
    (io::ErrorKind::AddrNotAvailable, "no free local port or address"),
    (
        io::ErrorKind::PermissionDenied,
        "not permitted by this host (firewall?)",
    ),
];

/// An I/O error as an operator would say it: `connection refused`, without numbers.
fn words(error: &io::Error) -> String {
    let known = WORDS.iter().find(|(kind, _)| *kind == error.kind());
    known.map_or_else(|| plain(&error.to_string()), |(_, words)| (*words).to_owned())
}

/// `Too many open files (os error 24)` becomes `too many open files`.
fn plain(message: &str) -> String {
    let message = message.split(" (os error").next().unwrap_or(message);
    let mut chars = message.chars();
    chars
        .next()
        .map(|first| first.to_lowercase().chain(chars).collect())
        .unwrap_or_default()
}
