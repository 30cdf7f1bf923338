//! Who is measured: each contender as a chain of its own, with an account of what it did to the frames.

use anyhow::Result;
use aya::programs::ProgramInfo;
use lb_common::abi::Mode;
use lb_userspace::model::Limits;

use crate::bed::{
    balancer::{Balancer, Counts, time_per_run},
    chain::{Chain, Run},
    nftables, routing,
    traffic::{Load, Traffic},
};

/// Bytes of a frame with an MTU of 1500, with the frame check sequence.
const LARGEST_FRAME: u16 = 1518;
/// The most that tunnels put before a packet: IPv6, UDP and GUE.
const LARGEST_OUTER: u16 = 52;

/// What can stand in the middle of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contender {
    /// A program that sends every frame back.
    BareTx,
    /// A program that sends every frame on.
    BareRedirect,
    /// `lb` in mode `full-nat`.
    FullNat,
    /// `lb` in mode `nat`.
    Nat,
    /// `lb` in mode `l2-dsr`.
    L2Dsr,
    /// `lb` in mode `l2-dsr` with flows stored only where their slot moved, which none did.
    L2DsrMoved,
    /// `lb` in mode `ipip`.
    Ipip,
    /// The same with flows stored only where their slot moved.
    IpipMoved,
    /// `lb` in mode `gue`.
    Gue,
    /// The kernel's destination NAT.
    Nftables,
    /// The kernel's forwarding.
    Routing,
}

impl Contender {
    /// Everyone, in the order of their turns.
    pub(super) const ALL: [Self; 11] = [
        Self::BareTx,
        Self::BareRedirect,
        Self::FullNat,
        Self::Nat,
        Self::L2Dsr,
        Self::L2DsrMoved,
        Self::Ipip,
        Self::IpipMoved,
        Self::Gue,
        Self::Nftables,
        Self::Routing,
    ];
    /// Those that keep flows, and choose a backend for a new one.
    pub(super) const BALANCERS: [Self; 6] = [
        Self::FullNat,
        Self::Nat,
        Self::L2Dsr,
        Self::Ipip,
        Self::Gue,
        Self::Nftables,
    ];
    /// Those of them that stand in the curves: what differs between modes does not depend on numbers.
    pub(super) const CURVES: [Self; 4] = [Self::FullNat, Self::L2Dsr, Self::Ipip, Self::Nftables];

    /// Whether it is `lb`, in one of its modes.
    pub(super) const fn is_lb(self) -> bool {
        matches!(self, Self::FullNat | Self::Nat | Self::L2Dsr | Self::Ipip | Self::Gue) || self.tracks_moved_only()
    }

    /// Whether it stores no flow here.
    const fn tracks_moved_only(self) -> bool {
        matches!(self, Self::L2DsrMoved | Self::IpipMoved)
    }

    /// As the report calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::BareTx => "bare XDP_TX",
            Self::BareRedirect => "bare redirect",
            Self::FullNat => "lb full-nat",
            Self::Nat => "lb nat",
            Self::L2Dsr => "lb l2-dsr",
            Self::L2DsrMoved => "lb l2-dsr, moved",
            Self::Ipip => "lb ipip",
            Self::IpipMoved => "lb ipip, moved",
            Self::Gue => "lb gue",
            Self::Nftables => "nftables DNAT",
            Self::Routing => "kernel routing",
        }
    }

    /// Its share of the frames: the kernel's own ways take several times as long.
    pub(super) const fn frames(self, frames: u32) -> u32 {
        match self {
            Self::Nftables | Self::Routing => frames / 4,
            _ => frames,
        }
    }

    /// Whether it wraps packets.
    const fn wraps(self) -> bool {
        matches!(self, Self::Ipip | Self::Gue)
    }

    /// Why it cannot take part in a scene.
    pub(super) fn excuse(self, scene: &Scene) -> Option<String> {
        if self.wraps() && scene.load.frame > LARGEST_FRAME - LARGEST_OUTER {
            return Some("with the tunnel's headers its packets exceed the MTU".to_owned());
        }
        let most = nftables::most_flows();
        (self == Self::Nftables && scene.flows >= most).then(|| {
            format!(
                "the kernel tracks {most} connections at most (nf_conntrack_max), and that could not be raised: it is a \
                 setting of the whole machine"
            )
        })
    }
}

/// What contenders have to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene {
    /// The frames.
    pub(super) load: Load,
    /// Flows that they belong to.
    pub(super) flows: u32,
}

impl Scene {
    /// Shortest frames of a thousand flows, to one service over four backends.
    pub(super) fn plain(traffic: Traffic) -> Self {
        Self {
            load: traffic.into(),
            flows: 1_000,
        }
    }

    /// The default configuration's limits, with flow tables doubled until a fifth of them stays free.
    fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        let table = match self.load.traffic {
            Traffic::UdpV4 | Traffic::SynV4 | Traffic::AckV4 => &mut limits.flows_ipv4,
            Traffic::UdpV6 => &mut limits.flows_ipv6,
        };
        while self.flows > *table / 5 * 4 {
            *table *= 2;
        }
        // All of them open at one time.
        limits.half_open_ipv4 = limits.flows_ipv4;
        limits.half_open_ipv6 = limits.flows_ipv6;
        limits
    }

    /// What a reader has to know about the size of the flow table.
    pub(super) fn remark(&self) -> Option<String> {
        let Limits {
            flows_ipv4, flows_ipv6, ..
        } = self.limits();
        let default = Limits::default();
        ((flows_ipv4, flows_ipv6) != (default.flows_ipv4, default.flows_ipv6))
            .then(|| format!("lb's flow tables raised to {flows_ipv4} (IPv4) and {flows_ipv6} (IPv6)"))
    }
}

/// A contender in its chain, ready to run.
pub(super) struct Contestant {
    /// Who it is.
    pub(super) contender: Contender,
    body: Body,
    account: Account,
    /// How many flows take turns.
    flows: u32,
}

enum Body {
    Plain(Box<Chain>),
    Balancer(Box<Balancer>, Counts),
}

impl Contestant {
    /// Builds its chain.
    pub(super) fn enter(contender: Contender, scene: &Scene) -> Result<Self> {
        let chain = Chain::new(scene.load)?;
        let balancer = |chain, mode| Balancer::new(chain, scene.limits(), mode);
        let moved = |chain, mode| -> Result<Body> {
            let mut balancer = balancer(chain, mode)?;
            balancer.track_moved_only()?;
            Body::balancer(balancer)
        };
        let body = match contender {
            Contender::BareTx => Body::Plain(Box::new(chain.bare("bare_tx")?)),
            Contender::BareRedirect => Body::Plain(Box::new(chain.bare("bare_redirect")?)),
            Contender::FullNat => Body::balancer(balancer(chain, Mode::FULL_NAT)?)?,
            Contender::Nat => Body::balancer(balancer(chain, Mode::NAT)?)?,
            Contender::L2Dsr => Body::balancer(balancer(chain, Mode::L2_DSR)?)?,
            Contender::L2DsrMoved => moved(chain, Mode::L2_DSR)?,
            Contender::Ipip => Body::balancer(balancer(chain, Mode::IPIP)?)?,
            Contender::IpipMoved => moved(chain, Mode::IPIP)?,
            Contender::Gue => Body::balancer(balancer(chain, Mode::GUE)?)?,
            Contender::Nftables => Body::Plain(Box::new(nftables::forward(chain)?)),
            Contender::Routing => Body::Plain(Box::new(routing::forward(chain)?)),
        };
        Ok(Self {
            contender,
            body,
            account: Account::default(),
            flows: 0,
        })
    }

    /// Has so many flows take turns from now on.
    pub(super) fn flows(&mut self, flows: u32) -> Result<()> {
        self.flows = flows;
        self.chain().flows(0, flows)
    }

    /// Takes `lb`'s flows through the pause in which others had their turns. Traffic that goes on has none, and its entries are
    /// brought up to date every four seconds; after a pause the first packet of each would do that.
    pub(super) fn resume(&mut self) -> Result<()> {
        if self.contender.is_lb() {
            self.send(self.flows)?;
        }
        Ok(())
    }

    /// Sends frames, and notes what became of them.
    pub(super) fn send(&mut self, frames: u32) -> Result<Run> {
        let run = self.chain().send(frames)?;
        self.account.note(run);
        Ok(run)
    }

    /// Nanoseconds that its program takes for a frame, while the kernel's statistics are on; nothing if it has none.
    pub(super) fn time(&mut self, frames: u32) -> Result<Option<f64>> {
        let Some(before) = self.info()? else {
            return Ok(None);
        };
        self.send(frames)?;
        Ok(self.info()?.map(|after| time_per_run(&before, &after)))
    }

    fn info(&mut self) -> Result<Option<ProgramInfo>> {
        Ok(match (&mut self.body, self.contender) {
            (Body::Balancer(balancer, _), _) => Some(balancer.info()?),
            (Body::Plain(chain), Contender::BareTx) => Some(chain.info("bare_tx")?),
            (Body::Plain(chain), Contender::BareRedirect) => Some(chain.info("bare_redirect")?),
            (Body::Plain(_), _) => None,
        })
    }

    /// Why its figures do not count, if they do not. So many flows should have been opened by the frames sent so far.
    pub(super) fn objection(&self, opened: u32) -> Result<Option<String>> {
        let opened = if self.contender.tracks_moved_only() { 0 } else { opened };
        let wrong = match &self.body {
            Body::Balancer(balancer, before) => balancer.counts()?.objection(before, &self.account.runs, opened.into()),
            Body::Plain(_) => None,
        };
        Ok(wrong.or_else(|| self.account.objection()))
    }

    fn chain(&mut self) -> &mut Chain {
        match &mut self.body {
            Body::Plain(chain) => chain,
            Body::Balancer(balancer, _) => &mut balancer.chain,
        }
    }
}

impl Body {
    fn balancer(balancer: Balancer) -> Result<Self> {
        let counts = balancer.counts()?;
        Ok(Self::Balancer(Box::new(balancer), counts))
    }
}

/// Every run of a contestant.
#[derive(Debug, Default)]
struct Account {
    runs: Vec<Run>,
}

impl Account {
    fn note(&mut self, run: Run) {
        self.runs.push(run);
    }

    fn objection(&self) -> Option<String> {
        lost(
            self.runs.iter().map(|run| run.sent).sum(),
            self.runs.iter().map(|run| run.arrived).sum(),
        )
    }
}

/// Why a rate does not count: one frame in a hundred, or more, did not come out at the end, or came from elsewhere.
fn lost(sent: u64, arrived: u64) -> Option<String> {
    (arrived.abs_diff(sent) > sent / 100).then(|| format!("of {sent} frames {arrived} arrived"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::goals;

    #[test]
    fn lost_frames_void_a_figure() {
        assert_eq!(lost(1000, 1000), None);
        assert_eq!(lost(1000, 991), None);
        assert_eq!(lost(1000, 980).as_deref(), Some("of 1000 frames 980 arrived"));
        assert!(lost(1000, 0).is_some());
    }

    #[test]
    fn frames_from_elsewhere_void_a_figure() {
        assert!(lost(1000, 1200).is_some());
    }

    #[test]
    fn tunnels_are_excused_from_frames_that_leave_them_no_room() {
        let scene = |frame| Scene {
            load: Load {
                frame,
                ..Load::from(Traffic::UdpV4)
            },
            ..Scene::plain(Traffic::UdpV4)
        };
        assert!(Contender::Ipip.excuse(&scene(1518)).is_some());
        assert_eq!(Contender::Ipip.excuse(&scene(1024)), None);
        assert_eq!(Contender::FullNat.excuse(&scene(1518)), None);
    }

    /// A goal under another name would never be measured.
    #[test]
    fn goals_about_packets_name_contenders() {
        let is_one = |name: &str| Contender::ALL.iter().any(|contender| contender.name() == name);
        for goal in goals::all().iter().filter(|goal| goal.key.ends_with(" flows")) {
            let pair = goal.key.split_once(", IPv4").unwrap().0;
            let pair = pair.strip_prefix("program time of ").unwrap_or(pair);
            assert!(pair.split(" to ").all(is_one), "{}", goal.key);
        }
    }

    #[test]
    fn flow_tables_grow_for_a_million_flows_and_not_before() {
        let scene = |traffic, flows| Scene {
            flows,
            ..Scene::plain(traffic)
        };
        assert_eq!(scene(Traffic::UdpV4, 100_000).remark(), None);
        assert_eq!(scene(Traffic::UdpV6, 200_000).remark(), None);
        assert_eq!(scene(Traffic::UdpV4, 1_000_000).limits().flows_ipv4, 1 << 21);
        assert_eq!(scene(Traffic::UdpV6, 1_000_000).limits().flows_ipv6, 1 << 21);
        assert!(scene(Traffic::UdpV4, 1_000_000).remark().is_some());
    }
}
