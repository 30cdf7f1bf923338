//! The load generator of `lb bench` and its sink: programs in the kernel, and what user space does with them.

mod attach;
pub mod frame;
pub mod generator;
mod lanes;
pub mod setup;
pub mod sink;
mod workers;

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray},
};
use hdrhistogram::Histogram as Latencies;
use lb_common::traffic::{Counters, Histogram};

use super::{DatapathError, loader::chain, pins::kernel};

/// The programs for load.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/traffic"));

/// The counters, summed over CPUs.
fn counters(ebpf: &Ebpf) -> Result<Counters, DatapathError> {
    let values = per_cpu::<Counters>(ebpf, "COUNTERS")?
        .get(&0, 0)
        .map_err(|e| kernel("map COUNTERS", chain(&e)))?;
    Ok(values.iter().fold(Counters::default(), |sum, one| sum.plus(one)))
}

/// The durations that were recorded, in nanoseconds.
fn latencies(ebpf: &Ebpf) -> Result<Latencies<u64>, DatapathError> {
    let values = per_cpu::<Histogram>(ebpf, "LATENCIES")?
        .get(&0, 0)
        .map_err(|e| kernel("map LATENCIES", chain(&e)))?;
    // Three digits are more than the kernel's buckets have.
    let mut latencies = Latencies::new(3).map_err(|e| kernel("latencies", e))?;
    for (duration, count) in values.iter().flat_map(Histogram::filled) {
        latencies
            .record_n(duration.max(1), count)
            .map_err(|e| kernel("latencies", e))?;
    }
    Ok(latencies)
}

fn per_cpu<'a, T: aya::Pod>(ebpf: &'a Ebpf, name: &'static str) -> Result<PerCpuArray<&'a MapData, T>, DatapathError> {
    ebpf.map(name)
        .ok_or_else(|| kernel(format!("map {name}"), "not in the object"))?
        .try_into()
        .map_err(|e| kernel(format!("map {name}"), chain(&e)))
}
