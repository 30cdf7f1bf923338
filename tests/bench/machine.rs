//! What the figures were measured on.

use std::{fmt, fs, thread};

use serde_json::{Value, json};

/// A machine and its state.
#[derive(Debug)]
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

impl Machine {
    /// For the file of figures.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "cpu": self.cpu, "cores": self.cores, "kernel": self.kernel, "load_at_start": self.load })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} cores, Linux {}, load average {}\nall traffic is made, forwarded and discarded on one core",
            self.cpu, self.cores, self.kernel, self.load
        )
    }
}
