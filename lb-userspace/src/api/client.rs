//! The blocking client of the control interface, and its errors in the operator's words.

use std::{
    io::{self, Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
};

use super::{
    codec::{self, CodecError, MAX_REPLY, MAX_REQUEST},
    request::{ApiError, ErrorKind, Reply, Request},
};

/// Pause before the next try when the daemon's queue of connections is full.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no file at the path.
    #[error("there is no socket")]
    NoSocket,
    /// Nobody listens: a daemon ended without removing its socket.
    #[error("nobody listens at the socket")]
    Refused,
    /// The socket may be used by root only.
    #[error("permission denied")]
    Denied,
    /// No reply in time.
    #[error("no reply within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// The daemon closed the connection without a reply.
    #[error("the daemon closed the connection without a reply")]
    Closed,
    /// The request is too long, or the reply is not one that this version knows.
    #[error("{0}")]
    Codec(#[from] CodecError),
    /// Anything else that the system said.
    #[error("{0}")]
    Io(io::Error),
}

impl ClientError {
    /// Whether it is certain that no daemon runs behind the socket.
    #[must_use]
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::NoSocket | Self::Refused)
    }
}

/// Where a daemon is, as far as its error messages need to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// The daemon's instance name.
    pub instance: String,
    /// Where the BPF file system is mounted: tells whether a packet path runs without its daemon.
    pub bpffs: PathBuf,
}

impl Client {
    /// Asks the daemon. A refusal ([`Reply::Error`]) comes back as the error that it carries.
    ///
    /// # Errors
    /// What the daemon refused, or what keeps it from answering, with what to do next.
    pub fn call(&self, request: &Request, timeout: Duration) -> Result<Reply, ApiError> {
        exchange(&self.socket, request, timeout).map_or_else(|e| Err(self.explain(&e)), refused_to_error)
    }

    /// An error as the operator should read it.
    #[must_use]
    pub fn explain(&self, error: &ClientError) -> ApiError {
        let mut told = explain(&self.socket, &format!(" for instance `{}`", self.instance), error);
        if error.is_absent() && self.packet_path_is_pinned() {
            told.message.push_str(&format!(
                " The packet path is still pinned under {}: traffic flows on without the daemon, but health is not checked.",
                self.pins().display()
            ));
        }
        told
    }

    /// Directory of the instance's pins.
    #[must_use]
    pub fn pins(&self) -> PathBuf {
        self.bpffs.join("lb").join(&self.instance)
    }

    /// Whether anything is pinned for the instance. No, if that cannot be seen.
    #[must_use]
    pub fn packet_path_is_pinned(&self) -> bool {
        self.pins().read_dir().is_ok_and(|mut entries| entries.next().is_some())
    }
}

/// Asks the daemon behind the socket `path`, and waits at most `timeout` in all. A refusal ([`Reply::Error`]) comes back as the
/// error that it carries.
///
/// # Errors
/// What the daemon refused, or what keeps it from answering, with what to do next.
pub fn call(path: &Path, request: &Request, timeout: Duration) -> Result<Reply, ApiError> {
    exchange(path, request, timeout).map_or_else(|e| Err(explain(path, "", &e)), refused_to_error)
}

/// Like [`call`], with errors for programs and the daemon's refusal as a reply.
///
/// # Errors
/// See [`ClientError`].
pub fn exchange(path: &Path, request: &Request, timeout: Duration) -> Result<Reply, ClientError> {
    let deadline = Deadline::after(timeout);
    let line = codec::encode(request, MAX_REQUEST)?;
    let mut stream = connect_until(path, &deadline)?;
    stream
        .set_write_timeout(Some(deadline.left()?))
        .map_err(ClientError::Io)?;
    let sent = stream.write_all(&line);
    // A daemon that turns the client away says so and closes, perhaps before it has read the request: its words come first.
    let reply = read_reply(&mut stream, &deadline);
    match (sent, reply) {
        (Err(error), Err(_)) => Err(deadline.or_io(error)),
        (_, reply) => Ok(codec::decode(&reply?)?),
    }
}

/// Connects without ever waiting: a queue of connections that is full counts as [`io::ErrorKind::WouldBlock`].
pub(crate) fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(fd.as_raw_fd(), &address)?;
    Ok(UnixStream::from(fd))
}

fn connect_until(path: &Path, deadline: &Deadline) -> Result<UnixStream, ClientError> {
    loop {
        match connect_now(path) {
            Ok(stream) => {
                stream.set_nonblocking(false).map_err(ClientError::Io)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(BUSY_PAUSE.min(deadline.left()?));
            }
            Err(error) => return Err(connect_error(error)),
        }
    }
}

fn connect_error(error: io::Error) -> ClientError {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR) => ClientError::NoSocket,
        Some(Errno::ECONNREFUSED) => ClientError::Refused,
        Some(Errno::EACCES | Errno::EPERM) => ClientError::Denied,
        _ => ClientError::Io(error),
    }
}

fn read_reply(stream: &mut UnixStream, deadline: &Deadline) -> Result<Vec<u8>, ClientError> {
    let mut line = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        stream
            .set_read_timeout(Some(deadline.left()?))
            .map_err(ClientError::Io)?;
        let read = match stream.read(&mut chunk) {
            Ok(0) if line.is_empty() => return Err(ClientError::Closed),
            Ok(0) => return Err(CodecError::Truncated.into()),
            Ok(read) => chunk.get(..read).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(deadline.or_io(error)),
        };
        line.extend_from_slice(read);
        if read.ends_with(b"\n") {
            return Ok(line);
        }
        if line.len() > MAX_REPLY {
            return Err(CodecError::TooLong { limit: MAX_REPLY }.into());
        }
    }
}

/// One bound on everything that a call waits for.
struct Deadline {
    at: Instant,
    timeout: Duration,
}

impl Deadline {
    fn after(timeout: Duration) -> Self {
        Self {
            at: Instant::now() + timeout,
            timeout,
        }
    }

    /// Time that is left, never zero.
    fn left(&self) -> Result<Duration, ClientError> {
        match self.at.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(ClientError::Timeout(self.timeout)),
            left => Ok(left),
        }
    }

    /// A socket reports its own time-out as [`io::ErrorKind::WouldBlock`].
    fn or_io(&self, error: io::Error) -> ClientError {
        if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            ClientError::Timeout(self.timeout)
        } else if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) {
            ClientError::Closed
        } else {
            ClientError::Io(error)
        }
    }
}

fn refused_to_error(reply: Reply) -> Result<Reply, ApiError> {
    match reply {
        Reply::Error { error } => Err(error),
        reply @ (Reply::Done { .. }
        | Reply::Status { .. }
        | Reply::Version { .. }
        | Reply::Services { .. }
        | Reply::Flows { .. }
        | Reply::FlowCounts { .. }
        | Reply::FlowsKilled { .. }) => Ok(reply),
    }
}

fn explain(path: &Path, whose: &str, error: &ClientError) -> ApiError {
    let at = path.display();
    let (kind, message) = match error {
        ClientError::NoSocket => (
            ErrorKind::Unreachable,
            format!("lb is not running{whose} (no socket at {at}). Start it: lb run --config FILE"),
        ),
        ClientError::Refused => (
            ErrorKind::Unreachable,
            format!(
                "lb is not running{whose}: nobody listens at {at}, which a daemon that ended suddenly left behind. \
                 Start it, it replaces the socket: lb run --config FILE"
            ),
        ),
        ClientError::Denied => (
            ErrorKind::Unreachable,
            format!("permission denied at the socket {at}: run this command as root"),
        ),
        ClientError::Timeout(after) => (
            ErrorKind::Unreachable,
            format!(
                "lb did not answer{whose} at {at} within {} s. Traffic does not depend on that. \
                 A change that was asked for may or may not have been made: look at the daemon's log, then at lb status",
                after.as_secs_f64()
            ),
        ),
        ClientError::Closed => (
            ErrorKind::Unreachable,
            format!("lb closed the connection at {at} without an answer: look at the daemon's log"),
        ),
        ClientError::Codec(CodecError::Json(cause)) => (
            ErrorKind::System,
            format!(
                "cannot understand the answer of the daemon at {at} ({cause}). It may be of another version than this \
                 command: compare with lb version, and restart the daemon with this version"
            ),
        ),
        ClientError::Codec(cause) => (ErrorKind::System, format!("talking to the daemon at {at}: {cause}")),
        ClientError::Io(cause) => (
            ErrorKind::Unreachable,
            format!("cannot reach lb{whose} at {at}: {cause}"),
        ),
    };
    ApiError { kind, message }
}
