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
const LIMIT: Duration = Duration::from_mins(12);
/// By how much the tests are to be more patient in a guest than on the machine itself (`LB_TEST_PATIENCE`).
const PATIENCE: u32 = 8;
/// How many random packets are compared with the model in a guest, where each takes a millisecond (`LB_TEST_PACKETS`).
const RANDOM_PACKETS: u32 = 5_000;

/// What tests call, besides the programs of every image.
const PROGRAMS: [&str; 8] = [
    "bpftool", "curl", "ethtool", "nft", "nginx", "nsenter", "ping", "timeout",
];

/// Modules behind the labs' interfaces and nft's rules.
const MODULES: [&str; 9] = [
    "veth",
    "8021q",
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

/// The end-to-end tests of what differs from kernel to kernel: links and their detachment, interfaces that come and go, VLAN
/// devices, generic XDP.
///
/// An emulated CPU takes up to half a minute for one. Left out is what `vm trio` shows in each kernel as well, on virtio-net:
/// modes, shares, fail-over, adoption; what is the daemon's own and the same with every kernel, as drains are; what takes
/// minutes without another step of lb's (transfers of hundreds of megabytes, a thousand connections); what judges by the clock (a
/// refusal at once, a port that is used again); and what tests the laboratory itself (`harness`). All of that runs on the
/// machine's own kernel.
const END_TO_END: [&str; 6] = [
    "lifecycle::detach_works_without_a_daemon",
    "network::an_interface_that_is_made_anew_is_attached_again",
    "network::traffic_that_is_not_a_services_reaches_the_kernel",
    // Kernels without VLAN devices pass these; guests must have them.
    "vlan::clients_and_servers_may_be_in_vlans_on_one_cable",
    "vlan::servers_may_be_in_a_providers_vlan",
    "xdp::the_generic_path_serves_when_asked_for",
];

/// Rows that go through every program of the packet path and every way out of it: an emulated CPU takes five seconds to load the
/// programs, which each row does, and some for each of their cases. Such rows take one case in four in guests.
///
/// Left out is what repeats, in a program that another row goes through, what pure functions decide: weights, hashes, phases,
/// checksums, the use of ports. All of that runs on the machine's own kernel, and in guests the model meets most of it. A race
/// of two CPUs is none in a guest that has one.
const ROWS: [&str; 35] = [
    "admission::full_backends_are_passed_over",
    "adoption::the_packet_path_loads_and_works_at_every_log_level",
    "adoption::what_was_written_is_found_and_flows_go_on",
    "cookies::both_halves_are_joined_and_numbers_translated",
    "counters::packets_bytes_and_flows_are_counted_exactly",
    "counters::the_sweep_removes_what_expired_some_seconds_ago",
    "decap::what_is_for_a_vip_comes_out_of_every_tunnel_as_it_went_in",
    "direct::packets_go_where_their_hash_says_and_nothing_is_stored",
    "down::datagrams_move_to_another_backend",
    "down::reset_answers_a_connection_with_rst_once_and_forgets_it",
    "extensions::extension_headers_are_carried",
    "flow_cache::packets_of_established_flows_go_by_copies",
    "forward::requests_and_replies_are_rewritten_and_nothing_else",
    "fragments::fragments_go_to_one_backend_and_fit_together",
    "half_open::a_flood_evicts_no_established_flow",
    "half_open::a_forged_handshake_stays_half_open",
    "half_open::new_flows_beyond_the_limit_go_by_their_hash_where_none_need_be_stored",
    "icmp::echo::echo_requests_are_the_kernels_unless_it_may_not_have_the_vip",
    "icmp::errors::errors_reach_the_other_end_about_its_own_packet",
    "icmp::too_big::what_does_not_fit_is_answered",
    "jumbo::large_packets_are_forwarded_both_ways_whole",
    "mixed::requests_and_replies_get_the_other_familys_header",
    "mixed_admission::every_rule_minds_the_limits_of_both_families",
    "mixed_errors::forwarded::errors_do_not_change_a_flow",
    "model::a_million_random_packets_fare_as_in_the_model",
    "outer::clients_learn_of_errors_about_outer_packets",
    "ports::exhaustion_is_refused_counted_and_passes",
    "reasons::each_row_leaves_for_its_reason_and_no_other",
    "schedulers::a_packet_of_no_flow_finds_the_backend_of_the_table_before",
    "schedulers::of_many_backends_two_are_compared",
    "schedulers::the_lightest_backend_is_chosen_exactly",
    "tunnels::what_is_inside_is_the_clients_packet",
    "twins::a_lost_entry_is_restored_when_a_refresh_is_due",
    "verification::the_programs_are_far_from_the_verifiers_limit",
    "vlan::requests_get_the_tags_of_the_servers_and_replies_those_of_the_client",
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
        only: &ROWS,
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
            "export LB_BIN=/bin/lb LB_TEST_GUEST=1 LB_TEST_PATIENCE={PATIENCE} LB_TEST_PACKETS={RANDOM_PACKETS}
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
