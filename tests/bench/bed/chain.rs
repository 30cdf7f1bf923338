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
    Ebpf,
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

use super::traffic::Traffic;
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
const BATCH: u32 = 64;

/// A chain of devices with a generator at its head.
pub(crate) struct Chain {
    namespace: Namespace,
    ebpf: Ebpf,
    traffic: Traffic,
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

    /// Frames a second at the chain's end.
    #[expect(clippy::cast_precision_loss, reason = "millions")]
    pub(crate) fn rate(&self) -> f64 {
        self.arrived as f64 / self.took.as_secs_f64()
    }
}

impl Chain {
    /// Makes the devices, with nothing between `in` and `out` yet.
    pub(crate) fn new(traffic: Traffic) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        interrupt::check()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = Namespace::create(&format!("lbt-{}-{number}", std::process::id()));
        namespace.sh(
            "for c in all default; do echo 1 >/proc/sys/net/ipv6/conf/$c/disable_ipv6; done
             veth='numrxqueues 1 numtxqueues 1'
             ip link add gen address 02:00:00:00:00:01 $veth type veth peer name in address 02:00:00:00:00:02 $veth
             ip link add out address 02:00:00:00:00:03 $veth type veth peer name sink address 02:00:00:00:00:04 $veth
             for device in gen in out sink; do ip link set $device arp off up; done",
        );
        let mut chain = Self {
            namespace,
            ebpf: Ebpf::load(BENCH_OBJECT).context("cannot load the programs for measurements")?,
            traffic,
            template: Vec::new(),
            end: "sink",
        };
        chain.carry(traffic)?;
        chain.program(traffic.generator())?.load()?;
        // A veth takes frames from other devices' XDP programs only where it has one itself.
        chain.attach("sink", "gen")?;
        Ok(chain)
    }

    /// Has the next frames be of another kind that the same program generates.
    pub(crate) fn carry(&mut self, traffic: Traffic) -> Result<()> {
        self.traffic = traffic;
        self.template = traffic.template()?;
        let words: Vec<u32> = self
            .template
            .chunks_exact(4)
            .filter_map(|bytes| bytes.try_into().ok().map(u32::from_ne_bytes))
            .collect();
        let mut template = [0u32; 16];
        for (place, word) in template.iter_mut().zip(words) {
            *place = word;
        }
        self.array::<[u32; 16]>("TEMPLATE")?.set(0, template, 0)?;
        Ok(())
    }

    /// The namespace of the devices.
    pub(crate) const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The name of this chain's packet path.
    pub(crate) fn instance(&self) -> &str {
        self.namespace.name()
    }

    /// What it carries.
    pub(crate) const fn traffic(&self) -> Traffic {
        self.traffic
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
        self.array::<[u32; 2]>("TURN")?.set(0, [first, flows], 0)?;
        Ok(())
    }

    /// What the kernel says of one of the programs for measurements.
    pub(crate) fn info(&mut self, program: &str) -> Result<ProgramInfo> {
        Ok(self.program(program)?.info()?)
    }

    /// Generates frames and waits until they have gone through.
    pub(crate) fn send(&mut self, frames: u32) -> Result<Run> {
        interrupt::check()?;
        let (generator, end) = (self.traffic.generator(), self.end);
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

    fn array<T: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, T>> {
        let map = self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
        Ok(Array::try_from(map)?)
    }
}

fn find<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

/// The kernel's `struct xdp_md` for a frame that comes in on an interface.
fn context(length: usize, ifindex: u32) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or_default();
    let (data, data_meta, queue, egress) = (0, 0, 0, 0);
    [data, length, data_meta, ifindex, queue, egress]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect()
}

/// Keeps this thread, and with it all work on its frames, on the last core.
fn pin() -> Result<()> {
    let mut cores = CpuSet::new();
    let last = thread::available_parallelism().map_or(1, usize::from).saturating_sub(1);
    cores.set(last)?;
    sched_setaffinity(Pid::from_raw(0), &cores).context("cannot stay on one core")
}

/// Frames that a device of this thread's namespace has received.
fn received(device: &str) -> Result<u64> {
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
