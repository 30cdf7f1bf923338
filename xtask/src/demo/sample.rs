//! One request of the demo's client, and its text form between the client's process and the demo.

use std::{
    fmt,
    io::{self, ErrorKind},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::time::{ClockId, clock_gettime};

/// The clock that all processes of one machine share, and that nobody sets back.
///
/// # Errors
/// Never on Linux.
pub(super) fn now() -> Result<Duration> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("cannot read the monotonic clock")?;
    Ok(now.into())
}

/// A request, or what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    /// When it began, by [`now`].
    pub(super) at: Duration,
    /// How long its first try took.
    pub(super) took: Duration,
    /// What came of the first try.
    pub(super) outcome: Outcome,
    /// What came of the second, which follows at once when the first was refused or reset, as in a browser.
    pub(super) retry: Option<Outcome>,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A whole answer with status 200, from this server.
    Served(String),
    /// The connection was refused.
    Refused,
    /// The connection was reset while it was open.
    Reset,
    /// No answer in time.
    Timeout,
    /// Anything else: another status, an answer cut short, no route.
    Broken,
}

impl Outcome {
    /// What an error of a socket means.
    pub(crate) fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Reset,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Timeout,
            _ => Self::Broken,
        }
    }
}

impl Sample {
    /// When the first try ended, by [`now`].
    pub(super) fn end(&self) -> Duration {
        self.at + self.took
    }

    /// The server that answered at the first try.
    pub(super) fn server(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Served(server) => Some(server),
            Outcome::Refused | Outcome::Reset | Outcome::Timeout | Outcome::Broken => None,
        }
    }

    /// Whether the first try failed and the second did not.
    pub(super) fn saved_by_retry(&self) -> bool {
        matches!(self.retry, Some(Outcome::Served(_)))
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.at.as_micros(), self.took.as_micros(), self.outcome)?;
        match &self.retry {
            Some(retry) => write!(f, " {retry}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Sample {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let mut words = line.split(' ');
        let mut next = || {
            words
                .next()
                .with_context(|| format!("the demo's client wrote `{line}`"))
        };
        Ok(Self {
            at: Duration::from_micros(next()?.parse()?),
            took: Duration::from_micros(next()?.parse()?),
            outcome: next()?.parse()?,
            retry: words.next().map(str::parse).transpose()?,
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Served(server) => write!(f, "served:{server}"),
            Self::Refused => f.write_str("refused"),
            Self::Reset => f.write_str("reset"),
            Self::Timeout => f.write_str("timeout"),
            Self::Broken => f.write_str("broken"),
        }
    }
}

impl FromStr for Outcome {
    type Err = anyhow::Error;

    fn from_str(word: &str) -> Result<Self> {
        Ok(match word {
            "refused" => Self::Refused,
            "reset" => Self::Reset,
            "timeout" => Self::Timeout,
            "broken" => Self::Broken,
            other => match other.strip_prefix("served:") {
                Some(server) => Self::Served(server.to_owned()),
                None => bail!("the demo's client wrote the outcome `{other}`"),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_survives_its_text_form() {
        for (outcome, retry) in [
            (Outcome::Served("s1".into()), None),
            (Outcome::Refused, Some(Outcome::Served("s2".into()))),
            (Outcome::Reset, Some(Outcome::Timeout)),
            (Outcome::Broken, None),
        ] {
            let sample = Sample {
                at: Duration::from_micros(1_234_567),
                took: Duration::from_micros(89),
                outcome,
                retry,
            };
            assert_eq!(sample.to_string().parse::<Sample>().unwrap(), sample);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for line in ["", "1", "1 2", "1 2 what", "x 2 reset"] {
            assert!(line.parse::<Sample>().is_err(), "{line}");
        }
    }
}
