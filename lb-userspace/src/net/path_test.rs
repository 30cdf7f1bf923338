//! Asks a backend, by the way that a mode's packets take, whether it would answer for a VIP: one SYN, and what comes back.
//! And asks a link who speaks for a VIP. Raw frames, because the answer comes from an address that this host has itself.

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use etherparse::{
    Icmpv4Type, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header, LaxPacketHeaders, NetHeaders, PacketBuilder,
    TransportHeader, UdpHeader, err::packet::BuildWriteError, icmpv4, icmpv6,
};

use super::{
    NextHop,
    duplicate::{PacketSocket, packet_error},
    error::NetError,
    types::{InterfaceInfo, Mac},
};

/// How often a SYN is sent, and how long an answer is waited for each time.
const ATTEMPTS: u32 = 3;
const PATIENCE: Duration = Duration::from_millis(400);
const TTL: u8 = 64;
/// Nobody sends data, so any will do.
const WINDOW: u16 = 1024;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// How the SYN gets there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carriage {
    /// As it is, to the backend's MAC address.
    Bare,
    /// Wrapped in IP.
    Ipip {
        /// Outer source.
        source: IpAddr,
        /// Outer destination.
        backend: IpAddr,
    },
    /// Wrapped in UDP.
    Gue {
        /// Outer source.
        source: IpAddr,
        /// Outer destination.
        backend: IpAddr,
        /// UDP port there.
        port: u16,
    },
}

/// The SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// Where it seems to come from: an address of this host that the backend can answer.
    pub from: IpAddr,
    /// A port that nothing on this host uses.
    pub from_port: u16,
    /// VIP.
    pub vip: IpAddr,
    /// Port of the service.
    pub port: u16,
    /// How it gets there.
    pub carriage: Carriage,
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// SYN-ACK from the VIP.
    Accepted,
    /// RST from the VIP.
    Refused,
    /// The backend knows no such protocol or port: nobody unwraps there.
    NotUnwrapped,
    /// Nothing.
    Nothing,
}

/// Asks, up to three times. A connection that opens is reset at once.
pub(super) async fn ask(question: Question, hop: NextHop, link: InterfaceInfo) -> Result<Answer, NetError> {
    let action = || format!("test the way to {} by {}", question.vip, link.name);
    // Opened here: the thread that waits might live in another network namespace.
    let socket = PacketSocket::open_all(&link).map_err(|e| packet_error(&link, action(), e))?;
    let asked = tokio::task::spawn_blocking(move || ask_blocking(&socket, &question, &hop)).await;
    let asked = asked.unwrap_or_else(|ended| Err(io::Error::other(ended)));
    asked.map_err(|e| packet_error(&link, action(), e))
}

fn ask_blocking(socket: &PacketSocket, question: &Question, hop: &NextHop) -> io::Result<Answer> {
    let sequence: u32 = rand::random();
    let syn = frame(question, hop, sequence, Flag::Syn).map_err(io::Error::other)?;
    for _ in 0..ATTEMPTS {
        socket.send(&syn)?;
        let deadline = Instant::now() + PATIENCE;
        while let Some(received) = socket.receive(deadline)? {
            match answer(&received, question) {
                Some(Answer::Accepted) => {
                    let reset = frame(question, hop, sequence.wrapping_add(1), Flag::Reset);
                    socket.send(&reset.map_err(io::Error::other)?)?;
                    return Ok(Answer::Accepted);
                }
                Some(answer) => return Ok(answer),
                None => {}
            }
        }
    }
    Ok(Answer::Nothing)
}

#[derive(Clone, Copy)]
enum Flag {
    Syn,
    Reset,
}

/// The whole frame, outer headers included.
fn frame(question: &Question, hop: &NextHop, sequence: u32, flag: Flag) -> Result<Vec<u8>, BuildWriteError> {
    let inner = segment(question, sequence, flag)?;
    let (ethertype, packet) = match question.carriage {
        Carriage::Bare => (ethertype_of(question.vip), inner),
        Carriage::Ipip { source, backend } => {
            let protocol = if question.vip.is_ipv4() {
                IpNumber::IPV4
            } else {
                IpNumber::IPV6
            };
            (ethertype_of(backend), wrap(source, backend, protocol, &inner))
        }
        Carriage::Gue { source, backend, port } => {
            let udp = udp(source, backend, (question.from_port, port), &inner);
            (ethertype_of(backend), wrap(source, backend, IpNumber::UDP, &udp))
        }
    };
    let mut frame = Vec::with_capacity(packet.len() + 14);
    frame.extend(hop.remote_mac.0);
    frame.extend(hop.local_mac.0);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(packet);
    Ok(frame)
}

fn segment(question: &Question, sequence: u32, flag: Flag) -> Result<Vec<u8>, BuildWriteError> {
    let builder = match (question.from, question.vip) {
        (IpAddr::V4(from), IpAddr::V4(vip)) => PacketBuilder::ipv4(from.octets(), vip.octets(), TTL),
        (IpAddr::V6(from), IpAddr::V6(vip)) => PacketBuilder::ipv6(from.octets(), vip.octets(), TTL),
        _ => {
            let mixed = io::Error::new(io::ErrorKind::InvalidInput, "addresses of different IP versions");
            return Err(BuildWriteError::Io(mixed));
        }
    };
    let tcp = builder.tcp(question.from_port, question.port, sequence, WINDOW);
    let tcp = match flag {
        Flag::Syn => tcp.syn(),
        Flag::Reset => tcp.rst(),
    };
    let mut packet = Vec::with_capacity(tcp.size(0));
    tcp.write(&mut packet, &[])?;
    Ok(packet)
}

fn wrap(source: IpAddr, backend: IpAddr, protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
    // A SYN is far shorter than 64 KiB.
    let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
    let mut packet = match (source, backend) {
        (IpAddr::V4(source), IpAddr::V4(backend)) => {
            let header = Ipv4Header::new(length, TTL, protocol, source.octets(), backend.octets());
            let summed = header.map(|mut header| {
                header.header_checksum = header.calc_header_checksum();
                header.to_bytes().to_vec()
            });
            summed.unwrap_or_default()
        }
        (IpAddr::V6(source), IpAddr::V6(backend)) => outer_ipv6(length, protocol, source, backend).to_bytes().to_vec(),
        _ => Vec::new(),
    };
    packet.extend(payload);
    packet
}

fn outer_ipv6(length: u16, protocol: IpNumber, source: std::net::Ipv6Addr, backend: std::net::Ipv6Addr) -> Ipv6Header {
    Ipv6Header {
        payload_length: length,
        next_header: protocol,
        hop_limit: TTL,
        source: source.octets(),
        destination: backend.octets(),
        ..Ipv6Header::default()
    }
}

/// With a checksum, which IPv6 wants.
fn udp(source: IpAddr, backend: IpAddr, (from, to): (u16, u16), payload: &[u8]) -> Vec<u8> {
    let header = match (source, backend) {
        (IpAddr::V6(source), IpAddr::V6(backend)) => {
            let outer = outer_ipv6(0, IpNumber::UDP, source, backend);
            UdpHeader::with_ipv6_checksum(from, to, &outer, payload)
        }
        _ => UdpHeader::without_ipv4_checksum(from, to, payload.len()),
    };
    let mut datagram = header.map(|h| h.to_bytes().to_vec()).unwrap_or_default();
    datagram.extend(payload);
    datagram
}

/// What a frame says to the question; nothing, if it is about something else.
fn answer(frame: &[u8], question: &Question) -> Option<Answer> {
    let headers = LaxPacketHeaders::from_ethernet(frame).ok()?;
    let (source, destination): (IpAddr, IpAddr) = match headers.net? {
        NetHeaders::Ipv4(ip, _) => (ip.source.into(), ip.destination.into()),
        NetHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into()),
        NetHeaders::Arp(_) => return None,
    };
    match headers.transport? {
        TransportHeader::Tcp(tcp) => {
            let ours = (source, tcp.source_port) == (question.vip, question.port)
                && (destination, tcp.destination_port) == (question.from, question.from_port);
            match (ours, tcp.syn && tcp.ack, tcp.rst) {
                (true, true, false) => Some(Answer::Accepted),
                (true, _, true) => Some(Answer::Refused),
                _ => None,
            }
        }
        TransportHeader::Icmpv4(icmp) if Some(source) == question.end() => matches!(
            icmp.icmp_type,
            Icmpv4Type::DestinationUnreachable(
                icmpv4::DestUnreachableHeader::Protocol | icmpv4::DestUnreachableHeader::Port
            )
        )
        .then_some(Answer::NotUnwrapped),
        TransportHeader::Icmpv6(icmp) if Some(source) == question.end() => match icmp.icmp_type {
            Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port) | Icmpv6Type::ParameterProblem(_) => {
                Some(Answer::NotUnwrapped)
            }
            _ => None,
        },
        _ => None,
    }
}

impl Question {
    /// Where the tunnel ends.
    const fn end(&self) -> Option<IpAddr> {
        match self.carriage {
            Carriage::Bare => None,
            Carriage::Ipip { backend, .. } | Carriage::Gue { backend, .. } => Some(backend),
        }
    }
}

const fn ethertype_of(ip: IpAddr) -> u16 {
    if ip.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }
}

/// Every MAC address but our own that answers for a VIP within 300 ms.
pub(super) async fn claimants(vip: IpAddr, link: InterfaceInfo, own: Vec<Mac>) -> Result<Vec<Mac>, NetError> {
    super::duplicate::find_owners(vip, &link, own).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop() -> NextHop {
        NextHop {
            ifindex: 1,
            interface_name: "eth0".into(),
            local_mac: Mac([2, 0, 0, 0, 0, 1]),
            remote_mac: Mac([2, 0, 0, 0, 0, 2]),
            mtu: 1500,
            gateway: None,
            source: None,
            lower: Vec::new(),
        }
    }

    fn question(vip: &str, from: &str, carriage: Carriage) -> Question {
        Question {
            from: from.parse().unwrap(),
            from_port: 40_000,
            vip: vip.parse().unwrap(),
            port: 80,
            carriage,
        }
    }

    /// The frame as it comes back: addresses and ports exchanged.
    fn reply(question: &Question, flags: u8) -> Vec<u8> {
        let back = Question {
            from: question.vip,
            from_port: question.port,
            vip: question.from,
            port: question.from_port,
            carriage: Carriage::Bare,
        };
        let mut frame = frame(&back, &hop(), 7, Flag::Syn).unwrap();
        let at = if question.vip.is_ipv4() {
            14 + 20 + 13
        } else {
            14 + 40 + 13
        };
        frame[at] = flags;
        frame
    }

    #[test]
    fn answers_are_told_apart() {
        for (vip, from) in [("192.0.2.10", "10.0.0.1"), ("2001:db8::10", "2001:db8::1")] {
            let question = question(vip, from, Carriage::Bare);
            assert_eq!(answer(&reply(&question, 0x12), &question), Some(Answer::Accepted));
            assert_eq!(answer(&reply(&question, 0x14), &question), Some(Answer::Refused));
            assert_eq!(answer(&reply(&question, 0x10), &question), None);
            let mut other = question;
            other.port = 81;
            assert_eq!(answer(&reply(&other, 0x12), &question), None, "another service's");
            assert_eq!(
                answer(&frame(&question, &hop(), 7, Flag::Syn).unwrap(), &question),
                None,
                "our own"
            );
        }
    }

    #[test]
    fn tunnels_carry_the_same_segment() {
        let [source, backend] = ["2001:db8::1", "2001:db8::11"].map(|ip| ip.parse().unwrap());
        for (carriage, header) in [
            (Carriage::Ipip { source, backend }, 40),
            (
                Carriage::Gue {
                    source,
                    backend,
                    port: 6080,
                },
                48,
            ),
        ] {
            let bare = frame(
                &question("192.0.2.10", "10.0.0.1", Carriage::Bare),
                &hop(),
                7,
                Flag::Syn,
            )
            .unwrap();
            let question = question("192.0.2.10", "10.0.0.1", carriage);
            let wrapped = frame(&question, &hop(), 7, Flag::Syn).unwrap();
            assert_eq!(wrapped[14 + header..], bare[14..]);
            assert_eq!(wrapped[12..14], [0x86, 0xdd]);
        }
    }
}
