//! `cargo xtask vm tests`: the tests that need a kernel, with the real `lb`, in each kernel. Guests run side by side.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{image::Image, kernel::Kernel, machine::Machine};
use crate::{
    build::{self, Profile},
    test::{
        self,
        suite::{self, Suite},
        tally::Tally,
    },
};

/// How many guests run at the same time.
const AT_ONCE: usize = 2;
/// Memory of a guest in MiB.
pub(super) const MEMORY: u32 = 1536;
/// How long a guest may take. An emulated one on a busy machine is slow.
const LIMIT: Duration = Duration::from_mins(9);
/// By how much the tests are to be more patient in a guest than on the machine itself (`LB_TEST_PATIENCE`).
const PATIENCE: u32 = 8;
/// How many random packets are compared with the model in a guest, where each takes a millisecond (`LB_TEST_PACKETS`).
const RANDOM_PACKETS: u32 = 5_000;

/// What tests call, besides the programs of every image.
const PROGRAMS: [&str; 8] = [
    "bpftool", "curl", "ethtool", "nft", "nginx", "nsenter", "ping", "timeout",
];

/// Modules behind the labs' interfaces and nft's rules.
const MODULES: [&str; 8] = [
    "veth",
    "bridge",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_masq",
    "nft_numgen",
    "nft_reject_inet",
];

/// A test executable, and which of its tests run in guests.
pub(super) struct Selection {
    target: &'static str,
    /// Tests at the same time.
    threads: u32,
    /// Whether they wait for things to happen, and so would notice a guest that is slow.
    waits: bool,
    /// Their names, or none for all.
    only: &'static [&'static str],
}

/// The end-to-end tests that carry the product: modes, shares, fail-over, drain, adoption, detach, changes of the network,
/// native and generic XDP.
///
/// An emulated CPU takes up to half a minute for one. Left out are variants of what is here; what takes minutes without
/// another step of lb's (transfers of hundreds of megabytes, a thousand connections); what judges by the clock (a refusal at
/// once, a port that is used again); and what tests the laboratory itself (`harness`). All of that runs on the machine's own
/// kernel.
const END_TO_END: [&str; 11] = [
    "failover::a_drained_backend_ends_its_downloads_and_takes_no_new_ones",
    "failover::connections_of_a_dead_backend_are_reset_at_their_next_packet",
    "failover::the_passive_backend_serves_and_gives_back",
    "lifecycle::a_killed_daemon_is_not_noticed_and_the_next_one_adopts",
    "lifecycle::detach_works_without_a_daemon",
    "modes::nat_shows_the_clients_address",
    "network::an_interface_that_is_made_anew_is_attached_again",
    "network::traffic_that_is_not_a_services_reaches_the_kernel",
    "spread::connections_in_parallel_are_shared_exactly",
    "udp::flows_of_a_dead_backend_move",
    "xdp::the_generic_path_serves_when_asked_for",
];

/// What runs, the longest first.
const SELECTIONS: [Selection; 2] = [
    Selection {
        target: "netns",
        threads: 3,
        waits: true,
        only: &END_TO_END,
    },
    Selection {
        target: "packet",
        threads: 2,
        waits: false,
        only: &[],
    },
];

impl Selection {
    fn job(&self, filter: Option<&str>) -> String {
        let names = match (filter, self.only) {
            (Some(filter), _) => format!("'{}'", filter.replace('\'', "")),
            (None, []) => String::new(),
            (None, only) => format!("--exact {}", only.join(" ")),
        };
        format!(
            "export LB_BIN=/bin/lb LB_TEST_PATIENCE={PATIENCE} LB_TEST_PACKETS={RANDOM_PACKETS}
cd /tests && exec ./{} --test-threads {} {names}\n",
            self.target, self.threads
        )
    }

    /// Fails what ran too little: a test that was renamed is not to go unnoticed.
    fn check(&self, tally: &mut Tally) {
        let wanted = u64::try_from(self.only.len()).unwrap_or(u64::MAX).max(1);
        if tally.ran() < wanted {
            tally.fail(&format!(
                "{} tests ran where there should be {wanted} or more",
                tally.ran()
            ));
        }
    }
}

/// An image with everything that tests need, and a job for each test executable.
///
/// # Errors
/// When a program is missing or a build fails.
pub(super) fn image(kernel: &Kernel, binaries: &Binaries, filter: Option<&str>) -> Result<PathBuf> {
    let mut image = Image::new(kernel)?;
    image.stripped("bin/lb", &binaries.lb)?.modules(&MODULES)?;
    for program in PROGRAMS {
        image.program(program)?;
    }
    for (selection, suite) in &binaries.suites {
        image
            .stripped(&format!("tests/{}", selection.target), &suite.executable)?
            .job(selection.target, &selection.job(filter));
    }
    image.write("tests")
}

/// A guest for that image. A steady clock makes it slower, so only those tests have it that need it.
fn machine(kernel: &Kernel, image: &Path, selection: &Selection) -> Machine {
    let machine = Machine::new(kernel, image, selection.target).memory(MEMORY);
    if selection.waits { machine.steady() } else { machine }
}

/// What is built for the guests.
pub(super) struct Binaries {
    lb: PathBuf,
    suites: Vec<(&'static Selection, Suite)>,
}

impl Binaries {
    /// Builds all.
    ///
    /// # Errors
    /// When a build fails.
    pub(super) fn build() -> Result<Self> {
        let suites = SELECTIONS.iter().map(|selection| {
            let mut found = suite::build(&[test::KERNEL_PACKAGE], Some(selection.target))?;
            let suite = found.pop().context("cargo built no test executable")?;
            Ok((selection, suite))
        });
        Ok(Self {
            suites: suites.collect::<Result<_>>()?,
            lb: build::binary(Profile::Debug)?,
        })
    }
}

/// Runs every test executable in every kernel, each in a guest of its own.
///
/// # Errors
/// When something cannot be built. A guest that does not do its job is a failure in the result.
pub(super) fn run(kernels: &[Kernel], filter: Option<&str>) -> Result<Vec<(String, Tally)>> {
    let binaries = Binaries::build()?;
    let mut guests = Vec::new();
    for kernel in kernels {
        let image = image(kernel, &binaries, filter)?;
        guests.extend(SELECTIONS.iter().map(|selection| (selection, kernel, image.clone())));
    }
    // A stack: the last of these is the first to run.
    guests.sort_by_key(|(selection, ..)| {
        SELECTIONS
            .iter()
            .rev()
            .position(|other| other.target == selection.target)
    });
    let waiting = Mutex::new(guests);
    let results = Mutex::new(Vec::new());
    let next = || lock(&waiting).pop();
    let work = || {
        while let Some((selection, kernel, image)) = next() {
            let name = format!("{}, Linux {}", selection.target, kernel.series);
            let mut tally = test_in(&machine(kernel, &image, selection), &name);
            if filter.is_none() {
                selection.check(&mut tally);
            }
            lock(&results).push((name, tally));
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    Ok(results.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Runs one guest, and counts what its tests say.
fn test_in(machine: &Machine, name: &str) -> Tally {
    let mut tally = Tally::default();
    let mut finished = false;
    let outcome = machine.run(LIMIT, |line| {
        println!("{name}: {line}");
        finished |= tally.read(line);
    });
    match outcome {
        Ok(outcome) => {
            tally.took = outcome.took;
            if !finished || (outcome.code != 0 && tally.failed == 0) {
                tally.fail(&format!("ended before its result (exit code {})", outcome.code));
            }
        }
        Err(error) => {
            println!("{name}: {error:#}");
            tally.fail("the guest did not do its job; see above");
        }
    }
    tally
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
