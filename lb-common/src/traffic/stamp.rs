//! What every generated packet carries.

use crate::net::Be16;

/// Bytes of a stamp: a frame of 60 bytes with UDP over IPv4 has just this much payload.
pub const STAMP: usize = 18;

/// The mark on a packet. In the packet: run, flow, sequence and time, in network byte order, without gaps.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Number of the run, so that packets of an earlier one are known; never zero.
    pub run: u16,
    /// Number of the flow, from zero on.
    pub flow: u32,
    /// Number of the packet in its flow, from zero on.
    pub sequence: u32,
    /// Nanoseconds of the sender's monotonic clock (`CLOCK_MONOTONIC`) when the packet was made; zero when not asked for.
    pub time: u64,
}

/// A stamp behind its run: flow, sequence, and the halves of the time, as they lie in a packet.
pub type StampWords = [u32; 4];

impl Stamp {
    /// From what lies in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn from_words(run: Be16, [flow, sequence, high, low]: StampWords) -> Self {
        Self {
            run: run.get(),
            flow: u32::from_be(flow),
            sequence: u32::from_be(sequence),
            time: ((u32::from_be(high) as u64) << 32) | u32::from_be(low) as u64,
        }
    }

    /// What is to lie in a packet.
    #[inline(always)]
    #[must_use]
    pub const fn to_words(self) -> (Be16, StampWords) {
        (
            Be16::new(self.run),
            [
                self.flow.to_be(),
                self.sequence.to_be(),
                ((self.time >> 32) as u32).to_be(),
                (self.time as u32).to_be(),
            ],
        )
    }

    /// As bytes of a packet.
    #[must_use]
    pub fn to_wire(self) -> [u8; STAMP] {
        let (run, words) = self.to_words();
        let mut bytes = [0; STAMP];
        let (first, rest) = bytes.split_at_mut(2);
        first.copy_from_slice(&run.to_wire());
        for (place, word) in rest.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// The sum of 32-bit words as loaded, in 16 bits: what they add to a checksum.
#[inline(always)]
#[must_use]
pub const fn sum(words: u64) -> u16 {
    let sum = (words & 0xffff_ffff) + (words >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// A checksum whose fields were zero, with the sum of what they are now.
#[inline(always)]
#[must_use]
pub const fn with_sum(check: u16, words: u64) -> u16 {
    !sum((!check) as u64 + words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checksum::fold;

    proptest! {
        #[test]
        fn a_stamp_is_read_as_written(run: u16, flow: u32, sequence: u32, time: u64) {
            let stamp = Stamp { run, flow, sequence, time };
            let (run, words) = stamp.to_words();
            prop_assert_eq!(Stamp::from_words(run, words), stamp);
        }

        #[test]
        fn the_bytes_are_in_network_order(run: u16, flow: u32, sequence: u32, time: u64) {
            let mut expected = Vec::new();
            expected.extend(run.to_be_bytes());
            expected.extend(flow.to_be_bytes());
            expected.extend(sequence.to_be_bytes());
            expected.extend(time.to_be_bytes());
            prop_assert_eq!(Stamp { run, flow, sequence, time }.to_wire().to_vec(), expected);
        }

        #[test]
        fn words_count_like_their_halves(words: [u32; 9], check: u16) {
            let total: u64 = words.iter().map(|w| u64::from(*w)).sum();
            let halves: u32 = words.iter().map(|w| (w >> 16) + (w & 0xffff)).sum();
            let same = |a: u16, b: u16| a == b || (a.wrapping_add(1) <= 1 && b.wrapping_add(1) <= 1);
            prop_assert!(same(sum(total), fold(halves)));
            prop_assert!(same(with_sum(check, total), !fold(u32::from(!check) + halves)));
        }
    }
}
