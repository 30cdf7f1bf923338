//! Devices as hosts make them, in a guest of its own: with offloads that the guest cannot turn off, with several queues, with
//! large packets. What `lb` makes of each, and what it tells its operator. [`queues`] sends packets through.

use anyhow::{Context as _, Result};

use super::{
    balancer::{self, Status},
    guest::Guest,
    lab::{self, BALANCER, devices_image},
    promise::Promises,
    queues,
};
use crate::vm::{
    kernel::Kernel,
    machine::{Cable, Machine},
};

/// CPUs of the guest. An XDP program wants a transmit queue for each beside those in use.
const CPUS: u32 = 2;
const QUEUES: u32 = 2 * CPUS;

/// A configuration with the device that refuses, attached as `mode` says.
pub(super) fn configuration(mode: &str) -> String {
    format!(
        "[[interface]]
name = \"eth0\"
xdp = \"{mode}\"

[limits]
flows-ipv4 = 1024
flows-ipv6 = 1024
"
    )
}

/// Boots the guest and goes through it.
///
/// # Errors
/// When something does not run at all. What runs otherwise than promised is counted.
pub(super) fn show(kernel: &Kernel, promises: &mut Promises) -> Result<()> {
    let mut fixed = lab::network(1, Cable::Tap { queues: 1 });
    fixed.properties.push("ctrl_guest_offloads=off".to_owned());
    let several = [2, 3].map(|number| {
        let mut device = lab::network(number, Cable::Tap { queues: QUEUES });
        let vectors = 2 * QUEUES + 2;
        device
            .properties
            .extend(["mq=on".to_owned(), format!("vectors={vectors}")]);
        device
    });
    let machine = Machine::new(kernel, &devices_image(kernel)?, BALANCER)
        .append(lab::CLOCK)
        .cpus(CPUS)
        .network(fixed);
    let machine = several.into_iter().fold(machine, Machine::network);
    let mut guest = Guest::start("devices", &machine)?;
    let shown = guest
        .wait_ready()
        .and_then(|()| go_through(&mut guest, promises))
        .and_then(|()| queues::show(&mut guest, promises));
    shown.with_context(|| guest.tail())
}

fn go_through(guest: &mut Guest, promises: &mut Promises) -> Result<()> {
    let refused = guest.ask("lb run --config /etc/native.toml")?;
    let explained = [
        "eth0",
        "guest_csum, guest_tso4",
        "ctrl_guest_offloads=on",
        "xdp = \"auto\"",
    ];
    refusal(
        promises,
        "offloads that only the host can turn off",
        &refused,
        &explained,
    );
    balancer::start(guest)?;
    let status = Status::wait(guest, "an answer", |_| true)?;
    let interfaces = status.interfaces().join(", ");
    promises.keep(
        interfaces.starts_with("eth0 generic the driver refused native XDP")
            && interfaces.contains("ctrl_guest_offloads=on"),
        &format!("xdp = \"auto\" uses the generic path, and `lb status` says why: {interfaces}"),
    );
    guest.run("ip link set eth1 mtu 9000")?;
    let attached = guest.ask("lb attach eth1 --xdp native")?;
    // Newer drivers hand over large packets in several buffers.
    if attached.0 == 0 {
        promises.keep(true, "packets of 9000 bytes are taken in native mode");
    } else {
        let explained = ["eth1", "ip link set dev eth1 mtu 3506"];
        refusal(promises, "packets of 9000 bytes", &attached, &explained);
        guest.run("ip link set dev eth1 mtu 3506")?;
        guest.run("lb attach eth1 --xdp native")?;
    }
    let queues = guest.run("ethtool -l eth1 | grep Combined | tail -n 1")?;
    let warnings = guest.run("dmesg | grep -c 'eth1: XDP request' || true")?;
    promises.keep(
        queues.ends_with(&QUEUES.to_string()) && warnings == "0",
        &format!(
            "offloads that the guest can turn off and {QUEUES} pairs of queues for {CPUS} CPUs are taken: {queues}, \
             {warnings} warnings of too few queues"
        ),
    );
    guest.run("kill $lb; wait $lb; lb detach")?;
    Ok(())
}

/// Keeps the promise that `lb` refused, and that the refusal has these parts.
fn refusal(promises: &mut Promises, what: &str, (code, said): &(i32, String), explained: &[&str]) {
    let last = said.lines().last().unwrap_or_default();
    promises.keep(
        *code == 1 && explained.iter().all(|part| last.contains(part)),
        &format!("{what} are refused, with what to do: {last}"),
    );
}
