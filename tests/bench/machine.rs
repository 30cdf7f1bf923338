//! What the figures were measured on, and what else it did meanwhile.

use std::{fmt, fs, thread, time::Instant};

use nix::unistd::{SysconfVar, sysconf};
use serde_json::{Value, json};

/// A machine and its state.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    load: String,
}

/// This machine, now.
pub(crate) fn describe() -> Machine {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    Machine {
        cpu: model.unwrap_or("unknown CPU").to_owned(),
        cores: thread::available_parallelism().map_or(0, usize::from),
        kernel: line("/proc/sys/kernel/osrelease"),
        load: load(),
    }
}

/// The load average over 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    line("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn line(path: &str) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_else(|_| "unknown".to_owned())
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            cores,
            kernel,
            load,
        } = self;
        write!(f, "{cpu}, {cores} cores, Linux {kernel}, load average {load}")
    }
}

/// Processor time since some moment.
#[derive(Debug)]
pub(crate) struct Watch {
    begin: Instant,
    busy: Busy,
    own: f64,
}

/// Seconds of all processors.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Busy {
    work: f64,
    /// Taken by the host of a virtual machine.
    stolen: f64,
}

impl Watch {
    /// Begins now.
    pub(crate) fn start() -> Self {
        Self {
            begin: Instant::now(),
            busy: busy(),
            own: own(),
        }
    }

    /// What the machine did since, besides these measurements.
    #[expect(clippy::cast_precision_loss, reason = "a few cores")]
    pub(crate) fn stop(self, machine: Machine) -> Conditions {
        let now = busy();
        let seconds = self.begin.elapsed().as_secs_f64();
        let capacity = seconds * machine.cores.max(1) as f64;
        let others = (now.work - self.busy.work) - (own() - self.own);
        Conditions {
            machine,
            seconds,
            load_at_end: load(),
            others: (others / capacity).max(0.0),
            stolen: (now.stolen - self.busy.stolen) / capacity,
        }
    }
}

/// On what, and beside what, a report was measured.
#[derive(Debug, Default)]
pub(crate) struct Conditions {
    machine: Machine,
    seconds: f64,
    load_at_end: String,
    /// Others' share of all processors' time. Where the kernel accounts interrupts apart, our own count as others'.
    others: f64,
    stolen: f64,
}

impl Conditions {
    /// For the file of figures.
    pub(crate) fn to_json(&self) -> Value {
        let Machine {
            cpu,
            cores,
            kernel,
            load,
        } = &self.machine;
        json!({
            "machine": { "cpu": cpu, "cores": cores, "kernel": kernel, "load_at_start": load },
            "load_at_end": self.load_at_end, "seconds": self.seconds,
            "cpu_share_of_others": self.others, "cpu_share_stolen": self.stolen,
        })
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; at the end, after {:.0} s, {}. Meanwhile other processes took {:.0} % of the processors' time, and a \
             hypervisor {:.1} %.",
            self.machine,
            self.seconds,
            self.load_at_end,
            self.others * 100.0,
            self.stolen * 100.0
        )
    }
}

/// What all processors have done since the machine started.
fn busy() -> Busy {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    total(text.lines().next().unwrap_or_default(), ticks())
}

/// The kernel's unit of processor time, in a second.
#[expect(clippy::cast_precision_loss, reason = "a hundred or a thousand")]
fn ticks() -> f64 {
    sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100) as f64
}

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
fn total(line: &str, ticks: f64) -> Busy {
    let columns: Vec<f64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|column| column.parse().ok())
        .collect();
    let seconds = |column: usize| columns.get(column).copied().unwrap_or(0.0) / ticks;
    Busy {
        work: [0, 1, 2, 5, 6].into_iter().map(seconds).sum(),
        stolen: seconds(7),
    }
}

/// Seconds that this process and those that it has waited for have had.
fn own() -> f64 {
    used(&fs::read_to_string("/proc/self/stat").unwrap_or_default(), ticks())
}

/// A process's line, of which the second column is its name in brackets, and columns 14 to 17 are its time and that of the
/// processes it has waited for.
fn used(line: &str, ticks: f64) -> f64 {
    let after_name = line.rsplit_once(") ").map_or("", |(_, columns)| columns);
    let times = after_name.split(' ').skip(11).take(4);
    times.filter_map(|time| time.parse::<f64>().ok()).sum::<f64>() / ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_processors_are_not_busy() {
        let line = "cpu  133743 0 27503 126686 1609 0 1693 209 0 0";
        let busy = total(line, 100.0);
        assert!((busy.work - 1629.39).abs() < 1e-6, "{busy:?}");
        assert!((busy.stolen - 2.09).abs() < 1e-6, "{busy:?}");
    }

    #[test]
    fn the_time_of_a_process_has_its_childrens() {
        let line = "25 (a b) c) S 1 25 25 0 -1 4194560 100 200 0 0 10 20 300 4000 20 0 1 0 7";
        assert!((used(line, 100.0) - 43.3).abs() < 1e-6);
    }
}
