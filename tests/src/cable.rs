//! A cable that loses frames and lets others overtake: two packet sockets and a thread between them, since not every kernel has
//! a device for that.

use std::{
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    ifaddrs::getifaddrs,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use socket2::{Domain, Socket, Type};

use crate::{
    lab::{Host, Lab, port_name},
    netns::Namespace,
};

/// What happens to frames, in each direction.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Where the series of chances begins: the same frames in the same order meet the same fates.
    pub seed: u64,
    /// How many frames of a hundred are lost.
    pub lost: u32,
    /// How many frames of a hundred come late: up to five others overtake them.
    pub late: u32,
}

/// By how many frames one that is late is overtaken at most.
const OVERTAKEN_BY: u32 = 5;
/// How long a frame is late at most, where no others come.
const LATE: Duration = Duration::from_millis(3);
/// How often a quiet cable looks whether it is to end.
const PAUSE: Duration = Duration::from_millis(100);

/// What a cable did so far.
#[derive(Debug, Default)]
pub struct Tally {
    /// Frames that came at one of its ends.
    pub frames: AtomicU64,
    /// Of these, frames that were lost.
    pub lost: AtomicU64,
    /// Of these, frames that were overtaken.
    pub late: AtomicU64,
}

/// A host's cable with faults. It is whole again when this is dropped.
#[derive(Debug)]
pub struct Cable<'lab> {
    lab: &'lab Lab,
    port: String,
    net: String,
    tally: Arc<Tally>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Lab {
    /// Gives a host's `eth0` a cable that treats TCP and UDP badly. Neighbours are found as before, since a loss there would
    /// only cost a second.
    ///
    /// # Panics
    /// When the host has no such cable, or a bad one already.
    #[must_use]
    pub fn impair(&self, host: &Host, faults: Faults) -> Cable<'_> {
        let port = port_name(&host.name, "eth0");
        let net = self.switch.sh(&format!(
            "ip -oneline link show {port} | grep -o 'master [^ ]*' | cut -d ' ' -f 2"
        ));
        let net = net.trim().to_owned();
        // Frames that the kernel has put together, or not taken apart yet, would be too large for the other end.
        self.switch.sh(&format!(
            "ip link add {near} type veth peer name {far}
             ethtool -K {near} tx off gro off >/dev/null
             ethtool -K {far} tx off gro off >/dev/null
             ethtool -K {port} gro off >/dev/null
             ip link set {port} nomaster
             ip link set {near} master {net}
             ip link set {near} up
             ip link set {far} up",
            near = near(&port),
            far = far(&port),
        ));
        let tally = Arc::new(Tally::default());
        let stopping = Arc::new(AtomicBool::new(false));
        let thread = {
            let (tally, stopping) = (Arc::clone(&tally), Arc::clone(&stopping));
            let ends = ends(&self.switch, &port).expect("packet sockets");
            self.switch.spawn(move || carry(&ends, faults, &tally, &stopping))
        };
        Cable {
            lab: self,
            port,
            net,
            tally,
            stopping,
            thread: Some(thread),
        }
    }
}

impl Cable<'_> {
    /// What it did so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Drop for Cable<'_> {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        let (port, net) = (&self.port, &self.net);
        let script = format!(
            "ip link del {near}; ip link set {port} master {net}; ethtool -K {port} gro on >/dev/null",
            near = near(port)
        );
        let restored = self.lab.switch.try_sh(&script);
        if !std::thread::panicking() {
            assert!(restored.status.success(), "{restored:?}");
            assert!(matches!(ended, Some(Ok(Ok(())))), "{ended:?}");
        }
    }
}

/// The bridge's end of the piece that is put in; at most 15 characters.
fn near(port: &str) -> String {
    format!("{port}-n")
}

/// The faulty cable's end of it.
fn far(port: &str) -> String {
    format!("{port}-f")
}

/// Where frames come from, and where they go to.
fn ends(switch: &Namespace, port: &str) -> io::Result<[Socket; 2]> {
    switch.run(|| Ok([packets(port)?, packets(&far(port))?]))
}

/// All frames that come in by an interface.
fn packets(interface: &str) -> io::Result<Socket> {
    const ETH_P_ALL: u16 = 3;
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(i32::from(ETH_P_ALL.to_be()).into()))?;
    // The kernel's own address of the interface names no protocol, which leaves the socket's.
    let addresses = getifaddrs()?.filter(|i| i.interface_name == interface);
    let address = addresses
        .filter_map(|i| i.address?.as_link_addr().copied())
        .next()
        .ok_or(io::ErrorKind::NotFound)?;
    nix::sys::socket::bind(socket.as_raw_fd(), &address)?;
    socket.set_nonblocking(true)?;
    // Until then it heard all interfaces.
    while (&socket).read(&mut [0; 64]).is_ok() {}
    Ok(socket)
}

/// Carries frames until it is told to stop.
fn carry(ends: &[Socket; 2], faults: Faults, tally: &Tally, stopping: &AtomicBool) -> io::Result<()> {
    let [one, other] = ends;
    let mut ways = [
        Way::new(one, other, faults, faults.seed),
        Way::new(other, one, faults, !faults.seed),
    ];
    while !stopping.load(Ordering::Relaxed) {
        let waits = ways.iter().any(|way| !way.held.is_empty());
        let pause = if waits { Duration::from_millis(1) } else { PAUSE };
        let mut ready = ends.each_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
        poll(&mut ready, PollTimeout::try_from(pause).unwrap_or(PollTimeout::ZERO))?;
        for way in &mut ways {
            way.forward(tally)?;
            way.release()?;
        }
    }
    Ok(())
}

/// One direction of a cable.
struct Way<'ends> {
    from: &'ends Socket,
    to: &'ends Socket,
    faults: Faults,
    chances: StdRng,
    held: Vec<Held>,
}

/// A frame that comes late.
struct Held {
    frame: Vec<u8>,
    /// How many are still to overtake it.
    overtaken_by: u32,
    until: Instant,
}

impl<'ends> Way<'ends> {
    fn new(from: &'ends Socket, to: &'ends Socket, faults: Faults, seed: u64) -> Self {
        Self {
            from,
            to,
            faults,
            chances: StdRng::seed_from_u64(seed),
            held: Vec::new(),
        }
    }

    /// Takes what has come, a bounded number of frames.
    fn forward(&mut self, tally: &Tally) -> io::Result<()> {
        let mut buffer = [0; 65_536];
        for _ in 0..64 {
            let length = match self.from.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                read => read?,
            };
            self.meet_fate(&buffer[..length], tally)?;
        }
        Ok(())
    }

    fn meet_fate(&mut self, frame: &[u8], tally: &Tally) -> io::Result<()> {
        if !is_transport(frame) {
            return send(self.to, frame);
        }
        tally.frames.fetch_add(1, Ordering::Relaxed);
        let chance = self.chances.random_range(0..100);
        if chance < self.faults.lost {
            tally.lost.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        if chance < self.faults.lost + self.faults.late {
            tally.late.fetch_add(1, Ordering::Relaxed);
            self.held.push(Held {
                frame: frame.to_vec(),
                overtaken_by: self.chances.random_range(1..=OVERTAKEN_BY),
                until: Instant::now() + LATE,
            });
            return Ok(());
        }
        send(self.to, frame)?;
        for held in &mut self.held {
            held.overtaken_by = held.overtaken_by.saturating_sub(1);
        }
        self.release()
    }

    /// Sends those that were held long enough.
    fn release(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for held in self.held.extract_if(.., |h| h.overtaken_by == 0 || h.until <= now) {
            send(self.to, &held.frame)?;
        }
        Ok(())
    }
}

fn send(mut to: &Socket, frame: &[u8]) -> io::Result<()> {
    match to.write(frame) {
        // A queue that is full loses frames, as it would anywhere.
        Err(error) if [Some(libc::ENOBUFS), Some(libc::EAGAIN)].contains(&error.raw_os_error()) => Ok(()),
        written => written.map(drop),
    }
}

/// Whether TCP or UDP follows an IP header without options.
fn is_transport(frame: &[u8]) -> bool {
    let protocol = match frame.get(12..14) {
        Some([0x08, 0x00]) => frame.get(23),
        Some([0x86, 0xdd]) => frame.get(20),
        _ => None,
    };
    protocol.is_some_and(|p| [6, 17].contains(p))
}
