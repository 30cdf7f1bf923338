//! Hashes of flows: cheap, even, and the same in the kernel and in user space.

use crate::{abi::FlowKey, net::Address};

/// Odd numbers with bits all over: the fractions of the golden ratio and of the square roots of 2 and 3, in 64 bits.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const ROOT_2: u64 = 0x6a09_e667_f3bc_c909;
const ROOT_3: u64 = 0xbb67_ae85_84ca_a73b;

/// Spreads the flows of clients, by their address and port: any bits of it are as even as any others.
///
/// It is multiplicative hashing (Knuth, The Art of Computer Programming, volume 3, 6.4), in two rounds. It is no match for
/// a client who chooses its ports in order to collide, and nothing depends on that.
#[inline(always)]
#[must_use]
pub fn flow<A: Address>(key: &FlowKey<A>) -> u32 {
    let [a, b, c, d] = key.src.words().map(u64::from);
    let port = u64::from(key.src_port.word());
    let first = (a << 32 | b).wrapping_mul(ROOT_2) ^ (c << 32 | d).wrapping_mul(ROOT_3);
    let sum = first.wrapping_add(port).wrapping_mul(GOLDEN);
    ((sum ^ sum >> 32).wrapping_mul(ROOT_2) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Addr4, Addr6, Be16, TCP, UDP};

    fn v4(client: u32, port: u16) -> u32 {
        let (client, vip) = (Addr4::from_wire(client.to_be_bytes()), Addr4::from_wire([10, 0, 0, 1]));
        flow(&FlowKey::new((client, Be16::new(port)), (vip, Be16::new(80)), TCP))
    }

    fn v6(client: u128, port: u16) -> u32 {
        let (client, vip) = (Addr6::from_wire(client.to_be_bytes()), Addr6::from_wire([1; 16]));
        flow(&FlowKey::new((client, Be16::new(port)), (vip, Be16::new(80)), UDP))
    }

    /// Of any eight bits of the hash, each value comes about as often: chi-squared with 255 degrees of freedom has the mean
    /// 255 and the standard deviation 22.6.
    #[track_caller]
    fn even(name: &str, hashes: impl Iterator<Item = u32> + Clone) {
        for shift in [0, 8, 12, 24] {
            let mut counts = [0u32; 256];
            hashes
                .clone()
                .for_each(|hash| counts[(hash >> shift & 0xff) as usize] += 1);
            let mean = f64::from(counts.iter().sum::<u32>()) / 256.0;
            let chi: f64 = counts.iter().map(|n| (f64::from(*n) - mean).powi(2) / mean).sum();
            assert!(chi < 255.0 + 6.0 * 22.6, "{name}, bits from {shift} on: {chi}");
        }
    }

    #[test]
    fn neighbours_are_spread() {
        even("ports of one client", (0..65_535).map(|port| v4(0x0a00_0001, port)));
        even("clients of one port", (0..65_535).map(|n| v4(0x0a00_0000 + n, 443)));
        even(
            "a few ports of some clients",
            (0..40_000).map(|n| v4(0xc0a8_0000 + n / 16, 40_000 + (n % 16) as u16)),
        );
        even(
            "ports of one IPv6 client",
            (0..65_535).map(|port| v6(0xfd00 << 112 | 1, port)),
        );
        even(
            "IPv6 networks",
            (0..65_535).map(|n| v6(0xfd00 << 112 | n << 64 | 1, 443)),
        );
        even("IPv6 hosts", (0..65_535).map(|n| v6(0xfd00 << 112 | n, 443)));
    }

    #[test]
    fn a_flow_keeps_its_hash_and_others_have_others() {
        assert_eq!(v4(1, 2), v4(1, 2));
        let mut all: Vec<_> = (0..10_000).map(|port| v4(0x0a00_0001, port)).collect();
        all.sort_unstable();
        all.dedup();
        assert!(all.len() > 9_990, "{}", all.len());
    }
}
