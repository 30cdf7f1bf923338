//! What the generator sends: the frame that all flows are made from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use etherparse::{PacketBuilder, PacketBuilderStep};
use lb_userspace::model::Protocol;

use super::chain::{GENERATOR_MAC, INGRESS_MAC};

/// Where services listen.
pub(crate) const PORT: u16 = 80;

/// IP version and transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// UDP over IPv4, 64 bytes with the frame check sequence.
    UdpV4,
    /// TCP connection requests over IPv4.
    SynV4,
    /// TCP acknowledgements without data over IPv4.
    AckV4,
    /// UDP over IPv6, 68 bytes.
    UdpV6,
}

impl Traffic {
    /// The program that generates it.
    pub(crate) const fn generator(self) -> &'static str {
        match self {
            Self::UdpV4 => "generate_udp_v4",
            Self::SynV4 | Self::AckV4 => "generate_tcp_v4",
            Self::UdpV6 => "generate_udp_v6",
        }
    }

    /// Its transport.
    pub(crate) const fn protocol(self) -> Protocol {
        match self {
            Self::SynV4 | Self::AckV4 => Protocol::Tcp,
            Self::UdpV4 | Self::UdpV6 => Protocol::Udp,
        }
    }

    /// The virtual address that it goes to.
    pub(crate) const fn vip(self) -> IpAddr {
        match self {
            Self::UdpV4 | Self::SynV4 | Self::AckV4 => IpAddr::V4(Ipv4Addr::new(10, 200, 0, 1)),
            Self::UdpV6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 200, 0, 0, 0, 0, 0, 1)),
        }
    }

    /// The address of the `n`-th backend, from 0 on.
    pub(crate) fn backend(self, n: u8) -> IpAddr {
        match self {
            Self::UdpV4 | Self::SynV4 | Self::AckV4 => Ipv4Addr::new(10, 201, 0, n + 1).into(),
            Self::UdpV6 => Ipv6Addr::new(0xfd00, 201, 0, 0, 0, 0, 0, u16::from(n) + 1).into(),
        }
    }

    /// The `n`-th address that backends see, from 0 on.
    pub(crate) fn source(self, n: u8) -> IpAddr {
        match self {
            Self::UdpV4 | Self::SynV4 | Self::AckV4 => Ipv4Addr::new(10, 201, 1, n + 1).into(),
            Self::UdpV6 => Ipv6Addr::new(0xfd00, 201, 0, 0, 0, 0, 1, u16::from(n) + 1).into(),
        }
    }

    /// A frame whose source port and last two bytes of source address are zero; its checksums are right as it is.
    pub(crate) fn template(self) -> Result<Vec<u8>> {
        let ethernet = PacketBuilder::ethernet2(GENERATOR_MAC, INGRESS_MAC);
        let ip = match self.vip() {
            IpAddr::V4(vip) => ethernet.ipv4([10, 64, 0, 0], vip.octets(), 64),
            IpAddr::V6(vip) => {
                let client = Ipv6Addr::new(0xfd00, 64, 0, 0, 0, 0, 0, 0);
                ethernet.ipv6(client.octets(), vip.octets(), 64)
            }
        };
        let mut frame = Vec::new();
        self.finish(ip, &mut frame).context("cannot build a frame")?;
        Ok(frame)
    }

    fn finish(self, ip: PacketBuilderStep<etherparse::IpHeaders>, frame: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::UdpV4 => ip.udp(0, PORT).write(frame, &[0; 18])?,
            Self::UdpV6 => ip.udp(0, PORT).write(frame, &[0; 2])?,
            Self::SynV4 | Self::AckV4 => {
                let segment = ip.tcp(0, PORT, 1, 64240);
                let segment = if self == Self::SynV4 {
                    segment.syn()
                } else {
                    segment.ack(1)
                };
                segment.write(frame, &[])?;
                // Ethernet pads short frames.
                frame.resize(60, 0);
            }
        }
        Ok(())
    }
}
