//! Hashes of flows, clients and backends, the same in the kernel and in user space.
//!
//! Packets are hashed by multiplication (Knuth, The Art of Computer Programming, volume 3, 6.4), in a dozen instructions. The hash
//! that places backends in Maglev tables is Bob Jenkins' lookup3 (<https://burtleburtle.net/bob/c/lookup3.c>, May 2006, in the
//! public domain). All seeds are constants on purpose: load balancers that stand beside each other choose alike, and so does one
//! that was started anew.

use crate::{
    abi::FlowKey,
    net::{Address, AnyAddr, join},
};

/// lookup3 on its way, three words at a time.
#[derive(Clone, Copy)]
struct Mixer([u32; 3]);

impl Mixer {
    /// For so many bytes in all.
    #[inline(always)]
    const fn new(bytes: u32, seed: u32) -> Self {
        Self([0xdead_beef_u32.wrapping_add(bytes).wrapping_add(seed); 3])
    }

    #[inline(always)]
    const fn add(self, [x, y, z]: [u32; 3]) -> Self {
        let Self([a, b, c]) = self;
        Self([a.wrapping_add(x), b.wrapping_add(y), c.wrapping_add(z)])
    }

    /// Words that others follow.
    #[inline(always)]
    const fn mix(self, words: [u32; 3]) -> Self {
        let Self([mut a, mut b, mut c]) = self.add(words);
        (a, c) = (a.wrapping_sub(c) ^ c.rotate_left(4), c.wrapping_add(b));
        (b, a) = (b.wrapping_sub(a) ^ a.rotate_left(6), a.wrapping_add(c));
        (c, b) = (c.wrapping_sub(b) ^ b.rotate_left(8), b.wrapping_add(a));
        (a, c) = (a.wrapping_sub(c) ^ c.rotate_left(16), c.wrapping_add(b));
        (b, a) = (b.wrapping_sub(a) ^ a.rotate_left(19), a.wrapping_add(c));
        (c, b) = (c.wrapping_sub(b) ^ b.rotate_left(4), b.wrapping_add(a));
        Self([a, b, c])
    }

    /// The last words, zero where there are fewer than three.
    #[inline(always)]
    const fn finish(self, words: [u32; 3]) -> u32 {
        let Self([mut a, mut b, mut c]) = self.add(words);
        c = (c ^ b).wrapping_sub(b.rotate_left(14));
        a = (a ^ c).wrapping_sub(c.rotate_left(11));
        b = (b ^ a).wrapping_sub(a.rotate_left(25));
        c = (c ^ b).wrapping_sub(b.rotate_left(16));
        a = (a ^ c).wrapping_sub(c.rotate_left(4));
        b = (b ^ a).wrapping_sub(a.rotate_left(14));
        (c ^ b).wrapping_sub(b.rotate_left(24))
    }
}

/// Of a backend's address and port, another one for each seed.
#[must_use]
pub const fn of_backend(address: AnyAddr, port: u16, seed: u32) -> u32 {
    let [a, b, c, d] = address;
    Mixer::new(20, seed).mix([a, b, c]).finish([d, port as u32, 0])
}

/// Odd numbers with bits all over: the fractions of the golden ratio and of the square roots of 2, 3, 5 and 7, in 64 bits.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const ROOT_2: u64 = 0x6a09_e667_f3bc_c909;
const ROOT_3: u64 = 0xbb67_ae85_84ca_a73b;
const ROOT_5: u64 = 0x3c6e_f372_fe94_f82b;
const ROOT_7: u64 = 0xa54f_f53a_5f1d_36f1;

/// Of a client's address alone: all its flows, to all services, have the same.
#[inline(always)]
#[must_use]
pub fn of_client<A: Address>(client: A) -> u32 {
    mixed(folded(client))
}

/// Of the 5-tuple without the VIP: every packet of a flow from its client has the same. It is no match for a client who chooses
/// its ports in order to come to one backend, which could as well send more to it.
#[inline(always)]
#[must_use]
pub fn of_flow<A: Address>(key: &FlowKey<A>) -> u32 {
    let ports = join(key.src_port.word(), key.dst_port.word());
    let rest = u64::from(ports) | u64::from(key.protocol()) << 32;
    mixed(folded(key.src).wrapping_add(rest))
}

/// An address in 64 bits: the sum of its words, each by a multiplier of its own.
#[inline(always)]
fn folded<A: Address>(address: A) -> u64 {
    let [a, b, c, d] = address.words().map(u64::from);
    let (first, second) = (a.wrapping_mul(ROOT_2), b.wrapping_mul(ROOT_3));
    let (third, fourth) = (c.wrapping_mul(ROOT_5), d.wrapping_mul(ROOT_7));
    first.wrapping_add(second).wrapping_add(third).wrapping_add(fourth)
}

/// Two rounds of multiplication: any bits of the result are as even as any others.
#[inline(always)]
const fn mixed(word: u64) -> u32 {
    let first = word.wrapping_mul(GOLDEN);
    ((first ^ first >> 32).wrapping_mul(ROOT_2) >> 32) as u32
}

/// Spreads the flows of clients, by their address and port: any bits of it are as even as any others, and as those of
/// [`of_flow`].
#[inline(always)]
#[must_use]
pub fn flow<A: Address>(key: &FlowKey<A>) -> u32 {
    mixed(folded(key.src).wrapping_add(u64::from(key.src_port.word())))
}

/// Spreads words that tell flows apart, as [`flow`] does: its higher bits are as even as any others.
#[derive(Clone, Copy)]
pub struct Spread(u64);

impl Spread {
    /// Of no word yet.
    pub const START: Self = Self(0);

    /// With another word.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, word: u64) -> Self {
        Self((self.0 ^ self.0 >> 32).wrapping_add(word).wrapping_mul(ROOT_2))
    }

    /// The hash.
    #[inline(always)]
    #[must_use]
    pub const fn finish(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::net::{Addr4, Addr6, Be16, TCP};

    /// The example in lookup3.c, `driver5`.
    #[test]
    fn it_is_lookup3() {
        let hash = |seed| {
            let text = b"Four score and seven years ago\0\0";
            let word = |n: usize| u32::from_le_bytes([text[4 * n], text[4 * n + 1], text[4 * n + 2], text[4 * n + 3]]);
            Mixer::new(30, seed)
                .mix([word(0), word(1), word(2)])
                .mix([word(3), word(4), word(5)])
                .finish([word(6), word(7), 0])
        };
        assert_eq!((hash(0), hash(1)), (0x1777_0551, 0xcd62_8161));
    }

    fn v4(n: u32) -> Addr4 {
        Ipv4Addr::from(n).into()
    }

    fn key(client: u32, port: u16) -> FlowKey<Addr4> {
        FlowKey::new((v4(client), Be16::new(port)), (v4(0x0a00_0001), Be16::new(80)), TCP)
    }

    /// Chi-squared over 64 buckets stays where chance leaves it (below the 99.99th percentile of 63 degrees of freedom, 115)
    /// for what real clients look like: neighbours, and one client's ports in turn.
    #[test]
    fn neighbours_spread() {
        const BUCKETS: usize = 64;
        let spread = |hashes: &mut dyn Iterator<Item = u32>| {
            let (mut counts, mut all) = ([0u32; BUCKETS], 0);
            for hash in hashes {
                counts[hash as usize % BUCKETS] += 1;
                all += 1;
            }
            let expected = f64::from(all) / BUCKETS as f64;
            counts
                .iter()
                .map(|n| (f64::from(*n) - expected).powi(2) / expected)
                .sum::<f64>()
        };
        let clients = 0x0a01_0000..0x0a01_4000u32;
        assert!(spread(&mut clients.clone().map(|c| of_client(v4(c)))) < 115.0);
        assert!(spread(&mut (1024..17_408u16).map(|port| of_flow(&key(0x0a01_0001, port)))) < 115.0);
        assert!(spread(&mut clients.clone().map(|c| of_flow(&key(c, 40_000)))) < 115.0);
        let v6 = |n: u32| Addr6::from_quarters([v4(0x2001_0db8), v4(n), v4(0), v4(1)]);
        assert!(spread(&mut clients.map(|c| of_client(v6(c)))) < 115.0);
    }

    proptest! {
        /// Each bit of the input turns about half of the output.
        #[test]
        fn every_bit_matters(client: u32, port: u16, bit in 0u32..32) {
            prop_assert_ne!(of_client(v4(client)), of_client(v4(client ^ 1 << bit)));
            prop_assert_ne!(of_flow(&key(client, port)), of_flow(&key(client ^ 1 << bit, port)));
            prop_assert_ne!(of_flow(&key(client, port)), of_flow(&key(client, port ^ 1 << (bit % 16))));
        }
    }
}

/// That multiplicative hash, of addresses and ports that resemble each other.
#[cfg(test)]
mod flow_tests {
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
        even_from(&[0, 8, 12, 24], name, hashes);
    }

    #[track_caller]
    fn even_from(shifts: &[u32], name: &str, hashes: impl Iterator<Item = u32> + Clone) {
        for shift in shifts {
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

    /// Over the slots of tables of several sizes, as [`by_hash`](crate::schedule::by_hash) takes them: flows of neighbours come to
    /// each about as often, the same holds for the clients' addresses alone, and both families.
    #[test]
    fn tables_fill_evenly() {
        let key4 = |client: u32, src: u16, dst: u16, protocol| {
            let (client, vip) = (Addr4::from_wire(client.to_be_bytes()), Addr4::from_wire([10, 0, 0, 1]));
            of_flow(&FlowKey::new((client, Be16::new(src)), (vip, Be16::new(dst)), protocol))
        };
        let key6 = |client: u128, src: u16| {
            let (client, vip) = (Addr6::from_wire(client.to_be_bytes()), Addr6::from_wire([1; 16]));
            of_flow(&FlowKey::new((client, Be16::new(src)), (vip, Be16::new(443)), UDP))
        };
        let net = 0xfd00u128 << 112;
        for slots in [2, 5, 7, 64, 251, 1021, 65_537] {
            let check = |name: &str, hashes: &mut dyn Iterator<Item = u32>| {
                let (mut counts, mut all) = (vec![0u32; slots as usize], 0u32);
                for hash in hashes {
                    counts[crate::schedule::by_hash(hash, slots) as usize] += 1;
                    all += 1;
                }
                let mean = f64::from(all) / f64::from(slots);
                let chi: f64 = counts.iter().map(|n| (f64::from(*n) - mean).powi(2) / mean).sum();
                let freedom = f64::from(slots - 1);
                assert!(
                    chi < freedom + 6.0 * (2.0 * freedom).sqrt() + 10.0,
                    "{name} in {slots} slots: {chi}"
                );
            };
            let v4 = |n: u32| 0x0a00_0000 + n;
            check("ports", &mut (1024..65_535).map(|port| key4(v4(1), port, 80, TCP)));
            check("clients", &mut (0..400_000).map(|n| key4(v4(n), 40_000, 80, TCP)));
            check(
                "clients of both protocols",
                &mut (0..100_000).map(|n| key4(v4(n / 2), 9, 9, if n % 2 == 0 { TCP } else { UDP })),
            );
            check(
                "ports and clients",
                &mut (0..400_000).map(|n| key4(v4(n / 64), 32_768 + (n % 64) as u16, 443, UDP)),
            );
            check(
                "a VIP's ports",
                &mut (0..60_000).map(|port| key4(v4(7), 5060, port, UDP)),
            );
            check(
                "even ports",
                &mut (0..300_000).map(|n| key4(v4(n / 1000), 32_768 + 2 * (n % 1000) as u16, 443, TCP)),
            );
            check(
                "addresses alone",
                &mut (0..300_000).map(|n| of_client(Addr4::from_wire(v4(n).to_be_bytes()))),
            );
            check(
                "every 256th address",
                &mut (0..60_000).map(|n| of_client(Addr4::from_wire(v4(n << 8).to_be_bytes()))),
            );
            check("IPv6 ports", &mut (0..60_000).map(|port| key6(net | 1, port)));
            check("IPv6 hosts", &mut (0..300_000).map(|n| key6(net | n, 443)));
            check("IPv6 networks", &mut (0..300_000).map(|n| key6(net | n << 64 | 1, 443)));
            check(
                "IPv6 addresses alone",
                &mut (0..300_000u128).map(|n| of_client(Addr6::from_wire((net | n << 64).to_be_bytes()))),
            );
        }
    }

    #[test]
    fn keys_of_flows_are_spread_by_their_high_bits() {
        let key = |n: u64, tail: u64| Spread::START.and(n).and(tail).finish();
        let (port, vip) = (|n: u64| n << 8 & 0xff00 | n >> 8, 0x0100_010a_0a00_c80a);
        even_from(
            &[12, 16, 24],
            "ports",
            (0..65_535).map(|n| key(vip, port(n) | 0x11_5000_0000)),
        );
        even_from(
            &[12, 16, 24],
            "clients",
            (0..65_535).map(|n| key(vip + (n << 8 & 0xffff_0000) + n, 0x11_5000_1234)),
        );
        even_from(
            &[12, 16, 24],
            "services",
            (0..65_535).map(|n| key(vip + (n << 40), (n & 0xff) << 24 | 0x11_0000_1234)),
        );
        let v6 = |n: u64, port: u64| Spread::START.and(0xfd).and(n).and(0xfd).and(n << 56).and(port).finish();
        even_from(&[12, 16, 24], "IPv6", (0..65_535).map(|n| v6(n / 256, n % 256)));
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
