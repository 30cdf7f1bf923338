//! `vm-guest`: what this program does inside a guest. Servers, clients and loads that no installed program offers.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};

use crate::demo::{load::fetch, sample::Outcome};

/// A request that takes longer has failed. An emulated machine that shares its processors may stop for seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How a slow reader reads: so many bytes at a time, with a pause after each.
const SIP: usize = 4 * 1024;
const PAUSE: Duration = Duration::from_millis(20);

/// Arguments of `vm-guest`.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Args {
    /// Answer every datagram with this name.
    Echo {
        /// The answer.
        name: String,
        /// Where to listen.
        addresses: Vec<SocketAddr>,
    },
    /// Make requests, each in a flow of its own, one after the other in each of several threads; write a line for each.
    Load {
        /// Over what.
        protocol: Protocol,
        /// Whom to ask.
        target: SocketAddr,
        /// Requests in all; without it, until it is killed.
        ///
        /// Sockets of datagrams stay open, so of these there cannot be many.
        #[arg(long)]
        count: Option<u64>,
        /// Requests at a time.
        #[arg(long, default_value_t = 4)]
        clients: u32,
    },
    /// Fetch a file by HTTP, slowly until another file exists, and write it.
    Sip {
        /// Whom to ask.
        target: SocketAddr,
        /// What for.
        path: String,
        /// Once this exists, read without pauses.
        release: PathBuf,
    },
}

/// What a request is made over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Protocol {
    /// HTTP, a connection for each request.
    Tcp,
    /// A datagram there, a datagram back.
    Udp,
}

/// Does one of these.
///
/// # Errors
/// When sockets cannot be opened, or the output is closed.
pub(crate) fn run(args: &Args) -> Result<()> {
    match args {
        Args::Echo { name, addresses } => echo(name, addresses),
        Args::Load {
            protocol,
            target,
            count,
            clients,
        } => load(*protocol, *target, count.unwrap_or(u64::MAX), *clients),
        Args::Sip { target, path, release } => sip(*target, path, release),
    }
}

fn echo(name: &str, addresses: &[SocketAddr]) -> Result<()> {
    let sockets: Vec<_> = addresses
        .iter()
        .map(|address| UdpSocket::bind(address).with_context(|| format!("cannot listen on {address}")))
        .collect::<Result<_>>()?;
    thread::scope(|scope| {
        for socket in &sockets {
            scope.spawn(|| {
                let mut datagram = [0; 64];
                // An error is one of an earlier answer that did not arrive.
                loop {
                    if let Ok((_, client)) = socket.recv_from(&mut datagram) {
                        let _lost = socket.send_to(name.as_bytes(), client);
                    }
                }
            });
        }
    });
    Ok(())
}

fn load(protocol: Protocol, target: SocketAddr, count: u64, clients: u32) -> Result<()> {
    let begun = AtomicU64::new(0);
    let client = || -> Result<()> {
        // A port that is used again soon would be in a flow that there is already.
        let mut held = Vec::new();
        while begun.fetch_add(1, Ordering::Relaxed) < count {
            let outcome = match protocol {
                Protocol::Tcp => fetch(target, PATIENCE),
                Protocol::Udp => ask(target, &mut held).unwrap_or_else(|error| Outcome::of(&error)),
            };
            // One write per line, so that lines of several threads do not mix.
            io::stdout().lock().write_all(format!("{outcome}\n").as_bytes())?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().unwrap_or(Ok(())))
    })
}

/// One datagram there and one back. The socket is added to those that stay open.
fn ask(target: SocketAddr, held: &mut Vec<UdpSocket>) -> io::Result<Outcome> {
    let any: SocketAddr = if target.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(target)?;
    socket.send(b"who are you?")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer);
    held.push(socket);
    let length = length?;
    let name = answer.get(..length).and_then(|name| std::str::from_utf8(name).ok());
    Ok(name.map_or(Outcome::Broken, |name| Outcome::Served(name.to_owned())))
}

fn sip(target: SocketAddr, path: &str, release: &PathBuf) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let mut sip = [0; SIP];
    loop {
        let length = stream.read(&mut sip).context("the transfer broke off")?;
        let Some(piece @ [_, ..]) = sip.get(..length) else {
            return Ok(());
        };
        io::stdout().write_all(piece)?;
        if !fs::exists(release)? {
            thread::sleep(PAUSE);
        }
    }
}
