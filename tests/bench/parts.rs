//! What can be measured by itself, and how long each may take. A part that fails does not end the others.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::ValueEnum as _;

use crate::{
    control, cores, flip, flood, http, instructions, interrupt, many_services, memory,
    peers::{self, Peers},
    report::Report,
    scale, schedulers, sweep,
};

/// A part, in the order of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    /// Instructions per packet, as they are checked in.
    Instructions,
    /// Established flows side by side.
    Main,
    /// New flows side by side.
    New,
    /// Curves over the number of flows.
    Flows,
    /// HTTP through lb and others.
    Http,
    /// A thousand services beside one.
    ManyServices,
    /// Connections in a flood of SYNs.
    Flood,
    /// From a verdict to the maps.
    Flip,
    /// Memory of the maps.
    Memory,
    /// Two cores beside one.
    Cores,
    /// New flows by scheduler.
    Schedulers,
    /// A daemon with many services, backends and flows.
    Scale,
    /// A daemon with thousands of backends and checks.
    Control,
    /// The walk over the flow tables.
    Sweep,
    /// Curves over the number of services.
    Services,
    /// Curves over the number of backends.
    Backends,
    /// Curves over the size of packets.
    Size,
}

/// What is to be measured, and how thoroughly.
#[derive(Debug)]
pub(crate) struct Run {
    /// Fewer rounds and points.
    pub(crate) quick: bool,
    /// The parts.
    pub(crate) wanted: Vec<Part>,
}

impl Part {
    /// As it is written on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Main => "main",
            Self::New => "new",
            Self::Flows => "flows",
            Self::Http => "http",
            Self::ManyServices => "many-services",
            Self::Flood => "flood",
            Self::Flip => "flip",
            Self::Memory => "memory",
            Self::Cores => "cores",
            Self::Schedulers => "schedulers",
            Self::Scale => "scale",
            Self::Control => "control",
            Self::Sweep => "sweep",
            Self::Services => "services",
            Self::Backends => "backends",
            Self::Size => "size",
        }
    }

    /// Whether it has goals, or the figures that goals need. A quick run is of these.
    const fn has_goals(self) -> bool {
        !matches!(
            self,
            Self::Schedulers | Self::Scale | Self::Control | Self::Sweep | Self::Services | Self::Backends | Self::Size
        )
    }

    /// Whether its figures stand in lists, not in tables.
    const fn is_list(self) -> bool {
        matches!(
            self,
            Self::Main
                | Self::ManyServices
                | Self::Flood
                | Self::Flip
                | Self::Memory
                | Self::Schedulers
                | Self::Scale
                | Self::Control
                | Self::Sweep
        )
    }

    /// Seconds that it may take in a full run and in a quick one: some more than it does on two idle cores. On slower or busier
    /// ones, what has many rounds or points has fewer.
    const fn allowance(self) -> (u64, u64) {
        match self {
            Self::Instructions => (1, 1),
            Self::Main => (180, 75),
            Self::New => (180, 75),
            Self::Flows => (330, 110),
            Self::Http => (230, 65),
            Self::ManyServices => (60, 20),
            Self::Flood => (30, 10),
            Self::Flip => (120, 45),
            Self::Memory => (45, 25),
            Self::Cores => (90, 30),
            Self::Schedulers => (150, 20),
            Self::Scale => (120, 30),
            Self::Control => (110, 40),
            Self::Sweep => (45, 30),
            Self::Services => (100, 50),
            Self::Backends => (150, 50),
            Self::Size => (150, 50),
        }
    }
}

impl Run {
    /// Of all parts, or of those that a quick run is of, or of those that are named.
    pub(crate) fn new(quick: bool, only: &[Part]) -> Self {
        let all = Part::value_variants().iter().copied();
        let wanted = all.filter(|part| {
            if only.is_empty() {
                !quick || part.has_goals()
            } else {
                only.contains(part)
            }
        });
        Self {
            quick,
            wanted: wanted.collect(),
        }
    }

    /// Whether a part is.
    pub(crate) fn wants(&self, part: Part) -> bool {
        self.wanted.contains(&part)
    }

    /// Measures every part.
    ///
    /// # Errors
    /// When it is interrupted.
    pub(crate) fn measure(&self, report: &mut Report) -> Result<()> {
        declare(report);
        let mut peers = Peers::new(self);
        let mut end = Instant::now();
        for &part in &self.wanted {
            let (full, quick) = part.allowance();
            let allowance = Duration::from_secs(if self.quick { quick } else { full });
            // What a part leaves of its time is for those that come after it; of what it takes beyond, they bear a half.
            end = (end + allowance).max(Instant::now() + allowance / 2);
            report.part(part.name());
            let done = catch_unwind(AssertUnwindSafe(|| self.attempt(part, end, &mut peers, report)));
            interrupt::check()?;
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => report.fail(format!("{error:#}")),
                // The harness of the tests ends like this; it has said why.
                Err(panic) => report.fail(said(&*panic)),
            }
        }
        if self.quick && self.wants(Part::Flows) {
            report.leave_out("most points of the curves", "this was a quick run");
        }
        Ok(())
    }

    fn attempt(&self, part: Part, end: Instant, peers: &mut Peers<'_>, report: &mut Report) -> Result<()> {
        match part {
            Part::Main | Part::New | Part::Flows | Part::Services | Part::Backends | Part::Size => {
                peers.measure(part, end, report)
            }
            Part::Instructions => instructions::checked_in(report),
            Part::Http => http::measure(self.quick, report),
            Part::ManyServices => many_services::measure(self.quick, report),
            Part::Flood => flood::measure(self.quick, report),
            Part::Flip => flip::measure(self.quick, report),
            Part::Memory => memory::measure(report),
            Part::Cores => cores::measure(self.quick, end, report),
            Part::Schedulers => schedulers::measure(self.quick, end, report),
            Part::Scale => scale::measure(self.quick, report),
            Part::Control => control::measure(self.quick, report),
            Part::Sweep => sweep::measure(report),
        }
    }
}

/// Declares everything that figures may stand in.
fn declare(report: &mut Report) {
    peers::declare(report);
    http::declare(report);
    cores::declare(report);
    instructions::declare(report);
    for part in Part::value_variants().iter().filter(|part| part.is_list()) {
        report.list(part.name());
    }
}

/// The words of a panic.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked")
        .replace('\n', " | ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Conditions;

    #[test]
    fn parts_are_named_as_on_the_command_line() {
        for part in Part::value_variants() {
            let name = part.to_possible_value().map(|value| value.get_name().to_owned());
            assert_eq!(name.as_deref(), Some(part.name()));
        }
    }

    #[test]
    fn everything_takes_half_an_hour_and_a_quick_run_less_than_eight_minutes() {
        let total = |quick| {
            let parts = Run::new(quick, &[]).wanted;
            let seconds = parts
                .iter()
                .map(|part| part.allowance())
                .map(|(full, brief)| if quick { brief } else { full });
            seconds.sum::<u64>()
        };
        assert!(total(false) <= 35 * 60, "{} s", total(false));
        assert!(total(true) <= 8 * 60, "{} s", total(true));
    }

    #[test]
    fn the_documentation_has_marks_for_what_a_report_has() {
        let mut report = Report::new(true);
        declare(&mut report);
        for page in [
            include_str!("../../docs/performance.md"),
            include_str!("../../README.md"),
        ] {
            report.fill(page, &Conditions::default()).unwrap();
        }
    }

    #[test]
    fn a_quick_run_has_all_parts_with_goals() {
        let run = Run::new(true, &[]);
        assert!(run.wants(Part::Flows) && run.wants(Part::Http) && !run.wants(Part::Scale));
        assert_eq!(Run::new(true, &[Part::Scale]).wanted, [Part::Scale]);
    }
}
