//! Generators on several cores that send into one chain of devices, each into its core's queue. What a core sends stays on
//! that core until it is discarded.

use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf,
    programs::{TestRun as _, TestRunAttrs, TestRunOptions},
};

use super::chain::{BATCH, Chain, Run, context, find, pin_to, programs, received, set_template, take_turns};
use crate::interrupt;

/// A generator on a core, with clients of its own.
pub(crate) struct Lane {
    ebpf: Ebpf,
    generator: &'static str,
    template: Vec<u8>,
    core: usize,
}

impl Lane {
    /// The generator of a chain's load on a core.
    pub(crate) fn new(chain: &Chain, core: u8) -> Result<Self> {
        let load = chain.load();
        let mut ebpf = programs(load)?;
        let template = load.traffic.template_of(core, load.frame)?;
        set_template(&mut ebpf, &template)?;
        let generator = load.traffic.generator();
        find(&mut ebpf, generator)?.load()?;
        Ok(Self {
            ebpf,
            generator,
            template,
            core: core.into(),
        })
    }

    /// Has so many of its flows take turns from now on.
    pub(crate) fn flows(&mut self, flows: u32) -> Result<()> {
        take_turns(&mut self.ebpf, 0, flows)
    }

    /// Generates frames when all are ready, and says how long that took.
    fn run(&mut self, ifindex: u32, frames: u32, ready: &Barrier) -> Result<Duration> {
        let pinned = pin_to(self.core);
        let program = find(&mut self.ebpf, self.generator);
        // Whoever did not come here would be waited for in vain.
        ready.wait();
        pinned?;
        let start = Instant::now();
        program?
            .test_run(TestRunOptions {
                data_in: Some(&self.template),
                ctx_in: Some(&context(self.template.len(), ifindex)),
                repeat: frames,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::new()
            })
            .context("the generator failed")?;
        Ok(start.elapsed())
    }
}

/// Has every lane generate so many frames at the same time. The time is that of the slowest.
pub(crate) fn send(chain: &Chain, lanes: &mut [Lane], frames: u32) -> Result<Run> {
    interrupt::check()?;
    let (ifindex, end) = (chain.ifindex("gen")?, chain.end());
    let sent = u64::from(frames) * lanes.len() as u64;
    let ready = Barrier::new(lanes.len());
    chain.namespace().run(|| {
        let before = received(end)?;
        let times: Result<Vec<Duration>> = thread::scope(|scope| {
            let running: Vec<_> = lanes
                .iter_mut()
                .map(|lane| scope.spawn(|| lane.run(ifindex, frames, &ready)))
                .collect();
            let joined = running.into_iter().map(|thread| thread.join());
            joined
                .map(|done| done.map_err(|_| anyhow!("a generator's thread ended"))?)
                .collect()
        });
        interrupt::check()?;
        let took = times?.into_iter().max().unwrap_or_default();
        thread::sleep(Duration::from_millis(2));
        Ok(Run::new(sent, received(end)?.saturating_sub(before), took))
    })
}
