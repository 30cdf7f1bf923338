//! Network interfaces.

use std::collections::BTreeSet;

use super::{
    Device, Facts, Finding,
    Weight::{Hint, Problem},
    finding,
};
use crate::cli::human::plural;

/// Drivers with native XDP that other interfaces cannot redirect frames to: they have no `ndo_xdp_xmit`
/// (`NETDEV_XDP_ACT_NDO_XMIT` in Linux 6.3 and later).
const NO_REDIRECT_TO: [&str; 5] = ["fbnic", "ixgbevf", "mlx4_core", "nfp", "nicvf"];
/// Drivers that take frames in several buffers in native XDP (`NETDEV_XDP_ACT_RX_SG`).
const IN_SEVERAL_BUFFERS: [&str; 7] = ["bnxt_en", "fbnic", "i40e", "ice", "mlx5_core", "mvneta", "virtio_net"];
/// The largest MTU whose frames fit a page of 4 KiB beside what XDP keeps in it: 256 bytes before them, 320 after them.
const ONE_PAGE: u32 = 3498;
/// A receive ring with fewer places overflows in a burst of a few hundred microseconds.
const SMALL_RING: u32 = 1024;
/// Longer rings fall out of the cache.
const LARGE_RING: u32 = 4096;
/// More interrupts than these are not listed one by one.
const LISTED: usize = 8;

/// What should be otherwise about an interface.
pub(super) fn examine(device: &Device, facts: &Facts) -> Vec<Finding> {
    let checks = [
        queues(device, facts),
        sending(device, facts),
        interrupts(device, facts),
        ring(device),
        merging(device),
        redirect(device, facts),
        mtu(device),
    ];
    checks.into_iter().flatten().collect()
}

fn queues(device: &Device, facts: &Facts) -> Option<Finding> {
    device.driver.as_ref()?;
    let (has, wanted) = (device.rx_queues, facts.cpus);
    if has >= wanted || has == 0 {
        return None;
    }
    let most = device.most_queues.unwrap_or(has);
    let what = format!(
        "{} for {wanted} CPUs: no more than {has} of them handle packets",
        plural(has, "receive queue")
    );
    let remedy = if most > has {
        format!("ethtool -L {} combined {}", device.name, most.min(wanted))
    } else if device.driver.as_deref() == Some("virtio_net") {
        format!("give the virtual machine's network device more queues, on its host (QEMU: mq=on, queues={wanted})")
    } else {
        "the device has no more; take one with as many queues as CPUs".to_owned()
    };
    Some(finding(Hint, &device.name, what, [remedy]))
}

/// Only where it is not the receive queues' number.
fn sending(device: &Device, facts: &Facts) -> Option<Finding> {
    device.driver.as_ref()?;
    let few = device.tx_queues > 0 && device.tx_queues < facts.cpus && device.tx_queues < device.rx_queues;
    few.then(|| {
        let what = format!(
            "{} for {} CPUs: CPUs that send through the same one wait for each other",
            plural(device.tx_queues, "transmit queue"),
            facts.cpus
        );
        let remedy = format!("ethtool -L {} tx {}", device.name, facts.cpus);
        finding(Hint, &device.name, what, [remedy])
    })
}

/// The queues' interrupts on fewer CPUs than could take them.
fn interrupts(device: &Device, facts: &Facts) -> Option<Finding> {
    let count = device.interrupts.len();
    let taken: BTreeSet<usize> = device.interrupts.values().flatten().copied().collect();
    let possible = device.rx_queues.min(facts.cpus);
    if device.rx_queues < 2 || count < 2 || taken.is_empty() || taken.len() >= possible {
        return None;
    }
    let on = taken.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let what = format!(
        "{count} interrupts of {} receive queues all go to {}, of {}",
        device.rx_queues,
        if taken.len() == 1 {
            format!("CPU {on}")
        } else {
            format!("CPUs {on}")
        },
        facts.cpus
    );
    let mut remedy = Vec::new();
    if facts.irqbalance {
        remedy.push("systemctl disable --now irqbalance".to_owned());
    }
    let place = |(n, irq): (usize, &u32)| format!("echo {} > /proc/irq/{irq}/smp_affinity_list", n % facts.cpus.max(1));
    remedy.extend(device.interrupts.keys().enumerate().take(LISTED).map(place));
    if count > LISTED {
        remedy.push(format!("and so on, in turn, for the other {}", count - LISTED));
    }
    Some(finding(Hint, &device.name, what, remedy))
}

fn ring(device: &Device) -> Option<Finding> {
    let (has, most) = device.ring?;
    if has >= most.min(SMALL_RING) {
        return None;
    }
    let what = format!("its receive rings have {has} places of {most}: a burst overflows them");
    let remedy = format!("ethtool -G {} rx {}", device.name, most.min(LARGE_RING));
    Some(finding(Hint, &device.name, what, [remedy]))
}

fn merging(device: &Device) -> Option<Finding> {
    if device.merging.is_empty() {
        return None;
    }
    let (names, native) = (device.merging.join(" and "), device.xdp.as_deref() == Some("native"));
    let weight = if native { Problem } else { Hint };
    let what = format!(
        "it has {names} on: the device merges packets before lb sees them, and what is merged is too large to go on"
    );
    let remedy = device
        .merging
        .iter()
        .map(|name| format!("ethtool -K {} {name} off", device.name));
    Some(finding(weight, &device.name, what, remedy))
}

fn redirect(device: &Device, facts: &Facts) -> Option<Finding> {
    let driver = device.driver.as_deref().filter(|d| NO_REDIRECT_TO.contains(d))?;
    if facts.devices.len() < 2 {
        return None;
    }
    let what =
        format!("driver {driver} takes no frames that come in by other interfaces (XDP redirect): they are lost there");
    let remedy = "have clients and backends on this interface both, or attach the others in the generic path: lb attach IFACE --xdp generic";
    Some(finding(Problem, &device.name, what, [remedy]))
}

fn mtu(device: &Device) -> Option<Finding> {
    let driver = device.driver.as_deref()?;
    if device.mtu <= ONE_PAGE || IN_SEVERAL_BUFFERS.contains(&driver) {
        return None;
    }
    let what = format!(
        "its MTU is {}, and driver {driver} is not known to have native XDP beyond a page per packet",
        device.mtu
    );
    let remedy = [
        format!(
            "lb status says whether {} runs native or generic; if it is generic:",
            device.name
        ),
        format!("ip link set dev {} mtu {ONE_PAGE}", device.name),
    ];
    Some(finding(Hint, &device.name, what, remedy))
}
