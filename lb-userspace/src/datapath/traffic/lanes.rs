//! How the work is divided among cores: each has flows of its own, so that the order within a flow is kept.

use std::ops::Range;

use lb_common::traffic::{Lane, Pace};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use rand_distr::Zipf;

use super::{
    DatapathError, kernel,
    setup::{Order, Setup},
};

/// Draws of each core from a Zipf distribution, after which they repeat.
const DRAWS: u32 = 1 << 16;

/// The flows of the `n`-th of `of` cores.
fn share(flows: u32, n: u32, of: u32) -> Range<u32> {
    let edge = |n: u32| (u64::from(flows) * u64::from(n) / u64::from(of.max(1))) as u32;
    edge(n)..edge(n + 1)
}

/// The order in which flows have their turn where it is drawn beforehand: one core's draws behind the other's.
pub(super) fn drawn_order(setup: &Setup) -> Result<Vec<u32>, DatapathError> {
    let Order::Zipf(exponent) = setup.order else {
        return Ok(Vec::new());
    };
    let cores = lanes(setup);
    let mut order = Vec::new();
    for n in 0..cores {
        let flows = share(setup.flows, n, cores);
        let zipf = Zipf::new(f64::from(flows.len() as u32), exponent)
            .map_err(|e| kernel(format!("zipf exponent {exponent}"), e))?;
        // The same run number draws the same traffic.
        let mut random = SmallRng::seed_from_u64(u64::from(setup.run) << 32 | u64::from(n));
        for _ in 0..DRAWS {
            let rank: f64 = random.sample(zipf);
            order.push(flows.start + (rank as u32 - 1).min(flows.len() as u32 - 1));
        }
    }
    Ok(order)
}

/// How many cores have work: no more than flows.
pub(super) fn lanes(setup: &Setup) -> u32 {
    (setup.cores.len() as u32).clamp(1, setup.flows.max(1))
}

/// What a phase asks of all cores together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Work {
    /// Packets; `None`: as many as there is time for.
    pub(super) packets: Option<u64>,
    /// Packets a second.
    pub(super) rate: Option<u64>,
    /// Added to the flow's number in TCP's sequence numbers.
    pub(super) sequence_base: u32,
    /// Whether every flow has its turn, whatever the order of the run is.
    pub(super) each: bool,
}

/// What each core has to do.
pub(super) fn divide(setup: &Setup, work: &Work, longest: u32) -> Vec<Lane> {
    let cores = lanes(setup);
    (0..cores)
        .map(|n| {
            let flows = share(setup.flows, n, cores);
            let places = match setup.order {
                Order::Zipf(_) if !work.each => n * DRAWS..(n + 1) * DRAWS,
                _ => flows.clone(),
            };
            let left = match work.packets {
                None => u64::MAX,
                Some(_) if work.each => flows.len() as u64,
                Some(packets) => packets / u64::from(cores) + u64::from(u64::from(n) < packets % u64::from(cores)),
            };
            Lane {
                left,
                pace: work.rate.map(|rate| Pace::new(rate, n, cores)).unwrap_or_default(),
                first: places.start,
                end: places.end,
                next: places.start,
                sequence_base: work.sequence_base,
                in_turn: u32::from(work.each),
                longest,
                ..Lane::default()
            }
        })
        .collect()
}
