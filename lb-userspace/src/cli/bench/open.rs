//! `lb bench traffic udp`, `syn`, `ack` and `handshake`: packets that the kernel makes, at the rate that is asked for
//! whatever the answers are.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use lb_common::traffic::{Counter, MAX_TARGETS, PORTS};

use super::{
    super::{values, view::View},
    DEFAULT_DURATION, MAX_DURATION, OutputArgs, run_duration,
};
use crate::{
    api::{ApiError, ErrorKind},
    bench::{
        meter::Meter,
        progress::Progress,
        report::{Figure, Latency, Outcome, Plan, StoppedBy, Value},
        stop::Stop,
        target::Target,
    },
    datapath::traffic::{
        frame,
        generator::{self, Generator, Kind, Order, Phase, Setup, Sizes},
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
    #[arg(long, value_name = "ADDR:PORT", value_parser = values::endpoint, value_delimiter = ',', required = true)]
    to: Vec<SocketAddr>,

    /// MAC address to send to [default: the next hop's]
    #[arg(long, value_name = "MAC", value_parser = mac)]
    mac: Option<Mac>,

    /// Source address, or with /LENGTH several [default: the interface's]
    #[arg(long, value_name = "ADDRESS[/LENGTH]", value_parser = source_range)]
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
    #[arg(long, value_name = "ORDER", default_value = "in-turn", value_parser = order)]
    order: Order,
}

/// Options of kinds with data.
#[derive(Debug, Clone, Args)]
struct DataArgs {
    /// Frame bytes with FCS, or imix: 64, 594, 1518 as 7:4:1
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = sizes)]
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
        let plan = plan(&setup);
        self.output
            .conduct(view, &plan, |stop, progress| send(setup, &plan, stop, progress))
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

fn plan(setup: &Setup) -> Plan {
    let text = |text: String| Value::Text(text);
    let (what, several) = match setup.kind {
        Kind::Udp => ("UDP datagrams", true),
        Kind::Syn => ("TCP connection requests", false),
        Kind::Ack => ("TCP segments of open connections", true),
        Kind::Handshake => ("TCP handshakes", false),
    };
    let to: Vec<_> = setup.targets.iter().map(|t| t.address.to_string()).collect();
    let hops: Vec<_> = setup.targets.iter().map(|t| t.mac.to_string()).collect();
    let mut plan = Plan::new(format!("{what} to {}", to.join(", ")))
        .line("interface", text(setup.interface.clone()))
        .line("next hop", text(unique(hops).join(", ")))
        .line("source", text(format!("{} and up", setup.source)))
        .line("flows", Value::Count(setup.flows.into()));
    if several {
        plan = plan.line(
            "order",
            text(match setup.order {
                Order::InTurn => "in turn".to_owned(),
                Order::Uniform => "uniform".to_owned(),
                Order::Zipf(exponent) => format!("zipf {exponent}"),
            }),
        );
    }
    let lengths: Vec<_> = setup.lengths().iter().map(|n| (n + 4).to_string()).collect();
    plan = plan.line("frame bytes", text(lengths.join(", ")));
    plan = match setup.rate {
        Some(rate) => plan.line("rate", Value::Rate(rate as f64)),
        None => plan.line("rate", text("as fast as can be".to_owned())),
    };
    if let Some(count) = setup.count {
        plan = plan.line("packets", Value::Count(count));
    }
    let cores: Vec<_> = setup.cores.iter().map(ToString::to_string).collect();
    plan.line("duration at most", Value::Time(setup.duration))
        .line("cores", text(cores.join(", ")))
        .line("run", Value::Count(setup.run.into()))
}

fn unique(mut list: Vec<String>) -> Vec<String> {
    list.dedup();
    list
}

fn send(setup: Setup, plan: &Plan, stop: &Stop, progress: &mut Progress) -> Result<Outcome, ApiError> {
    let answers = match setup.kind {
        Kind::Udp => (Counter::Packets, "returned"),
        Kind::Syn | Kind::Ack => (Counter::SynAcks, "accepted"),
        Kind::Handshake => (Counter::Handshakes, "completed"),
    };
    let mut meter = Meter::new(&["sent", answers.1]);
    let every = Meter::interval(setup.duration);
    let mut next = every;
    let mut generator = Generator::prepare(setup.clone()).map_err(refused)?;
    let native = generator.native();
    let came = generator.run(&|| stop.is_asked(), &mut |now| {
        if now.phase == Phase::Sending && now.elapsed >= next {
            next = now.elapsed + every;
            if let Some(reading) = meter.read(now.elapsed, &[now.sent, now.returned.get(answers.0)]) {
                progress.show(&reading);
            }
        }
    });
    // Detached before anything is said.
    drop(generator);
    let came = came.map_err(refused)?;
    let stopped_by = if came.stopped {
        StoppedBy::Interrupt
    } else if setup.count.is_some_and(|count| came.sent >= count) {
        StoppedBy::Count
    } else {
        StoppedBy::Duration
    };
    let mut outcome = Outcome::new(plan.clone(), stopped_by, came.took);
    outcome.figures = figures(&setup, &came);
    outcome.warnings = warnings(&setup, &came, native);
    meter.read(came.took, &[came.sent, came.returned.get(answers.0)]);
    outcome.series = meter.series();
    if !came.latencies.is_empty() {
        let name = if setup.kind == Kind::Udp {
            "round trip"
        } else {
            "SYN to SYN-ACK"
        };
        outcome.latencies = vec![Latency {
            name: name.to_owned(),
            histogram: came.latencies,
        }];
    }
    Ok(outcome)
}

fn figures(setup: &Setup, came: &generator::Outcome) -> Vec<Figure> {
    let seconds = came.took.as_secs_f64().max(1e-9);
    // With the frame check sequence, as sizes are given.
    let bits = (came.bytes + 4 * came.sent) as f64 * 8.0;
    let mut figures = vec![
        Figure::new("sent", Value::Count(came.sent)),
        Figure::new("sent", Value::Rate(came.sent as f64 / seconds)),
        Figure::new("sent", Value::Bits(bits / seconds)),
    ];
    let mut count = |name: &str, counter| {
        figures.push(Figure::new(name, Value::Count(came.returned.get(counter))));
    };
    match setup.kind {
        Kind::Udp => {
            count("returned", Counter::Packets);
            if came.returned.get(Counter::Packets) > 0 {
                count("returned reordered", Counter::Reordered);
                count("returned duplicates", Counter::Duplicates);
            }
        }
        Kind::Syn | Kind::Ack => count("accepted", Counter::SynAcks),
        Kind::Handshake => count("completed", Counter::Handshakes),
    }
    if setup.kind != Kind::Udp {
        count("refused", Counter::Resets);
    }
    if setup.check {
        count("checksum faults", Counter::L4Faults);
        count("header checksum faults", Counter::IpFaults);
    }
    if setup.kind == Kind::Ack {
        figures.push(Figure::new("opened", Value::Count(came.opened)));
    }
    figures
}

fn warnings(setup: &Setup, came: &generator::Outcome, native: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    let (left, dropped) = came.interface;
    if left < came.generated - came.generated / 100 {
        warnings.push(format!(
            "{} packets were made, but {} counted {left} as sent and {dropped} as dropped: the rest was lost before the \
             wire, by a queue that was full or a driver that does not send XDP frames",
            came.generated, setup.interface
        ));
    }
    if let Some(rate) = setup.rate
        && !came.stopped
        && (came.sent as f64) < rate as f64 * came.took.as_secs_f64() * 0.99 - 1.0
    {
        warnings.push(format!(
            "the rate of {rate}/s was not reached: use more --cores, or ask for less"
        ));
    }
    if !native {
        warnings.push(format!(
            "the driver of {} has no XDP: what came back went the slower generic way",
            setup.interface
        ));
    }
    warnings
}

/// Source addresses from one on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SourceRange {
    first: IpAddr,
    addresses: u32,
}

impl SourceRange {
    fn check(self, v6: bool, flows: u32) -> Result<(), ApiError> {
        if self.first.is_ipv6() != v6 {
            return Err(wrong(
                "--source and --to are of different families: give both IPv4 or both IPv6 addresses".to_owned(),
            ));
        }
        if self.first.is_multicast() || self.first.is_unspecified() || self.first.is_loopback() {
            return Err(wrong(format!("--source {} is not the address of a host", self.first)));
        }
        let room = u64::from(self.addresses) * u64::from(PORTS);
        if u64::from(flows) > room {
            let wanted = flows.div_ceil(PORTS);
            return Err(wrong(format!(
                "{flows} flows need {wanted} source addresses of {PORTS} ports each, and there are {}: give \
                 --source ADDRESS/LENGTH of a subnet whose answers are routed back to this host",
                self.addresses
            )));
        }
        Ok(())
    }
}

fn source_range(text: &str) -> Result<SourceRange, String> {
    let (address, length) = text.split_once('/').map_or((text, None), |(a, l)| (a, Some(l)));
    let first: IpAddr = address.parse().map_err(|_| "expected an address, or ADDRESS/LENGTH")?;
    let bits: u32 = if first.is_ipv6() { 128 } else { 32 };
    let Some(length) = length else {
        return Ok(SourceRange { first, addresses: 1 });
    };
    let length: u32 = length.parse().map_err(|_| "expected a prefix length behind the /")?;
    if length > bits {
        return Err(format!("a prefix length is {bits} at most"));
    }
    // No more than the last 16 bits are counted through: 65,536 addresses have 4 thousand million flows.
    let size = 1u32 << (bits - length).min(16);
    let place = frame::last_bits(first) & (size - 1);
    Ok(SourceRange {
        first,
        addresses: size - place,
    })
}

fn mac(text: &str) -> Result<Mac, String> {
    let expected = || "expected six bytes such as 02:00:00:00:00:01".to_owned();
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).map_err(|_| expected()))
        .collect::<Result<_, _>>()?;
    let bytes: [u8; 6] = bytes.try_into().map_err(|_| expected())?;
    if bytes.first().is_some_and(|first| first & 1 == 1) {
        return Err("a multicast or broadcast address reaches more than one host".to_owned());
    }
    Ok(Mac(bytes))
}

/// A number with k, M or G behind it.
pub(super) fn amount(text: &str) -> Result<u64, String> {
    let expected = || "expected a number above zero, such as 500, 10k or 1.5M".to_owned();
    let (number, scale) = match text.strip_suffix(['k', 'K', 'm', 'M', 'g', 'G']) {
        Some(number) if text.ends_with(['k', 'K']) => (number, 1e3),
        Some(number) if text.ends_with(['m', 'M']) => (number, 1e6),
        Some(number) => (number, 1e9),
        None => (text, 1.0),
    };
    let value = number.parse::<f64>().map_err(|_| expected())? * scale;
    if !(1.0..=1e15).contains(&value) {
        return Err(expected());
    }
    Ok(value.round() as u64)
}

fn order(text: &str) -> Result<Order, String> {
    match text.split_once(':') {
        None if text == "in-turn" => Ok(Order::InTurn),
        None if text == "uniform" => Ok(Order::Uniform),
        None if text == "zipf" => Ok(Order::Zipf(1.0)),
        Some(("zipf", exponent)) => match exponent.parse::<f64>() {
            Ok(exponent) if (0.0..=10.0).contains(&exponent) => Ok(Order::Zipf(exponent)),
            _ => Err("zipf's exponent is a number from 0 to 10, such as 1.1".to_owned()),
        },
        _ => Err("expected in-turn, uniform or zipf:EXPONENT".to_owned()),
    }
}

fn sizes(text: &str) -> Result<Sizes, String> {
    if text.eq_ignore_ascii_case("imix") {
        return Ok(Sizes::Imix);
    }
    match text.parse() {
        Ok(size @ 64..=1518) => Ok(Sizes::Fixed(size)),
        _ => Err("expected 64 to 1518 bytes, or imix".to_owned()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        for (text, value) in [
            ("500", 500),
            ("10k", 10_000),
            ("1.5M", 1_500_000),
            ("2G", 2_000_000_000),
        ] {
            assert_eq!(amount(text), Ok(value));
        }
        for text in ["", "0", "-1", "k", "10x", "nan", "inf"] {
            assert!(amount(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_source_range_runs_from_its_address_to_the_subnets_end() {
        let range = |text| source_range(text).map(|r| (r.first.to_string(), r.addresses));
        assert_eq!(range("10.0.0.7"), Ok(("10.0.0.7".to_owned(), 1)));
        assert_eq!(range("10.0.0.7/24"), Ok(("10.0.0.7".to_owned(), 249)));
        assert_eq!(range("10.0.0.0/8"), Ok(("10.0.0.0".to_owned(), 65536)));
        assert_eq!(range("fd00::1/120"), Ok(("fd00::1".to_owned(), 255)));
        assert!(range("10.0.0.7/33").is_err());
        assert!(range("here").is_err());
    }

    #[test]
    fn more_flows_than_ports_need_more_addresses() {
        let one = source_range("10.0.0.7").unwrap();
        assert!(one.check(false, PORTS).is_ok());
        assert!(
            one.check(false, PORTS + 1)
                .unwrap_err()
                .message
                .contains("2 source addresses")
        );
        assert!(source_range("10.0.0.1/24").unwrap().check(false, 1_000_000).is_ok());
        assert!(one.check(true, 1).is_err());
    }

    #[test]
    fn orders_and_sizes() {
        assert_eq!(order("zipf:1.2"), Ok(Order::Zipf(1.2)));
        assert_eq!(order("uniform"), Ok(Order::Uniform));
        assert!(order("zipf:x").is_err());
        assert!(order("random").is_err());
        assert_eq!(sizes("IMIX"), Ok(Sizes::Imix));
        assert_eq!(sizes("1518"), Ok(Sizes::Fixed(1518)));
        assert!(sizes("63").is_err());
    }

    #[test]
    fn a_mac_address_is_one_hosts() {
        assert_eq!(mac("02:00:00:00:00:0a"), Ok(Mac([2, 0, 0, 0, 0, 10])));
        assert!(mac("ff:ff:ff:ff:ff:ff").is_err());
        assert!(mac("02:00").is_err());
    }
}
