//! What a generator is to send.

use std::{net::IpAddr, time::Duration};

use lb_common::traffic::SIZES;

use super::frame::{Content, SYN, Target};
use crate::net::Mac;

/// Sizes of the simple IMIX, in bytes, frame check sequence included.
pub const IMIX: [u16; SIZES] = [64, 594, 1518];

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Datagrams.
    Udp,
    /// TCP connection requests, which nobody goes on with.
    Syn,
    /// TCP segments with data, after one connection request for each flow.
    Ack,
    /// One TCP handshake for each flow.
    Handshake,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Order {
    /// One flow after the other.
    InTurn,
    /// Any flow, all alike.
    Uniform,
    /// Few flows often and many seldom, with an exponent of 0 or more.
    Zipf(f64),
}

/// How long frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizes {
    /// All alike, in bytes, frame check sequence included.
    Fixed(u16),
    /// [`IMIX`] at 7 to 4 to 1.
    Imix,
}

/// What a run is.
#[derive(Debug, Clone, PartialEq)]
pub struct Setup {
    /// The sending interface.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// Its MAC address.
    pub mac: Mac,
    /// What is sent.
    pub kind: Kind,
    /// Where to, in turn by flow; of one family, at most [`lb_common::traffic::MAX_TARGETS`].
    pub targets: Vec<Target>,
    /// The first source address; further ones follow it, [`lb_common::traffic::PORTS`] flows each.
    pub source: IpAddr,
    /// Number of flows, at least 1.
    pub flows: u32,
    /// Whose turn it is.
    pub order: Order,
    /// How long frames are. Connection requests are always as short as can be.
    pub sizes: Sizes,
    /// Packets a second; `None`: as many as can be.
    pub rate: Option<u64>,
    /// Packets; `None`: until the time is up. Handshakes are one for each flow.
    pub count: Option<u64>,
    /// How long at most.
    pub duration: Duration,
    /// The cores that send.
    pub cores: Vec<usize>,
    /// Whether times are taken.
    pub latency: bool,
    /// Whether checksums of what comes back are checked.
    pub check: bool,
    /// Whether connections are ended by RST when the run is over.
    pub close: bool,
    /// What is answered goes back by redirect, because the interface is a veth: it holds what `XDP_TX` sends if its peer
    /// has no XDP program.
    pub redirect_back: bool,
    /// Number of the run, not zero.
    pub run: u16,
}

impl Setup {
    /// The lengths of the frames, frame check sequence not counted; what a stamp needs is the least.
    #[must_use]
    pub fn lengths(&self) -> Vec<u16> {
        let content = self.content();
        let shortest = content.shortest(self.source.is_ipv6());
        let without_fcs = |size: u16| size.saturating_sub(4).max(shortest);
        match (content, self.sizes) {
            (Content::Bare { .. }, _) => vec![shortest],
            (_, Sizes::Fixed(size)) => vec![without_fcs(size)],
            (_, Sizes::Imix) => IMIX.map(without_fcs).to_vec(),
        }
    }

    pub(super) const fn content(&self) -> Content {
        match self.kind {
            Kind::Udp => Content::Udp,
            Kind::Syn | Kind::Handshake => Content::Bare { flags: SYN },
            Kind::Ack => Content::Data,
        }
    }

    /// The port that all targets have, or zero.
    pub(super) fn port(&self) -> u16 {
        let mut ports = self.targets.iter().map(|t| t.address.port());
        let first = ports.next().unwrap_or_default();
        if ports.all(|port| port == first) { first } else { 0 }
    }

    pub(super) const fn mixed(&self) -> bool {
        matches!(self.sizes, Sizes::Imix) && !matches!(self.content(), Content::Bare { .. })
    }
}
