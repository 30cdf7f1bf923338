//! The generator: frames that the kernel makes and sends, on one thread per core.

use std::{
    fs,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, PerCpuArray, PerCpuValues},
    programs::Xdp,
    util::nr_cpus,
};
use hdrhistogram::Histogram as Latencies;
use lb_common::traffic::{Counter, Counters, Lane, SIZES};
use nix::{
    sys::pthread::Pthread,
    time::{ClockId, clock_gettime},
};

use super::{
    DatapathError, OBJECT,
    attach::{Attached, attach, load, program},
    chain, counters,
    frame::{self, Common, Content, RST_ACK, SYN},
    kernel,
    lanes::{self, Work},
    latencies, per_cpu,
    setup::{Kind, Order, Setup},
    workers::{Job, context, end_workers, install_handler},
};

/// How long one looks at the cores' progress at a time.
const LOOK: Duration = Duration::from_millis(5);
/// How long answers may be under way when the last packet was sent.
const LINGER: Duration = Duration::from_millis(300);
/// Part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The connection requests that come before.
    Opening,
    /// What was asked for.
    Sending,
    /// Answers that are still under way.
    Lingering,
    /// RST for every connection.
    Closing,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Snapshot {
    /// Where in the run.
    pub phase: Phase,
    /// Since the phase's first packet, until its last if all were sent.
    pub elapsed: Duration,
    /// Packets of the phase that were sent.
    pub sent: u64,
    /// Their bytes, frame check sequence not counted.
    pub bytes: u64,
    /// What came back since the run began.
    pub returned: Counters,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Packets sent while [`Phase::Sending`].
    pub sent: u64,
    /// Their bytes, frame check sequence not counted.
    pub bytes: u64,
    /// How long that took.
    pub took: Duration,
    /// Connection requests sent before.
    pub opened: u64,
    /// Packets that the interface counted as sent in the whole run, and as dropped; other traffic is counted too.
    pub interface: (u64, u64),
    /// Packets generated in the whole run, to compare that with.
    pub generated: u64,
    /// What came back.
    pub returned: Counters,
    /// From request to answer, in nanoseconds.
    pub latencies: Latencies<u64>,
    /// Whether it was stopped before its end.
    pub stopped: bool,
}

/// A generator that is ready. What is attached goes when it is dropped.
#[derive(Debug)]
pub struct Generator {
    setup: Setup,
    ebpf: Ebpf,
    returns: Attached,
}

impl Generator {
    /// Loads the programs and attaches the one for returning packets to the sending interface. Sends nothing.
    ///
    /// # Errors
    /// When the kernel refuses, or the interface has another XDP program.
    pub fn prepare(setup: Setup) -> Result<Self, DatapathError> {
        install_handler()?;
        let order_kind: u8 = match setup.order {
            Order::InTurn => 0,
            Order::Uniform => 1,
            Order::Zipf(_) => 2,
        };
        let order = lanes::drawn_order(&setup)?;
        let [latency, check, paced, mixed, timed, acknowledge, redirect_back] = [
            setup.latency,
            setup.check,
            setup.rate.is_some(),
            setup.mixed(),
            setup.kind == Kind::Handshake || (setup.kind == Kind::Syn && setup.latency),
            setup.kind == Kind::Handshake,
            setup.redirect_back,
        ]
        .map(u8::from);
        let targets = u32::try_from(setup.targets.len()).unwrap_or(1);
        let sizes = if setup.mixed() { SIZES as u32 } else { 1 };
        let (port, source) = (setup.port(), frame::last_bits(setup.source));
        let sequences = if setup.order == Order::InTurn { 1 } else { setup.flows };
        let mut ebpf = EbpfLoader::new()
            .override_global("ORDER_KIND", &order_kind, true)
            .override_global("LATENCY", &latency, true)
            .override_global("CHECK", &check, true)
            .override_global("PACED", &paced, true)
            .override_global("MIXED", &mixed, true)
            .override_global("TIMED_SYNS", &timed, true)
            .override_global("ACKNOWLEDGE", &acknowledge, true)
            .override_global("REDIRECT_BACK", &redirect_back, true)
            .override_global("TARGETS", &targets, true)
            .override_global("RUN", &setup.run, true)
            .override_global("PORT", &port, true)
            .override_global("FLOWS", &setup.flows, true)
            .override_global("SOURCE", &source, true)
            .map_max_entries("TEMPLATES", targets * sizes)
            .map_max_entries("SEQUENCES", sequences)
            .map_max_entries("ORDER", u32::try_from(order.len()).unwrap_or(1).max(1))
            .map_max_entries("TRACKS", setup.flows)
            .load(OBJECT)
            .map_err(|e| kernel("cannot load the generator", chain(&e)))?;
        write_order(&mut ebpf, &order)?;
        for name in ["returns", program_name(&setup, setup.content()), bare_name(&setup)] {
            if program(&mut ebpf, name)?.fd().is_err() {
                load(&mut ebpf, name)?;
            }
        }
        let returns = attach(&mut ebpf, "returns", &setup.interface, setup.ifindex)?;
        Ok(Self { setup, ebpf, returns })
    }

    /// Whether the sending interface's driver has XDP.
    #[must_use]
    pub const fn native(&self) -> bool {
        self.returns.native
    }

    /// Sends, until all is sent, the time is up or `stop` is set. `watch` is called about every 100 ms.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn run(&mut self, stop: &dyn Fn() -> bool, watch: &mut dyn FnMut(&Snapshot)) -> Result<Outcome, DatapathError> {
        let setup = self.setup.clone();
        let end = Instant::now() + setup.duration;
        let before = interface_counters(&setup.interface);
        let mut generated = 0;
        let mut opened = 0;
        let each = Work {
            packets: Some(setup.flows.into()),
            rate: setup.rate,
            sequence_base: 0,
            each: true,
        };
        if setup.kind == Kind::Ack {
            opened = self
                .phase(Phase::Opening, Content::Bare { flags: SYN }, each, end, stop, watch)?
                .sent;
            generated += opened;
        }
        let work = match setup.kind {
            Kind::Handshake => each,
            Kind::Udp | Kind::Syn | Kind::Ack => Work {
                packets: setup.count,
                sequence_base: u32::from(setup.kind == Kind::Ack),
                each: false,
                ..each
            },
        };
        let sending = self.phase(Phase::Sending, setup.content(), work, end, stop, watch)?;
        generated += sending.sent;
        self.linger(&sending, end, stop, watch)?;
        if setup.close && matches!(setup.kind, Kind::Ack | Kind::Handshake) {
            let closing = Work {
                sequence_base: 1,
                ..each
            };
            // Connections are ended even when the time is up.
            let end = Instant::now() + Duration::from_secs(30);
            let never = || false;
            let flags = Content::Bare { flags: RST_ACK };
            generated += self.phase(Phase::Closing, flags, closing, end, &never, watch)?.sent;
            thread::sleep(LOOK);
        }
        let after = interface_counters(&setup.interface);
        Ok(Outcome {
            sent: sending.sent,
            bytes: sending.bytes,
            took: sending.elapsed,
            opened,
            interface: (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1)),
            generated,
            returned: counters(&self.ebpf)?,
            latencies: latencies(&self.ebpf)?,
            stopped: stop(),
        })
    }

    /// Waits for answers: handshakes until all flows had one or nothing came for a while.
    fn linger(
        &self,
        sending: &Snapshot,
        end: Instant,
        stop: &dyn Fn() -> bool,
        watch: &mut dyn FnMut(&Snapshot),
    ) -> Result<(), DatapathError> {
        let begun = Instant::now();
        let mut quiet = begun;
        let mut last = counters(&self.ebpf)?;
        while quiet.elapsed() < LINGER && Instant::now() < end + LINGER && !stop() {
            let answered = last.get(Counter::Handshakes) + last.get(Counter::Resets);
            if self.setup.kind == Kind::Handshake && answered >= self.setup.flows.into() {
                break;
            }
            thread::sleep(LOOK);
            let now = counters(&self.ebpf)?;
            if now != last {
                (quiet, last) = (Instant::now(), now);
            }
        }
        watch(&Snapshot {
            phase: Phase::Lingering,
            elapsed: begun.elapsed(),
            returned: last,
            ..*sending
        });
        Ok(())
    }

    /// Sends one kind of frame on all cores.
    fn phase(
        &mut self,
        phase: Phase,
        content: Content,
        work: Work,
        end: Instant,
        stop: &dyn Fn() -> bool,
        watch: &mut dyn FnMut(&Snapshot),
    ) -> Result<Snapshot, DatapathError> {
        let frame = self.write_templates(content)?;
        let lanes = lanes::divide(&self.setup, &work, u32::try_from(frame.len()).unwrap_or_default());
        self.write_lanes(&lanes)?;
        let program = run_program(&self.ebpf, program_name(&self.setup, content))?;
        let context = context(frame.len(), self.setup.ifindex);
        let repeat = match (self.setup.rate, work.packets) {
            (None, Some(packets)) if lanes.len() == 1 => u32::try_from(packets).unwrap_or(u32::MAX),
            _ => u32::MAX,
        };
        let job = Job {
            program,
            frame: &frame,
            context: &context,
            repeat,
            ended: &AtomicBool::new(false),
        };
        let look = || self.look(phase, &lanes, frame.len());
        thread::scope(|scope| {
            let (report, threads) = mpsc::channel();
            let workers: Vec<_> = (self.setup.cores.iter().zip(&lanes))
                .map(|(core, _)| {
                    let (core, job, report) = (*core, &job, report.clone());
                    scope.spawn(move || job.run(core, report))
                })
                .collect();
            drop(report);
            let threads: Vec<Pthread> = threads.iter().collect();
            let mut shown = Instant::now();
            let watched = loop {
                let snapshot = match look() {
                    Ok(snapshot) => snapshot,
                    Err(error) => break Err(error),
                };
                let all_sent = lanes_total(&lanes) == Some(snapshot.sent);
                let idle = workers.iter().all(ScopedJoinHandle::is_finished);
                if all_sent || idle || Instant::now() >= end || stop() {
                    break Ok(());
                }
                if shown.elapsed() >= Duration::from_millis(100) {
                    shown = Instant::now();
                    watch(&snapshot);
                }
                thread::sleep(LOOK);
            };
            job.ended.store(true, Ordering::Relaxed);
            let result = end_workers(workers, &threads);
            watched.and(result)?;
            look()
        })
    }

    fn look(&self, phase: Phase, lanes: &[Lane], length: usize) -> Result<Snapshot, DatapathError> {
        let values = per_cpu::<Lane>(&self.ebpf, "LANES")?
            .get(&0, 0)
            .map_err(|e| kernel("map LANES", chain(&e)))?;
        let (mut sent, mut bytes, mut begun, mut ended) = (0, 0, u64::MAX, 0);
        let clock = clock()?;
        for (core, lane) in self.setup.cores.iter().zip(lanes) {
            if let Some(now) = values.get(*core) {
                sent += lane.left - now.left;
                bytes += now.bytes;
                if now.begun > 0 {
                    begun = begun.min(now.begun);
                    ended = ended.max(if now.ended > 0 { now.ended } else { clock });
                }
            }
        }
        // Only a mix is counted by the program.
        if bytes == 0 {
            bytes = sent * length as u64;
        }
        Ok(Snapshot {
            phase,
            elapsed: Duration::from_nanos(ended.saturating_sub(begun)),
            sent,
            bytes,
            returned: counters(&self.ebpf)?,
        })
    }

    /// Writes the frames' heads; returns the longest frame.
    fn write_templates(&mut self, content: Content) -> Result<Vec<u8>, DatapathError> {
        let common = Common {
            mac: self.setup.mac,
            source: self.setup.source,
            run: self.setup.run,
        };
        let shortest = content.shortest(self.setup.source.is_ipv6());
        // A mix has as many heads for each target whatever they are.
        let lengths = match content {
            Content::Bare { .. } if self.setup.mixed() => vec![shortest; SIZES],
            Content::Bare { .. } => vec![shortest],
            Content::Udp | Content::Data => self.setup.lengths(),
        };
        let map = self
            .ebpf
            .map_mut("TEMPLATES")
            .ok_or_else(|| kernel("map TEMPLATES", "not in the object"))?;
        let mut templates = Array::try_from(map).map_err(|e| kernel("map TEMPLATES", chain(&e)))?;
        let mut longest = Vec::new();
        let each = self
            .setup
            .targets
            .iter()
            .flat_map(|target| lengths.iter().map(move |length| (target, *length)));
        for (number, (target, length)) in (0..).zip(each) {
            let frame = frame::frame(&common, target, content, length);
            templates
                .set(number, frame::template(&frame), 0)
                .map_err(|e| kernel("map TEMPLATES", chain(&e)))?;
            if frame.len() > longest.len() {
                longest = frame;
            }
        }
        Ok(longest)
    }

    fn write_lanes(&mut self, lanes: &[Lane]) -> Result<(), DatapathError> {
        let cpus = nr_cpus().map_err(|(path, e)| kernel(path, e))?;
        let mut values = vec![Lane::default(); cpus];
        for (core, lane) in self.setup.cores.iter().zip(lanes) {
            if let Some(place) = values.get_mut(*core) {
                *place = *lane;
            }
        }
        let values = PerCpuValues::try_from(values).map_err(|e| kernel("map LANES", e))?;
        let map = self
            .ebpf
            .map_mut("LANES")
            .ok_or_else(|| kernel("map LANES", "not in the object"))?;
        let mut map: PerCpuArray<_, Lane> = map.try_into().map_err(|e| kernel("map LANES", chain(&e)))?;
        map.set(0, values, 0).map_err(|e| kernel("map LANES", chain(&e)))
    }
}

/// The packets of all lanes, if they are limited.
fn lanes_total(lanes: &[Lane]) -> Option<u64> {
    lanes
        .iter()
        .try_fold(0, |sum: u64, lane| (lane.left < u64::MAX).then(|| sum + lane.left))
}

fn write_order(ebpf: &mut Ebpf, order: &[u32]) -> Result<(), DatapathError> {
    let map = ebpf
        .map_mut("ORDER")
        .ok_or_else(|| kernel("map ORDER", "not in the object"))?;
    let mut map: Array<_, u32> = map.try_into().map_err(|e| kernel("map ORDER", chain(&e)))?;
    for (place, flow) in (0..).zip(order) {
        map.set(place, *flow, 0).map_err(|e| kernel("map ORDER", chain(&e)))?;
    }
    Ok(())
}

const fn program_name(setup: &Setup, content: Content) -> &'static str {
    match (content, setup.source.is_ipv6()) {
        (Content::Udp, false) => "generate_udp_v4",
        (Content::Udp, true) => "generate_udp_v6",
        (Content::Bare { .. }, false) => "generate_bare_v4",
        (Content::Bare { .. }, true) => "generate_bare_v6",
        (Content::Data, false) => "generate_data_v4",
        (Content::Data, true) => "generate_data_v6",
    }
}

const fn bare_name(setup: &Setup) -> &'static str {
    program_name(setup, Content::Bare { flags: SYN })
}

fn run_program<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a Xdp, DatapathError> {
    ebpf.program(name)
        .ok_or_else(|| kernel(format!("program {name}"), "not in the object"))?
        .try_into()
        .map_err(|e| kernel(format!("program {name}"), chain(&e)))
}

/// The clock that the programs read.
fn clock() -> Result<u64, DatapathError> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_err(|e| kernel("cannot read the clock", e))?;
    Ok(u64::try_from(Duration::from(time).as_nanos()).unwrap_or_default())
}

/// Packets that an interface of this network namespace has sent, and those it dropped instead; zero if it does not say.
fn interface_counters(name: &str) -> (u64, u64) {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let line = table.lines().find_map(|line| {
        let (device, counters) = line.split_once(':')?;
        (device.trim() == name).then_some(counters)
    });
    let column = |n| {
        line.and_then(|counters| counters.split_whitespace().nth(n)?.parse().ok())
            .unwrap_or_default()
    };
    const SENT: usize = 9;
    const DROPPED: usize = 11;
    (column(SENT), column(DROPPED))
}
