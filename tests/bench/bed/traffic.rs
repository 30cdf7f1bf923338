//! What the generator sends: the frame that all flows are made from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use etherparse::{PacketBuilder, PacketBuilderStep};
use lb_userspace::model::Protocol;

use super::{
    balancer::BACKENDS,
    chain::{GENERATOR_MAC, INGRESS_MAC},
};

/// Length of the frame check sequence, in bytes.
const FCS: u16 = 4;
/// Where services listen: the first, if there are more.
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
    pub(crate) fn backend(self, n: impl Into<u16>) -> IpAddr {
        let host = n.into() + 1;
        match self {
            Self::UdpV4 | Self::SynV4 | Self::AckV4 => {
                let [high, low] = host.to_be_bytes();
                Ipv4Addr::new(10, 201, high, low).into()
            }
            Self::UdpV6 => Ipv6Addr::new(0xfd00, 201, 0, 0, 0, 0, 0, host).into(),
        }
    }

    /// The `n`-th address that backends see, from 0 on.
    pub(crate) fn source(self, n: u8) -> IpAddr {
        match self {
            Self::UdpV4 | Self::SynV4 | Self::AckV4 => Ipv4Addr::new(10, 202, 0, n + 1).into(),
            Self::UdpV6 => Ipv6Addr::new(0xfd00, 202, 0, 0, 0, 0, 0, u16::from(n) + 1).into(),
        }
    }

    /// The shortest frame that it has here, in bytes with the frame check sequence.
    pub(crate) const fn shortest(self) -> u16 {
        match self {
            Self::UdpV4 | Self::SynV4 | Self::AckV4 => 64,
            // The generator writes whole words.
            Self::UdpV6 => 68,
        }
    }

    /// A frame whose source port and last two bytes of source address are zero; its checksums are right as it is. The length
    /// is in bytes with the frame check sequence, which the frame itself lacks.
    pub(crate) fn template(self, length: u16) -> Result<Vec<u8>> {
        self.template_of(0, length)
    }

    /// The same from another network of clients, for each number another one.
    pub(crate) fn template_of(self, clients: u8, length: u16) -> Result<Vec<u8>> {
        let ethernet = PacketBuilder::ethernet2(GENERATOR_MAC, INGRESS_MAC);
        let ip = match self.vip() {
            IpAddr::V4(vip) => ethernet.ipv4([10, 64 + clients, 0, 0], vip.octets(), 64),
            IpAddr::V6(vip) => {
                let client = Ipv6Addr::new(0xfd00, 64 + u16::from(clients), 0, 0, 0, 0, 0, 0);
                ethernet.ipv6(client.octets(), vip.octets(), 64)
            }
        };
        let mut frame = Vec::new();
        let length = usize::from(length.max(self.shortest()) - FCS);
        self.finish(ip, &mut frame, length).context("cannot build a frame")?;
        Ok(frame)
    }

    fn finish(self, ip: PacketBuilderStep<etherparse::IpHeaders>, frame: &mut Vec<u8>, length: usize) -> Result<()> {
        match self {
            Self::UdpV4 | Self::UdpV6 => {
                let udp = ip.udp(0, PORT);
                let payload = vec![0; length - udp.size(0)];
                udp.write(frame, &payload)?;
            }
            Self::SynV4 | Self::AckV4 => {
                let segment = ip.tcp(0, PORT, 1, 64240);
                let segment = if self == Self::SynV4 {
                    segment.syn()
                } else {
                    segment.ack(1)
                };
                segment.write(frame, &[])?;
                // Ethernet pads short frames.
                frame.resize(length, 0);
            }
        }
        Ok(())
    }
}

/// What a chain carries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Of what its frames are.
    pub(crate) traffic: Traffic,
    /// How long they are, in bytes with the frame check sequence.
    pub(crate) frame: u16,
    /// Over how many services flows are spread, by port from [`PORT`] on.
    pub(crate) services: u16,
    /// How many backends each of them has.
    pub(crate) backends: u16,
}

impl From<Traffic> for Load {
    /// The shortest frames, for one service over four backends.
    fn from(traffic: Traffic) -> Self {
        Self {
            traffic,
            frame: traffic.shortest(),
            services: 1,
            backends: BACKENDS.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_length_that_was_asked_for() {
        for traffic in [Traffic::UdpV4, Traffic::SynV4, Traffic::UdpV6] {
            for length in [traffic.shortest(), 256, 512, 1024, 1518] {
                let frame = traffic.template(length).unwrap();
                assert_eq!(frame.len(), usize::from(length - FCS), "{traffic:?}");
            }
        }
    }

    #[test]
    fn no_backend_shares_its_address_with_a_source_or_another_backend() {
        for traffic in [Traffic::UdpV4, Traffic::UdpV6] {
            let backends: std::collections::HashSet<_> = (0..4000u16).map(|n| traffic.backend(n)).collect();
            assert_eq!(backends.len(), 4000);
            assert!((0..16).all(|n| !backends.contains(&traffic.source(n))));
        }
    }
}
