//! `lb bench sink`: the receiving end of `udp`, `syn`, `ack` and `handshake`.

use std::{
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use lb_common::{
    net::TCP,
    traffic::{Counter, Counters},
};

use super::{
    super::view::View,
    OutputArgs,
    open::{amount, refused},
    run_duration,
};
use crate::{
    api::{ApiError, ErrorKind},
    bench::{
        meter::Meter,
        progress::Progress,
        report::{Figure, Latency, Outcome, Plan, StoppedBy, Table, Value},
        stop::Stop,
    },
    datapath::traffic::sink::{Sink, SinkSetup},
    net::{KernelNetwork, Network as _},
};

/// How often the counters are read.
const LOOK: Duration = Duration::from_millis(20);

/// Options of `lb bench sink`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Start it on the servers before the traffic. It takes the packets of one run that
go to its port, and leaves everything else to the kernel as it came.
Flows of several sinks add up to those sent if none changed its server.

Examples:
  lb bench sink --interface eth0 --port 53 --duration 1m
  lb bench sink --interface eth0 --port 53 --reflect     round trips for udp
  lb bench sink --interface eth0 --port 80 --respond     a server for handshake")]
pub struct SinkArgs {
    /// Interfaces on which traffic arrives
    #[arg(long, value_name = "NAME", value_delimiter = ',', required = true)]
    interface: Vec<String>,

    /// Port that it goes to when it arrives
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,

    /// End after this time
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = run_duration)]
    duration: Duration,

    /// End after this many packets
    #[arg(long, value_name = "N", value_parser = amount)]
    count: Option<u64>,

    /// End when none came for this time, once one has
    #[arg(long, value_name = "DURATION", value_parser = run_duration)]
    idle: Option<Duration>,

    /// Room for flows; others go by
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=64_000_000))]
    flows: u32,

    /// The sender's run [default: the first to come]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    run: Option<u16>,

    /// Do not check checksums, which takes time
    #[arg(long)]
    no_check: bool,

    /// Send UDP datagrams back, for round trips
    #[arg(long)]
    reflect: bool,

    /// Answer TCP connection requests
    #[arg(long)]
    respond: bool,

    /// Measure the way here: on the sender's host only
    #[arg(long)]
    one_way: bool,

    #[command(flatten)]
    output: OutputArgs,
}

impl SinkArgs {
    pub(super) fn run(&self, view: &View) -> Result<(), ApiError> {
        crate::datapath::loader::check_capabilities().map_err(refused)?;
        let (interfaces, veth) = self.find()?;
        let plan = self.plan();
        self.output.conduct(view, &plan, |stop, progress| {
            let sink = Sink::start(&self.setup(veth), &interfaces).map_err(refused)?;
            self.receive(&sink, &plan, stop, progress)
        })
    }

    /// The interfaces with their indices, and whether there is a veth among them.
    fn find(&self) -> Result<(Vec<(String, u32)>, bool), ApiError> {
        let cannot = |message: String| ApiError {
            kind: ErrorKind::System,
            message,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| cannot(format!("cannot start: {e}")))?;
        let (network, _events) = runtime
            .block_on(KernelNetwork::start())
            .map_err(|e| cannot(e.to_string()))?;
        let (mut interfaces, mut veth) = (Vec::new(), false);
        for name in &self.interface {
            let link = network.interface(name).ok_or_else(|| ApiError {
                kind: ErrorKind::NotFound,
                message: format!("there is no interface {name}; `ip link` lists those that exist"),
            })?;
            interfaces.push((name.clone(), link.index));
            veth |= link.veth;
        }
        Ok((interfaces, veth))
    }

    fn setup(&self, veth: bool) -> SinkSetup {
        SinkSetup {
            port: self.port,
            run: self.run.unwrap_or_default(),
            flows: self.flows,
            check: !self.no_check,
            reflect: self.reflect,
            respond: self.respond,
            redirect_back: veth,
            one_way: self.one_way,
        }
    }

    fn plan(&self) -> Plan {
        let run = self
            .run
            .map_or_else(|| "that of the first packet".to_owned(), |run| run.to_string());
        Plan::new(format!("Receiving on port {}", self.port))
            .line("interfaces", Value::Text(self.interface.join(", ")))
            .line("run", Value::Text(run))
            .line("flows at most", Value::Count(self.flows.into()))
            .line("duration at most", Value::Time(self.duration))
            .line("checksums checked", Value::Flag(!self.no_check))
            .line("datagrams sent back", Value::Flag(self.reflect))
            .line("connections accepted", Value::Flag(self.respond))
    }

    fn receive(&self, sink: &Sink, plan: &Plan, stop: &Stop, progress: &mut Progress) -> Result<Outcome, ApiError> {
        let begun = Instant::now();
        let every = Meter::interval(self.duration);
        let mut meter = Meter::new(&["received"]);
        let (mut next, mut last, mut quiet) = (every, 0, begun);
        let mut span: Option<(Instant, Instant)> = None;
        let stopped_by = loop {
            thread::sleep(LOOK);
            let now = sink.counters().map_err(refused)?.get(Counter::Packets);
            if now != last {
                last = now;
                quiet = Instant::now();
                span = Some((span.map_or(quiet, |(first, _)| first), quiet));
            }
            if begun.elapsed() >= next {
                next = begun.elapsed() + every;
                if let Some(reading) = meter.read(begun.elapsed(), &[now]) {
                    progress.show(&reading);
                }
            }
            if stop.is_asked() {
                break StoppedBy::Interrupt;
            }
            if self.count.is_some_and(|count| now >= count) {
                break StoppedBy::Count;
            }
            let idle = now > 0 && self.idle.is_some_and(|idle| quiet.elapsed() >= idle);
            if idle || begun.elapsed() >= self.duration {
                break StoppedBy::Duration;
            }
        };
        let counters = sink.counters().map_err(refused)?;
        let mut outcome = Outcome::new(plan.clone(), stopped_by, begun.elapsed());
        outcome.figures = self.figures(&counters, span.map(|(first, last)| last - first + LOOK));
        let run = sink.run().map_err(refused)?;
        if run != 0 {
            outcome.figures.push(Figure::new("run", Value::Count(run.into())));
        }
        outcome.tables = vec![backends(sink)?];
        meter.read(begun.elapsed(), &[counters.get(Counter::Packets)]);
        outcome.series = meter.series();
        if self.one_way {
            let histogram = sink.latencies().map_err(refused)?;
            outcome.latencies = vec![Latency {
                name: "one way".to_owned(),
                histogram,
            }];
        }
        outcome.warnings = warnings(sink, &counters);
        Ok(outcome)
    }

    fn figures(&self, counters: &Counters, span: Option<Duration>) -> Vec<Figure> {
        let count = |name: &str, counter| Figure::new(name, Value::Count(counters.get(counter)));
        let lost = counters
            .get(Counter::Missing)
            .saturating_sub(counters.get(Counter::Reordered));
        let mut figures = vec![count("received", Counter::Packets)];
        if let Some(span) = span {
            let rate = counters.get(Counter::Packets) as f64 / span.as_secs_f64();
            figures.push(Figure::new("received", Value::Rate(rate)));
        }
        figures.extend([
            count("flows", Counter::Flows),
            Figure::new("lost", Value::Count(lost)),
            count("reordered", Counter::Reordered),
            count("duplicates", Counter::Duplicates),
            count("flows that changed server", Counter::Moved),
            count("flows begun late", Counter::BegunLate),
        ]);
        if !self.no_check {
            figures.push(count("checksum faults", Counter::L4Faults));
            figures.push(count("header checksum faults", Counter::IpFaults));
            figures.push(count("too long to check", Counter::Unchecked));
        }
        if counters.get(Counter::Syns) > 0 {
            figures.push(count("connection requests", Counter::Syns));
        }
        if self.respond {
            figures.push(count("handshakes", Counter::Handshakes));
            figures.push(count("resets", Counter::Resets));
        }
        figures
    }
}

fn backends(sink: &Sink) -> Result<Table, ApiError> {
    let row = |b: crate::datapath::traffic::sink::Backend| {
        vec![
            Value::Text(b.address.to_string()),
            Value::Text(if b.protocol == TCP { "tcp" } else { "udp" }.to_owned()),
            Value::Text(b.mac.to_string()),
            Value::Count(b.count.packets),
            Value::Count(b.count.bytes),
            Value::Count(b.count.flows),
        ]
    };
    Ok(Table {
        name: "packets by server".to_owned(),
        columns: vec!["server", "protocol", "mac", "packets", "bytes", "flows"],
        rows: sink.backends().map_err(refused)?.into_iter().map(row).collect(),
    })
}

fn warnings(sink: &Sink, counters: &Counters) -> Vec<String> {
    let mut warnings: Vec<String> = sink
        .generic()
        .map(|name| format!("the driver of {name} has no XDP: packets took the slower generic way"))
        .collect();
    let other = counters.get(Counter::OtherRun);
    if other > 0 {
        warnings.push(format!(
            "{other} packets of another run came, and were left to the kernel: give --run if they were meant"
        ));
    }
    if counters.get(Counter::BegunLate) > 0 {
        warnings.push(
            "flows were seen whose first packets did not come here: the sink was started late, packets were lost, or the \
             flows came from another server"
                .to_owned(),
        );
    }
    warnings
}
