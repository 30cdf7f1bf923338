//! What becomes of a service, given what is known of the world: which backends take new flows, why the others do not,
//! and how their entries look. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    iter,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::{
    abi::{self, BackendState, Link, ServiceFlags, Vlans},
    flow::{self, TICK_SHIFT, Tick},
    net::{Be16, MacAddr, TCP, UDP},
};

use super::{
    climb::Climb,
    ports::{HopError, NextHop},
};
use crate::{
    api::HealthState,
    model::{
        AdminState, Backend, Config, FlowTracking, ForwardingMode, HealthTarget, OnDown, Probe, Protocol, Scheduler,
        Service, ServiceId, SynCookies, Timeouts,
    },
    plan::{Candidate, Filling, TierChoice, WantedBackend, WantedService, choose_tier, ramp},
};

/// The last way to a backend that was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownHop {
    pub(crate) link: Link,
    pub(crate) mtu: u32,
    pub(crate) source: Option<IpAddr>,
}

impl KnownHop {
    /// By the interface that carries the packet path, which may be one below a VLAN device: its frames bear tags then.
    pub(crate) fn new(hop: &NextHop, world: &World) -> Self {
        let (ifindex, vlans) = way(hop, world).unwrap_or((hop.ifindex, Vlans::NONE));
        let link = Link::new(MacAddr::new(hop.remote_mac), MacAddr::new(hop.local_mac), ifindex);
        Self {
            link: Link { vlans, ..link },
            mtu: hop.mtu,
            source: hop.source,
        }
    }
}

/// The interface that packets to a next hop leave by, and with which tags.
fn way(hop: &NextHop, world: &World) -> Option<(u32, Vlans)> {
    let attached = world.attached.as_ref()?;
    let lower = hop.lower.iter().map(|l| (l.ifindex, l.vlans));
    iter::once((hop.ifindex, Vlans::NONE))
        .chain(lower)
        .find(|(ifindex, _)| attached.contains(ifindex))
}

/// What is known of the world.
#[derive(Debug, Default)]
pub(crate) struct World {
    /// Targets that were checked, or whose state was adopted.
    pub(crate) health: HashMap<HealthTarget, HealthState>,
    /// The last answer about each backend address.
    pub(crate) hops: HashMap<IpAddr, Result<NextHop, HopError>>,
    /// The last good answer, or what was adopted.
    pub(crate) known: HashMap<IpAddr, KnownHop>,
    /// Indices of the interfaces that carry the packet path, once that is known.
    pub(crate) attached: Option<BTreeSet<u32>>,
    /// Whether the packet path puts tags on frames, and takes them off.
    pub(crate) vlans: bool,
    /// How long the controller has been running.
    pub(crate) running: Duration,
    /// Seconds since the Unix epoch.
    pub(crate) today: u64,
    /// The packet path's time, where a service asks for it.
    pub(crate) tick: Option<Tick>,
    /// Backends that returned and whose share is still climbing.
    pub(crate) returned: BTreeMap<(ServiceId, SocketAddr), Climb>,
}

impl World {
    /// How far the share of a backend has climbed, of [`ramp::STEPS`].
    pub(crate) fn climbed(&self, service: &Service, backend: &Backend) -> u32 {
        match self.returned.get(&(service.id, backend.address)) {
            Some(climb) => ramp::reached(climb.elapsed(self.running), service.scheduling.slow_start),
            None => ramp::STEPS,
        }
    }

    /// Whether a drain has lasted as long as it may.
    pub(crate) fn drained(&self, backend: &Backend) -> bool {
        backend.admin == AdminState::Drain && backend.drain_until.is_some_and(|until| until <= self.today)
    }
}

/// What becomes of a service.
#[derive(Debug, Clone)]
pub(crate) struct Outlook {
    /// For the maps.
    pub(crate) wanted: WantedService,
    /// The tier that serves.
    pub(crate) tier: TierChoice,
    /// For each backend in order: its standing before tiers are looked at.
    pub(crate) candidates: Vec<(SocketAddr, Candidate)>,
    /// For each backend in order: why it takes no new flows.
    pub(crate) why_not: Vec<Option<String>>,
}

/// One backend's standing before tiers are looked at.
struct Standing {
    candidate: Candidate,
    hop: Option<KnownHop>,
    sources: Sources,
    why_not: Option<String>,
    state: BackendState,
}

/// The state of a backend's health.
pub(crate) fn health_of(service: &Service, backend: &Backend, world: &World) -> HealthState {
    if backend.admin == AdminState::Disabled || service.health.probe == Probe::None {
        return HealthState::Unchecked;
    }
    let known = world.health.get(&service.health_target(backend));
    known.copied().unwrap_or(HealthState::Unknown)
}

/// Works out what becomes of a service. `holding` is the tier that goes on serving without failback.
pub(crate) fn outlook(service: &Service, world: &World, config: &Config, holding: Option<u8>) -> Outlook {
    let standings: Vec<Standing> = service
        .backends
        .iter()
        .map(|b| standing(service, b, world, config))
        .collect();
    let candidates: Vec<Candidate> = standings.iter().map(|s| s.candidate).collect();
    let tier = choose_tier(&candidates, service.failback, holding);
    let why_not = standings
        .iter()
        .map(|s| s.why_not.clone().or_else(|| waits(&s.candidate, tier)))
        .collect();
    let spill = spill_tier(service, &candidates, tier);
    let climbing = service.backends.iter().any(|b| world.climbed(service, b) < ramp::STEPS);
    let addresses = service.backends.iter().map(|b| b.address);
    let place = |backend: &Backend| Place {
        tier,
        spill,
        // Shares are in steps only where they must be, so that schedules stay short.
        weight: u32::from(backend.weight) * if climbing { world.climbed(service, backend) } else { 1 },
    };
    let backends = service.backends.iter().zip(standings);
    Outlook {
        candidates: addresses.zip(candidates).collect(),
        wanted: WantedService {
            id: service.id,
            keys: service.keys().collect(),
            entry: entry(service),
            filling: Filling {
                scheduler: service.scheduler,
                table_size: service.scheduling.maglev_table_size,
            },
            previous_until: previous_until(service, world),
            backends: backends
                .filter_map(|(b, s)| wanted(service, b, s, &place(b), config))
                .collect(),
        },
        tier,
        why_not,
    }
}

/// The service's own entry; the layout knows its index.
fn entry(service: &Service) -> abi::Service {
    let one_packet = service.scheduling.one_packet && service.id.protocol == Protocol::Udp;
    let one_packet = if one_packet { ServiceFlags::ONE_PACKET } else { 0 };
    let cookies = match service.scheduling.syn_cookies {
        SynCookies::Off => 0,
        SynCookies::UnderFlood => ServiceFlags::SYN_COOKIES,
        SynCookies::Always => ServiceFlags::SYN_COOKIES_ALWAYS,
    };
    let moved_only = match service.scheduling.flow_tracking {
        FlowTracking::All => 0,
        FlowTracking::Moved => ServiceFlags::MOVED_ONLY,
    };
    abi::Service {
        flags: ServiceFlags(one_packet | cookies | moved_only),
        affinity: in_ticks(service.scheduling.affinity),
        ..abi::Service::default()
    }
}

/// Where backends see the client's own ports, packets of flows that are not in the flow table can go on.
fn previous_until(service: &Service, world: &World) -> Option<Tick> {
    let window = service.scheduling.rehash_window;
    let moved_only = service.scheduling.flow_tracking == FlowTracking::Moved;
    let asked = service.id.protocol == Protocol::Tcp || moved_only;
    let counts = asked && service.mode != ForwardingMode::FullNat && !window.is_zero();
    Some(world.tick.filter(|_| counts)?.plus(in_ticks(window)))
}

/// The tier that takes over while every backend of the one that serves is full.
fn spill_tier(service: &Service, candidates: &[Candidate], tier: TierChoice) -> Option<u8> {
    let serving = tier.serving?;
    let fills = service
        .backends
        .iter()
        .any(|b| b.tier == serving && b.max_connections.is_some());
    let above = candidates.iter().filter(|c| c.tier > serving && c.takes_flows());
    above.map(|c| c.tier).min().filter(|_| fills)
}

/// A backend's place in its service.
struct Place {
    tier: TierChoice,
    spill: Option<u8>,
    weight: u32,
}

/// Why a backend that could take flows does not.
fn waits(candidate: &Candidate, tier: TierChoice) -> Option<String> {
    let serving = tier.serving?;
    match candidate.tier.cmp(&serving) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Greater => Some(format!("standby (tier {})", candidate.tier)),
        std::cmp::Ordering::Less => Some(format!("tier {serving} goes on serving (failback = false)")),
    }
}

fn standing(service: &Service, backend: &Backend, world: &World, config: &Config) -> Standing {
    let health = health_of(service, backend, world);
    let ip = backend.address.ip();
    let answer = world.hops.get(&ip);
    // By the interfaces that carry the packet path now, which may be others than when the answer came.
    let fresh = answer.and_then(|a| Some(KnownHop::new(a.as_ref().ok()?, world)));
    let known = fresh.or_else(|| world.known.get(&ip).copied());
    let (no_hop, waiting) = match answer {
        Some(Ok(hop)) => (unattached(hop, world).or_else(|| off_link(service, hop)), false),
        Some(Err(error)) if !error.resolving => (Some(error.message.clone()), false),
        _ if known.is_some() => (None, false),
        Some(Err(error)) => (Some(error.message.clone()), true),
        None => (Some("it is being looked up".to_owned()), true),
    };
    let sources = sources(service, ip, known, config);
    let no_source = sources.as_ref().is_some_and(|s| s.addresses.is_empty());
    let healthy = matches!(health, HealthState::Up | HealthState::Unchecked);
    let enabled = backend.admin == AdminState::Enabled;
    let why_not = match (backend.admin, health) {
        (AdminState::Disabled, _) => Some("disabled".to_owned()),
        (_, HealthState::Down) => Some("down".to_owned()),
        (AdminState::Drain, _) if world.drained(backend) => Some("drained: its time is over".to_owned()),
        (AdminState::Drain, _) => Some("draining".to_owned()),
        (_, HealthState::Unknown) => Some("not checked yet".to_owned()),
        _ => None,
    };
    let why_not = why_not
        .or_else(|| no_hop.as_ref().map(|why| format!("no next hop: {why}")))
        .or_else(|| no_source.then(|| no_source_towards(service, ip)))
        .or_else(|| (backend.weight == 0).then(|| "weight 0".to_owned()));
    let hopeless = health == HealthState::Down || (no_hop.is_some() && !waiting);
    Standing {
        candidate: Candidate {
            weight: backend.weight,
            tier: backend.tier,
            usable: enabled && healthy && no_hop.is_none() && !no_source,
            undecided: enabled && backend.weight > 0 && !hopeless && (health == HealthState::Unknown || waiting),
        },
        hop: known,
        sources: sources.unwrap_or_default(),
        why_not,
        state: if healthy && backend.admin != AdminState::Disabled && !world.drained(backend) {
            BackendState::UP
        } else {
            BackendState::DOWN
        },
    }
}

/// Packets cannot leave by an interface that the packet path is not attached to, however healthy the backend looks to the
/// health checks, which go through the kernel. The same holds for VLAN devices if frames get no tags.
fn unattached(hop: &NextHop, world: &World) -> Option<String> {
    world.attached.as_ref()?;
    let device = &hop.interface;
    match way(hop, world) {
        Some((_, vlans)) if vlans != Vlans::NONE && !world.vlans => Some(format!(
            "it is reached through VLAN device {device}, and lb forwards no tagged frames: set `vlans = true` in the configuration, and restart lb"
        )),
        Some(_) => None,
        None => {
            let name = hop.lower.last().map_or(device, |lower| &lower.interface);
            Some(format!(
                "it is reached through {name}, which lb is not attached to: `lb attach {name}`, or add it to the configuration"
            ))
        }
    }
}

/// Mode `l2-dsr` changes nothing but MAC addresses, so a gateway would send the packet back to where the VIP is.
fn off_link(service: &Service, hop: &NextHop) -> Option<String> {
    let gateway = hop.gateway.filter(|_| service.mode == ForwardingMode::L2Dsr)?;
    Some(format!(
        "it is behind the gateway {gateway}, and mode l2-dsr needs it on the same Ethernet: use mode ipip or gue"
    ))
}

/// What packets to a backend come from.
#[derive(Default)]
struct Sources {
    addresses: Vec<IpAddr>,
    /// How many consecutive addresses each stands for.
    spread: u32,
}

/// The configured ones of the backend's family, else the route's own; nothing in modes that keep the client's.
fn sources(service: &Service, to: IpAddr, hop: Option<KnownHop>, config: &Config) -> Option<Sources> {
    let same_family = |a: &IpAddr| a.is_ipv4() == to.is_ipv4();
    let of_route = || Sources {
        addresses: hop.and_then(|h| h.source).into_iter().collect(),
        spread: 1,
    };
    match service.mode {
        ForwardingMode::Nat | ForwardingMode::L2Dsr => None,
        ForwardingMode::FullNat => {
            let configured = config.full_nat.source_addresses.iter().copied().filter(same_family);
            let addresses: Vec<IpAddr> = configured.collect();
            Some(if addresses.is_empty() {
                of_route()
            } else {
                Sources { addresses, spread: 1 }
            })
        }
        ForwardingMode::Ipip | ForwardingMode::Gue => {
            let configured = config.tunnel.sources.iter().find(|s| same_family(&s.base));
            Some(configured.map_or_else(of_route, |source| Sources {
                addresses: vec![source.base],
                spread: source.spread(),
            }))
        }
    }
}

fn no_source_towards(service: &Service, ip: IpAddr) -> String {
    let key = if service.mode.tunnels() {
        "[tunnel] sources"
    } else {
        "[full-nat] source-addresses"
    };
    format!("no source address towards {ip}: set `{key}`")
}

/// A backend whose way was never known has no entry.
fn wanted(
    service: &Service,
    backend: &Backend,
    standing: Standing,
    place: &Place,
    config: &Config,
) -> Option<WantedBackend> {
    let hop = standing.hop?;
    let serves = standing.candidate.takes_flows() && place.tier.serving == Some(backend.tier);
    let spills = standing.candidate.takes_flows() && place.spill == Some(backend.tier);
    let by_load = service.scheduler == Scheduler::LeastConn && (serves || spills);
    let (first_port, last_port) = (
        *config.full_nat.source_ports.start(),
        *config.full_nat.source_ports.end(),
    );
    let full_nat = service.mode == ForwardingMode::FullNat;
    Some(WantedBackend {
        address: backend.address,
        share: if serves { place.weight } else { 0 },
        spill: if spills { place.weight } else { 0 },
        sources: standing.sources.addresses,
        spread: standing.sources.spread,
        entry: abi::Backend {
            first_source_port: if full_nat {
                Be16::new(first_port)
            } else {
                Be16::default()
            },
            source_ports: if full_nat {
                u32::from(last_port.saturating_sub(first_port)) + 1
            } else {
                0
            },
            link: hop.link,
            mtu: hop.mtu,
            timeouts: ticks(service),
            tunnel_port: if service.mode == ForwardingMode::Gue {
                Be16::new(config.tunnel.port)
            } else {
                Be16::default()
            },
            limit: backend.max_connections.unwrap_or(0),
            weight: if by_load {
                u16::try_from(place.weight).unwrap_or(u16::MAX)
            } else {
                0
            },
            takes_new: u8::from(serves && !service.scheduling.affinity.is_zero()),
            state: standing.state,
            on_down: match service.on_down {
                OnDown::Reset => abi::OnDown::RESET,
                OnDown::Move => abi::OnDown::MOVE,
                OnDown::Keep => abi::OnDown::KEEP,
            },
            mode: match service.mode {
                ForwardingMode::FullNat => abi::Mode::FULL_NAT,
                ForwardingMode::Nat => abi::Mode::NAT,
                ForwardingMode::L2Dsr => abi::Mode::L2_DSR,
                ForwardingMode::Ipip => abi::Mode::IPIP,
                ForwardingMode::Gue => abi::Mode::GUE,
            },
            protocol: match service.id.protocol {
                Protocol::Tcp => TCP,
                Protocol::Udp => UDP,
            },
            ..abi::Backend::default()
        },
    })
}

fn ticks(service: &Service) -> flow::Timeouts {
    let timeouts: &Timeouts = &service.timeouts;
    let fin = if service.mode.direct_return() {
        timeouts.tcp_fin
    } else {
        timeouts.tcp_established
    };
    flow::Timeouts {
        syn: in_ticks(timeouts.tcp_syn),
        established: in_ticks(timeouts.tcp_established),
        fin: in_ticks(fin),
        closing: in_ticks(timeouts.tcp_closing),
        udp: in_ticks(timeouts.udp),
    }
}

/// Rounded up, so that nothing is shorter than asked for.
fn in_ticks(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos().div_ceil(1 << TICK_SHIFT)).unwrap_or(i32::MAX.cast_unsigned())
}
