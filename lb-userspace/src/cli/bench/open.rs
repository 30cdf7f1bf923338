//! `lb bench traffic udp`, `syn`, `ack` and `handshake`: packets that the kernel makes, at the rate that is asked for
//! whatever the answers are.

mod results;
mod values;

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use lb_common::traffic::MAX_TARGETS;

use self::values::SourceRange;
pub(super) use self::values::amount;
use super::{
    super::{values::endpoint, view::View},
    DEFAULT_DURATION, MAX_DURATION, OutputArgs, run_duration,
};
use crate::{
    api::{ApiError, ErrorKind},
    bench::target::Target,
    datapath::traffic::{
        frame,
        setup::{Kind, Order, Setup, Sizes},
    },
    net::{CleanupScope, KernelNetwork, Mac, Network, NextHop, NextHopError},
};

/// How long a next hop may take to answer.
const RESOLVE: Duration = Duration::from_secs(3);

/// Options of all kinds.
#[derive(Debug, Clone, Args)]
struct OpenArgs {
    /// Interface by which to send
    #[arg(long, value_name = "NAME")]
    interface: String,

    /// Addresses and ports to send to; flows take them in turn
    #[arg(long, value_name = "ADDR:PORT", value_parser = endpoint, value_delimiter = ',', required = true)]
    to: Vec<SocketAddr>,

    /// MAC address to send to [default: the next hop's]
    #[arg(long, value_name = "MAC", value_parser = values::mac)]
    mac: Option<Mac>,

    /// Source address, or with /LENGTH several [default: the interface's]
    #[arg(long, value_name = "ADDRESS[/LENGTH]", value_parser = values::source_range)]
    source: Option<SourceRange>,

    /// Number of flows: source addresses and ports
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=64_000_000))]
    flows: u32,

    /// Packets a second, such as 10k or 1.5M [default: as many as can be]
    #[arg(long, value_name = "N", value_parser = amount)]
    rate: Option<u64>,

    /// End after this time [default: 10s, or none with --count]
    #[arg(long, value_name = "DURATION", value_parser = run_duration)]
    duration: Option<Duration>,

    /// Cores that send, such as 2,3, each a share of flows [default: last]
    #[arg(long, value_name = "CORES", value_delimiter = ',')]
    cores: Vec<usize>,

    /// Measure the time to the answer
    #[arg(long)]
    latency: bool,

    /// Check the checksums of what comes back, which costs time
    #[arg(long)]
    check: bool,

    /// Number of the run, by which a sink knows its packets [default: any]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    run: Option<u16>,

    #[command(flatten)]
    output: OutputArgs,
}

/// Options of kinds that are not one packet a flow.
#[derive(Debug, Clone, Args)]
struct StreamArgs {
    /// End after this many packets
    #[arg(long, value_name = "N", value_parser = amount)]
    count: Option<u64>,

    /// Next flow: in-turn, uniform or zipf:EXPONENT
    #[arg(long, value_name = "ORDER", default_value = "in-turn", value_parser = values::order)]
    order: Order,
}

/// Options of kinds with data.
#[derive(Debug, Clone, Args)]
struct DataArgs {
    /// Frame bytes with FCS, or imix: 64, 594, 1518 as 7:4:1
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = values::sizes)]
    size: Sizes,
}

/// Options of `lb bench traffic udp`.
#[derive(Debug, Clone, Args)]
pub struct UdpArgs {
    #[command(flatten)]
    stream: StreamArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    open: OpenArgs,
}

/// Options of `lb bench traffic syn`.
#[derive(Debug, Clone, Args)]
pub struct SynArgs {
    #[command(flatten)]
    stream: StreamArgs,
    #[command(flatten)]
    open: OpenArgs,
}

/// Options of `lb bench traffic ack`.
#[derive(Debug, Clone, Args)]
pub struct AckArgs {
    #[command(flatten)]
    stream: StreamArgs,
    #[command(flatten)]
    data: DataArgs,
    /// Leave the connections open instead of ending each with RST
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    open: OpenArgs,
}

/// Options of `lb bench traffic handshake`.
#[derive(Debug, Clone, Args)]
pub struct HandshakeArgs {
    /// Leave the connections open instead of ending each with RST
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    open: OpenArgs,
}

/// What the kinds differ in.
struct Choice {
    kind: Kind,
    count: Option<u64>,
    order: Order,
    sizes: Sizes,
    close: bool,
}

impl UdpArgs {
    pub(super) fn run(&self, view: &View) -> Result<(), ApiError> {
        let choice = Choice {
            kind: Kind::Udp,
            count: self.stream.count,
            order: self.stream.order,
            sizes: self.data.size,
            close: false,
        };
        self.open.run(&choice, view)
    }
}

impl SynArgs {
    pub(super) fn run(&self, view: &View) -> Result<(), ApiError> {
        let choice = Choice {
            kind: Kind::Syn,
            count: self.stream.count,
            order: self.stream.order,
            sizes: Sizes::Fixed(0),
            close: false,
        };
        self.open.run(&choice, view)
    }
}

impl AckArgs {
    pub(super) fn run(&self, view: &View) -> Result<(), ApiError> {
        let choice = Choice {
            kind: Kind::Ack,
            count: self.stream.count,
            order: self.stream.order,
            sizes: self.data.size,
            close: !self.keep,
        };
        self.open.run(&choice, view)
    }
}

impl HandshakeArgs {
    pub(super) fn run(&self, view: &View) -> Result<(), ApiError> {
        let choice = Choice {
            kind: Kind::Handshake,
            count: Some(self.open.flows.into()),
            order: Order::InTurn,
            sizes: Sizes::Fixed(0),
            close: !self.keep,
        };
        self.open.run(&choice, view)
    }
}

impl OpenArgs {
    fn run(&self, choice: &Choice, view: &View) -> Result<(), ApiError> {
        crate::datapath::loader::check_capabilities().map_err(refused)?;
        let setup = self.setup(choice)?;
        let plan = results::plan(&setup);
        self.output.conduct(view, &plan, |stop, progress| {
            results::send(setup, &plan, stop, progress)
        })
    }

    fn setup(&self, choice: &Choice) -> Result<Setup, ApiError> {
        let v6 = self.to.first().is_some_and(SocketAddr::is_ipv6);
        if self.to.iter().any(|to| to.is_ipv6() != v6) {
            return Err(wrong(
                "--to has IPv4 and IPv6 addresses: give those of one family, and the others to a run of their own"
                    .to_owned(),
            ));
        }
        if self.to.len() > MAX_TARGETS as usize {
            return Err(wrong(format!("--to has more than {MAX_TARGETS} addresses")));
        }
        let Ways {
            ifindex,
            mac,
            source,
            mtu,
            veth,
            targets,
        } = self.ways()?;
        let source = match self.source {
            Some(range) => range,
            None => SourceRange {
                first: source
                    .ok_or_else(|| wrong(format!("{} has no address to send from; give --source", self.interface)))?,
                addresses: 1,
            },
        };
        source.check(v6, self.flows)?;
        let cores = if self.cores.is_empty() {
            vec![thread::available_parallelism().map_or(1, usize::from).saturating_sub(1)]
        } else {
            self.cores.clone()
        };
        let setup = Setup {
            interface: self.interface.clone(),
            ifindex,
            mac,
            kind: choice.kind,
            targets,
            source: source.first,
            flows: self.flows,
            order: choice.order,
            sizes: choice.sizes,
            rate: self.rate,
            count: choice.count,
            duration: self.duration.unwrap_or(if choice.count.is_some() {
                MAX_DURATION
            } else {
                DEFAULT_DURATION
            }),
            cores,
            latency: self.latency,
            check: self.check,
            close: choice.close,
            redirect_back: veth,
            run: self.run.unwrap_or_else(|| rand::random_range(1..=u16::MAX)),
        };
        let longest = setup.lengths().into_iter().max().unwrap_or_default();
        if u32::from(longest) > mtu + 14 {
            return Err(wrong(format!(
                "frames of {} bytes do not pass {}, whose MTU is {mtu}: give a smaller --size",
                longest + 4,
                self.interface
            )));
        }
        Ok(setup)
    }

    /// Asks the kernel for the way to every target.
    fn ways(&self) -> Result<Ways, ApiError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| system(format!("cannot start: {e}")))?;
        runtime.block_on(async {
            let mut ways: Option<Ways> = None;
            for to in &self.to {
                let found = Target::find(&self.interface, *to).await?;
                let (hop, veth) = next_hop(*to, self.mac, &self.interface).await?;
                let target = frame::Target {
                    address: *to,
                    mac: hop.remote_mac,
                };
                match &mut ways {
                    Some(ways) => {
                        ways.mtu = ways.mtu.min(hop.mtu);
                        ways.targets.push(target);
                    }
                    None => {
                        ways = Some(Ways {
                            ifindex: found.ifindex,
                            mac: hop.local_mac,
                            source: hop.source,
                            mtu: hop.mtu,
                            veth,
                            targets: vec![target],
                        });
                    }
                }
            }
            ways.ok_or_else(|| wrong("--to is missing".to_owned()))
        })
    }
}

/// How packets leave.
struct Ways {
    ifindex: u32,
    mac: Mac,
    source: Option<IpAddr>,
    mtu: u32,
    veth: bool,
    targets: Vec<frame::Target>,
}

/// The next hop, which may have to be asked for its MAC address, unless that is given; and whether the interface is a veth.
async fn next_hop(to: SocketAddr, mac: Option<Mac>, interface: &str) -> Result<(NextHop, bool), ApiError> {
    let (network, _events) = KernelNetwork::start().await.map_err(|e| system(e.to_string()))?;
    let link = network
        .interface(interface)
        .ok_or_else(|| system(format!("interface {interface} is gone")))?;
    let veth = link.veth;
    if let Some(remote_mac) = mac {
        let local_mac = link
            .mac
            .ok_or_else(|| system(format!("{interface} has no MAC address: it is no Ethernet interface")))?;
        let addresses = network.addresses().await.map_err(|e| system(e.to_string()))?;
        let mut ours = addresses
            .into_iter()
            .filter(|a| a.index == link.index && a.address.is_ipv4() == to.is_ipv4() && !is_link_local(a.address));
        let hop = NextHop {
            ifindex: link.index,
            interface_name: link.name,
            local_mac,
            remote_mac,
            mtu: link.mtu,
            gateway: None,
            source: ours.next().map(|a| a.address),
            lower: Vec::new(),
        };
        return Ok((hop, veth));
    }
    let begun = Instant::now();
    let found = loop {
        match network.next_hop(to.ip()).await {
            Err(NextHopError::Resolving { .. }) if begun.elapsed() < RESOLVE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => break result,
        }
    };
    // What stays is the kernel's own cache; the entry itself is not lb's to keep.
    drop(network.cleanup_neighbours(CleanupScope::Daemon).await);
    let found = found.map(|hop| (hop, veth));
    found.map_err(|error| system(format!("{error}; give --mac if it is to be sent to all the same")))
}

const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

pub(super) fn refused(error: crate::datapath::DatapathError) -> ApiError {
    ApiError {
        kind: error.kind(),
        message: error.to_string(),
    }
}

fn system(message: String) -> ApiError {
    ApiError {
        kind: ErrorKind::System,
        message,
    }
}

fn wrong(message: String) -> ApiError {
    ApiError {
        kind: ErrorKind::Invalid,
        message,
    }
}
