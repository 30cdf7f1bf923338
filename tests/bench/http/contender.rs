//! The ways from client to server that are compared.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};

use super::{
    bed::{Bed, Middle},
    daemon::Daemon,
    haproxy, kernel,
    probe::Way,
    process::Process,
};

/// The name of the way without anything in between, which others are compared with.
pub(super) const DIRECT: &str = "direct";

/// Plain forwarding, which rates are compared with.
pub(super) const ROUTING: &str = "kernel routing";
/// The proxy that processor time is compared with.
pub(super) const HAPROXY: &str = "HAProxy, TCP mode";

/// Why a contender does not take part.
#[derive(Debug)]
pub(super) enum Absence {
    /// This machine cannot do it; that is nobody's fault.
    NotHere(String),
    /// It should have worked.
    Failed(anyhow::Error),
}

impl From<anyhow::Error> for Absence {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// A way that is ready to be measured.
///
/// Fields are dropped in this order: programs before the namespace that they run in.
#[derive(Debug)]
pub(super) struct Contender {
    pub(super) way: Way,
    daemon: Option<Daemon>,
    _process: Option<Process>,
    middle: Option<Middle>,
}

/// Makes one contender ready; the number is that of its cables.
type Setup = fn(&Bed, u8) -> Result<Contender, Absence>;

/// All there are, in the order in which they take turns.
pub(super) const ALL: [(&str, Setup); 7] = [
    (DIRECT, |bed, _| {
        let address = bed.connect_directly()?;
        Ok(Contender::new(Way {
            target: address,
            servers: vec![address],
            seen: Ipv4Addr::new(10, 92, 0, 2),
        }))
    }),
    (ROUTING, |bed, number| {
        let middle = bed.middle(number, "routing")?;
        kernel::route(bed, &middle)?;
        let first = middle.servers().into_iter().next().context("no server")?;
        let way = Way {
            target: first,
            servers: vec![first],
            seen: middle.client(),
        };
        Ok(Contender::new(way).through(middle))
    }),
    ("nftables DNAT", |bed, number| {
        let middle = bed.middle(number, "nftables")?;
        kernel::nftables(&middle)?;
        Ok(Contender::new(keeps_client(&middle)).through(middle))
    }),
    ("IPVS NAT", |bed, number| {
        let middle = bed.middle(number, "ipvs")?;
        kernel::ipvs(&middle)?;
        Ok(Contender::new(keeps_client(&middle)).through(middle))
    }),
    (HAPROXY, |bed, number| {
        let middle = bed.middle(number, "haproxy")?;
        let process = haproxy::start(bed, &middle)?;
        Ok(Contender {
            _process: Some(process),
            ..Contender::new(hides_client(&middle)).through(middle)
        })
    }),
    ("lb full-nat", |bed, number| {
        let middle = bed.middle(number, "full-nat")?;
        let daemon = Daemon::start(bed, &middle, "full-nat")?;
        Ok(Contender::new(hides_client(&middle)).run_by(daemon).through(middle))
    }),
    ("lb nat", |bed, number| {
        let middle = bed.middle(number, "nat")?;
        let daemon = Daemon::start(bed, &middle, "nat")?;
        Ok(Contender::new(keeps_client(&middle)).run_by(daemon).through(middle))
    }),
];

impl Contender {
    fn new(way: Way) -> Self {
        Self {
            way,
            daemon: None,
            _process: None,
            middle: None,
        }
    }

    fn run_by(mut self, daemon: Daemon) -> Self {
        self.daemon = Some(daemon);
        self
    }

    fn through(mut self, middle: Middle) -> Self {
        self.middle = Some(middle);
        self
    }

    /// What wrk is to ask.
    pub(super) fn url(&self) -> String {
        format!("http://{}/", self.way.target)
    }

    /// Counts connections from now on, where they are counted.
    pub(super) fn mark(&mut self) -> Result<()> {
        match (&mut self.daemon, &self.middle) {
            (Some(daemon), Some(middle)) => daemon.mark(middle),
            _ => Ok(()),
        }
    }

    /// Why figures of this many connections do not count, where that can be told.
    pub(super) fn objection(&self, connections: u64) -> Result<Option<String>> {
        match (&self.daemon, &self.middle) {
            (Some(daemon), Some(middle)) => daemon.objection(middle, connections),
            _ => Ok(None),
        }
    }
}

fn keeps_client(middle: &Middle) -> Way {
    Way {
        target: middle.vip(),
        servers: middle.servers(),
        seen: middle.client(),
    }
}

fn hides_client(middle: &Middle) -> Way {
    Way {
        seen: middle.source(),
        ..keeps_client(middle)
    }
}
