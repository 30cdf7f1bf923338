//! The packet path's clock, read by running it: jiffies are not to be had in user space.

use std::time::Duration;

use aya::{
    Ebpf, EbpfLoader,
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use lb_common::flow::{self, Tick};
use nix::time::{ClockId, clock_getres};

use super::{
    DatapathError,
    loader::{self, OBJECT, chain},
    maps,
    pins::kernel,
};
use crate::model::Limits;

/// The clock, as a program of its own with the smallest of maps.
pub(super) struct Clock(Ebpf);

impl Clock {
    /// Loads the program.
    pub(super) fn load() -> Result<Self, DatapathError> {
        const SMALL: Limits = Limits {
            slots: 64,
            affinity: 1,
            flows_ipv4: 64,
            flows_ipv6: 64,
            half_open_ipv4: 64,
            half_open_ipv6: 64,
            flows_mixed: 64,
            services: 1,
            service_ports: 1,
            backends: 1,
            new_flows_per_core: 0,
            syn_cookies_above: 0,
            icmp_per_second: 0,
        };
        let scale = jiffy_scale()?;
        let mut loader = EbpfLoader::new();
        loader.override_global("JIFFY_SCALE", &scale, true);
        for (name, entries, ..) in maps::shapes(&SMALL) {
            loader.map_max_entries(name, entries.min(128));
        }
        let mut clock = loader
            .load(OBJECT)
            .map_err(|e| kernel("cannot load the packet path's clock", chain(&e)))?;
        let program: &mut Xdp = clock
            .program_mut("clock")
            .ok_or_else(|| kernel("program clock", "not in the packet path's object"))?
            .try_into()
            .map_err(|e| kernel("program clock", e))?;
        loader::verify(program).map_err(|e| kernel("the kernel refused the packet path's clock", chain(&e)))?;
        Ok(Self(clock))
    }

    /// The packet path's time.
    pub(super) fn now(&self) -> Result<Tick, DatapathError> {
        let program: &Xdp = self
            .0
            .program("clock")
            .ok_or_else(|| kernel("program clock", "not in the packet path's object"))?
            .try_into()
            .map_err(|e| kernel("program clock", e))?;
        let frame = [0; 64];
        let result = program.test_run(TestRunOptions {
            data_in: Some(&frame),
            ..TestRunOptions::new()
        });
        Ok(Tick(
            result
                .map_err(|e| kernel("cannot read the packet path's clock", chain(&e)))?
                .return_value,
        ))
    }
}

/// What the packet path multiplies jiffies with: the coarse clock advances once a jiffy.
pub(super) fn jiffy_scale() -> Result<u32, DatapathError> {
    let jiffy = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .map_err(|e| kernel("cannot learn the length of a jiffy", e))
        .map(Duration::from)?;
    Ok(flow::jiffy_scale(u64::try_from(jiffy.as_nanos()).unwrap_or(u64::MAX)))
}
