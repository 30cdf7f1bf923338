//! Loss, reordering and duplicates of one flow, from the sequence numbers that arrive (after RFC 4737 and RFC 5560).

/// What is known of a flow. Two CPUs that receive packets of one flow at once may miscount it: the program does not lock.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Track {
    /// Which of the last 64 sequence numbers came; bit `n` stands for `next - 1 - n`.
    came: u64,
    /// The sequence number that is to come.
    next: u32,
    /// Fingerprint of the server that it came to.
    backend: u32,
    /// The run that this is about; zero: none.
    run: u32,
    /// When the connection was asked for, as the lower 32 bits of the kernel's monotonic nanoseconds; zero: it was not, or
    /// it is answered.
    asked: u32,
}

/// What a packet's sequence number says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// The first of its flow in this run, with the number given.
    First(u32),
    /// The next one, or one further on: so many are missing in between.
    Next(u32),
    /// One that was missing.
    Reordered,
    /// One that had come already.
    Duplicate,
    /// One from so long before that it is not known whether it had come: counted as reordered.
    Ancient,
}

/// Sequence numbers that are remembered.
const WINDOW: u32 = u64::BITS;

impl Track {
    /// Takes note of a packet without a number; says whether it is the first of its flow in this run.
    #[inline(always)]
    pub const fn open(&mut self, run: u16) -> bool {
        let first = self.run != run as u32;
        if first {
            *self = Self {
                came: 0,
                next: 0,
                backend: 0,
                run: run as u32,
                asked: self.asked,
            };
        }
        first
    }

    /// Takes note of a packet.
    #[inline(always)]
    pub fn arrive(&mut self, run: u16, sequence: u32) -> Arrival {
        if self.run != run as u32 {
            *self = Self {
                came: 1,
                next: sequence.wrapping_add(1),
                backend: 0,
                run: run as u32,
                asked: 0,
            };
            return Arrival::First(sequence);
        }
        let ahead = sequence.wrapping_sub(self.next);
        if (ahead as i32) >= 0 {
            let step = ahead.wrapping_add(1);
            self.came = if step < WINDOW { (self.came << step) | 1 } else { 1 };
            self.next = sequence.wrapping_add(1);
            return Arrival::Next(ahead);
        }
        let behind = self.next.wrapping_sub(1).wrapping_sub(sequence);
        if behind >= WINDOW {
            return Arrival::Ancient;
        }
        let bit = 1u64 << (behind & (WINDOW - 1));
        if self.came & bit != 0 {
            return Arrival::Duplicate;
        }
        self.came |= bit;
        Arrival::Reordered
    }

    /// Takes note of a connection request at `now`, in nanoseconds.
    #[inline(always)]
    pub fn ask(&mut self, now: u64) {
        self.asked = now as u32 | 1;
    }

    /// How many nanoseconds after the request its first answer came, if this is it. Right up to four seconds.
    #[inline(always)]
    pub fn answered(&mut self, now: u64) -> Option<u64> {
        if self.asked == 0 {
            return None;
        }
        let took = (now as u32).wrapping_sub(self.asked);
        self.asked = 0;
        Some(u64::from(took))
    }

    /// Takes note of the server that a packet came to; says whether it is another than before.
    #[inline(always)]
    pub fn moved(&mut self, backend: u32) -> bool {
        let moved = self.backend != 0 && self.backend != backend;
        self.backend = backend;
        moved
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Default, Debug, PartialEq)]
    struct Count {
        missing: u64,
        reordered: u64,
        duplicates: u64,
    }

    fn count(sequence: &[u32]) -> Count {
        let (mut track, mut count) = (Track::default(), Count::default());
        for number in sequence {
            match track.arrive(7, *number) {
                Arrival::First(_) => {}
                Arrival::Next(missing) => count.missing += u64::from(missing),
                Arrival::Reordered | Arrival::Ancient => count.reordered += 1,
                Arrival::Duplicate => count.duplicates += 1,
            }
        }
        count
    }

    #[test]
    fn examples() {
        for (sequence, missing, reordered, duplicates) in [
            (&[0, 1, 2, 3][..], 0, 0, 0),
            (&[0, 2, 3], 1, 0, 0),
            (&[0, 2, 1, 3], 1, 1, 0),
            (&[0, 1, 1, 2], 0, 0, 1),
            (&[0, 2, 1, 1, 2], 1, 1, 2),
            (&[0, 200, 199, 1], 199, 2, 0),
            (&[u32::MAX, 0, 1], 0, 0, 0),
            (&[u32::MAX - 1, 0, u32::MAX], 1, 1, 0),
        ] {
            let expected = Count {
                missing,
                reordered,
                duplicates,
            };
            assert_eq!(count(sequence), expected, "{sequence:?}");
        }
    }

    #[test]
    fn another_run_begins_anew() {
        let mut track = Track::default();
        assert_eq!(track.arrive(1, 5), Arrival::First(5));
        assert_eq!(track.arrive(2, 0), Arrival::First(0));
        assert_eq!(track.arrive(2, 1), Arrival::Next(0));
    }

    #[test]
    fn a_flow_moves_only_after_it_was_somewhere() {
        let mut track = Track::default();
        track.arrive(1, 0);
        assert!(!track.moved(10));
        assert!(!track.moved(10));
        assert!(track.moved(11));
        track.arrive(2, 0);
        assert!(!track.moved(10), "a new run has no past");
    }

    #[test]
    fn numbers_count_from_zero_behind_a_packet_without() {
        let mut track = Track::default();
        assert!(track.open(3));
        assert!(!track.open(3));
        assert_eq!(track.arrive(3, 0), Arrival::Next(0));
        assert!(track.open(4));
        assert_eq!(track.arrive(4, 2), Arrival::Next(2));
    }

    #[test]
    fn a_request_is_answered_once() {
        let mut track = Track::default();
        assert_eq!(track.answered(5), None);
        track.ask(u64::from(u32::MAX) - 10);
        assert_eq!(track.answered(u64::from(u32::MAX) + 90), Some(100));
        assert_eq!(track.answered(u64::from(u32::MAX) + 95), None);
    }

    proptest! {
        /// What is lost is what never came, as long as nothing is late by more than the window.
        #[test]
        fn missing_less_reordered_is_lost(
            fates in prop::collection::vec((prop::bool::weighted(0.8), 0u32..30, 0usize..3), 1..200),
        ) {
            // The first and the last packet come in time: a flow's edges cannot be judged.
            let last = fates.len() as u32 + 60;
            let mut arrivals: Vec<(u32, u32)> = vec![(0, 0), (last + 40, last)];
            let (mut came, mut copies) = (2u32, 0u64);
            for (number, (comes, delay, again)) in (1u32..).zip(&fates) {
                if *comes {
                    came += 1;
                    copies += *again as u64;
                    for _ in 0..=*again {
                        arrivals.push((number + delay, number));
                    }
                }
            }
            arrivals.sort_by_key(|(at, _)| *at);
            let order: Vec<u32> = arrivals.iter().map(|(_, number)| *number).collect();
            let got = count(&order);
            prop_assert_eq!(got.missing - got.reordered, u64::from(last + 1 - came));
            prop_assert_eq!(got.duplicates, copies);
        }
    }
}
