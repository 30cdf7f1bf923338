//! A histogram of durations with buckets of constant relative width, as HdrHistogram has them.

/// Bits of the linear part: 64 buckets for each power of two.
const LINEAR: u32 = 6;
/// Buckets.
pub const BUCKETS: usize = 2048;

/// Counts of durations by [`bucket`].
///
/// A duration is known to its bucket, which is at most 1/64 as wide as the duration is long: what is read back is wrong by
/// 0.8 % at most. From 2^37 ns (137 s) on everything is in the last bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Histogram(pub [u64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Histogram {
    /// Counts a duration in nanoseconds.
    #[inline(always)]
    pub fn record(&mut self, duration: u64) {
        if let Some(count) = self.0.get_mut(bucket(duration)) {
            *count += 1;
        }
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }

    /// The buckets that hold something, as the duration in their middle in nanoseconds, and their count.
    pub fn filled(&self) -> impl Iterator<Item = (u64, u64)> {
        (0..)
            .zip(self.0)
            .filter(|(_, count)| *count > 0)
            .map(|(bucket, count)| (middle(bucket), count))
    }
}

/// The bucket of a duration in nanoseconds.
#[inline(always)]
#[must_use]
pub const fn bucket(duration: u64) -> usize {
    if duration >> (LINEAR + 31) != 0 {
        return BUCKETS - 1;
    }
    if duration >> LINEAR == 0 {
        return duration as usize;
    }
    let exponent = log2(duration) - LINEAR;
    (((exponent + 1) << LINEAR) as usize + (duration >> (exponent & 63)) as usize - (1 << LINEAR)) & (BUCKETS - 1)
}

/// The place of the highest bit. BPF counts no leading zeros, so this is a search by halves.
#[inline(always)]
const fn log2(value: u64) -> u32 {
    let (mut value, mut place) = (value, 0);
    let mut width = 32;
    while width > 0 {
        if value >> width != 0 {
            value >>= width;
            place += width;
        }
        width /= 2;
    }
    place
}

/// The middle of a bucket, in nanoseconds.
#[must_use]
pub const fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 << LINEAR {
        return bucket;
    }
    let exponent = (bucket >> LINEAR) - 1;
    let low = ((bucket & ((1 << LINEAR) - 1)) + (1 << LINEAR)) << exponent;
    low + (1 << exponent) / 2
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_read_back_is_close(shift in 0u32..37, bits: u64) {
            let duration = (bits & ((1 << 37) - 1)) >> shift;
            let read = middle(bucket(duration));
            prop_assert!(read.abs_diff(duration) <= duration / 128 + 1, "{} {}", duration, read);
        }

        #[test]
        fn longer_is_never_in_a_lower_bucket(a: u64, b: u64) {
            prop_assert!(bucket(a.min(b)) <= bucket(a.max(b)));
        }
    }

    #[test]
    fn every_bucket_is_used_once() {
        for n in 0..BUCKETS {
            assert_eq!(bucket(middle(n)), n);
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn counts_are_merged() {
        let (mut a, mut b) = (Histogram::default(), Histogram::default());
        a.record(5);
        b.record(5);
        b.record(1_000_000);
        a.merge(&b);
        let filled: Vec<_> = a.filled().collect();
        assert_eq!(filled[0], (5, 2));
        assert_eq!(filled[1].1, 1);
    }
}
