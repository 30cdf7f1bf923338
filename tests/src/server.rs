//! Servers in Rust whose behaviour a test can change while they run.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::lab::Host;

/// How long a socket waits for anything at all; longer than any step of a test.
const LIMIT: Duration = Duration::from_secs(60);

/// What `/health` answers.
#[derive(Debug, Clone)]
pub struct Health {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: String,
}

/// What server threads share with the test.
#[derive(Debug)]
struct State {
    name: String,
    health: Mutex<Health>,
    served: AtomicU64,
    stopping: AtomicBool,
}

/// An HTTP/1.0 server, IPv4 and IPv6.
///
/// | path | answer |
/// |---|---|
/// | `/health` | as set by [`HttpServer::set_health`] |
/// | `/drip/N` | N lines, one every 20 ms |
/// | `/hold` | one line for every line that the client sends, until it ends |
/// | all others | `NAME CLIENT-ADDRESS CLIENT-PORT` |
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    namespace: std::path::PathBuf,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Starts it on a host.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start(host: &Host, port: u16) -> Self {
        let state = Arc::new(State {
            name: host.name.clone(),
            health: Mutex::new(Health {
                status: 200,
                body: "ok\n".to_owned(),
            }),
            served: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        });
        let (ready, wait) = mpsc::channel();
        let shared = Arc::clone(&state);
        let thread = host.ns.spawn(move || {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("the port is free");
            ready.send(()).expect("the test waits");
            accept(&listener, &shared);
        });
        wait.recv().expect("the server starts");
        Self {
            address: SocketAddr::from((host.v4, port)),
            namespace: host.ns.path(),
            state,
            thread: Some(thread),
        }
    }

    /// Sets what `/health` answers.
    pub fn set_health(&self, status: u16, body: &str) {
        *self.state.health.lock().unwrap_or_else(PoisonError::into_inner) = Health {
            status,
            body: body.to_owned(),
        };
    }

    /// Requests answered so far, those for `/health` not counted.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.state.served.load(Ordering::Relaxed)
    }

    /// Stops listening, so that further connections are refused. Open ones go on.
    pub fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.state.stopping.store(true, Ordering::Relaxed);
        let (namespace, address) = (self.namespace.clone(), self.address);
        // A connection wakes the thread that waits in accept.
        let wake = thread::spawn(move || {
            crate::netns::enter(&namespace);
            drop(TcpStream::connect_timeout(&address, LIMIT));
        });
        let _woken = wake.join();
        let _ended = thread.join();
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>) {
    for stream in listener.incoming() {
        if state.stopping.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let state = Arc::clone(state);
        // A client that goes away in the middle ends its thread with an error, which is no failure.
        thread::spawn(move || drop(answer(&stream, &state)));
    }
}

fn answer(stream: &TcpStream, state: &State) -> std::io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let path = read_head(&mut reader)?;
    let mut out = stream;
    if path == "/health" {
        let health = state.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        return whole(out, health.status, &health.body);
    }
    state.served.fetch_add(1, Ordering::Relaxed);
    if let Some(lines) = path.strip_prefix("/drip/") {
        return drip(out, &state.name, lines.parse().unwrap_or(0));
    }
    if path == "/hold" {
        out.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{}\n", state.name).as_bytes())?;
        return hold(&mut reader, out, &state.name);
    }
    let peer = stream.peer_addr()?;
    whole(
        out,
        200,
        &format!("{} {} {}\n", state.name, peer.ip().to_canonical(), peer.port()),
    )
}

/// Reads a request's head and returns its path; nothing at all is an error.
fn read_head(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    first
        .split(' ')
        .nth(1)
        .map(str::to_owned)
        .ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
}

fn whole(mut out: &TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    let head = format!("HTTP/1.0 {status} Said\r\nContent-Length: {}\r\n\r\n", body.len());
    out.write_all((head + body).as_bytes())
}

fn drip(mut out: &TcpStream, name: &str, lines: usize) -> std::io::Result<()> {
    let line = format!("{name}\n");
    out.write_all(format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", lines * line.len()).as_bytes())?;
    for _ in 0..lines {
        out.write_all(line.as_bytes())?;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn hold(reader: &mut impl Read, mut out: &TcpStream, name: &str) -> std::io::Result<()> {
    for line in BufReader::new(reader).lines() {
        out.write_all(format!("{name} {}\n", line?).as_bytes())?;
    }
    Ok(())
}

/// A UDP server that answers every datagram with `NAME SENDER-ADDRESS PAYLOAD`.
#[derive(Debug)]
pub struct UdpEcho {
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Starts it on a host, for IPv4 and IPv6.
    ///
    /// # Panics
    /// When the port is taken.
    #[must_use]
    pub fn start(host: &Host, port: u16) -> Self {
        Self::bind(host, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    }

    /// Starts it on one of a host's addresses, which its answers then come from, too.
    ///
    /// # Panics
    /// When the host does not have the address, or the port is taken.
    #[must_use]
    pub fn bind(host: &Host, address: SocketAddr) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let (name, stop) = (host.name.clone(), Arc::clone(&stopping));
        let (ready, wait) = mpsc::channel();
        let thread = host.ns.spawn(move || {
            let socket = UdpSocket::bind(address).expect("the address is free");
            socket
                .set_read_timeout(Some(Duration::from_millis(100)))
                .expect("a timeout");
            ready.send(()).expect("the test waits");
            let mut buffer = vec![0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    let address: IpAddr = peer.ip().to_canonical();
                    let mut reply = format!("{name} {address} ").into_bytes();
                    reply.extend_from_slice(&buffer[..length]);
                    let _lost = socket.send_to(&reply, peer);
                }
            }
        });
        wait.recv().expect("the server starts");
        Self {
            stopping,
            thread: Some(thread),
        }
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl crate::lab::Lab {
    /// An [`HttpServer`] on every server's port 80.
    #[must_use]
    pub fn serve_http(&self) -> Vec<HttpServer> {
        self.servers.iter().map(|host| HttpServer::start(host, 80)).collect()
    }

    /// A [`UdpEcho`] on every server's port 7.
    #[must_use]
    pub fn serve_echo(&self) -> Vec<UdpEcho> {
        self.servers.iter().map(|host| UdpEcho::start(host, 7)).collect()
    }
}
