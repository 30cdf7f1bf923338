//! What an operator can do when a driver refuses native XDP. The kernel's error number says little, and the driver's own
//! words go to the kernel's log; but what a virtio-net device is like can be read, and the driver's conditions are few.

use std::{fs, path::Path};

/// Features of a virtio-net device that the host applies to packets for the guest, by bit (virtio 1.3, 5.1.3; Linux
/// `virtio_net.h`), as QEMU's properties are called.
const GUEST_OFFLOADS: [(usize, &str); 7] = [
    (1, "guest_csum"),
    (7, "guest_tso4"),
    (8, "guest_tso6"),
    (9, "guest_ecn"),
    (10, "guest_ufo"),
    (54, "guest_uso4"),
    (55, "guest_uso6"),
];
/// Whether the guest's driver can turn those off, as Linux does when an XDP program is attached.
const CTRL_GUEST_OFFLOADS: usize = 2;

/// The largest MTU for which Linux takes an XDP program that does not know of fragments, on pages of 4 KiB. Newer kernels;
/// older ones take somewhat more.
const LARGEST_MTU: u32 = 3506;

/// What is known to help against a refusal on this interface, or `None`.
pub(super) fn advice(interface: &str, ifindex: u32) -> Option<String> {
    let files = Path::new("/sys/class/net").join(interface);
    let read = |name: &str| fs::read_to_string(files.join(name)).ok();
    // In a network namespace that was entered without its own sysfs, the files are those of another interface.
    if read("ifindex")?.trim().parse() != Ok(ifindex) {
        return None;
    }
    let driver = fs::read_link(files.join("device/driver")).ok()?;
    if driver.file_name()? != "virtio_net" {
        return None;
    }
    virtio(interface, &read("device/features")?, read("mtu")?.trim().parse().ok()?)
}

/// `features` is as in sysfs: a `0` or `1` for each bit, the lowest first.
fn virtio(interface: &str, features: &str, mtu: u32) -> Option<String> {
    let has = |bit: usize| features.as_bytes().get(bit) == Some(&b'1');
    let on: Vec<&str> = GUEST_OFFLOADS
        .into_iter()
        .filter_map(|(bit, name)| has(bit).then_some(name))
        .collect();
    if !has(CTRL_GUEST_OFFLOADS) && !on.is_empty() {
        return Some(format!(
            "this virtual machine's host has {} on and does not let the guest turn them off, so `ethtool -K` cannot either; \
             on the host, give the network device ctrl_guest_offloads=on, or turn these off, and start the machine again",
            on.join(", ")
        ));
    }
    (mtu > LARGEST_MTU).then(|| {
        format!("its MTU is {mtu}, and native XDP on virtio-net wants one page per packet: ip link set dev {interface} mtu {LARGEST_MTU}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As seen in Linux 6.1 on QEMU 7.2 with a tap device, whole and with `ctrl_guest_offloads=off`; and on a socket.
    const TAP: &str = "1110010111111111111101010000110010000000100000000000000000000000";
    const TAP_FIXED: &str = "1100010111111111111101010000110010000000100000000000000000000000";
    const ONLY_CSUM_FIXED: &str = "1100010000011111111101010000110010000000100000000000000000000000";
    const SOCKET: &str = "0010010000000001111101010000110010000000100000000000000000000000";

    #[test]
    fn offloads_that_the_guest_cannot_turn_off_are_named() {
        let advice = virtio("eth0", TAP_FIXED, 1500).unwrap();
        for part in [
            "guest_csum, guest_tso4, guest_tso6, guest_ecn, guest_ufo on",
            "ctrl_guest_offloads=on",
        ] {
            assert!(advice.contains(part), "{advice}");
        }
        let advice = virtio("eth0", ONLY_CSUM_FIXED, 1500).unwrap();
        assert!(advice.contains("has guest_csum on"), "{advice}");
    }

    #[test]
    fn a_large_mtu_is_named_with_the_command() {
        for features in [TAP, SOCKET] {
            let advice = virtio("eth7", features, 9000).unwrap();
            assert!(advice.contains("ip link set dev eth7 mtu 3506"), "{advice}");
        }
    }

    #[test]
    fn nothing_is_said_of_what_linux_accepts() {
        for features in [TAP, SOCKET] {
            assert_eq!(virtio("eth0", features, 1500), None);
        }
        assert_eq!(advice("lo", 1), None, "it has no device");
        assert_eq!(advice("no-such-interface", 7), None);
    }
}
