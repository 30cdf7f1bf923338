//! The paths that are measured: a way through the kernel, a packet's place in its flow, and a kind of traffic.

use std::fmt;

use anyhow::Result;
use lb_common::abi::Mode;

use crate::bed::{balancer::Balancer, chain::Chain, ipvs, nftables, routing, traffic::Traffic};

/// One path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path {
    /// Who forwards.
    pub(super) way: Way,
    /// Which packets of a flow.
    pub(super) place: Place,
    /// What is measured.
    pub(super) traffic: Traffic,
}

/// Who forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `lb`, in a forwarding mode.
    Balancer(Mode),
    /// `lb` where the hash alone tells the backend.
    Direct(Mode),
    /// IPVS.
    Ipvs,
    /// nftables' destination NAT.
    Nftables,
    /// The kernel's routing.
    Routing,
    /// A program that sends every frame back.
    BareTx,
    /// A program that sends every frame on.
    BareRedirect,
}

/// Which packets of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Each opens a flow.
    First,
    /// Each belongs to a flow that is there.
    Established,
    /// Where nobody knows of flows.
    Any,
}

impl Path {
    /// All of them, in the order in which they are measured.
    pub(super) fn all() -> Vec<Self> {
        const DATAGRAMS: [Traffic; 2] = [Traffic::UdpV4, Traffic::UdpV6];
        const STATEFUL: [(Place, [Traffic; 3]); 2] = [
            (Place::Established, [Traffic::UdpV4, Traffic::AckV4, Traffic::UdpV6]),
            (Place::First, [Traffic::UdpV4, Traffic::SynV4, Traffic::UdpV6]),
        ];
        let mut all = Vec::new();
        for way in [Way::BareTx, Way::BareRedirect] {
            all.extend(DATAGRAMS.map(|traffic| Self::new(way, Place::Any, traffic)));
        }
        for way in [
            Way::Balancer(Mode::FULL_NAT),
            Way::Balancer(Mode::NAT),
            Way::Ipvs,
            Way::Nftables,
        ] {
            for (place, traffic) in STATEFUL {
                all.extend(traffic.map(|traffic| Self::new(way, place, traffic)));
            }
        }
        // What does not depend on the mode is measured above: TCP's half, and the making of a flow.
        for mode in [Mode::L2_DSR, Mode::IPIP, Mode::GUE] {
            let established = |traffic| Self::new(Way::Balancer(mode), Place::Established, traffic);
            all.extend(DATAGRAMS.map(established));
        }
        for mode in [Mode::L2_DSR, Mode::IPIP] {
            let any = |traffic| Self::new(Way::Direct(mode), Place::Any, traffic);
            all.extend(DATAGRAMS.map(any));
        }
        all.push(Self::new(Way::Balancer(Mode::L2_DSR), Place::First, Traffic::UdpV4));
        all.extend(DATAGRAMS.map(|traffic| Self::new(Way::Routing, Place::Any, traffic)));
        // The bed's nftables are for IPv4.
        all.retain(|path| path.way != Way::Nftables || path.traffic != Traffic::UdpV6);
        all
    }

    const fn new(way: Way, place: Place, traffic: Traffic) -> Self {
        Self { way, place, traffic }
    }

    /// The traffic that opens its flows.
    pub(super) fn opener(&self) -> Traffic {
        match (self.traffic, self.way) {
            // Connection tracking would wait for the server's answer, but also takes up a connection in its midst.
            (Traffic::AckV4, Way::Nftables) => Traffic::AckV4,
            (Traffic::AckV4, _) => Traffic::SynV4,
            (traffic, _) => traffic,
        }
    }

    /// Puts up what forwards.
    pub(super) fn build(&self) -> Result<Bed> {
        let chain = Chain::new(self.opener())?;
        let chain = match self.way {
            Way::Balancer(mode) => return Ok(Bed::Balancer(Box::new(Balancer::new(chain, super::limits(), mode)?))),
            Way::Direct(mode) => {
                let mut balancer = Balancer::new(chain, super::limits(), mode)?;
                balancer.track_moved_only()?;
                return Ok(Bed::Balancer(Box::new(balancer)));
            }
            Way::Ipvs => ipvs::forward(chain)?,
            Way::Nftables => nftables::forward(chain)?,
            Way::Routing => routing::forward(chain)?,
            Way::BareTx => chain.bare("bare_tx")?,
            Way::BareRedirect => chain.bare("bare_redirect")?,
        };
        Ok(Bed::Chain(chain))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Any => write!(f, "{}, {}", self.way, label(self.traffic)),
            place => write!(f, "{}, {place}, {}", self.way, label(self.traffic)),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Balancer(Mode::FULL_NAT) => "lb full-nat",
            Self::Balancer(Mode::NAT) => "lb nat",
            Self::Balancer(Mode::L2_DSR) => "lb l2-dsr",
            Self::Balancer(Mode::IPIP) => "lb ipip",
            Self::Balancer(Mode::GUE) => "lb gue",
            Self::Direct(Mode::L2_DSR) => "lb l2-dsr, moved flows only",
            Self::Direct(Mode::IPIP) => "lb ipip, moved flows only",
            Self::Balancer(_) | Self::Direct(_) => "lb in another mode",
            Self::Ipvs => "IPVS",
            Self::Nftables => "nftables DNAT",
            Self::Routing => "kernel routing",
            Self::BareTx => "bare XDP_TX",
            Self::BareRedirect => "bare redirect",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::First => "first packet",
            Self::Established => "established",
            Self::Any => "any packet",
        })
    }
}

/// How the traffic is called in reports.
pub(super) const fn label(traffic: Traffic) -> &'static str {
    match traffic {
        Traffic::UdpV4 => "UDP over IPv4",
        Traffic::SynV4 | Traffic::AckV4 => "TCP over IPv4",
        Traffic::UdpV6 => "UDP over IPv6",
    }
}

/// A chain of devices with something in its middle.
pub(super) enum Bed {
    /// Something of the kernel's, or a bare program.
    Chain(Chain),
    /// `lb`.
    Balancer(Box<Balancer>),
}

impl Bed {
    /// The chain.
    pub(super) const fn chain(&mut self) -> &mut Chain {
        match self {
            Self::Chain(chain) => chain,
            Self::Balancer(balancer) => &mut balancer.chain,
        }
    }
}
