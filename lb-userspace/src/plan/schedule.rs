//! Which backends take new flows, and in which order. Pure.

use std::collections::BTreeMap;

use lb_common::{
    abi::Rule,
    schedule::{COMPARED, SmoothWrr},
};

use super::maglev::{self, Peer};
use crate::model::Scheduler;

/// Slots that one service's schedule has at most.
pub const MAX_SLOTS: u32 = 65_536;

/// A backend as the choice of the serving tier sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Share of new flows.
    pub weight: u16,
    /// 0 serves first.
    pub tier: u8,
    /// Enabled, healthy, and its next hop is known.
    pub usable: bool,
    /// Not usable, but only because the first health check or the first next-hop lookup has not ended yet.
    pub undecided: bool,
}

impl Candidate {
    /// Whether new flows may go to it, were its tier to serve.
    #[must_use]
    pub const fn takes_flows(&self) -> bool {
        self.usable && self.weight > 0
    }
}

/// Which tier serves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TierChoice {
    /// The tier that takes new flows; `None` when no backend can.
    pub serving: Option<u8>,
    /// The tier that goes on serving without failback. Hand it in at the next choice.
    pub holding: Option<u8>,
}

/// Chooses the tier that serves.
///
/// With `failback`, and whenever no tier holds the service, that is the lowest tier with a backend that can take flows.
/// Without `failback`, a tier that took over holds the service for as long as any of its backends can take flows,
/// whatever recovers below it. It does not hold yet while a lower tier has undecided backends, so that the race of the
/// first health checks after a start does not make a standby the master. The hold ends when the tier has no such
/// backend any more: when they fail, or when the operator disables, drains or removes them, gives them weight 0 or
/// moves them to another tier (or sets `failback = true`). That is how an operator brings about a failback by hand.
#[must_use]
pub fn choose_tier(candidates: &[Candidate], failback: bool, holding: Option<u8>) -> TierChoice {
    let can_serve = |tier: u8| candidates.iter().any(|c| c.tier == tier && c.takes_flows());
    let lowest = candidates.iter().filter(|c| c.takes_flows()).map(|c| c.tier).min();
    if failback {
        return TierChoice {
            serving: lowest,
            holding: None,
        };
    }
    if let Some(tier) = holding.filter(|tier| can_serve(*tier)) {
        return TierChoice {
            serving: Some(tier),
            holding: Some(tier),
        };
    }
    let open_below = |tier: u8| candidates.iter().any(|c| c.tier < tier && c.undecided);
    TierChoice {
        serving: lowest,
        holding: lowest.filter(|tier| !open_below(*tier)),
    }
}

/// How a service's slots are filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filling {
    /// By which scheduler.
    pub scheduler: Scheduler,
    /// Slots of a Maglev table.
    pub table_size: u32,
}

/// The slots of these peers, as positions in `peers`, and the rule to choose one. Only round-robin minds the `cap`, as
/// [`turns`] says.
#[must_use]
pub fn fill(filling: Filling, peers: &[Peer], cap: u32) -> (Rule, Vec<u32>) {
    let position = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    match filling.scheduler {
        Scheduler::RoundRobin => {
            let weights: Vec<u32> = peers.iter().map(|peer| peer.weight).collect();
            (
                Rule::ROUND_ROBIN,
                turns(&weights, cap).into_iter().map(position).collect(),
            )
        }
        Scheduler::LeastConn => {
            let taking = peers.iter().enumerate().filter(|(_, peer)| peer.weight > 0);
            let slots: Vec<u32> = taking.map(|(at, _)| position(at)).collect();
            if slots.len() <= COMPARED as usize {
                (Rule::LEAST_CONN, slots)
            } else {
                (Rule::LEAST_CONN_OF_TWO, slots)
            }
        }
        Scheduler::SourceHash => (Rule::SOURCE_HASH, maglev::table(peers, filling.table_size)),
        Scheduler::Maglev => (Rule::MAGLEV, maglev::table(peers, filling.table_size)),
    }
}

/// The order in which peers of these weights take turns, over one period of smooth weighted round-robin: positions in
/// `weights`. Peers of weight 0 never have a turn. At most `cap` turns, unless there are more peers than that.
///
/// When the period is longer than `cap`, each weight is scaled down to its part of `cap` slots, rounded down, but at
/// least 1. A peer is then off its fair share by less than one slot, and by less than one part in `cap` for each peer
/// that rounding touched; no peer with a weight is left out.
///
/// Peers of the same weight take their turns one after the other, so the work grows with the number of distinct
/// weights, not of peers. The order is exactly that of [`SmoothWrr`], turn for turn.
#[must_use]
pub fn turns(weights: &[u32], cap: u32) -> Vec<usize> {
    let weights = scaled(weights, cap);
    let mut groups = Groups::new(&weights);
    (0..groups.total).map_while(|_| groups.turn()).collect()
}

/// Peers by weight. Those of one weight gain alike, so the one with the fewest turns has the most credit, and turns go
/// round. Credits and weights are arrays of their own, so that the compiler can work on many at once: this is what a
/// fail-over waits for.
struct Groups {
    /// Over their greatest common divisor, so that they and the credits are small.
    weights: Vec<i32>,
    /// Credit of each group's peers that had no turn in this round yet.
    credits: Vec<i32>,
    peers: Vec<Round>,
    /// Sum of the peers' weights: the period.
    total: i32,
}

struct Round {
    peers: Vec<usize>,
    next: usize,
}

impl Groups {
    fn new(weights: &[u32]) -> Self {
        let mut by_weight: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (peer, weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0) {
            by_weight.entry(*weight).or_default().push(peer);
        }
        let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        let period = SmoothWrr::period(weights);
        let divisor = sum.checked_div(period).unwrap_or(1);
        let reduced = |w: &u32| i32::try_from(u64::from(*w) / divisor).unwrap_or(i32::MAX);
        Self {
            weights: by_weight.keys().map(reduced).collect(),
            credits: vec![0; by_weight.len()],
            peers: by_weight.into_values().map(|peers| Round { peers, next: 0 }).collect(),
            total: i32::try_from(period).unwrap_or(i32::MAX),
        }
    }

    /// The peer whose turn it is: the first of those with the most credit.
    fn turn(&mut self) -> Option<usize> {
        let mut most = i32::MIN;
        for (credit, weight) in self.credits.iter_mut().zip(&self.weights) {
            *credit += weight;
            most = most.max(*credit);
        }
        let rounds = self.credits.iter_mut().zip(&mut self.peers);
        let tied = rounds.filter(|(credit, _)| **credit == most);
        let (credit, round) = tied.min_by_key(|(_, round)| round.peer())?;
        let peer = round.peer();
        round.next += 1;
        if round.next == round.peers.len() {
            round.next = 0;
            *credit -= self.total;
        }
        peer
    }
}

impl Round {
    fn peer(&self) -> Option<usize> {
        self.peers.get(self.next).copied()
    }
}

/// Weights whose period is at most `cap`, or the number of peers where that is more.
fn scaled(weights: &[u32], cap: u32) -> Vec<u32> {
    if SmoothWrr::period(weights) <= u64::from(cap) {
        return weights.to_vec();
    }
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let peers = weights.iter().filter(|w| **w > 0).count() as u64;
    // Rounding up to 1 adds less than one slot a peer.
    let room = u64::from(cap).saturating_sub(peers);
    let scale = |w: u32| match u64::from(w) * room / total.max(1) {
        _ if w == 0 => 0,
        slots => u32::try_from(slots).unwrap_or(u32::MAX).max(1),
    };
    weights.iter().map(|w| scale(*w)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UP: Candidate = Candidate {
        weight: 1,
        tier: 0,
        usable: true,
        undecided: false,
    };
    const STANDBY: Candidate = Candidate { tier: 1, ..UP };

    fn down(c: Candidate) -> Candidate {
        Candidate { usable: false, ..c }
    }

    fn unknown(c: Candidate) -> Candidate {
        Candidate {
            usable: false,
            undecided: true,
            ..c
        }
    }

    fn serving(candidates: &[Candidate], failback: bool, holding: Option<u8>) -> (Option<u8>, Option<u8>) {
        let choice = choose_tier(candidates, failback, holding);
        (choice.serving, choice.holding)
    }

    #[test]
    fn a_tier_serves_while_every_lower_one_cannot() {
        assert_eq!(serving(&[UP, STANDBY], true, None).0, Some(0));
        assert_eq!(serving(&[down(UP), STANDBY], true, None).0, Some(1));
        assert_eq!(
            serving(&[down(UP), UP, STANDBY], true, None).0,
            Some(0),
            "one is enough"
        );
        assert_eq!(
            serving(&[Candidate { weight: 0, ..UP }, STANDBY], true, None).0,
            Some(1)
        );
        assert_eq!(serving(&[down(UP), down(STANDBY)], true, None).0, None);
        assert_eq!(serving(&[], true, None).0, None);
    }

    #[test]
    fn without_failback_the_standby_goes_on() {
        let failed_over = serving(&[down(UP), STANDBY], false, Some(0));
        assert_eq!(failed_over, (Some(1), Some(1)));
        assert_eq!(serving(&[UP, STANDBY], false, failed_over.1), (Some(1), Some(1)));
        assert_eq!(serving(&[UP, STANDBY], true, failed_over.1), (Some(0), None));
        assert_eq!(
            serving(&[UP, down(STANDBY)], false, Some(1)),
            (Some(0), Some(0)),
            "until it fails itself"
        );
    }

    #[test]
    fn the_race_of_first_checks_makes_no_standby_the_master() {
        let first = serving(&[unknown(UP), STANDBY], false, None);
        assert_eq!(first, (Some(1), None), "it serves, but does not hold");
        assert_eq!(serving(&[UP, STANDBY], false, first.1), (Some(0), Some(0)));
        let decided = serving(&[down(UP), STANDBY], false, first.1);
        assert_eq!(decided, (Some(1), Some(1)));
        assert_eq!(serving(&[UP, STANDBY], false, decided.1).0, Some(1));
    }

    #[test]
    fn a_hold_survives_a_newcomer_below() {
        assert_eq!(serving(&[unknown(UP), STANDBY], false, Some(1)), (Some(1), Some(1)));
    }

    #[test]
    fn long_periods_are_scaled() {
        let weights: Vec<u32> = (0..1000).map(|i| 1 + (i * 7) % 256).collect();
        assert!(SmoothWrr::period(&weights) > u64::from(MAX_SLOTS));
        let order = turns(&weights, MAX_SLOTS);
        assert!(order.len() <= MAX_SLOTS as usize);
        let total: u32 = weights.iter().sum();
        for (peer, weight) in weights.iter().enumerate() {
            let got = order.iter().filter(|t| **t == peer).count() as f64 / order.len() as f64;
            let fair = f64::from(*weight) / f64::from(total);
            assert!(got > 0.0 && (got - fair).abs() < 2e-5, "peer {peer}: {got} for {fair}");
        }
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_smooth_wrr(weights in proptest::collection::vec(0u32..=9, 0..24)) {
            let mut credit = vec![0; weights.len()];
            let period = SmoothWrr::period(&weights) as usize;
            let expected: Vec<_> = SmoothWrr::new(&weights, &mut credit).take(period).collect();
            prop_assert_eq!(turns(&weights, MAX_SLOTS), expected);
        }

        #[test]
        fn the_cap_holds_and_nobody_is_left_out(
            weights in proptest::collection::vec(0u32..=256, 0..40),
            cap in 40u32..2000,
        ) {
            let order = turns(&weights, cap);
            prop_assert!(order.len() <= cap as usize);
            for (peer, weight) in weights.iter().enumerate() {
                prop_assert_eq!(order.contains(&peer), *weight > 0);
            }
        }
    }
}
