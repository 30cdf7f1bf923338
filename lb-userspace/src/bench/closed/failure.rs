//! Why one failed, in kinds that tell an operator different things.

use std::{error::Error, io};

/// A kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FailureKind {
    /// Answered with RST to the SYN: nobody listens, or no backend is left.
    Refused,
    /// Answered with RST later.
    Reset,
    /// No answer in time.
    TimedOut,
    /// The other side ended the connection before the answer was complete.
    Closed,
    /// The network said that there is no way.
    Unreachable,
    /// This host has no port left.
    NoPort,
    /// This host has no file descriptor left.
    NoDescriptor,
    /// The answer is not HTTP/1.1.
    Malformed,
    /// Anything else.
    Other,
}

/// A failure and its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) words: String,
}

impl FailureKind {
    /// As results name it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::TimedOut => "timed out",
            Self::Closed => "closed early",
            Self::Unreachable => "unreachable",
            Self::NoPort => "no free port",
            Self::NoDescriptor => "no descriptor",
            Self::Malformed => "not HTTP",
            Self::Other => "other",
        }
    }
}

impl Failure {
    pub(super) fn new(kind: FailureKind, words: impl Into<String>) -> Self {
        let words = words.into();
        Self { kind, words }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(io_kind(&error), error.to_string())
    }
}

fn io_kind(error: &io::Error) -> FailureKind {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => FailureKind::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
            FailureKind::Reset
        }
        io::ErrorKind::TimedOut => FailureKind::TimedOut,
        io::ErrorKind::UnexpectedEof => FailureKind::Closed,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => FailureKind::Unreachable,
        io::ErrorKind::AddrNotAvailable => FailureKind::NoPort,
        _ => match error.raw_os_error() {
            // What bind() says when all ports of an address are taken.
            Some(libc::EADDRINUSE) => FailureKind::NoPort,
            Some(libc::EMFILE | libc::ENFILE) => FailureKind::NoDescriptor,
            _ => FailureKind::Other,
        },
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        if let Some(cause) = error.source().and_then(|source| source.downcast_ref::<io::Error>()) {
            return Self::new(io_kind(cause), cause.to_string());
        }
        let kind = if error.is_parse() {
            FailureKind::Malformed
        } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            FailureKind::Closed
        } else {
            FailureKind::Other
        };
        Self::new(kind, error.to_string())
    }
}
