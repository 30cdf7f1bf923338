//! What the daemon and the packet path say.

use std::{io::IsTerminal as _, time::Duration};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::datapath::KernelDatapath;

/// How often messages of the packet path are fetched.
const FETCH_EVERY: Duration = Duration::from_millis(50);

/// Sends the daemon's messages to standard error. The filter is a level, or what `tracing_subscriber::EnvFilter` takes.
pub(super) fn init(filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| {
        format!("--log {filter}: expected a level such as info, or a filter such as info,lb_userspace=debug")
    })?;
    // Under systemd the journal has the time already.
    let stamped = std::env::var_os("JOURNAL_STREAM").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let result = if stamped {
        builder.try_init()
    } else {
        builder.without_time().try_init()
    };
    result.map_err(|e| anyhow::anyhow!("cannot start logging: {e}"))
}

/// Passes on what the packet path says, until the daemon ends.
pub(super) fn follow(datapath: &mut KernelDatapath) {
    let Some(mut logger) = datapath.logger() else {
        tracing::warn!("the packet path's messages cannot be read");
        return;
    };
    tokio::spawn(async move {
        let mut timer = tokio::time::interval(FETCH_EVERY);
        loop {
            timer.tick().await;
            logger.flush();
        }
    });
}
