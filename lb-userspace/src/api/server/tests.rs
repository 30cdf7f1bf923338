use std::{
    io::{BufRead, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream as StdStream},
};

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;
use crate::api::{
    VersionReport,
    client::{Client, ClientError, call, exchange},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A server whose daemon answers `Version`, keeps quiet about `Status`, ends at `Shutdown`, and drops everything else.
struct Server {
    directory: TempDir,
    path: PathBuf,
    stop: oneshot::Sender<()>,
    served: JoinHandle<()>,
}

fn start() -> Server {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/lb/default.sock");
    let listener = bind(&path).unwrap();
    let (calls, mut received) = mpsc::channel::<Call>(4);
    let (stop, mut stopped) = oneshot::channel();
    tokio::spawn(async move {
        let mut unanswered = Vec::new();
        loop {
            let (request, reply) = tokio::select! {
                Some(call) = received.recv() => call,
                _ = &mut stopped => return,
            };
            match request {
                Request::Version => {
                    let version = VersionReport {
                        version: "1.2.3".into(),
                        abi: 7,
                    };
                    reply.send(Reply::Version { version }).unwrap();
                }
                Request::Status => unanswered.push(reply),
                Request::Shutdown => {
                    let message = "Detached.".into();
                    reply.send(Reply::Done { message }).unwrap();
                    return;
                }
                _ => drop(reply),
            }
        }
    });
    let served = tokio::spawn(serve(listener, calls));
    Server {
        directory,
        path,
        stop,
        served,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn ask(path: &Path) -> Result<Reply, ApiError> {
    call(path, &Request::Version, PATIENCE)
}

fn send_raw(path: &Path, bytes: &[u8]) -> String {
    let mut stream = StdStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // The server may hang up before it has read it all.
    drop(stream.write_all(bytes));
    let mut line = String::new();
    io::BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_and_the_socket_is_removed_at_the_end() {
    let server = start();
    let path = server.path.clone();
    let reply = blocking(move || ask(&path)).await.unwrap();
    assert!(matches!(reply, Reply::Version { version } if version.abi == 7));
    server.stop.send(()).unwrap();
    server.served.await.unwrap();
    assert!(!server.path.exists(), "the socket is removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_reply_leaves_although_idle_clients_stay() {
    let server = start();
    let _idle = StdStream::connect(&server.path).unwrap();
    let path = server.path.clone();
    let reply = blocking(move || call(&path, &Request::Shutdown, PATIENCE)).await;
    assert!(matches!(reply, Ok(Reply::Done { .. })), "{reply:?}");
    server.served.await.unwrap();
    assert!(!server.path.exists());
}

#[tokio::test]
async fn only_the_owner_may_connect() {
    let server = start();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&server.path), 0o600);
    assert_eq!(
        mode(server.path.parent().unwrap()),
        0o700,
        "a directory that had to be made"
    );
}

#[tokio::test]
async fn a_socket_that_nobody_listens_at_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let error = exchange(&path, &Request::Version, PATIENCE).unwrap_err();
    assert!(matches!(error, ClientError::Refused), "{error}");
    let listener = bind(&path).unwrap();
    assert!(StdStream::connect(&path).is_ok());
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_live_holder_is_named_and_keeps_its_socket() {
    let server = start();
    let error = bind(&server.path).unwrap_err();
    let BindError::Held { pid, .. } = &error else {
        panic!("{error}")
    };
    let own = std::process::id();
    assert_eq!(*pid, Some(own.cast_signed()));
    assert!(
        error.to_string().contains(&format!("held by process {own} (")),
        "{error}"
    );
    assert!(StdStream::connect(&server.path).is_ok());
}

#[tokio::test]
async fn a_holder_that_is_too_busy_to_accept_is_still_a_holder() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.sock");
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::empty(), None).unwrap();
    bind_fd(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    listen(&fd, Backlog::new(0).unwrap()).unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = connect_now(&path) {
        queue.push(stream);
        assert!(queue.len() < 100, "the queue fills");
    }
    assert!(matches!(bind(&path), Err(BindError::Held { pid: None, .. })));
    let error = exchange(&path, &Request::Version, Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, ClientError::Timeout(_)), "{error}");
}

#[tokio::test]
async fn what_is_not_a_socket_is_never_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("precious");
    fs::write(&file, "data").unwrap();
    let link = directory.path().join("link");
    let stale = directory.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    std::os::unix::fs::symlink(&stale, &link).unwrap();
    for path in [&file, &link, &directory.path().to_owned()] {
        let error = bind(path).unwrap_err();
        assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "data");
    assert!(link.is_symlink() && stale.exists());
}

#[tokio::test]
async fn a_successors_socket_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lb.sock");
    let first = bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let second = bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_path_too_long_for_a_socket_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x".repeat(120));
    let error = bind(&path).unwrap_err().to_string();
    assert!(error.contains("xxx") && error.contains("too long"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_refused_and_the_connection_goes_on() {
    let server = start();
    let path = server.path.clone();
    let answers = blocking(move || {
        let mut stream = StdStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\n{\"request\":\"reboot\"}\n\xff\xfe\n{\"request\":\"version\"}\n")
            .unwrap();
        let lines = io::BufReader::new(stream).lines();
        lines.take(4).map(Result::unwrap).collect::<Vec<_>>()
    })
    .await;
    let (last, refused) = answers.split_last().unwrap();
    assert_eq!(refused.len(), 3);
    for line in refused {
        let Reply::Error { error } = codec::decode(line.as_bytes()).unwrap() else {
            panic!("{line}")
        };
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.contains("lb version"), "{}", error.message);
    }
    assert!(last.contains("1.2.3"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_end_is_cut_off() {
    let server = start();
    let path = server.path.clone();
    let line = blocking(move || send_raw(&path, &vec![b'x'; MAX_REQUEST + 4096])).await;
    assert!(
        line.contains("\"invalid\"") && line.contains("longer than 1048576"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_holds_nobody_up() {
    let server = start();
    let mut slow = StdStream::connect(&server.path).unwrap();
    slow.write_all(b"{\"request\":").unwrap();
    let path = server.path.clone();
    // A request that the daemon never answers holds nobody up either.
    let error = blocking(move || call(&path, &Request::Status, Duration::from_millis(100)))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(error.message.contains("within 0.1 s"), "{}", error.message);
    let path = server.path.clone();
    assert!(blocking(move || ask(&path)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_client_too_many_is_told_so_and_places_become_free_again() {
    let server = start();
    let mut clients: Vec<_> = (0..MAX_CLIENTS)
        .map(|_| StdStream::connect(&server.path).unwrap())
        .collect();
    let path = server.path.clone();
    let error = blocking(move || ask(&path)).await.unwrap_err();
    assert!(error.message.contains("already serves 32"), "{}", error.message);
    clients.clear();
    for _ in 0..1000 {
        let path = server.path.clone();
        if blocking(move || ask(&path)).await.is_ok() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("no place became free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_request_and_a_foreign_reply_are_errors() {
    let server = start();
    let path = server.path.clone();
    let error = blocking(move || call(&path, &Request::ServiceList, PATIENCE))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::System);

    let path = server.directory.path().join("foreign.sock");
    let foreign = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = foreign.accept().await.unwrap();
        stream.write_all(b"{\"reply\":\"from-the-future\"}\n").await.unwrap();
    });
    let error = blocking(move || ask(&path)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::System);
    assert!(error.message.contains("another version"), "{}", error.message);
}

#[test]
fn a_missing_daemon_is_explained() {
    let directory = tempfile::tempdir().unwrap();
    let client = Client {
        socket: directory.path().join("default.sock"),
        instance: "default".into(),
        bpffs: directory.path().join("bpf"),
    };
    let error = client.call(&Request::Status, PATIENCE).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(
        error
            .message
            .starts_with("lb is not running for instance `default` (no socket at "),
        "{error}"
    );
    assert!(error.message.contains("lb run --config"), "{error}");
    assert!(!error.message.contains("pinned"), "{error}");

    fs::create_dir_all(client.pins().join("links")).unwrap();
    let error = client.call(&Request::Status, PATIENCE).unwrap_err();
    assert!(error.message.contains("traffic flows on without the daemon"), "{error}");
}

#[test]
fn a_user_without_permission_is_told_to_be_root() {
    let client = Client {
        socket: "/run/lb/default.sock".into(),
        instance: "default".into(),
        bpffs: "/nowhere".into(),
    };
    let error = client.explain(&ClientError::Denied);
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(error.message.contains("run this command as root"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed() {
    let server = start();
    let mut stream = UnixStream::connect(&server.path).await.unwrap();
    let begun = tokio::time::Instant::now();
    let mut rest = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest)
        .await
        .unwrap();
    assert!(rest.is_empty());
    assert!(begun.elapsed() >= IDLE_TIMEOUT);
}
