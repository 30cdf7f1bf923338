//! The path that frames take: a generator's veth, a device that receives, a device that sends, and a veth that
//! discards, in a namespace of their own.
//!
//! ```text
//! gen === in [what is measured] out === sink
//! ```

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, DevMapHash, MapData},
    programs::{ProgramInfo, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, xdp::XdpMode},
};
use lb_tests::Namespace;
use lb_userspace::datapath::loader::BENCH_OBJECT;
use nix::{
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use super::traffic::{Load, Traffic};
use crate::interrupt;

/// MAC address of `gen`.
pub(crate) const GENERATOR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// MAC address of `in`.
pub(crate) const INGRESS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// MAC address of `out`.
pub(crate) const EGRESS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// MAC address of `sink`.
pub(crate) const SINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 4];

/// Frames that the generator hands over at once: as many as one poll of a veth takes.
pub(super) const BATCH: u32 = 64;

/// A chain of devices with a generator at its head.
pub(crate) struct Chain {
    namespace: Namespace,
    ebpf: Ebpf,
    load: Load,
    template: Vec<u8>,
    /// The device at which frames are counted.
    end: &'static str,
}

/// What one run of the generator gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// Frames generated.
    pub(crate) sent: u64,
    /// Frames that came to the chain's end.
    pub(crate) arrived: u64,
    took: Duration,
}

impl Run {
    /// From the first frame's making to the last one's end.
    pub(crate) const fn took(&self) -> Duration {
        self.took
    }

    /// What was sent and what arrived meanwhile.
    pub(super) const fn new(sent: u64, arrived: u64, took: Duration) -> Self {
        Self { sent, arrived, took }
    }

    /// A run that took no time.
    #[cfg(test)]
    pub(crate) const fn of(sent: u64, arrived: u64) -> Self {
        Self {
            sent,
            arrived,
            took: Duration::ZERO,
        }
    }

    /// Frames a second at the chain's end.
    #[expect(clippy::cast_precision_loss, reason = "millions")]
    pub(crate) fn rate(&self) -> f64 {
        self.arrived as f64 / self.took.as_secs_f64()
    }
}

impl Chain {
    /// Makes the devices, with nothing between `in` and `out` yet.
    pub(crate) fn new(load: impl Into<Load>) -> Result<Self> {
        Self::with_queues(1, load)
    }

    /// The same with so many queues in each device. A veth puts what a core sends into the queue of the core's number.
    pub(crate) fn with_queues(queues: usize, load: impl Into<Load>) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        interrupt::check()?;
        let load = load.into();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace::create(&format!("lbt-{}-{number}", std::process::id()));
        namespace.sh(&format!(
            "for c in all default; do echo 1 >/proc/sys/net/ipv6/conf/$c/disable_ipv6; done
             veth='numrxqueues {queues} numtxqueues {queues}'
             ip link add gen address 02:00:00:00:00:01 $veth type veth peer name in address 02:00:00:00:00:02 $veth
             ip link add out address 02:00:00:00:00:03 $veth type veth peer name sink address 02:00:00:00:00:04 $veth
             for device in gen in out sink; do ip link set $device arp off up; done"
        ));
        let mut chain = Self {
            namespace,
            ebpf: programs(load)?,
            load,
            template: Vec::new(),
            end: "sink",
        };
        chain.carry(load.traffic)?;
        chain.program(load.traffic.generator())?.load()?;
        // A veth takes frames from other devices' XDP programs only where it has one itself.
        chain.attach("sink", "gen")?;
        Ok(chain)
    }

    /// Has the next frames be of another kind that the same program generates.
    pub(crate) fn carry(&mut self, traffic: Traffic) -> Result<()> {
        self.load.traffic = traffic;
        self.template = traffic.template(self.load.frame)?;
        set_template(&mut self.ebpf, &self.template)
    }

    /// The namespace of the devices.
    pub(crate) const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The name of this chain's packet path.
    pub(crate) fn instance(&self) -> &str {
        self.namespace.name()
    }

    /// What its frames are.
    pub(crate) const fn traffic(&self) -> Traffic {
        self.load.traffic
    }

    /// What it carries.
    pub(crate) const fn load(&self) -> Load {
        self.load
    }

    /// The index of a device.
    pub(crate) fn ifindex(&self, device: &str) -> Result<u32> {
        let index = self.namespace.run(|| if_nametoindex(device));
        index.with_context(|| format!("no device {device} in {}", self.namespace.name()))
    }

    /// Attaches one of the programs for measurements to a device.
    pub(crate) fn attach(&mut self, program: &str, device: &'static str) -> Result<()> {
        let index = self.ifindex(device)?;
        let Self { namespace, ebpf, .. } = self;
        namespace.run(|| {
            let program = find(ebpf, program)?;
            if program.fd().is_err() {
                program.load()?;
            }
            program.attach_to_if_index(index, XdpMode::Driver)?;
            Ok(())
        })
    }

    /// Puts a bare XDP program between `in` and `out` that redirects, or one that sends back.
    pub(crate) fn bare(mut self, program: &str) -> Result<Self> {
        let out = self.ifindex("out")?;
        let target = self.ebpf.map_mut("TARGET").context("no map TARGET")?;
        // The kernel looks the index up in the namespace of whoever writes.
        self.namespace
            .run(|| -> Result<()> { Ok(DevMapHash::try_from(target)?.insert(0, out, None, 0)?) })?;
        self.attach(program, "in")?;
        self.attach("pass", "out")?;
        self.attach("sink", "sink")?;
        if program == "bare_tx" {
            self.end = "gen";
        }
        Ok(self)
    }

    /// Discards frames as soon as they come in, so that only their making is left to measure.
    pub(crate) fn discard(mut self) -> Result<Self> {
        self.attach("sink", "in")?;
        self.end = "in";
        Ok(self)
    }

    /// Has the next frames belong to flows from `first` on, in turn, until number `flows`.
    pub(crate) fn flows(&mut self, first: u32, flows: u32) -> Result<()> {
        take_turns(&mut self.ebpf, first, flows)
    }

    /// The device at which frames are counted.
    pub(super) const fn end(&self) -> &'static str {
        self.end
    }

    /// What the kernel says of one of the programs for measurements.
    pub(crate) fn info(&mut self, program: &str) -> Result<ProgramInfo> {
        Ok(self.program(program)?.info()?)
    }

    /// Generates frames and waits until they have gone through.
    pub(crate) fn send(&mut self, frames: u32) -> Result<Run> {
        interrupt::check()?;
        let (generator, end) = (self.load.traffic.generator(), self.end);
        let context = context(self.template.len(), self.ifindex("gen")?);
        let Self {
            namespace,
            ebpf,
            template,
            ..
        } = self;
        namespace.run(|| {
            pin()?;
            let program = find(ebpf, generator)?;
            let before = received(end)?;
            let start = Instant::now();
            let result = program.test_run(TestRunOptions {
                data_in: Some(template),
                ctx_in: Some(&context),
                repeat: frames,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::new()
            });
            let took = start.elapsed();
            interrupt::check()?;
            result.context("the generator failed")?;
            thread::sleep(Duration::from_millis(2));
            Ok(Run {
                sent: frames.into(),
                arrived: received(end)?.saturating_sub(before),
                took,
            })
        })
    }

    fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        find(&mut self.ebpf, name)
    }
}

/// The programs for measurements.
pub(super) fn programs(load: Load) -> Result<Ebpf> {
    EbpfLoader::new()
        .override_global("SERVICES", &u32::from(load.services), true)
        .load(BENCH_OBJECT)
        .context("cannot load the programs for measurements")
}

/// Has a generator make its frames from this one.
pub(super) fn set_template(ebpf: &mut Ebpf, frame: &[u8]) -> Result<()> {
    let words = frame
        .chunks_exact(4)
        .filter_map(|bytes| bytes.try_into().ok().map(u32::from_ne_bytes));
    let mut template = [0u32; 16];
    for (place, word) in template.iter_mut().zip(words) {
        *place = word;
    }
    array::<[u32; 16]>(ebpf, "TEMPLATE")?.set(0, template, 0)?;
    Ok(())
}

/// Has a generator's next frames belong to flows from `first` on, in turn, until number `flows`.
pub(super) fn take_turns(ebpf: &mut Ebpf, first: u32, flows: u32) -> Result<()> {
    array::<[u32; 2]>(ebpf, "TURN")?.set(0, [first, flows], 0)?;
    Ok(())
}

fn array<'a, T: aya::Pod>(ebpf: &'a mut Ebpf, name: &str) -> Result<Array<&'a mut MapData, T>> {
    let map = ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
    Ok(Array::try_from(map)?)
}

pub(super) fn find<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

/// The kernel's `struct xdp_md` for a frame that comes in on an interface.
pub(super) fn context(length: usize, ifindex: u32) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or_default();
    let (data, data_meta, queue, egress) = (0, 0, 0, 0);
    [data, length, data_meta, ifindex, queue, egress]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect()
}

/// Keeps this thread, and with it all work on its frames, on the last core.
fn pin() -> Result<()> {
    pin_to(cores().saturating_sub(1))
}

/// How many cores there are.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Keeps this thread on a core.
pub(super) fn pin_to(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot stay on one core")
}

/// Frames that a device of this thread's namespace has received.
pub(super) fn received(device: &str) -> Result<u64> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    let count = table.lines().find_map(|line| {
        let (name, counters) = line.split_once(':')?;
        if name.trim() != device {
            return None;
        }
        counters.split_whitespace().nth(1)?.parse().ok()
    });
    match count {
        Some(count) => Ok(count),
        None => bail!("no counters of {device}"),
    }
}
