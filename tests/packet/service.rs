//! A service under test: what it is made of, and its packets on both sides.

use std::net::SocketAddr;

use lb_common::{
    abi::{self, Mode, OnDown, ServiceFlags},
    flow::Timeouts,
};
use lb_userspace::model::{Protocol, ServiceId};

use crate::{
    case::Case,
    frames::{self, ACK, L4, Mac, Outer, PSH, Packet, SYN, Tcp, UdpChecksum},
};

/// The client's.
pub(crate) const CLIENT_MAC: Mac = [2, 0, 0, 0, 0xc1, 1];
/// Ours on the clients' side.
pub(crate) const FRONT_MAC: Mac = [2, 0, 0, 0, 0xf0, 1];
/// Ours on the backends' side.
pub(crate) const BACK_MAC: Mac = [2, 0, 0, 0, 0xb0, 1];

/// Where mode `gue` sends its packets.
pub(crate) const TUNNEL_PORT: u16 = 6080;
/// First source port of `full-nat`.
pub(crate) const FIRST_PORT: u16 = 20_000;
/// Sequence number of a server's SYN, and of all that it sends.
pub(crate) const ANSWER: u32 = 0xfeed_beef;
/// Ticks that no test lives to see: about nine minutes.
pub(crate) const LONG: u32 = 1 << 19;

/// A backend of a [`Service`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) index: u32,
    pub(crate) address: SocketAddr,
    pub(crate) mac: Mac,
}

/// A service under test.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) case: Case,
    pub(crate) index: u32,
    pub(crate) vip: SocketAddr,
    pub(crate) servers: Vec<Server>,
}

impl Service {
    /// Its identity.
    pub(crate) fn id(&self) -> ServiceId {
        ServiceId {
            vip: self.vip,
            protocol: self.case.protocol,
        }
    }

    /// A packet of a client that opens a flow, from a client port, with nothing left at its default.
    pub(crate) fn request(&self, port: u16) -> Packet {
        let l4 = match self.case.protocol {
            Protocol::Tcp => L4::Tcp(Tcp {
                flags: SYN,
                seq: 0x0102_0304,
                ack: ANSWER + 1,
                window: 0xfaf0,
                urgent: 0,
                options: vec![2, 4, 5, 0xb4, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7],
            }),
            Protocol::Udp => L4::Udp(UdpChecksum::Computed),
        };
        Packet {
            src_mac: CLIENT_MAC,
            dst_mac: FRONT_MAC,
            from: self.case.client(port),
            to: self.vip,
            ttl: 61,
            tos: 0b1011_1001,
            id: 0xbeef,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ip_options: Vec::new(),
            l4,
            payload: b"odd length".iter().copied().chain([port as u8]).collect(),
            trailer: Vec::new(),
            outer: None,
        }
    }

    /// Packets of a flow, of all sizes, that differ in what forwarding leaves alone.
    pub(crate) fn variants(&self, port: u16) -> Vec<Packet> {
        let variant = |(size, tos, ttl)| {
            let mut packet = self.request(port).payload(&vec![0xa5; size]);
            (packet.tos, packet.ttl, packet.id) = (tos, ttl, size as u16);
            packet.dont_fragment = size == 0;
            if self.case.protocol == Protocol::Tcp {
                let tcp = packet.tcp();
                (tcp.flags, tcp.urgent, tcp.window, tcp.ack) = (ACK | PSH | 0xe0, 7, 1, 99);
                tcp.options = if size == 0 { vec![0; 40] } else { vec![] };
            }
            packet
        };
        [(0, 0, 2), (1, 0xff, 255), (1350, 0xa5, 64)].map(variant).into()
    }

    /// What a request must look like towards a server. The source is the packet's, or that of its outer header.
    pub(crate) fn forwarded(&self, request: &Packet, server: Server, source: SocketAddr) -> Packet {
        let sent = Packet {
            src_mac: BACK_MAC,
            dst_mac: server.mac,
            ..request.clone()
        };
        match self.case.mode {
            Mode::L2_DSR => sent,
            Mode::IPIP | Mode::GUE => Packet {
                ttl: request.ttl - 1,
                outer: Some(Outer {
                    from: source.ip(),
                    to: server.address.ip(),
                    udp: (self.case.mode == Mode::GUE).then_some((source.port(), TUNNEL_PORT)),
                    tos: request.tos,
                    label: request.hash() & 0xf_ffff,
                }),
                ..sent
            },
            _ => Packet {
                from: source,
                to: server.address,
                ttl: request.ttl - 1,
                ..sent
            },
        }
    }

    /// What a server answers to a forwarded request.
    pub(crate) fn reply(&self, forwarded: &Packet, flags: u8) -> Packet {
        let mut reply = Packet {
            src_mac: forwarded.dst_mac,
            dst_mac: forwarded.src_mac,
            from: forwarded.to,
            to: forwarded.from,
            ttl: 64,
            tos: 0x02,
            id: 0x0042,
            payload: b"answer!".to_vec(),
            ..forwarded.clone()
        };
        if let L4::Tcp(tcp) = &mut reply.l4 {
            tcp.flags = flags;
            (tcp.seq, tcp.ack) = (ANSWER, 0x0102_0305);
        }
        reply
    }

    /// What that answer must look like towards the client who sent `request`.
    pub(crate) fn answered(&self, reply: &Packet, request: &Packet) -> Packet {
        Packet {
            src_mac: request.dst_mac,
            dst_mac: request.src_mac,
            from: request.to,
            to: request.from,
            ttl: reply.ttl - 1,
            ..reply.clone()
        }
    }

    /// The server that a frame was sent to, and the source that it shows to the server: of the outer header in a tunnel.
    pub(crate) fn way_of(&self, frame: &[u8]) -> (Server, SocketAddr) {
        let (from, to) = match self.case.mode {
            Mode::IPIP | Mode::GUE => frames::outer_ends(frame),
            _ => (frames::source(frame), frames::destination(frame)),
        };
        let sent_to = |server: &&Server| match self.case.mode {
            Mode::L2_DSR => server.mac == frame[..6],
            Mode::IPIP | Mode::GUE => server.address.ip() == to.ip(),
            _ => server.address == to,
        };
        let server = self.servers.iter().find(sent_to);
        (*server.unwrap_or_else(|| panic!("{to} is no server")), from)
    }
}

/// What a service is made of, beside its case.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) backends: u32,
    pub(crate) sources: u32,
    pub(crate) source_ports: u32,
    pub(crate) on_down: OnDown,
    pub(crate) timeouts: Timeouts,
    pub(crate) mtu: u32,
    pub(crate) flags: u32,
    /// In ticks.
    pub(crate) affinity: u32,
}

impl Setup {
    /// The service's entry.
    pub(crate) fn entry(&self, index: u32) -> abi::Service {
        abi::Service {
            index,
            flags: ServiceFlags(self.flags),
            affinity: self.affinity,
            ..abi::Service::default()
        }
    }
}

impl Setup {
    /// The default with another number of backends.
    pub(crate) fn of(backends: u32) -> Self {
        Self {
            backends,
            ..Self::DEFAULT
        }
    }

    /// [`Setup::default`], for constants.
    pub(crate) const DEFAULT: Self = Self {
        backends: 2,
        sources: 2,
        source_ports: 100,
        on_down: OnDown::RESET,
        timeouts: timeouts(LONG),
        mtu: 1500,
        flags: 0,
        affinity: 0,
    };
}

impl Default for Setup {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Timeouts in ticks that tell each phase by its own.
pub(crate) const DISTINCT: Timeouts = Timeouts {
    syn: 100_000,
    established: 200_000,
    fin: 150_000,
    closing: 50_000,
    udp: 70_000,
};

/// The same idle timeout in every phase, in ticks.
pub(crate) const fn timeouts(ticks: u32) -> Timeouts {
    Timeouts {
        syn: ticks,
        established: ticks,
        fin: ticks,
        closing: ticks,
        udp: ticks,
    }
}
