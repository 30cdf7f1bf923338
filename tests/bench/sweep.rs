//! The walk over the flow tables: by batches from user space, as `lb` makes it, and by a program in the kernel, as it could be
//! made too. The one is interrupted whenever something else has to run, and pauses; the other is not and cannot be.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::Array,
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    abi::{ABI_VERSION, Mode},
    flow::Tick,
};
use lb_userspace::{
    datapath::{FlowTables as _, loader::SWEEP_OBJECT},
    model::Limits,
};

use crate::{
    bed::{
        balancer::{BPFFS, Balancer},
        chain::Chain,
        traffic::{Load, Traffic},
    },
    interrupt,
    report::{Report, figure::Unit},
};

/// Flows in the table, of two entries each.
const FLOWS: u32 = 1_000_000;
const ROUNDS: u32 = 5;

/// Measures both over a million flows.
pub(crate) fn measure(report: &mut Report) -> Result<()> {
    report.section("Walk over the flow table: a million flows, which is two million entries, all of them valid");
    let mut balancer = full()?;
    let tables = balancer.flow_tables();
    let mut in_kernel = InKernel::load(balancer.chain.instance())?;
    let (mut batches, mut inside) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        interrupt::check()?;
        // None of them expires meanwhile.
        balancer.chain.send(FLOWS)?;
        let (found, took) = in_kernel.sweep(tables.now()?)?;
        ensure!(found == u64::from(FLOWS), "the walk in the kernel found {found} flows");
        inside.push(milliseconds(took));
        let swept = tables.sweep()?;
        let found: u64 = swept.flows.iter().sum();
        ensure!(found == u64::from(FLOWS), "the walk by batches found {found} flows");
        batches.push(milliseconds(swept.cpu));
    }
    let name = "processor time of a walk by batches, with pauses after each 2 ms";
    report.add(name, Unit::Milliseconds, &batches, None, None);
    let name = "a walk in the kernel, in one piece";
    report.add(name, Unit::Milliseconds, &inside, None, None);
    Ok(())
}

/// A packet path with that many established flows.
fn full() -> Result<Balancer> {
    let size = FLOWS.next_power_of_two() * 2;
    let limits = Limits {
        flows_ipv4: size,
        half_open_ipv4: size,
        ..Limits::default()
    };
    let chain = Chain::new(Load::from(Traffic::UdpV4))?;
    let mut balancer = Balancer::new(chain, limits, Mode::FULL_NAT)?;
    balancer.chain.flows(0, FLOWS)?;
    // The second packet of each takes it for real.
    for _ in 0..2 {
        balancer.chain.send(FLOWS)?;
    }
    Ok(balancer)
}

/// The program that walks by itself.
struct InKernel(Ebpf);

impl InKernel {
    /// Loads it over an instance's table.
    fn load(instance: &str) -> Result<Self> {
        let maps = Path::new(BPFFS).join(format!("lb/{instance}/v{ABI_VERSION}/maps"));
        let mut ebpf = EbpfLoader::new()
            .map_pin_path("FLOWS_V4", maps.join("FLOWS_V4"))
            .load(SWEEP_OBJECT)
            .context("cannot load the sweep in the kernel")?;
        program(&mut ebpf)?.load()?;
        Ok(Self(ebpf))
    }

    /// How many flows a walk finds, and how long it takes.
    fn sweep(&mut self, now: Tick) -> Result<(u64, Duration)> {
        self.array::<u32>("SWEEP_TIME")?.set(0, now.0, 0)?;
        let mut counts = self.array::<u64>("SWEPT")?;
        for backend in 0..counts.len() {
            counts.set(backend, 0, 0)?;
        }
        let start = Instant::now();
        let program = program(&mut self.0)?;
        program.test_run(TestRunOptions {
            data_in: Some(&[0; 64]),
            ..TestRunOptions::new()
        })?;
        let took = start.elapsed();
        let mut found = 0;
        for flows in self.array::<u64>("SWEPT")?.iter() {
            found += flows?;
        }
        Ok((found, took))
    }

    fn array<T: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut aya::maps::MapData, T>> {
        let map = self.0.map_mut(name).with_context(|| format!("no map {name}"))?;
        Ok(Array::try_from(map)?)
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut("sweep").context("no program sweep")?;
    Ok(program.try_into()?)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
