//! CPU time of the whole machine, from `/proc/stat` (proc_stat(5)).

use std::{
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};

/// CPU time that was not idle, of all cores since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy {
    ticks: u64,
}

impl Busy {
    /// What the kernel has counted so far.
    pub(super) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        let ticks = busy_ticks(&stat).context("/proc/stat does not begin with the times of all cores")?;
        Ok(Self { ticks })
    }

    /// Milliseconds of CPU time from then to now.
    #[expect(clippy::cast_precision_loss, reason = "well below 2^52")]
    pub(super) fn elapsed_ms(self) -> Result<f64> {
        let per_second = sysconf(SysconfVar::CLK_TCK)?.context("the kernel does not say how long a tick is")?;
        Ok((Self::now()?.ticks.saturating_sub(self.ticks)) as f64 * 1e3 / per_second as f64)
    }
}

/// How many cores' worth of time goes elsewhere, measured over a moment in which nothing is asked of the servers.
pub(super) fn background() -> Result<f64> {
    const MOMENT: Duration = Duration::from_millis(300);
    let (start, before) = (Instant::now(), Busy::now()?);
    thread::sleep(MOMENT);
    Ok(before.elapsed_ms()? / (start.elapsed().as_secs_f64() * 1e3))
}

/// user + nice + system + irq + softirq. What guests take is within user.
fn busy_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
    let mut next = || fields.next()?.parse::<u64>().ok();
    let (user, nice, system) = (next()?, next()?, next()?);
    let (_idle, _iowait) = (next()?, next()?);
    let (irq, softirq) = (next()?, next()?);
    Some(user + nice + system + irq + softirq)
}

/// How this kernel comes by these times, for the reader of the report.
pub(super) fn accounting() -> String {
    describe(kernel_config().as_deref())
}

fn kernel_config() -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let from_boot = fs::read_to_string(format!("/boot/config-{}", release.trim())).ok();
    from_boot.or_else(|| {
        let output = Command::new("zcat").arg("/proc/config.gz").output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

fn describe(config: Option<&str>) -> String {
    let Some(config) = config else {
        return "how this kernel counts it is unknown, as it shows no configuration".to_owned();
    };
    let has = |option: &str| config.lines().any(|line| line.strip_suffix("=y") == Some(option));
    let frequency = config.lines().find_map(|line| line.strip_prefix("CONFIG_HZ="));
    if has("CONFIG_IRQ_TIME_ACCOUNTING") {
        "interrupts and softirqs are timed exactly and counted apart".to_owned()
    } else if has("CONFIG_TICK_CPU_ACCOUNTING") {
        format!(
            "sampled {} times a second on each core, softirqs with it (no IRQ_TIME_ACCOUNTING)",
            frequency.unwrap_or("an unknown number of")
        )
    } else {
        "timed at every change of context; a softirq counts as system time of the task that it interrupts, or as \
         softirq (no IRQ_TIME_ACCOUNTING)"
            .to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  76124 5 16916 110073 1212 3 1491 47 0 0\ncpu0 37025 0 6878 58595 406 0 32 20 0 0\n";

    #[test]
    fn idle_waiting_and_stolen_time_is_not_busy() {
        assert_eq!(busy_ticks(STAT), Some(76124 + 5 + 16916 + 3 + 1491));
    }

    #[test]
    fn a_short_line_is_refused() {
        assert_eq!(busy_ticks("cpu  76124 5 16916 110073\n"), None);
        assert_eq!(busy_ticks("intr 5\n"), None);
    }

    #[test]
    fn the_way_of_counting_is_told() {
        let sampled = "CONFIG_TICK_CPU_ACCOUNTING=y\n# CONFIG_IRQ_TIME_ACCOUNTING is not set\nCONFIG_HZ=250\n";
        assert!(describe(Some(sampled)).starts_with("sampled 250 times a second"));
        let exact = "CONFIG_TICK_CPU_ACCOUNTING=y\nCONFIG_IRQ_TIME_ACCOUNTING=y\n";
        assert!(describe(Some(exact)).contains("exactly"));
        assert!(describe(None).contains("unknown"));
    }
}
