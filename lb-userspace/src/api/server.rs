//! The daemon's end of the control interface: a Unix socket for root, one task a connection.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind as bind_fd, getsockopt, listen, socket, sockopt,
        },
        stat::{Mode, fchmod},
    },
};
use tokio::{
    io::{AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    client::connect_now,
    codec::{self, CodecError, MAX_REPLY, MAX_REQUEST},
    request::{ApiError, ErrorKind, Reply, Request},
};

/// Connections served at one time.
pub const MAX_CLIENTS: usize = 32;

/// A connection that sends no whole request, or takes no reply, for so long is closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Replies that are under way when the server ends get so long to leave.
const LAST_REPLIES: Duration = Duration::from_secs(1);

/// Pause after the system refused a connection, for want of file descriptors above all.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A request with the place where its reply goes.
pub type Call = (Request, oneshot::Sender<Reply>);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The directory cannot be made.
    #[error("cannot make the directory {} for the control socket: {source}", .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else lies there.
    #[error("{} is not a socket, and is left alone: move it away, or set `socket` in the configuration to another path", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Another process accepts connections there.
    #[error("the control socket {} is held by {holder}: stop it, or set `socket` to another path", .path.display())]
    Held {
        /// The path.
        path: PathBuf,
        /// `process 123 (lb)`, as far as the kernel tells.
        holder: String,
        /// Its process ID, where the kernel tells.
        pid: Option<i32>,
    },
    /// Anything else.
    #[error("cannot listen at the control socket {}: {source}", .path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A socket that listens. Dropping it removes its file.
#[derive(Debug)]
pub struct Listener {
    inner: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, so that only this very file is removed.
    file: (u64, u64),
}

impl Drop for Listener {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.file)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the control socket could not be removed");
        }
    }
}

/// Listens at `path`: only the user of this process may connect. Makes the parent directory, and replaces a socket at which
/// nobody listens any more. Must be called within a tokio runtime. Two processes that do this at the same moment could
/// both replace a stale socket: the caller holds the instance's lock.
///
/// # Errors
/// [`BindError`] says what stands in the way. Nothing but a stale socket is ever deleted.
pub fn bind(path: &Path) -> Result<Listener, BindError> {
    make_parent(path)?;
    clear_the_way(path)?;
    let failed = |source| BindError::Socket {
        path: path.to_owned(),
        source,
    };
    let listener = std::os::unix::net::UnixListener::from(listening_socket(path).map_err(failed)?);
    let found = fs::symlink_metadata(path).map_err(failed)?;
    Ok(Listener {
        inner: UnixListener::from_std(listener).map_err(failed)?,
        path: path.to_owned(),
        file: (found.dev(), found.ino()),
    })
}

fn make_parent(path: &Path) -> Result<(), BindError> {
    let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) else {
        return Ok(());
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(parent)
        .map_err(|source| BindError::Directory {
            path: parent.to_owned(),
            source,
        })
}

fn clear_the_way(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Socket {
        path: path.to_owned(),
        source,
    };
    // The file itself, not what a symbolic link points to.
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket { path: path.to_owned() });
    }
    match connect_now(path) {
        Ok(stream) => Err(held_by(
            path,
            getsockopt(&stream, sockopt::PeerCredentials)
                .ok()
                .map(|peer| peer.pid()),
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        // Somebody listens, but is too busy to accept.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(held_by(path, None)),
        // Somebody has it for datagrams.
        Err(error) if error.raw_os_error() == Some(Errno::EPROTOTYPE as i32) => Err(held_by(path, None)),
        Err(error) => Err(failed(error)),
    }
}

/// `pid` is 0 for a process of another PID namespace.
fn held_by(path: &Path, pid: Option<i32>) -> BindError {
    let pid = pid.filter(|pid| *pid > 0);
    let holder = match pid {
        Some(pid) => match fs::read_to_string(format!("/proc/{pid}/comm")) {
            Ok(name) => format!("process {pid} ({})", name.trim_end()),
            Err(_) => format!("process {pid}"),
        },
        None => "another process".to_owned(),
    };
    BindError::Held {
        path: path.to_owned(),
        holder,
        pid,
    }
}

fn listening_socket(path: &Path) -> io::Result<OwnedFd> {
    let address = UnixAddr::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // Linux gives the file the mode that the socket has when it is bound: there is no moment at which others may connect.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind_fd(fd.as_raw_fd(), &address)?;
    listen(&fd, Backlog::MAXCONN)?;
    Ok(fd)
}

/// Serves clients until the receiver of `calls` is dropped; then lets the replies that are under way leave, and removes the socket.
pub async fn serve(listener: Listener, calls: mpsc::Sender<Call>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = calls.closed() => break,
            Some(_) = clients.join_next() => continue,
            accepted = listener.inner.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    let calls = calls.clone();
                    clients.spawn(async move {
                        serve_client(stream, calls).await;
                        drop(place);
                    });
                }
                Err(_) => turn_away(stream).await,
            },
            Err(error) => {
                tracing::warn!(%error, "a control connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let rest = async { while clients.join_next().await.is_some() {} };
    if timeout(LAST_REPLIES, rest).await.is_err() {
        tracing::debug!("control connections were cut at the end");
    }
}

/// Tells a client that there are too many. A fresh socket's buffer takes it at once.
async fn turn_away(mut stream: UnixStream) {
    let reply = refusal(
        ErrorKind::Unreachable,
        format!("lb already serves {MAX_CLIENTS} control connections: close some, or try again later"),
    );
    if timeout(ACCEPT_PAUSE, stream.write_all(&encode_reply(&reply)))
        .await
        .is_err()
    {
        tracing::debug!("a control connection beyond the limit was closed without a word");
    }
}

async fn serve_client(stream: UnixStream, calls: mpsc::Sender<Call>) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let line = tokio::select! {
            () = calls.closed() => return,
            line = timeout(IDLE_TIMEOUT, codec::read_line(&mut read, MAX_REQUEST)) => line,
        };
        let (reply, go_on) = match line {
            Ok(Ok(Some(line))) => (answer(&line, &calls).await, true),
            Ok(Err(error @ CodecError::TooLong { .. })) => (refusal(ErrorKind::Invalid, error.to_string()), false),
            // Gone, broken off, or silent for too long: there is nobody to tell.
            Ok(Ok(None) | Err(_)) | Err(_) => return,
        };
        let sent = timeout(IDLE_TIMEOUT, write.write_all(&encode_reply(&reply))).await;
        if !go_on || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

async fn answer(line: &[u8], calls: &mpsc::Sender<Call>) -> Reply {
    let request = match codec::decode(line) {
        Ok(request) => request,
        Err(error) => {
            return refusal(
                ErrorKind::Invalid,
                format!(
                    "cannot understand the request: {error}. The command may be of another version than this daemon ({}): \
                     compare with lb version",
                    env!("CARGO_PKG_VERSION")
                ),
            );
        }
    };
    let (reply_to, reply) = oneshot::channel();
    if calls.send((request, reply_to)).await.is_err() {
        return refusal(ErrorKind::Unreachable, "lb is shutting down".to_owned());
    }
    reply.await.unwrap_or_else(|_| {
        refusal(
            ErrorKind::System,
            "lb ended the request without a result: look at the daemon's log".to_owned(),
        )
    })
}

fn encode_reply(reply: &Reply) -> Vec<u8> {
    codec::encode(reply, MAX_REPLY)
        .or_else(|error| {
            let reply = refusal(
                ErrorKind::Invalid,
                format!("the answer cannot be sent ({error}): ask for less, as with --limit"),
            );
            codec::encode(&reply, MAX_REPLY)
        })
        .unwrap_or_default()
}

const fn refusal(kind: ErrorKind, message: String) -> Reply {
    Reply::Error {
        error: ApiError { kind, message },
    }
}

#[cfg(test)]
mod tests;
