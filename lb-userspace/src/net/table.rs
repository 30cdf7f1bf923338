//! What is known of the network: pure tables that dumps fill and events keep current.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_common::abi::Vlans;
use netlink_packet_route::neighbour::NeighbourState;

use super::{
    error::NextHopError,
    polls::{Poll, Polls},
    route::Route,
    types::{InterfaceInfo, Lower, Mac, NetEvent, NextHop},
};

/// Routes are asked for again after this, because the kernel does not announce every change: nexthop objects, path
/// MTUs and the choice among several paths change in silence.
const ROUTE_LIFETIME: Duration = Duration::from_secs(60);

/// A neighbour's address, on its link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NeighbourKey {
    pub(super) ifindex: u32,
    pub(super) address: IpAddr,
}

/// An entry of the kernel's neighbour table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Neighbour {
    pub(super) state: NeighbourState,
    pub(super) mac: Option<Mac>,
    /// Made by `lb`.
    pub(super) marked: bool,
}

impl Neighbour {
    /// The MAC address, if the kernel would send to it.
    const fn usable_mac(&self) -> Option<Mac> {
        match self.state {
            NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp => self.mac,
            NeighbourState::Incomplete
            | NeighbourState::Failed
            | NeighbourState::None
            | NeighbourState::Other(_)
            | _ => None,
        }
    }

    /// Set by the operator or by the kind of the link: there is nothing to resolve, and `NTF_USE` would turn a permanent
    /// entry into an ordinary one.
    pub(super) const fn is_fixed(&self) -> bool {
        matches!(self.state, NeighbourState::Permanent | NeighbourState::Noarp)
    }

    /// The kernel knows enough, or is finding out.
    const fn is_fresh(&self) -> bool {
        self.is_fixed()
            || matches!(
                self.state,
                NeighbourState::Reachable | NeighbourState::Delay | NeighbourState::Probe
            )
    }
}

/// Whether packets can be sent to a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Yes, at this MAC address.
    Usable(Mac),
    /// It has not answered yet.
    Resolving,
    /// It did not answer the last time it was asked, or since.
    Failed,
}

/// What is remembered of a neighbour that is a backend's next hop.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    /// It was asked, and the kernel has not reported since: it does not announce that it begins to ask.
    pending: bool,
    /// It did not answer the last time. Kept while the kernel asks anew, and after it forgets the entry.
    failed: bool,
}

#[derive(Debug)]
struct CachedRoute {
    answer: Result<Route, NextHopError>,
    asked_at: Instant,
}

/// Everything known.
#[derive(Debug, Default)]
pub(super) struct Tables {
    links: BTreeMap<u32, InterfaceInfo>,
    neighbours: HashMap<NeighbourKey, Neighbour>,
    wanted: HashMap<NeighbourKey, Wanted>,
    routes: HashMap<IpAddr, CachedRoute>,
    /// Grows with every change of routes; an answer that crossed a change on its way is not kept.
    route_generation: u64,
    /// Next hops that are asked whether they are still there.
    pub(super) polls: Polls,
    /// VIPs that this process added or adopted, for kernels that do not keep the mark.
    pub(super) own_vips: HashSet<(u32, IpAddr)>,
}

// Links.
impl Tables {
    pub(super) fn links(&self) -> impl Iterator<Item = &InterfaceInfo> {
        self.links.values()
    }

    pub(super) fn link(&self, name: &str) -> Option<&InterfaceInfo> {
        self.links.values().find(|l| l.name == name)
    }

    pub(super) fn link_name(&self, index: u32) -> String {
        self.links
            .get(&index)
            .map_or_else(|| format!("#{index}"), |l| l.name.clone())
    }

    pub(super) fn replace_links(&mut self, links: Vec<InterfaceInfo>) {
        self.links = links.into_iter().map(|l| (l.index, l)).collect();
        self.forget_routes();
    }

    pub(super) fn link_seen(&mut self, link: InterfaceInfo) -> Option<NetEvent> {
        let before = self.links.insert(link.index, link.clone());
        match before {
            Some(before) if before == link => None,
            Some(before) => {
                self.forget_routes();
                Some(NetEvent::LinkChanged { before, after: link })
            }
            None => Some(NetEvent::LinkAdded { link }),
        }
    }

    pub(super) fn link_gone(&mut self, index: u32) -> Option<NetEvent> {
        let link = self.links.remove(&index)?;
        self.neighbours.retain(|key, _| key.ifindex != index);
        self.wanted.retain(|key, _| key.ifindex != index);
        self.own_vips.retain(|(ifindex, _)| *ifindex != index);
        self.forget_routes();
        Some(NetEvent::LinkRemoved { index, name: link.name })
    }
}

// Routes.
impl Tables {
    pub(super) fn forget_routes(&mut self) {
        self.routes.clear();
        self.route_generation += 1;
    }

    pub(super) const fn route_generation(&self) -> u64 {
        self.route_generation
    }

    pub(super) fn cached_route(&self, to: IpAddr, now: Instant) -> Option<Result<Route, NextHopError>> {
        let cached = self.routes.get(&to)?;
        (now.duration_since(cached.asked_at) < ROUTE_LIFETIME).then(|| cached.answer.clone())
    }

    /// Keeps an answer that was asked for in that generation. Returns whether it differs from the one before, which
    /// no event announced.
    pub(super) fn keep_route(
        &mut self,
        to: IpAddr,
        answer: Result<Route, NextHopError>,
        generation: u64,
        asked_at: Instant,
    ) -> bool {
        if generation != self.route_generation {
            return false;
        }
        let changed = self.routes.get(&to).is_some_and(|before| before.answer != answer);
        self.routes.insert(to, CachedRoute { answer, asked_at });
        changed
    }
}

// Neighbours.
impl Tables {
    pub(super) fn neighbour(&self, key: NeighbourKey) -> Option<&Neighbour> {
        self.neighbours.get(&key)
    }

    pub(super) fn is_wanted(&self, key: NeighbourKey) -> bool {
        self.wanted.contains_key(&key)
    }

    pub(super) fn replace_neighbours(&mut self, neighbours: Vec<(NeighbourKey, Neighbour)>) {
        self.neighbours.clear();
        for wanted in self.wanted.values_mut() {
            wanted.pending = false;
        }
        for (key, neighbour) in neighbours {
            self.neighbour_seen(key, neighbour);
        }
    }

    pub(super) fn neighbour_seen(&mut self, key: NeighbourKey, neighbour: Neighbour) -> Option<NetEvent> {
        let before = self.reach(key);
        if let Some(wanted) = self.wanted.get_mut(&key) {
            wanted.pending = false;
            if neighbour.usable_mac().is_some() {
                wanted.failed = false;
            } else if neighbour.state == NeighbourState::Failed {
                wanted.failed = true;
            }
        }
        self.neighbours.insert(key, neighbour);
        self.neighbour_event(key, before)
    }

    pub(super) fn neighbour_gone(&mut self, key: NeighbourKey) -> Option<NetEvent> {
        let before = self.reach(key);
        if let Some(wanted) = self.wanted.get_mut(&key) {
            wanted.pending = false;
        }
        self.neighbours.remove(&key);
        self.neighbour_event(key, before)
    }

    /// Only what is a backend's next hop is worth an event.
    fn neighbour_event(&self, key: NeighbourKey, before: Reach) -> Option<NetEvent> {
        let changed = self.is_wanted(key) && self.reach(key) != before;
        changed.then_some(NetEvent::NeighbourChanged {
            ifindex: key.ifindex,
            address: key.address,
        })
    }

    pub(super) fn reach(&self, key: NeighbourKey) -> Reach {
        let neighbour = self.neighbours.get(&key);
        if let Some(mac) = neighbour.and_then(Neighbour::usable_mac) {
            return Reach::Usable(mac);
        }
        // An entry that failed before anybody here wanted it is old news: it is asked anew first.
        if self.wanted.get(&key).is_some_and(|w| w.failed) {
            Reach::Failed
        } else {
            Reach::Resolving
        }
    }

    /// Notes that a neighbour is a next hop. Returns whether it has to be asked for its MAC address now.
    pub(super) fn want(&mut self, key: NeighbourKey) -> bool {
        let unresolved = self.reach(key) == Reach::Resolving;
        let wanted = self.wanted.entry(key).or_default();
        let ask = unresolved && !wanted.pending;
        wanted.pending |= ask;
        ask
    }

    /// A question that was not sent is not pending.
    pub(super) fn not_asked(&mut self, key: NeighbourKey) {
        if let Some(wanted) = self.wanted.get_mut(&key) {
            wanted.pending = false;
        }
    }

    pub(super) fn needs_refresh(&self, key: NeighbourKey) -> bool {
        !self.neighbours.get(&key).is_some_and(Neighbour::is_fresh)
    }

    /// The next hops to ask now, and the links that they are on.
    pub(super) fn due_polls(&mut self, now: Instant) -> (Vec<Poll>, BTreeMap<u32, InterfaceInfo>) {
        let neighbours = &self.neighbours;
        let due = self.polls.take(now, |key| {
            let neighbour = neighbours.get(&key)?;
            if neighbour.is_fixed() {
                None
            } else {
                neighbour.usable_mac()
            }
        });
        let used: BTreeSet<u32> = due.iter().map(|poll| poll.key.ifindex).collect();
        let link = |index: u32| Some((index, self.links.get(&index)?.clone()));
        (due, used.into_iter().filter_map(link).collect())
    }

    pub(super) fn forget_wanted(&mut self, key: NeighbourKey) {
        self.wanted.remove(&key);
    }
}

impl Tables {
    /// Joins route, link and neighbour to a next hop.
    pub(super) fn next_hop(&self, to: IpAddr, route: &Route) -> Result<NextHop, NextHopError> {
        let link = self.usable_link(to, route)?;
        let local_mac = link.mac.ok_or_else(|| NextHopError::NotEthernet {
            interface: link.name.clone(),
        })?;
        let key = next_hop_key(to, route);
        let interface = link.name.clone();
        match self.reach(key) {
            Reach::Usable(remote_mac) => Ok(NextHop {
                ifindex: link.index,
                interface_name: interface,
                local_mac,
                remote_mac,
                mtu: route.mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu)),
                gateway: route.gateway,
                source: route.source,
                lower: self.lower(link),
            }),
            Reach::Resolving => Err(NextHopError::Resolving {
                address: key.address,
                interface,
            }),
            Reach::Failed => Err(NextHopError::NoAnswer {
                address: key.address,
                interface,
            }),
        }
    }

    /// The interfaces below a VLAN device, with the tags that its frames bear there. A frame has two at most.
    fn lower(&self, link: &InterfaceInfo) -> Vec<Lower> {
        let (mut lower, mut vlans, mut upper) = (Vec::new(), Vlans::NONE, link);
        while let Some(device) = &upper.vlan
            && let Some(tagged) = vlans.within(device.tpid, device.id)
            && let Some(below) = self.links.get(&device.lower)
        {
            vlans = tagged;
            lower.push(Lower {
                ifindex: below.index,
                interface_name: below.name.clone(),
                vlans,
            });
            upper = below;
        }
        lower
    }

    /// The link of a route, if it can carry Ethernet frames now.
    pub(super) fn usable_link(&self, to: IpAddr, route: &Route) -> Result<&InterfaceInfo, NextHopError> {
        let link = self.links.get(&route.ifindex).ok_or(NextHopError::NoRoute { to })?;
        let interface = || link.name.clone();
        if !link.up {
            return Err(NextHopError::InterfaceDown { interface: interface() });
        }
        if link.mac.is_none() {
            return Err(NextHopError::NotEthernet { interface: interface() });
        }
        if !link.carrier {
            return Err(NextHopError::NoCarrier { interface: interface() });
        }
        Ok(link)
    }
}

/// The neighbour that a route leads to.
pub(super) fn next_hop_key(to: IpAddr, route: &Route) -> NeighbourKey {
    NeighbourKey {
        ifindex: route.ifindex,
        address: route.gateway.unwrap_or(to),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::types::VlanDevice, *};

    const KEY: NeighbourKey = NeighbourKey {
        ifindex: 2,
        address: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
    };
    const CHANGED: Option<NetEvent> = Some(NetEvent::NeighbourChanged {
        ifindex: KEY.ifindex,
        address: KEY.address,
    });

    fn neighbour(state: NeighbourState, last_byte: Option<u8>) -> Neighbour {
        Neighbour {
            state,
            mac: last_byte.map(|b| Mac([2, 0, 0, 0, 0, b])),
            marked: false,
        }
    }

    #[test]
    fn only_next_hops_cause_events_and_only_when_their_reach_changes() {
        let mut tables = Tables::default();
        assert_eq!(
            tables.neighbour_seen(KEY, neighbour(NeighbourState::Reachable, Some(1))),
            None
        );
        assert!(!tables.want(KEY), "known already");
        assert_eq!(
            tables.neighbour_seen(KEY, neighbour(NeighbourState::Stale, Some(1))),
            None
        );
        assert_eq!(
            tables.neighbour_seen(KEY, neighbour(NeighbourState::Stale, Some(9))),
            CHANGED
        );
        assert_eq!(tables.neighbour_gone(KEY), CHANGED);
    }

    #[test]
    fn a_neighbour_is_asked_once_until_the_kernel_reports() {
        let mut tables = Tables::default();
        assert!(tables.want(KEY));
        assert!(!tables.want(KEY));
        tables.not_asked(KEY);
        assert!(tables.want(KEY));
        tables.neighbour_gone(KEY);
        assert!(tables.want(KEY), "the kernel forgot it: ask again");
    }

    #[test]
    fn a_neighbour_that_failed_before_it_was_wanted_is_asked_anew() {
        let mut tables = Tables::default();
        tables.neighbour_seen(KEY, neighbour(NeighbourState::Failed, None));
        assert!(tables.want(KEY));
        assert_eq!(tables.reach(KEY), Reach::Resolving);
        assert_eq!(
            tables.neighbour_seen(KEY, neighbour(NeighbourState::Failed, None)),
            CHANGED
        );
    }

    #[test]
    fn a_silent_neighbour_stays_silent_while_the_kernel_asks_anew_or_forgets_it() {
        let mut tables = Tables::default();
        tables.want(KEY);
        assert_eq!(
            tables.neighbour_seen(KEY, neighbour(NeighbourState::Failed, None)),
            CHANGED
        );
        assert_eq!(
            tables.neighbour_seen(KEY, neighbour(NeighbourState::Incomplete, None)),
            None
        );
        assert_eq!(tables.neighbour_gone(KEY), None);
        assert_eq!(tables.reach(KEY), Reach::Failed);
        assert!(tables.needs_refresh(KEY));
        assert_eq!(
            tables.neighbour_seen(KEY, neighbour(NeighbourState::Reachable, Some(1))),
            CHANGED
        );
        assert!(!tables.needs_refresh(KEY));
    }

    #[test]
    fn only_entries_that_the_kernel_would_send_to_are_usable() {
        for (state, usable, due) in [
            (NeighbourState::Reachable, true, false),
            (NeighbourState::Stale, true, true),
            (NeighbourState::Delay, true, false),
            (NeighbourState::Probe, true, false),
            (NeighbourState::Permanent, true, false),
            (NeighbourState::Noarp, true, false),
            (NeighbourState::Incomplete, false, true),
            (NeighbourState::Failed, false, true),
            (NeighbourState::None, false, true),
        ] {
            let mut tables = Tables::default();
            tables.neighbour_seen(KEY, neighbour(state, Some(1)));
            assert_eq!(matches!(tables.reach(KEY), Reach::Usable(_)), usable, "{state}");
            assert_eq!(tables.needs_refresh(KEY), due, "{state}");
        }
    }

    #[test]
    fn a_route_that_crossed_a_change_is_not_kept() {
        let (mut tables, now) = (Tables::default(), Instant::now());
        let answer = Err(NextHopError::Local);
        let generation = tables.route_generation();
        tables.forget_routes();
        assert!(!tables.keep_route(KEY.address, answer.clone(), generation, now));
        assert_eq!(tables.cached_route(KEY.address, now), None);
        let generation = tables.route_generation();
        assert!(!tables.keep_route(KEY.address, answer.clone(), generation, now));
        assert_eq!(tables.cached_route(KEY.address, now), Some(answer));
    }

    #[test]
    fn a_route_is_asked_for_again_and_a_silent_change_noticed() {
        let (mut tables, now) = (Tables::default(), Instant::now());
        let generation = tables.route_generation();
        tables.keep_route(KEY.address, Err(NextHopError::Local), generation, now);
        let later = now + ROUTE_LIFETIME;
        assert_eq!(tables.cached_route(KEY.address, later), None);
        let other = Err(NextHopError::NoRoute { to: KEY.address });
        assert!(tables.keep_route(KEY.address, other, generation, later));
    }

    #[test]
    fn an_interface_takes_its_neighbours_and_vips_with_it() {
        let mut tables = Tables::default();
        let link = InterfaceInfo {
            index: 2,
            name: "eth0".to_owned(),
            mac: None,
            mtu: 1500,
            up: true,
            carrier: true,
            loopback: false,
            veth: false,
            vlan: None,
        };
        assert!(matches!(
            tables.link_seen(link.clone()),
            Some(NetEvent::LinkAdded { .. })
        ));
        assert_eq!(tables.link_seen(link), None, "nothing changed");
        tables.want(KEY);
        tables.neighbour_seen(KEY, neighbour(NeighbourState::Reachable, Some(1)));
        tables.own_vips.insert((2, KEY.address));
        let gone = tables.link_gone(2).unwrap();
        let name = "eth0".to_owned();
        assert_eq!(gone, NetEvent::LinkRemoved { index: 2, name });
        assert!(tables.neighbour(KEY).is_none() && !tables.is_wanted(KEY) && tables.own_vips.is_empty());
    }

    #[test]
    fn next_hops_through_vlan_devices_know_the_interfaces_below_and_their_tags() {
        let device = |index: u32, name: &str, vlan: Option<(u32, u16, u16)>| InterfaceInfo {
            index,
            name: name.to_owned(),
            mac: Some(Mac([2, 0, 0, 0, 0, 7])),
            mtu: 1500,
            up: true,
            carrier: true,
            loopback: false,
            veth: false,
            vlan: vlan.map(|(lower, tpid, id)| VlanDevice { lower, tpid, id }),
        };
        let mut tables = Tables::default();
        tables.replace_links(vec![
            device(2, "eth0", None),
            device(3, "eth0.100", Some((2, 0x88a8, 100))),
            device(4, "eth0.100.10", Some((3, 0x8100, 10))),
            device(5, "eth0.100.10.1", Some((4, 0x8100, 1))),
        ]);
        for ifindex in 2..=5 {
            let key = NeighbourKey { ifindex, ..KEY };
            tables.neighbour_seen(key, neighbour(NeighbourState::Reachable, Some(1)));
        }
        let lower = |ifindex: u32| {
            let route = Route {
                ifindex,
                gateway: None,
                source: None,
                mtu: None,
            };
            tables.next_hop(KEY.address, &route).unwrap()
        };
        let ids = |hop: &NextHop| hop.lower.iter().map(|l| (l.ifindex, l.vlans.ids())).collect::<Vec<_>>();
        assert_eq!(ids(&lower(2)), []);
        assert_eq!(ids(&lower(3)), [(2, [Some(100), None])]);
        assert_eq!(ids(&lower(4)), [(3, [Some(10), None]), (2, [Some(100), Some(10)])]);
        // Three tags fit no frame.
        assert_eq!(ids(&lower(5)), [(4, [Some(1), None]), (3, [Some(10), Some(1)])]);
    }
}
