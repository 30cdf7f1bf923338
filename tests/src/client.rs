//! Clients. All functions run in the calling thread's network namespace: call them within [`crate::Namespace::run`].

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use crate::{lab::Host, poll::patience};

/// How long a client waits for one step.
const LIMIT: Duration = Duration::from_secs(10);

/// What this namespace's kernel counted of TCP, as `nstat` names it without `TcpExt`.
///
/// # Panics
/// When there is no such counter.
#[must_use]
pub fn counter(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/netstat").expect("the kernel counts");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let mut found = names.split(' ').zip(values.split(' ')).filter(|(n, _)| *n == name);
    let value = found.next().and_then(|(_, value)| value.parse().ok());
    value.unwrap_or_else(|| panic!("no counter {name}"))
}

/// Does something with connections, none of which may stall: a SYN that is not answered is sent again after a second, and a
/// window that does not open is asked for. Unlike a clock, these counters do not mind a busy machine.
///
/// # Panics
/// When one stalled.
#[track_caller]
pub fn at_once<T>(work: impl FnOnce() -> T) -> T {
    let stalls = || ["TCPSynRetrans", "TCPWinProbe"].map(counter);
    let before = stalls();
    let done = work();
    assert_eq!(
        stalls(),
        before,
        "SYNs that were repeated, and windows that were asked for"
    );
    done
}

/// Opens a connection.
///
/// # Errors
/// As the kernel says, after ten seconds at most.
pub fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, patience(LIMIT))?;
    limit(&stream)?;
    Ok(stream)
}

/// Opens a connection from a chosen source port.
///
/// # Errors
/// As the kernel says, after ten seconds at most.
pub fn open_from(port: u16, address: SocketAddr) -> io::Result<TcpStream> {
    open_between(SocketAddr::new(any(address), port), address)
}

/// Opens a connection from a chosen address and port.
///
/// # Errors
/// As the kernel says, after ten seconds at most.
pub fn open_between(from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), patience(LIMIT))?;
    let stream = TcpStream::from(socket);
    limit(&stream)?;
    Ok(stream)
}

/// No address in particular, of the same family.
fn any(like: SocketAddr) -> IpAddr {
    if like.is_ipv4() {
        [0; 4].into()
    } else {
        [0u16; 8].into()
    }
}

/// Makes closing this connection send a RST.
///
/// # Errors
/// As the kernel says.
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    Ok(setsockopt(
        stream,
        sockopt::Linger,
        &libc::linger {
            l_onoff: 1,
            l_linger: 0,
        },
    )?)
}

fn limit(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(patience(LIMIT)))?;
    stream.set_write_timeout(Some(patience(LIMIT)))?;
    stream.set_nodelay(true)
}

/// Sends a request on an open connection and reads the answer to its end.
///
/// # Errors
/// I/O errors, and `InvalidData` for an answer that is cut short or not `200`.
pub fn request(mut stream: &TcpStream, path: &str) -> io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: vip\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    body(&answer)
        .map(str::to_owned)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, answer))
}

/// The body of a whole answer with status 200.
fn body(answer: &str) -> Option<&str> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?;
    let length = lines.find_map(|line| line.strip_prefix("Content-Length: "));
    let whole = length.is_none_or(|length| length.parse() == Ok(body.len()));
    (status == "200" && whole).then_some(body)
}

/// One request on a connection of its own.
///
/// # Errors
/// As [`request`].
pub fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    request(&open(address)?, path)
}

/// Who answered a request to `/`, and whom the server saw as its client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Name of the server.
    pub server: String,
    /// Address of the client, as the server saw it.
    pub client: IpAddr,
    /// Its port.
    pub port: u16,
}

/// Asks who is there.
///
/// # Errors
/// As [`request`].
pub fn who(address: SocketAddr) -> io::Result<Seen> {
    seen(&get(address, "/")?)
}

/// Reads `NAME ADDRESS PORT`.
///
/// # Errors
/// `InvalidData`.
pub fn seen(text: &str) -> io::Result<Seen> {
    let parse = || {
        let mut words = text.split_whitespace();
        Some(Seen {
            server: words.next()?.to_owned(),
            client: words.next()?.parse().ok()?,
            port: words.next()?.parse().ok()?,
        })
    };
    parse().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, text.to_owned()))
}

/// How many connections each server got.
pub type Shares = BTreeMap<String, u32>;

/// Opens connections one after the other and counts who answers.
///
/// # Panics
/// When one fails.
#[must_use]
pub fn shares(address: SocketAddr, connections: u32) -> Shares {
    let mut shares = Shares::new();
    for i in 0..connections {
        let seen = who(address).unwrap_or_else(|e| panic!("connection {i} of {connections}: {e}"));
        *shares.entry(seen.server).or_default() += 1;
    }
    shares
}

/// As [`shares`], from several threads at once.
///
/// # Panics
/// When one fails.
#[must_use]
pub fn shares_in_parallel(address: SocketAddr, threads: u32, connections_each: u32) -> Shares {
    let mut sum = Shares::new();
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| shares(address, connections_each)))
            .collect();
        for (server, count) in all.into_iter().flat_map(|t| t.join().expect("a client's thread")) {
            *sum.entry(server).or_default() += count;
        }
    });
    sum
}

/// Opens `threads * each` connections, and asks on each only once all are open.
///
/// # Panics
/// When one fails.
#[must_use]
pub fn all_at_once(address: SocketAddr, threads: usize, each: usize) -> Shares {
    let all_open = Barrier::new(threads);
    let answers = thread::scope(|scope| {
        let client = || {
            let streams: Vec<_> = (0..each).map(|_| open(address)).collect();
            all_open.wait();
            let ask = |stream: io::Result<TcpStream>| seen(&request(&stream?, "/")?);
            streams.into_iter().map(ask).collect::<Vec<_>>()
        };
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(client)).collect();
        all.into_iter()
            .flat_map(|t| t.join().expect("a client's thread"))
            .collect::<Vec<_>>()
    });
    let mut shares = Shares::new();
    for answer in answers {
        *shares
            .entry(answer.expect("every connection is answered").server)
            .or_default() += 1;
    }
    shares
}

/// A connection to `/hold` that stays open.
#[derive(Debug)]
pub struct Held {
    /// Name of the server at the other end.
    pub server: String,
    /// Its own address.
    pub local: SocketAddr,
    reader: BufReader<TcpStream>,
}

impl Held {
    /// Opens it.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        Self::over(open(address)?)
    }

    /// Makes one of a connection that is open.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn over(mut stream: TcpStream) -> io::Result<Self> {
        stream.write_all(b"GET /hold HTTP/1.0\r\n\r\n")?;
        let local = stream.local_addr()?;
        let mut held = Self {
            server: String::new(),
            local,
            reader: BufReader::new(stream),
        };
        while held.line()? != "\r\n" {}
        held.server = held.line()?.trim().to_owned();
        Ok(held)
    }

    /// Sends a word and waits for the server's answer to it.
    ///
    /// # Errors
    /// As the kernel says; `UnexpectedEof` when the server has ended the connection.
    pub fn say(&mut self, word: &str) -> io::Result<String> {
        self.reader.get_mut().write_all(format!("{word}\n").as_bytes())?;
        Ok(self.line()?.trim().to_owned())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }
}

/// A UDP client with a port of its own: one flow.
#[derive(Debug)]
pub struct Datagrams(UdpSocket);

impl Datagrams {
    /// Opens a socket towards an address.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn to(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind((any(address), 0)).expect("a port");
        socket.connect(address).expect("a route");
        socket
            .set_read_timeout(Some(patience(Duration::from_secs(2))))
            .expect("a timeout");
        Self(socket)
    }

    /// Sends a payload and returns the name of the server that echoed it, and the client that it saw.
    ///
    /// # Errors
    /// Nothing came back within two seconds (times [`crate::patience`]), or something else did.
    pub fn echo(&self, payload: &[u8]) -> io::Result<(String, IpAddr)> {
        self.0.send(payload)?;
        let mut buffer = vec![0; 65_536];
        let length = self.0.recv(&mut buffer)?;
        let parse = || {
            let mut parts = buffer.get(..length)?.splitn(3, |&b| b == b' ');
            let mut word = || std::str::from_utf8(parts.next()?).ok();
            let found = (word()?.to_owned(), word()?.parse().ok()?);
            (parts.next()? == payload).then_some(found)
        };
        parse().ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Clients that ask again and again until they are stopped.
#[derive(Debug)]
pub struct Load {
    stopping: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// Starts `threads` clients on a host, each with a pause of 2 ms (times [`crate::patience`]) between requests.
    #[must_use]
    pub fn start(host: &Host, address: SocketAddr, threads: usize) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let client = |_| {
            let (stopping, answered) = (Arc::clone(&stopping), Arc::clone(&answered));
            host.ns.spawn(move || {
                let started = Instant::now();
                let mut failures = Vec::new();
                while !stopping.load(Ordering::Relaxed) && started.elapsed() < Duration::from_mins(2) {
                    match who(address) {
                        Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures.push(format!("after {:?}: {error}", started.elapsed())),
                    }
                    thread::sleep(patience(Duration::from_millis(2)));
                }
                failures
            })
        };
        let threads = (0..threads).map(client).collect();
        Self {
            stopping,
            answered,
            threads,
        }
    }

    /// Requests answered so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests have been answered.
    pub fn wait_for(&self, more: u64) {
        let goal = self.answered() + more;
        crate::eventually("requests to be answered", Duration::from_secs(30), || {
            let now = self.answered();
            if now >= goal {
                Ok(())
            } else {
                Err(format!("{now} of {goal}"))
            }
        });
    }

    /// Ends the clients and returns what went wrong.
    ///
    /// # Panics
    /// When a client panicked.
    #[must_use]
    pub fn stop(mut self) -> Vec<String> {
        self.stopping.store(true, Ordering::Relaxed);
        std::mem::take(&mut self.threads)
            .into_iter()
            .flat_map(|t| t.join().expect("a client's thread"))
            .collect()
    }
}

impl Drop for Load {
    /// Clients end with the test, even with one that fails.
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}
