//! When which next hop is asked whether it is still there: pure.
//!
//! That another host took an address over without a word is noticed by the kernel only after half a minute and more: it
//! trusts an answer for that long, and then asks the old MAC address for seconds before it gives up (RFC 4861, section
//! 7.3). So each next hop is asked more often, at its known MAC address: a unicast poll (RFC 1122, section 2.3.2.1), which
//! concerns nobody else on the link. Only when the answer stays away is everybody asked. The kernel takes an answer
//! to either as if it had asked itself, and announces a new MAC address.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{table::NeighbourKey, types::Mac};

/// An answer takes far less than a millisecond on the links of a data centre; the rest is for hosts that are busy.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);
/// Questions to everybody before a silent next hop is left alone for a while. The kernel notices its death as ever.
const BROADCASTS: u32 = 3;
/// For that while; a successor may come late.
const PAUSE: Duration = Duration::from_secs(5);
/// Between two looks at what is due.
pub(super) const TICK: Duration = Duration::from_millis(25);
/// Questions at a time, which makes 20,000 a second at most.
const AT_ONCE: usize = 500;
/// Of those, questions to everybody: 200 a second at most, also when a switch with hundreds of hosts behind it is gone.
const BROADCASTS_AT_ONCE: usize = 5;

/// A question that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Poll {
    /// Who is asked for.
    pub(super) key: NeighbourKey,
    /// Where the answer goes: an address of this host.
    pub(super) source: IpAddr,
    /// The one host that is asked; `None`: everybody on the link.
    pub(super) at: Option<Mac>,
}

/// The next hops that are asked.
#[derive(Debug, Default)]
pub(super) struct Polls {
    /// From question to question; zero: never.
    every: Duration,
    entries: HashMap<NeighbourKey, Entry>,
    /// By when there is something to do. What had to wait keeps its place.
    queue: BTreeSet<(Instant, NeighbourKey)>,
}

#[derive(Debug)]
struct Entry {
    source: IpAddr,
    due: Instant,
    /// When the question was sent to which the others in a row belong.
    began: Instant,
    /// Questions in a row without an answer.
    unanswered: u32,
}

impl Polls {
    /// Asks from now on; no next hop is known before.
    pub(super) fn start(&mut self, every: Duration) {
        self.every = every;
    }

    /// Takes a next hop in. `source` is the address that packets of this host to it would have; without one of its family
    /// nobody would know where to answer.
    pub(super) fn add(&mut self, key: NeighbourKey, source: Option<IpAddr>, now: Instant) {
        let Some(source) = source.filter(|s| s.is_ipv4() == key.address.is_ipv4()) else {
            return;
        };
        if self.every.is_zero() {
            return;
        }
        let entry = match self.entries.entry(key) {
            hash_map::Entry::Occupied(mut known) => return known.get_mut().source = source,
            hash_map::Entry::Vacant(new) => new,
        };
        // Spread, so that they are not all asked at once for ever after.
        let random = RandomState::new().hash_one(key) as f64 / u64::MAX as f64;
        let due = now + self.every.mul_f64(random);
        self.queue.insert((due, key));
        entry.insert(Entry {
            source,
            due,
            began: due,
            unanswered: 0,
        });
    }

    /// Lets go of all others.
    pub(super) fn retain(&mut self, wanted: &HashSet<NeighbourKey>) {
        self.entries.retain(|key, _| wanted.contains(key));
        self.queue.retain(|(_, key)| wanted.contains(key));
    }

    /// A host answered, or asked for us: it is there.
    pub(super) fn heard(&mut self, key: NeighbourKey) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if entry.unanswered > 0 {
            entry.unanswered = 0;
            self.queue.remove(&(entry.due, key));
            entry.due = entry.began + self.every;
            self.queue.insert((entry.due, key));
        }
    }

    /// When something is due next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// The questions to send now. `mac` is the known address of a next hop; `None` for one that the kernel is asking for,
    /// or that it is not to ask for.
    pub(super) fn take(&mut self, now: Instant, mac: impl Fn(NeighbourKey) -> Option<Mac>) -> Vec<Poll> {
        let mut polls = Vec::new();
        let mut broadcasts = 0;
        for _ in 0..AT_ONCE {
            let Some((due, key)) = self.queue.first().copied().filter(|(due, _)| *due <= now) else {
                break;
            };
            self.queue.remove(&(due, key));
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            let postponed = entry.unanswered > 0 && broadcasts == BROADCASTS_AT_ONCE;
            if postponed {
                entry.due = now + TICK;
            } else if let Some(mac) = mac(key) {
                let poll = entry.ask(key, mac, now, self.every);
                broadcasts += usize::from(poll.is_some_and(|p| p.at.is_none()));
                polls.extend(poll);
            } else {
                entry.unanswered = 0;
                entry.due = now + self.every;
            }
            self.queue.insert((entry.due, key));
        }
        polls
    }
}

impl Entry {
    fn ask(&mut self, key: NeighbourKey, mac: Mac, now: Instant, every: Duration) -> Option<Poll> {
        if self.unanswered > BROADCASTS {
            self.unanswered = 0;
            self.due = now + PAUSE.max(every);
            return None;
        }
        let first = self.unanswered == 0;
        if first {
            self.began = now;
        }
        self.unanswered += 1;
        self.due = now + ANSWER_WITHIN * self.unanswered;
        Some(Poll {
            key,
            source: self.source,
            at: first.then_some(mac),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const EVERY: Duration = Duration::from_millis(500);
    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    fn key(index: u32) -> NeighbourKey {
        let address = IpAddr::V4(Ipv4Addr::from_bits(0x0a01_0000 + index));
        NeighbourKey { ifindex: 2, address }
    }

    fn polls(count: u32, now: Instant) -> Polls {
        let mut polls = Polls::default();
        polls.start(EVERY);
        (0..count).for_each(|i| polls.add(key(i), Some(SOURCE), now));
        polls
    }

    /// What is sent within a time, tick by tick, and when; `answers` says who answers to what.
    fn run(
        polls: &mut Polls,
        (from, until): (Instant, Instant),
        answers: impl Fn(&Poll, Instant) -> bool,
    ) -> Vec<(Instant, Poll)> {
        let (mut sent, mut now) = (Vec::new(), from);
        while now < until {
            for poll in polls.take(now, |_| Some(MAC)) {
                if answers(&poll, now) {
                    polls.heard(poll.key);
                }
                sent.push((now, poll));
            }
            now += TICK;
        }
        sent
    }

    #[test]
    fn who_answers_is_asked_twice_a_second_and_nobody_else_is() {
        let start = Instant::now();
        let mut polls = polls(100, start);
        let sent = run(&mut polls, (start, start + Duration::from_secs(10)), |_, _| true);
        assert!(sent.iter().all(|(_, p)| p.at == Some(MAC) && p.source == SOURCE));
        let of_one: Vec<Instant> = sent
            .iter()
            .filter(|(_, p)| p.key == key(7))
            .map(|(at, _)| *at)
            .collect();
        assert!(of_one.windows(2).all(|w| w[1] - w[0] == EVERY), "{of_one:?}");
        let first = sent.iter().filter(|(at, _)| *at < start + EVERY / 2).count();
        assert!((20..80).contains(&first), "spread: {first} of 100 in the first half");
    }

    #[test]
    fn everybody_is_asked_well_within_a_second_when_a_host_is_gone_and_then_it_rests() {
        let start = Instant::now();
        let mut polls = polls(1, start);
        let gone = start + Duration::from_secs(2);
        let sent = run(&mut polls, (start, gone + Duration::from_secs(12)), |_, at| at < gone);
        let broadcasts: Vec<Duration> = sent
            .iter()
            .filter(|(_, p)| p.at.is_none())
            .map(|(at, _)| *at - gone)
            .collect();
        assert!(broadcasts[0] <= EVERY + ANSWER_WITHIN + 2 * TICK, "{broadcasts:?}");
        assert!(broadcasts[1] < Duration::from_secs(1), "{broadcasts:?}");
        assert_eq!(
            broadcasts.len(),
            6,
            "three, a rest of five seconds, three more: {broadcasts:?}"
        );
    }

    #[test]
    fn an_answer_to_everybody_ends_the_series() {
        let start = Instant::now();
        let mut polls = polls(1, start);
        let answers = |poll: &Poll, _| poll.at.is_none();
        let sent = run(&mut polls, (start, start + Duration::from_secs(5)), answers);
        let ways: Vec<bool> = sent.iter().map(|(_, p)| p.at.is_some()).collect();
        assert!(
            ways.len() > 15 && ways.chunks_exact(2).all(|w| w == [true, false]),
            "{ways:?}"
        );
    }

    #[test]
    fn ten_thousand_silent_hosts_make_no_flood() {
        let start = Instant::now();
        let mut polls = polls(10_000, start);
        let sent = run(&mut polls, (start, start + Duration::from_secs(10)), |_, _| false);
        let broadcasts = sent.iter().filter(|(_, p)| p.at.is_none()).count();
        assert!(broadcasts <= 2000, "{broadcasts} in ten seconds");
        assert!(sent.len() <= 200_000, "{}", sent.len());
    }

    #[test]
    fn ten_thousand_hosts_are_all_asked_in_time() {
        let start = Instant::now();
        let mut polls = polls(10_000, start);
        let sent = run(&mut polls, (start, start + Duration::from_secs(5)), |_, _| true);
        let mut last: HashMap<NeighbourKey, Instant> = HashMap::new();
        for (at, poll) in sent {
            if let Some(before) = last.insert(poll.key, at) {
                assert!(at - before <= EVERY + 2 * TICK, "{:?}", at - before);
            }
        }
        assert_eq!(last.len(), 10_000);
    }

    #[test]
    fn what_is_unknown_or_fixed_or_off_is_not_asked() {
        let start = Instant::now();
        let mut off = Polls::default();
        off.add(key(1), Some(SOURCE), start);
        assert_eq!(off.due(), None);
        let mut polls = polls(1, start);
        polls.add(key(2), None, start);
        polls.add(key(3), Some("fd00::2".parse().unwrap()), start);
        assert_eq!(polls.queue.len(), 1);
        assert_eq!(polls.take(start + EVERY, |_| None), []);
        assert_eq!(polls.due(), Some(start + 2 * EVERY));
        polls.retain(&HashSet::new());
        assert_eq!((polls.due(), polls.entries.len()), (None, 0));
    }
}
