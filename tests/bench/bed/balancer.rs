//! `lb`'s packet path in the middle of a chain, configured as its controller would.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use aya::{
    maps::{HashMap, Map, MapData},
    programs::ProgramInfo,
};
use lb_common::{
    abi::{
        ABI_VERSION, Backend, BackendState, Flow, FlowKey, Link, Mode, OnDown, Rotation, Rule, SLOTS_PER_PAGE, Service,
        ServiceFlags, SlotPage,
    },
    flow::{Phase, TICK_SHIFT, Timeouts},
    net::{self, Addr4, Be16, MacAddr},
    reason::{DropReason, PassReason},
};
use lb_userspace::{
    datapath::{Datapath as _, KernelDatapath, KernelFlowTables, loader::Features},
    model::{self, Limits, Protocol, Scheduler, ServiceId, XdpMode},
    plan::{
        Filling,
        maglev::Peer,
        schedule::{self, MAX_SLOTS},
    },
};

use super::{
    chain::{Chain, EGRESS_MAC, Run, SINK_MAC},
    traffic::{Load, PORT},
};

/// Backends of a service, unless said otherwise.
pub(crate) const BACKENDS: u8 = 4;
/// Source addresses, enough for a million flows with the default range of ports.
const SOURCES: u8 = 16;
/// Slots of a Maglev table: the configuration's default.
const TABLE: u32 = 65_537;
/// Where tunnels of mode `gue` end.
const GUE_PORT: u16 = 6080;
/// Where the pins are.
pub(crate) const BPFFS: &str = "/sys/fs/bpf";

/// A chain with the packet path on `in` and `out`.
pub(crate) struct Balancer {
    /// The chain.
    pub(crate) chain: Chain,
    path: PacketPath,
    /// Backends of all services together.
    backends: u16,
}

/// A loaded packet path, whose pins go with it.
pub(crate) struct PacketPath(pub(crate) KernelDatapath);

impl PacketPath {
    /// Loads it with a configuration's limits.
    pub(crate) fn load(instance: &str, limits: Limits) -> Result<Self> {
        Ok(Self(KernelDatapath::open(
            Path::new(BPFFS),
            instance,
            limits,
            Features::default(),
        )?))
    }
}

impl Drop for PacketPath {
    fn drop(&mut self) {
        if let Err(error) = self.0.destroy() {
            eprintln!("{error}");
        }
    }
}

/// What the packet path has counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    /// Packets forwarded to backends.
    pub(crate) forwarded: u64,
    /// Flows opened.
    pub(crate) opened: u64,
    reasons: Vec<u64>,
}

impl Balancer {
    /// Puts a packet path into a chain, in a forwarding mode, with the services and backends that the chain's load is for.
    pub(crate) fn new(mut chain: Chain, limits: Limits, mode: Mode) -> Result<Self> {
        let mut path = PacketPath::load(chain.instance(), limits)?;
        let all = chain.load().services * chain.load().backends;
        for n in 0..SOURCES {
            path.0.set_source(n.into(), chain.traffic().source(n))?;
        }
        fill(&mut path.0, &chain, mode)?;
        let slots: Vec<u32> = (0..all.into()).collect();
        path.0.write_pages(0, &pages(&slots))?;
        chain.namespace().run(|| -> Result<()> {
            for device in ["in", "out"] {
                path.0.attach(device, XdpMode::Native)?;
            }
            Ok(())
        })?;
        chain.attach("sink", "sink")?;
        Ok(Self {
            chain,
            path,
            backends: all,
        })
    }

    /// What has been counted so far.
    pub(crate) fn counts(&self) -> Result<Counts> {
        let mut counts = Counts {
            reasons: self.path.0.reasons()?,
            ..Counts::default()
        };
        for n in 0..self.backends {
            let backend = self.path.0.backend_counters(n.into())?;
            counts.forwarded += backend.packets_in;
            counts.opened += backend.opened;
        }
        Ok(counts)
    }

    /// Takes the handshakes of the IPv4 flows there are for complete: nobody answers them here.
    pub(crate) fn establish(&self) -> Result<()> {
        type Flows = HashMap<MapData, FlowKey<Addr4>, Flow<Addr4>>;
        let maps = Path::new(BPFFS).join(format!("lb/{}/v{ABI_VERSION}/maps", self.chain.instance()));
        let open = |name: &str| -> Result<Flows> {
            Ok(HashMap::try_from(Map::LruHashMap(MapData::from_pin(maps.join(name))?))?)
        };
        let (half_open, mut established) = (open("EMBRYONIC_V4")?, open("FLOWS_V4")?);
        for entry in half_open.iter() {
            let (key, flow) = entry?;
            let phase = Phase::ESTABLISHED;
            established.insert(key, Flow { phase, ..flow }, 0)?;
        }
        Ok(())
    }

    /// The flow tables.
    pub(crate) fn flow_tables(&self) -> Arc<KernelFlowTables> {
        self.path.0.flow_tables()
    }

    /// Has the first service choose its backends in another way.
    pub(crate) fn schedule(&mut self, scheduler: Scheduler) -> Result<()> {
        let load = self.chain.load();
        let peer = |n| Peer {
            address: SocketAddr::new(load.traffic.backend(n), 8080),
            weight: 1,
        };
        let peers: Vec<Peer> = (0..load.backends).map(peer).collect();
        let filling = Filling {
            scheduler,
            table_size: TABLE,
        };
        // The first service's backends have the numbers of their positions.
        let (rule, slots) = schedule::fill(filling, &peers, MAX_SLOTS);
        let first = u32::from(self.backends).div_ceil(SLOTS_PER_PAGE);
        self.path.0.write_pages(first, &pages(&slots))?;
        let rotation = Rotation::new(first * SLOTS_PER_PAGE, u32::try_from(slots.len())?, rule);
        Ok(self.path.0.set_rotation(0, rotation)?)
    }

    /// Has the first service go by a hash, and store no flow but those of slots that moved, which none did.
    pub(crate) fn track_moved_only(&mut self) -> Result<()> {
        self.schedule(Scheduler::Maglev)?;
        let traffic = self.chain.load().traffic;
        let id = ServiceId {
            vip: SocketAddr::new(traffic.vip(), PORT),
            protocol: traffic.protocol(),
        };
        let entry = Service {
            flags: ServiceFlags(ServiceFlags::MOVED_ONLY),
            ..Service::default()
        };
        Ok(self.path.0.set_service(id, entry)?)
    }

    /// Nanoseconds in the program for a frame, of so many, while the kernel's statistics are on.
    pub(crate) fn time(&mut self, frames: u32) -> Result<f64> {
        let before = self.info()?;
        self.chain.send(frames)?;
        Ok(time_per_run(&before, &self.info()?))
    }

    /// What the kernel says of the program.
    pub(crate) fn info(&mut self) -> Result<ProgramInfo> {
        self.path.0.program()?.info().context("no facts about the program")
    }
}

/// Nanoseconds that a program took for a frame between two looks at it, while the kernel's statistics were on.
#[expect(clippy::cast_precision_loss, reason = "well below 2^52 ns")]
pub(crate) fn time_per_run(before: &ProgramInfo, after: &ProgramInfo) -> f64 {
    let time = after.run_time().saturating_sub(before.run_time());
    let runs = after.run_count().saturating_sub(before.run_count());
    time.as_nanos() as f64 / runs as f64
}

/// Services on ports in turn, each over servers of its own.
fn fill(datapath: &mut KernelDatapath, chain: &Chain, mode: Mode) -> Result<()> {
    let Load {
        traffic,
        services,
        backends,
        ..
    } = chain.load();
    let link = Link::new(MacAddr::new(SINK_MAC), MacAddr::new(EGRESS_MAC), chain.ifindex("out")?);
    for service in 0..services {
        let first = service * backends;
        for n in first..first + backends {
            let address = SocketAddr::new(traffic.backend(n), 8080);
            let backend = Backend {
                mode,
                tunnel_port: Be16::new(GUE_PORT),
                service: service.into(),
                ..backend(address, traffic.protocol(), SOURCES.into(), link)
            };
            datapath.set_backend(n.into(), backend)?;
        }
        datapath.set_rotation(
            service.into(),
            Rotation::new(first.into(), backends.into(), Rule::ROUND_ROBIN),
        )?;
        let id = ServiceId {
            vip: SocketAddr::new(traffic.vip(), PORT + service),
            protocol: traffic.protocol(),
        };
        let entry = Service {
            index: service.into(),
            ..Service::default()
        };
        datapath.set_service(id, entry)?;
    }
    Ok(())
}

impl Counts {
    /// Why runs between two counts do not show what they should: every frame forwarded, and `opened` flows opened.
    pub(crate) fn objection(&self, since: &Self, runs: &[Run], opened: u64) -> Option<String> {
        let sent: u64 = runs.iter().map(|run| run.sent).sum();
        let forwarded = self.forwarded - since.forwarded;
        let new = self.opened - since.opened;
        if forwarded == sent && new == opened {
            return None;
        }
        let names = PassReason::ALL.iter().map(|r| r.as_str());
        let names = names.chain(DropReason::ALL.iter().map(|r| r.as_str()));
        let reasons: Vec<_> = names
            .zip(self.reasons.iter().zip(&since.reasons))
            .filter(|(_, (now, before))| now > before)
            .map(|(name, (now, before))| format!(", {name} {}", now - before))
            .collect();
        Some(format!(
            "of {sent} frames {forwarded} were forwarded, and {new} flows opened where {opened} were expected{}",
            reasons.concat()
        ))
    }
}

/// A backend of a `full-nat` service that is up, with the configuration's defaults.
pub(crate) fn backend(address: SocketAddr, protocol: Protocol, sources: u32, link: Link) -> Backend {
    let ports = model::FullNat::default().source_ports;
    let (on_down, number) = match protocol {
        Protocol::Tcp => (OnDown::RESET, net::TCP),
        Protocol::Udp => (OnDown::MOVE, net::UDP),
    };
    Backend {
        address: net::to_any(address.ip()),
        port: Be16::new(address.port()),
        first_source_port: Be16::new(*ports.start()),
        source_ports: u32::from(ports.end() - ports.start()) + 1,
        first_source: 0,
        sources,
        link,
        mtu: 1500,
        service: 0,
        timeouts: timeouts(),
        state: BackendState::UP,
        on_down,
        mode: Mode::FULL_NAT,
        protocol: number,
        family: if address.is_ipv4() { 4 } else { 6 },
        ..Backend::default()
    }
}

fn timeouts() -> Timeouts {
    let ticks = |time: std::time::Duration| u32::try_from(time.as_nanos() >> TICK_SHIFT).unwrap_or(u32::MAX);
    let default = model::Timeouts::default();
    Timeouts {
        syn: ticks(default.tcp_syn),
        established: ticks(default.tcp_established),
        fin: ticks(default.tcp_established),
        closing: ticks(default.tcp_closing),
        // So that no flow ends while others have their turns. An entry is brought up to date no more seldom for that: every four
        // seconds, as with the default.
        udp: ticks(default.tcp_established),
    }
}

/// A schedule in pages of the slot arena.
pub(crate) fn pages(slots: &[u32]) -> Vec<SlotPage> {
    let page = |chunk: &[u32]| {
        let mut page = SlotPage([0; SLOTS_PER_PAGE as usize]);
        for (place, slot) in page.0.iter_mut().zip(chunk) {
            *place = *slot;
        }
        page
    };
    slots.chunks(SLOTS_PER_PAGE as usize).map(page).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(forwarded: u64, opened: u64, no_backend: u64) -> Counts {
        let mut reasons = vec![0; PassReason::ALL.len() + DropReason::ALL.len()];
        if let Some(last) = reasons.last_mut() {
            *last = no_backend;
        }
        Counts {
            forwarded,
            opened,
            reasons,
        }
    }

    #[test]
    fn frames_that_were_all_forwarded_count() {
        let runs = [Run::of(50, 50), Run::of(50, 50)];
        assert_eq!(counts(110, 14, 0).objection(&counts(10, 4, 0), &runs, 10), None);
    }

    #[test]
    fn a_frame_that_was_not_forwarded_voids_and_says_why() {
        let why = counts(99, 10, 1).objection(&counts(0, 0, 0), &[Run::of(100, 100)], 10);
        let last = DropReason::ALL.last().unwrap().as_str();
        assert!(why.unwrap().ends_with(&format!(", {last} 1")));
    }

    #[test]
    fn flows_that_were_opened_twice_or_not_at_all_void() {
        for opened in [9, 11] {
            let why = counts(100, opened, 0).objection(&counts(0, 0, 0), &[Run::of(100, 100)], 10);
            assert!(why.is_some(), "{opened}");
        }
    }
}
