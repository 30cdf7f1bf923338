//! What the load generator and its sink share: programs in the kernel on one side, the command line on the other.
//!
//! Frames are told apart from other traffic by a [`Stamp`]: UDP datagrams and data segments of TCP carry it at the start
//! of their payload. Segments without data have the number of the run in the window field and the number of the flow in
//! the sequence number instead.

pub mod latency;
pub mod pace;
pub mod stamp;
pub mod track;

pub use self::{
    latency::Histogram,
    pace::Pace,
    stamp::{Stamp, StampWords},
    track::Track,
};
use crate::net::{AnyAddr, Be16, MacAddr};

/// The lowest source port that flows use, and how many there are from it on.
pub const FIRST_PORT: u16 = 1024;
/// Source ports per source address.
pub const PORTS: u32 = 65536 - FIRST_PORT as u32;
/// The longest frame that is generated, in bytes, frame check sequence not counted.
pub const MAX_FRAME: usize = 1514;
/// The shortest frame, in bytes, frame check sequence not counted.
pub const MIN_FRAME: usize = 60;
/// 32-bit words of a frame that differ from packet to packet: Ethernet, IPv6, TCP, stamp.
pub const HEAD_WORDS: usize = 23;
/// Sizes in a mix of sizes.
pub const SIZES: usize = 3;
/// Frames of each size in [`MIX`].
pub const MIX_LENGTH: u32 = 12;
/// The most targets.
pub const MAX_TARGETS: u32 = 256;

/// The sizes of the simple IMIX in an order that spreads them: seven of size 0, four of size 1, one of size 2. The bits
/// of place `n` are those at `2 * n`.
pub const MIX: u32 = mix([0, 1, 0, 0, 1, 0, 2, 0, 1, 0, 0, 1]);

const fn mix(order: [u32; MIX_LENGTH as usize]) -> u32 {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = order;
    a | (b << 2)
        | (c << 4)
        | (d << 6)
        | (e << 8)
        | (f << 10)
        | (g << 12)
        | (h << 14)
        | (i << 16)
        | (j << 18)
        | (k << 20)
        | (l << 22)
}

/// The size of the `n`-th frame of the mix.
#[inline(always)]
#[must_use]
pub const fn mixed_size(n: u32) -> u32 {
    (MIX >> (2 * (n & 15))) & 3
}

/// The source of a flow: how far behind the first source address its own is, and its port.
#[inline(always)]
#[must_use]
pub const fn source_of(flow: u32) -> (u32, u16) {
    // flow / 64512 = (flow / 1024) / 63, and a division by 63 of 22 bits is a multiplication; BPF has no other cheap one.
    const INVERSE: u64 = (1 << 32) / 63 + 1;
    let address = (((flow >> 10) as u64 * INVERSE) >> 32) as u32;
    (address, FIRST_PORT.wrapping_add((flow - address * PORTS) as u16))
}

/// The flow of a source, as [`source_of`] gave it.
#[inline(always)]
#[must_use]
pub const fn flow_of(address: u32, port: u16) -> Option<u32> {
    if port < FIRST_PORT || address > u32::MAX / PORTS - 1 {
        return None;
    }
    Some(address * PORTS + (port - FIRST_PORT) as u32)
}

/// The initial sequence number of the responder, which keeps no state: it knows an acknowledgement of it again.
#[inline(always)]
#[must_use]
pub const fn answer_sequence(client_sequence: u32) -> u32 {
    client_sequence.wrapping_mul(0x9e37_79b1) ^ 0x6c62_6c62
}

/// What the generator acknowledges in segments of flows whose server's number it does not know. A RST that answers them
/// has it as its sequence number.
pub const ACKNOWLEDGED: u32 = 0x6c62_0001;

/// The head of a frame whose checksums are right while the last 32 bits of the source address, the source port, the
/// sequence number and the stamp's numbers are zero.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Template {
    /// The head.
    pub words: [u32; HEAD_WORDS],
    /// Bytes of the frame, frame check sequence not counted.
    pub length: u32,
}

impl Default for Template {
    fn default() -> Self {
        Self {
            words: [0; HEAD_WORDS],
            length: 0,
        }
    }
}

/// What one core's generator has to do, and how far it is.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Lane {
    /// Packets that are still to be sent.
    pub left: u64,
    /// Bytes sent, frame check sequence not counted.
    pub bytes: u64,
    /// When the first packet was sent, in nanoseconds of the kernel's monotonic clock; zero: it was not yet.
    pub begun: u64,
    /// When the last one was; zero: it was not yet.
    pub ended: u64,
    /// When the next packet is due.
    pub pace: Pace,
    /// The first of its flows, or of its places in the drawn order of flows.
    pub first: u32,
    /// One behind the last.
    pub end: u32,
    /// The one whose turn it is.
    pub next: u32,
    /// How often all had their turn.
    pub round: u32,
    /// Place in the mix of sizes.
    pub turn: u32,
    /// What TCP's sequence numbers have on top of the flow's number.
    pub sequence_base: u32,
    /// Not zero: flows take turns, whatever the order of the run is.
    pub in_turn: u32,
    /// Bytes of the longest frame, which all buffers have before they are cut.
    pub longest: u32,
}

/// A server as the sink sees it: where frames were addressed to when they arrived.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct BackendKey {
    /// Destination address.
    pub address: AnyAddr,
    /// Destination MAC address, which alone tells servers apart behind direct server return.
    pub mac: MacAddr,
    /// Destination port.
    pub port: Be16,
    /// 6 for IPv6, 4 for IPv4.
    pub version: u16,
    /// IP protocol.
    pub protocol: u16,
}

impl BackendKey {
    /// A number that is the same for the same server, and another for another, but once in four thousand million.
    #[inline(always)]
    #[must_use]
    pub const fn fingerprint(&self) -> u32 {
        const PRIME: u32 = 0x0100_0193;
        let [a, b, c, d] = self.address;
        let [m, n, o] = self.mac.words();
        let words = [
            a,
            b,
            c,
            d,
            ((m as u32) << 16) | n as u32,
            ((o as u32) << 16) | self.port.word() as u32,
        ];
        let [a, b, c, d, e, f] = words;
        let mut hash = 0x811c_9dc5u32;
        hash = (hash ^ a).wrapping_mul(PRIME).rotate_left(13);
        hash = (hash ^ b).wrapping_mul(PRIME).rotate_left(13);
        hash = (hash ^ c).wrapping_mul(PRIME).rotate_left(13);
        hash = (hash ^ d).wrapping_mul(PRIME).rotate_left(13);
        hash = (hash ^ e).wrapping_mul(PRIME).rotate_left(13);
        hash = (hash ^ f).wrapping_mul(PRIME).rotate_left(13);
        // Zero stands for "none yet".
        if hash == 0 { 1 } else { hash }
    }
}

/// What one server got.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct BackendCount {
    /// Packets.
    pub packets: u64,
    /// Bytes, frame check sequence not counted.
    pub bytes: u64,
    /// Flows whose first packet it got.
    pub flows: u64,
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident => $text:literal,)+) => {
        /// What the sink and the generator's receiving side count.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Counter {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Counter {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Its name, as JSON has it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

counters! {
    /// Packets of the run.
    Packets => "packets",
    /// Their bytes, frame check sequence not counted.
    Bytes => "bytes",
    /// Flows seen.
    Flows => "flows",
    /// Sequence numbers that were skipped.
    Missing => "missing",
    /// Packets that came behind a later one of their flow.
    Reordered => "reordered",
    /// Packets that came once more.
    Duplicates => "duplicates",
    /// Flows whose first packet here was not their first one.
    BegunLate => "begun_late",
    /// Flows that came to another server than before.
    Moved => "moved",
    /// Packets whose IPv4 header checksum was wrong.
    IpFaults => "ip_checksum_faults",
    /// Packets whose TCP or UDP checksum was wrong.
    L4Faults => "l4_checksum_faults",
    /// Packets too long for the check of their checksum.
    Unchecked => "unchecked",
    /// Packets of another run, left to the kernel.
    OtherRun => "other_run",
    /// Connection requests.
    Syns => "syns",
    /// Connection requests accepted, by the responder or by the server.
    SynAcks => "syn_acks",
    /// Handshakes completed.
    Handshakes => "handshakes",
    /// Connections refused or ended by RST.
    Resets => "resets",
}

/// Values of [`Counter`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters(pub [u64; Counter::COUNT]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Counter::COUNT])
    }
}

impl Counters {
    /// Adds to one.
    #[inline(always)]
    pub fn add(&mut self, counter: Counter, count: u64) {
        if let Some(value) = self.0.get_mut(counter as usize) {
            *value += count;
        }
    }

    /// The value of one.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.0.get(counter as usize).copied().unwrap_or_default()
    }

    /// The sums of two.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        for (sum, value) in self.0.iter_mut().zip(other.0) {
            *sum += value;
        }
        self
    }
}

const _: () = {
    assert!(size_of::<Template>() == 96);
    assert!(size_of::<Lane>() == 32 + 16 + 32);
    assert!(size_of::<BackendKey>() == 28);
    assert!(size_of::<BackendCount>() == 24);
    assert!(size_of::<Track>() == 24);
};

#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya asks for its marker trait on what maps hold")]

    use super::{BackendCount, BackendKey, Counters, Histogram, Lane, Template, Track};

    macro_rules! pod {
        ($($t:ty),+ $(,)?) => {
            $(
                // SAFETY: repr(C) over integers, without padding (asserted by size above; the others are arrays), so every
                // bit pattern is a value and every byte is initialised.
                unsafe impl aya::Pod for $t {}
            )+
        };
    }

    pod!(BackendCount, BackendKey, Counters, Histogram, Lane, Template, Track);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sources_are_told_apart_and_found_again(flow in 0..u32::MAX - 2 * PORTS) {
            let (address, port) = source_of(flow);
            prop_assert_eq!((address, u32::from(port)), (flow / PORTS, 1024 + flow % PORTS));
            prop_assert_eq!(flow_of(address, port), Some(flow));
        }

        #[test]
        fn another_server_has_another_fingerprint(a: [u32; 4], mac: [u8; 6], port: u16, other: u16) {
            prop_assume!(port != other);
            let key = |port| BackendKey { address: a, mac: MacAddr::new(mac), port: Be16::new(port), version: 4, protocol: 17 };
            prop_assert_ne!(key(port).fingerprint(), key(other).fingerprint());
        }
    }

    #[test]
    fn a_port_below_the_range_is_no_flow() {
        assert_eq!(flow_of(0, 1023), None);
        assert_eq!(flow_of(0, 1024), Some(0));
        assert_eq!(flow_of(u32::MAX, 2000), None);
    }

    #[test]
    fn the_mix_is_seven_to_four_to_one() {
        let mut counts = [0; SIZES];
        for n in 0..MIX_LENGTH {
            counts[mixed_size(n) as usize] += 1;
        }
        assert_eq!(counts, [7, 4, 1]);
    }
}
