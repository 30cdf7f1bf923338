//! Asks the link who owns a VIP, and tells it. Both need raw frames: the kernel sends no probe without a sender address
//! for IPv4, and its own duplicate address detection for IPv6 takes up to two seconds.

use std::{
    io,
    net::IpAddr,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{LinkAddr, recvfrom},
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::{
    error::NetError,
    frame,
    types::{InterfaceInfo, Mac},
};

/// RFC 5227 would spend up to seven seconds; on a data-centre link the owner answers within one millisecond, and the
/// repetitions cover a lost frame.
const PROBES: u32 = 3;
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// Asks who has the VIP; `None` if nobody answers within 300 ms. `own` are this host's MAC addresses: two of its
/// interfaces may be on the same link.
pub(super) async fn find_owner(vip: IpAddr, link: &InterfaceInfo, own: Vec<Mac>) -> Result<Option<Mac>, NetError> {
    let action = || format!("ask {} who has {vip}", link.name);
    let Some(mac) = link.mac else { return Ok(None) };
    // Opened here: the thread that waits might live in another network namespace.
    let socket = PacketSocket::open(vip, link).map_err(|e| packet_error(link, action(), e))?;
    let asked = tokio::task::spawn_blocking(move || ask(&socket, vip, mac, &own)).await;
    // The task neither panics nor is cancelled, except when the runtime ends.
    let asked = asked.unwrap_or_else(|ended| Err(io::Error::other(ended)));
    asked.map_err(|e| packet_error(link, action(), e))
}

fn ask(socket: &PacketSocket, vip: IpAddr, mac: Mac, own: &[Mac]) -> io::Result<Option<Mac>> {
    let probe = frame::probe(vip, mac);
    for _ in 0..PROBES {
        socket.send(&probe)?;
        let deadline = Instant::now() + PROBE_INTERVAL;
        while let Some(received) = socket.receive(deadline)? {
            let claimant = frame::claimant(&received, vip).filter(|m| !own.contains(m));
            if claimant.is_some() {
                return Ok(claimant);
            }
        }
    }
    Ok(None)
}

/// Tells the link who has the VIP now.
pub(super) fn announce(vip: IpAddr, link: &InterfaceInfo) -> Result<(), NetError> {
    let action = || format!("announce {vip} on {}", link.name);
    let Some(mac) = link.mac else { return Ok(()) };
    let socket = PacketSocket::open(vip, link).map_err(|e| packet_error(link, action(), e))?;
    for frame in frame::announcements(vip, mac) {
        socket.send(&frame).map_err(|e| packet_error(link, action(), e))?;
    }
    Ok(())
}

/// As [`find_owner`], of everybody who answers.
pub(super) async fn find_owners(vip: IpAddr, link: &InterfaceInfo, own: Vec<Mac>) -> Result<Vec<Mac>, NetError> {
    let action = || format!("ask {} who has {vip}", link.name);
    let Some(mac) = link.mac else { return Ok(Vec::new()) };
    let socket = PacketSocket::open(vip, link).map_err(|e| packet_error(link, action(), e))?;
    let asked = tokio::task::spawn_blocking(move || ask_all(&socket, vip, mac, &own)).await;
    let asked = asked.unwrap_or_else(|ended| Err(io::Error::other(ended)));
    asked.map_err(|e| packet_error(link, action(), e))
}

fn ask_all(socket: &PacketSocket, vip: IpAddr, mac: Mac, own: &[Mac]) -> io::Result<Vec<Mac>> {
    let probe = frame::probe(vip, mac);
    let mut owners = Vec::new();
    for _ in 0..PROBES {
        socket.send(&probe)?;
        let deadline = Instant::now() + PROBE_INTERVAL;
        while let Some(received) = socket.receive(deadline)? {
            let claimant = frame::claimant(&received, vip).filter(|m| !own.contains(m));
            owners.extend(claimant.filter(|m| !owners.contains(m)));
        }
    }
    Ok(owners)
}

pub(super) fn packet_error(link: &InterfaceInfo, action: String, error: io::Error) -> NetError {
    match error.raw_os_error() {
        Some(libc::ENETDOWN) => NetError::InterfaceDown {
            name: link.name.clone(),
        },
        Some(libc::ENODEV | libc::ENXIO) => NetError::NoSuchInterface {
            name: link.name.clone(),
        },
        _ => NetError::from_io(action, error),
    }
}

/// A raw socket (packet(7)) on one interface, for the frames of one family's neighbour protocol.
pub(super) struct PacketSocket {
    socket: Socket,
    ifindex: u32,
}

impl PacketSocket {
    pub(super) fn open(vip: IpAddr, link: &InterfaceInfo) -> io::Result<Self> {
        let ethertype = match vip {
            IpAddr::V4(_) => frame::ETHERTYPE_ARP,
            IpAddr::V6(_) => frame::ETHERTYPE_IPV6,
        };
        let protocol = Protocol::from(i32::from(ethertype.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        if vip.is_ipv6() {
            socket.attach_filter(&neighbour_discovery_filter())?;
        }
        // The address names the interface and no protocol, which leaves the socket's own in place.
        nix::sys::socket::bind(socket.as_raw_fd(), &link_address(link)?)?;
        Ok(Self {
            socket,
            ifindex: link.index,
        })
    }

    /// For the packets of both IP versions.
    pub(super) fn open_all(link: &InterfaceInfo) -> io::Result<Self> {
        const ETH_P_ALL: u16 = 3;
        let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        nix::sys::socket::bind(socket.as_raw_fd(), &link_address(link)?)?;
        Ok(Self {
            socket,
            ifindex: link.index,
        })
    }

    pub(super) const fn as_socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send(frame).map(drop)
    }

    /// The next frame that comes in by our interface before the deadline: before it was bound, the socket heard all
    /// interfaces.
    pub(super) fn receive(&self, deadline: Instant) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Zero would mean for ever.
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let (length, from) = match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut buffer) {
                Ok(received) => received,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if from.is_some_and(|from| u32::try_from(from.ifindex()) == Ok(self.ifindex)) {
                return Ok(Some(buffer.iter().take(length).copied().collect()));
            }
        }
    }
}

/// Lets only neighbour solicitations and advertisements through, so that a busy link does not crowd out the answer.
fn neighbour_discovery_filter() -> [SockFilter; 7] {
    const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    // Offsets from the start of the frame: 14 bytes of Ethernet, 40 of IPv6.
    let (next_header, icmpv6_type) = (14 + 6, 14 + 40);
    [
        SockFilter::new(LOAD_BYTE, 0, 0, next_header),
        SockFilter::new(JUMP_IF_EQUAL, 0, 3, u32::from(frame::NEXT_HEADER_ICMPV6)),
        SockFilter::new(LOAD_BYTE, 0, 0, icmpv6_type),
        SockFilter::new(JUMP_IF_EQUAL, 2, 0, u32::from(frame::NEIGHBOUR_SOLICITATION)),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, u32::from(frame::NEIGHBOUR_ADVERTISEMENT)),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
}

/// The kernel's own link address of an interface: the one safe source of a `sockaddr_ll`.
fn link_address(link: &InterfaceInfo) -> io::Result<LinkAddr> {
    getifaddrs()?
        .filter_map(|i| i.address.and_then(|a| a.as_link_addr().copied()))
        .find(|a| u32::try_from(a.ifindex()) == Ok(link.index))
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}
