//! The threads that have the kernel make frames, one on each core, and how they are made to end.

use std::{
    io,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{
        pthread::{Pthread, pthread_kill, pthread_self},
        signal::Signal,
    },
    unistd::Pid,
};

use super::{DatapathError, chain, kernel};

/// Frames that are handed to the device at once: as many as one poll of a veth takes.
const BATCH: u32 = 64;

/// What every core's thread does.
pub(super) struct Job<'a> {
    pub(super) program: &'a Xdp,
    pub(super) frame: &'a [u8],
    pub(super) context: &'a [u8],
    pub(super) repeat: u32,
    /// Set before the threads are interrupted.
    pub(super) ended: &'a AtomicBool,
}

impl Job<'_> {
    /// Stays on a core and has the kernel make frames until it is interrupted. Tells which thread it is first.
    pub(super) fn run(&self, core: usize, report: mpsc::Sender<Pthread>) -> Result<(), DatapathError> {
        let mut cores = CpuSet::new();
        let pinned = cores
            .set(core)
            .and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores));
        // Whoever waits for this is there as long as this thread.
        let _ = report.send(pthread_self());
        drop(report);
        pinned.map_err(|e| kernel(format!("cannot run on core {core} (`lscpu` lists those there are)"), e))?;
        loop {
            let result = self.program.test_run(TestRunOptions {
                data_in: Some(self.frame),
                ctx_in: Some(self.context),
                repeat: self.repeat,
                attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                ..TestRunOptions::new()
            });
            match result {
                Ok(_) if self.repeat < u32::MAX => return Ok(()),
                Ok(_) => {}
                Err(error) if interrupted(&error) => {}
                Err(error) => return Err(kernel("the generator failed", chain(&error))),
            }
            if self.ended.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    }
}

/// Interrupts the threads until each has ended; gives the first error.
pub(super) fn end_workers(
    workers: Vec<ScopedJoinHandle<'_, Result<(), DatapathError>>>,
    threads: &[Pthread],
) -> Result<(), DatapathError> {
    while !workers.iter().all(ScopedJoinHandle::is_finished) {
        for thread in threads {
            // One that has ended is as wanted; its handle keeps its number valid.
            let _ = pthread_kill(*thread, Signal::SIGUSR2);
        }
        thread::sleep(Duration::from_millis(1));
    }
    let mut result = Ok(());
    for worker in workers {
        let ended = worker
            .join()
            .unwrap_or_else(|_| Err(kernel("the generator failed", "a thread panicked")));
        result = result.and(ended);
    }
    result
}

/// A signal that does nothing but to interrupt a system call.
pub(super) fn install_handler() -> Result<(), DatapathError> {
    use tokio::{
        runtime::Builder,
        signal::unix::{SignalKind, signal},
    };
    let cannot = |e: io::Error| kernel("cannot handle signals", e);
    let runtime = Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let _inside = runtime.enter();
    // The handler outlives both: it is the process's from now on.
    signal(SignalKind::user_defined2()).map(drop).map_err(cannot)
}

fn interrupted(error: &ProgramError) -> bool {
    match error {
        ProgramError::SyscallError(call) => call.io_error.raw_os_error() == Some(libc::EINTR),
        _ => false,
    }
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
