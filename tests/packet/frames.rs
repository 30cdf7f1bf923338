//! Packets by their fields. Headers and checksums are etherparse's, which shares no code with the packet path.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel,
    Ipv6Header, TcpHeader, UdpHeader, err::ValueTooBigError,
};

use lb_common::{
    abi::FlowKey,
    hash,
    net::{Addr4, Addr6, Be16},
};

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

pub(crate) type Mac = [u8; 6];

/// A frame by its fields.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Packet {
    pub(crate) src_mac: Mac,
    pub(crate) dst_mac: Mac,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) ttl: u8,
    /// DSCP and ECN; the traffic class of IPv6.
    pub(crate) tos: u8,
    /// Identification; the flow label of IPv6.
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    pub(crate) more_fragments: bool,
    /// In units of 8 bytes.
    pub(crate) fragment_offset: u16,
    /// Of IPv4.
    pub(crate) ip_options: Vec<u8>,
    pub(crate) l4: L4,
    pub(crate) payload: Vec<u8>,
    /// Behind the IP packet, as Ethernet pads short frames.
    pub(crate) trailer: Vec<u8>,
    /// What it is wrapped in.
    pub(crate) outer: Option<Outer>,
}

/// A tunnel's headers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outer {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// UDP source and destination port, if UDP stands between.
    pub(crate) udp: Option<(u16, u16)>,
    pub(crate) tos: u8,
    /// Of IPv6.
    pub(crate) label: u32,
}

/// TCP or UDP.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum L4 {
    Tcp(Tcp),
    Udp(UdpChecksum),
}

/// A TCP header's own fields.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tcp {
    pub(crate) flags: u8,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) urgent: u16,
    pub(crate) options: Vec<u8>,
}

/// What stands in a UDP checksum field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum UdpChecksum {
    Computed,
    Zero,
}

impl Packet {
    /// The frame, all lengths and checksums computed.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match &self.outer {
            Some(outer) => outer.around(&self.plain_bytes(), self.trailer.len()),
            None => self.plain_bytes(),
        }
    }

    /// Without what it is wrapped in.
    fn plain_bytes(&self) -> Vec<u8> {
        let l4 = self.l4_bytes();
        let mut frame = Ethernet2Header {
            source: self.src_mac,
            destination: self.dst_mac,
            ether_type: if self.from.is_ipv4() {
                EtherType::IPV4
            } else {
                EtherType::IPV6
            },
        }
        .to_bytes()
        .to_vec();
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = Ipv4Header::new(
                    u16::try_from(l4.len()).unwrap(),
                    self.ttl,
                    self.protocol(),
                    src.octets(),
                    dst.octets(),
                )
                .unwrap();
                header.dscp = IpDscp::try_new(self.tos >> 2).unwrap();
                header.ecn = IpEcn::try_new(self.tos & 3).unwrap();
                header.identification = self.id;
                header.dont_fragment = self.dont_fragment;
                header.more_fragments = self.more_fragments;
                header.fragment_offset = IpFragOffset::try_new(self.fragment_offset).unwrap();
                header.options = Ipv4Options::try_from(&self.ip_options[..]).unwrap();
                header.set_payload_len(l4.len()).unwrap();
                header.header_checksum = header.calc_header_checksum();
                frame.extend_from_slice(&header.to_bytes());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let header = Ipv6Header {
                    traffic_class: self.tos,
                    flow_label: Ipv6FlowLabel::try_new(self.id.into()).unwrap(),
                    payload_length: u16::try_from(l4.len()).unwrap(),
                    next_header: self.protocol(),
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                frame.extend_from_slice(&header.to_bytes());
            }
            mixed => panic!("{mixed:?} are of two families"),
        }
        frame.extend_from_slice(&l4);
        frame.extend_from_slice(&self.trailer);
        frame
    }

    /// An IPv6 frame with extension headers before TCP or UDP: (number, bytes from the second on) each.
    pub(crate) fn bytes_with_extensions(&self, extensions: &[(u8, &[u8])]) -> Vec<u8> {
        let plain = self.plain_bytes();
        let mut inserted = Vec::new();
        for (i, (_, rest)) in extensions.iter().enumerate() {
            inserted.push(extensions.get(i + 1).map_or(self.protocol().0, |next| next.0));
            inserted.extend_from_slice(rest);
        }
        let mut frame = plain[..ETHERNET + 40].to_vec();
        frame[ETHERNET + 6] = extensions[0].0;
        let length =
            u16::from_be_bytes([plain[ETHERNET + 4], plain[ETHERNET + 5]]) + u16::try_from(inserted.len()).unwrap();
        frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(&inserted);
        frame.extend_from_slice(&plain[ETHERNET + 40..]);
        match &self.outer {
            Some(outer) => outer.around(&frame, self.trailer.len()),
            None => frame,
        }
    }

    pub(crate) fn protocol(&self) -> IpNumber {
        match self.l4 {
            L4::Tcp(_) => IpNumber::TCP,
            L4::Udp(_) => IpNumber::UDP,
        }
    }

    /// A checksum over addresses and all that follows, as the packet's family has it.
    fn checksum(
        &self,
        v4: impl Fn([u8; 4], [u8; 4]) -> Result<u16, ValueTooBigError<usize>>,
        v6: impl Fn([u8; 16], [u8; 16]) -> Result<u16, ValueTooBigError<usize>>,
    ) -> u16 {
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => v4(src.octets(), dst.octets()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => v6(src.octets(), dst.octets()),
            mixed => panic!("{mixed:?} are of two families"),
        }
        .unwrap()
    }

    fn l4_bytes(&self) -> Vec<u8> {
        let (src_port, dst_port) = (self.from.port(), self.to.port());
        let mut bytes = match &self.l4 {
            L4::Tcp(tcp) => {
                let mut header = TcpHeader::new(src_port, dst_port, tcp.seq, tcp.window);
                header.set_options_raw(&tcp.options).unwrap();
                header.acknowledgment_number = tcp.ack;
                header.urgent_pointer = tcp.urgent;
                header.fin = tcp.flags & FIN != 0;
                header.syn = tcp.flags & SYN != 0;
                header.rst = tcp.flags & RST != 0;
                header.psh = tcp.flags & PSH != 0;
                header.ack = tcp.flags & ACK != 0;
                header.urg = tcp.flags & 0x20 != 0;
                header.ece = tcp.flags & 0x40 != 0;
                header.cwr = tcp.flags & 0x80 != 0;
                header.checksum = self.checksum(
                    |src, dst| header.calc_checksum_ipv4_raw(src, dst, &self.payload),
                    |src, dst| header.calc_checksum_ipv6_raw(src, dst, &self.payload),
                );
                header.to_bytes().to_vec()
            }
            L4::Udp(checksum) => {
                let length = u16::try_from(UdpHeader::LEN + self.payload.len()).unwrap();
                let mut header = UdpHeader {
                    source_port: src_port,
                    destination_port: dst_port,
                    length,
                    checksum: 0,
                };
                if *checksum == UdpChecksum::Computed {
                    header.checksum = self.checksum(
                        |src, dst| header.calc_checksum_ipv4_raw(src, dst, &self.payload),
                        |src, dst| header.calc_checksum_ipv6_raw(src, dst, &self.payload),
                    );
                }
                header.to_bytes().to_vec()
            }
        };
        bytes.extend_from_slice(&self.payload);
        bytes
    }

    /// The TCP part, to change it.
    pub(crate) fn tcp(&mut self) -> &mut Tcp {
        match &mut self.l4 {
            L4::Tcp(tcp) => tcp,
            L4::Udp(_) => panic!("a UDP packet"),
        }
    }

    /// The RST that answers this TCP segment (RFC 9293, section 3.10.7.1), back over the same link.
    pub(crate) fn reset(&self) -> Self {
        let L4::Tcp(segment) = &self.l4 else {
            panic!("a UDP packet")
        };
        let length = u32::try_from(self.payload.len()).unwrap()
            + u32::from(segment.flags & SYN != 0)
            + u32::from(segment.flags & FIN != 0);
        let (flags, seq, ack) = if segment.flags & ACK == 0 {
            (RST | ACK, 0, segment.seq.wrapping_add(length))
        } else {
            (RST, segment.ack, 0)
        };
        Self {
            src_mac: self.dst_mac,
            dst_mac: self.src_mac,
            from: self.to,
            to: self.from,
            ttl: 64,
            tos: 0,
            id: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ip_options: Vec::new(),
            l4: L4::Tcp(Tcp {
                flags,
                seq,
                ack,
                window: 0,
                urgent: 0,
                options: Vec::new(),
            }),
            payload: Vec::new(),
            trailer: Vec::new(),
            outer: None,
        }
    }

    /// The hash of its flow.
    pub(crate) fn hash(&self) -> u32 {
        hash(self.from, self.to, self.protocol().0)
    }

    /// With other TCP flags.
    pub(crate) fn flags(mut self, flags: u8) -> Self {
        self.tcp().flags = flags;
        self
    }

    /// With other TCP flags; a UDP packet as it is.
    pub(crate) fn flags_if_tcp(self, flags: u8) -> Self {
        match self.l4 {
            L4::Tcp(_) => self.flags(flags),
            L4::Udp(_) => self,
        }
    }

    /// With another payload.
    pub(crate) fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With something else changed.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

impl Outer {
    /// A frame wrapped, whose last `trailer` bytes are behind its IP packet.
    pub(crate) fn around(&self, frame: &[u8], trailer: usize) -> Vec<u8> {
        let (ethernet, packet) = frame.split_at(ETHERNET);
        let inner = packet.len() - trailer;
        let number = match (self.udp, packet[0] >> 4) {
            (Some(_), _) => IpNumber::UDP,
            (None, 4) => IpNumber::IPV4,
            (None, _) => IpNumber::IPV6,
        };
        let payload = inner + if self.udp.is_some() { UdpHeader::LEN } else { 0 };
        let mut wrapped = ethernet[..12].to_vec();
        match (self.from, self.to) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                wrapped.extend_from_slice(&[0x08, 0x00]);
                let payload = u16::try_from(payload).unwrap();
                let mut header = Ipv4Header::new(payload, 64, number, src.octets(), dst.octets()).unwrap();
                header.dscp = IpDscp::try_new(self.tos >> 2).unwrap();
                header.ecn = IpEcn::try_new(self.tos & 3).unwrap();
                header.dont_fragment = true;
                header.header_checksum = header.calc_header_checksum();
                wrapped.extend_from_slice(&header.to_bytes());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                wrapped.extend_from_slice(&[0x86, 0xdd]);
                let header = Ipv6Header {
                    traffic_class: self.tos,
                    flow_label: Ipv6FlowLabel::try_new(self.label).unwrap(),
                    payload_length: u16::try_from(payload).unwrap(),
                    next_header: number,
                    hop_limit: 64,
                    source: src.octets(),
                    destination: dst.octets(),
                };
                wrapped.extend_from_slice(&header.to_bytes());
            }
            mixed => panic!("{mixed:?} are of two families"),
        }
        if let Some((source_port, destination_port)) = self.udp {
            let header = UdpHeader {
                source_port,
                destination_port,
                length: u16::try_from(payload).unwrap(),
                checksum: 0,
            };
            wrapped.extend_from_slice(&header.to_bytes());
        }
        wrapped.extend_from_slice(packet);
        wrapped
    }
}

/// The hash of a flow.
pub(crate) fn hash(from: SocketAddr, to: SocketAddr, protocol: u8) -> u32 {
    let ports = (Be16::new(from.port()), Be16::new(to.port()));
    match (from.ip(), to.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let (src, dst) = (Addr4::from(src), Addr4::from(dst));
            hash::flow(&FlowKey::new((src, ports.0), (dst, ports.1), protocol))
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let (src, dst) = (Addr6::from(src), Addr6::from(dst));
            hash::flow(&FlowKey::new((src, ports.0), (dst, ports.1), protocol))
        }
        mixed => panic!("{mixed:?} are of two families"),
    }
}

/// The source address and port in a frame.
pub(crate) fn source(frame: &[u8]) -> SocketAddr {
    endpoint(frame, false)
}

/// The destination address and port in a frame.
pub(crate) fn destination(frame: &[u8]) -> SocketAddr {
    endpoint(frame, true)
}

/// The addresses of the first IP header in a frame, with the ports of the UDP header if that follows it, otherwise 0.
pub(crate) fn outer_ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let packet = etherparse::PacketHeaders::from_ethernet_slice(frame).expect("a sound packet");
    let ports = packet
        .transport
        .and_then(|transport| transport.udp())
        .map_or((0, 0), |udp| (udp.source_port, udp.destination_port));
    let (from, to): (IpAddr, IpAddr) = match packet.net.expect("an IP packet") {
        etherparse::NetHeaders::Ipv4(ip, _) => (ip.source.into(), ip.destination.into()),
        etherparse::NetHeaders::Ipv6(ip, _) => (ip.source.into(), ip.destination.into()),
        etherparse::NetHeaders::Arp(_) => panic!("ARP"),
    };
    (SocketAddr::new(from, ports.0), SocketAddr::new(to, ports.1))
}

fn endpoint(frame: &[u8], destination: bool) -> SocketAddr {
    let packet = etherparse::PacketHeaders::from_ethernet_slice(frame).expect("a sound packet");
    let ip: IpAddr = match packet.net.expect("an IP packet") {
        etherparse::NetHeaders::Ipv4(ip, _) => if destination { ip.destination } else { ip.source }.into(),
        etherparse::NetHeaders::Ipv6(ip, _) => if destination { ip.destination } else { ip.source }.into(),
        etherparse::NetHeaders::Arp(_) => panic!("ARP"),
    };
    let transport = packet.transport.expect("TCP or UDP");
    let (src_port, dst_port) = match (transport.clone().tcp(), transport.udp()) {
        (Some(tcp), _) => (tcp.source_port, tcp.destination_port),
        (_, Some(udp)) => (udp.source_port, udp.destination_port),
        _ => panic!("neither TCP nor UDP"),
    };
    let port = if destination { dst_port } else { src_port };
    SocketAddr::new(ip, port)
}
