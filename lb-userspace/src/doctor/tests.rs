//! What is found on hosts of every kind, as the operator reads it.

use super::*;

fn nic(name: &str, driver: &str) -> Device {
    Device {
        name: name.to_owned(),
        xdp: Some("native".to_owned()),
        driver: Some(driver.to_owned()),
        mtu: 1500,
        rx_queues: 4,
        tx_queues: 4,
        most_queues: Some(8),
        ring: Some((1024, 8192)),
        interrupts: (0..4).map(|n| (40 + n, vec![n as usize])).collect(),
        ..Device::default()
    }
}

fn sound() -> Facts {
    Facts {
        cpus: 4,
        devices: vec![nic("eth0", "mlx5_core")],
        has_ethtool: true,
        jit: Some(1),
        tracked: Some((100, 262_144)),
        neighbours: [Some(1024), Some(1024)],
        memory: Some((16 << 30, 8 << 30)),
        daemon: Some(Daemon {
            open_files: Some(524_288),
            checks: 10_000,
            next_hops: [100, 100],
            maps: 480 << 20,
        }),
        ..Facts::default()
    }
}

fn words(facts: &Facts) -> String {
    let findings = examine(facts).into_iter();
    let lines = findings.map(|f| format!("{:?} {}: {}\n  {}\n", f.weight, f.about, f.what, f.remedy.join("\n  ")));
    lines.collect()
}

#[test]
fn nothing_is_said_of_a_sound_host() {
    assert_eq!(words(&sound()), "");
    let veth = Device {
        name: "veth0".to_owned(),
        mtu: 9000,
        rx_queues: 1,
        tx_queues: 1,
        ..Device::default()
    };
    let lab = Facts {
        devices: vec![veth],
        has_ethtool: false,
        ..sound()
    };
    assert_eq!(words(&lab), "", "it has no hardware");
    let unknown = Facts {
        cpus: 4,
        has_ethtool: true,
        ..Facts::default()
    };
    assert_eq!(words(&unknown), "", "what could not be read is not judged");
}

#[test]
fn devices_that_leave_cpus_idle() {
    let facts = Facts {
        cpus: 8,
        irqbalance: true,
        devices: vec![
            Device {
                interrupts: (0..4).map(|n| (40 + n, vec![0])).collect(),
                ..nic("eth0", "ice")
            },
            Device {
                rx_queues: 1,
                tx_queues: 1,
                most_queues: Some(1),
                interrupts: BTreeMap::from([(24, vec![1])]),
                ..nic("eth1", "virtio_net")
            },
            Device {
                rx_queues: 8,
                tx_queues: 2,
                interrupts: (0..12).map(|n| (60 + n, vec![0, 1])).collect(),
                ..nic("eth2", "i40e")
            },
            Device {
                rx_queues: 2,
                tx_queues: 2,
                most_queues: Some(2),
                ..nic("eth3", "igb")
            },
        ],
        ..sound()
    };
    insta::assert_snapshot!(words(&facts));
}

#[test]
fn devices_that_lose_packets() {
    let facts = Facts {
        devices: vec![
            Device {
                ring: Some((256, 4096)),
                merging: vec!["lro".to_owned(), "rx-gro-hw".to_owned()],
                ..nic("eth0", "ixgbe")
            },
            Device {
                mtu: 9000,
                xdp: Some("generic".to_owned()),
                merging: vec!["lro".to_owned()],
                ..nic("eth1", "ixgbevf")
            },
        ],
        ..sound()
    };
    insta::assert_snapshot!(words(&facts));
}

#[test]
fn hosts_that_are_too_small() {
    let facts = Facts {
        has_ethtool: false,
        jit: Some(0),
        tracked: Some((250_000, 262_144)),
        memory: Some((4 << 30, 200 << 20)),
        daemon: Some(Daemon {
            open_files: Some(1024),
            checks: 10_000,
            next_hops: [2000, 900],
            maps: 480 << 20,
        }),
        ..sound()
    };
    insta::assert_snapshot!(words(&facts));
}
