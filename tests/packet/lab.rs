//! A packet path to test: an instance and a network namespace of its own, both gone when the test ends.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError},
    programs::Xdp,
};
use lb_common::{
    abi::{
        Backend, BackendState, Datagram, Flow, FlowKey, FragmentKey, Link, Rotation, Rule, SLOTS_PER_PAGE, SlotPage,
    },
    flow::Tick,
    flow_cache::{Cached, Entry, place_of},
    net::{self, Addr4, Addr6, Be16, MacAddr},
    reason::{DropReason, Note, PassReason},
};
use lb_userspace::{
    datapath::{BackendCounters, Datapath as _, FlowEntry, FlowTables as _, KernelDatapath, loader::Features},
    model::{Limits, Protocol, XdpMode},
};

pub(crate) use crate::{
    case::{Case, Family},
    ground::{BACKEND_IF, CLIENT_IF, FEATURES, LIMITS, OTHER_IF, open, open_with},
    run::{Outcome, Verdict, assert_same, run, run_over},
    service::{BACK_MAC, DISTINCT, FIRST_PORT, LONG, Server, Service, Setup, TUNNEL_PORT},
};
use crate::{
    frames::{ACK, L4, Packet, SYN},
    ground,
};

/// What lies before every frame, as metadata: the headers of a tunnel are to overwrite all of it.
const POISON: [u8; 32] = [0xff; 32];

/// See the module.
pub(crate) struct Lab {
    pub(crate) datapath: KernelDatapath,
    pub(crate) bpffs: PathBuf,
    interfaces: BTreeMap<&'static str, u32>,
    backends: BTreeMap<u32, Backend>,
    services: u32,
    pages: u32,
    sources: u32,
}

/// Which flows a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    Established,
    HalfOpen,
}

impl Table {
    const fn map(self) -> &'static str {
        match self {
            Self::Established => "FLOWS",
            Self::HalfOpen => "EMBRYONIC",
        }
    }
}

impl Lab {
    /// A packet path on three interfaces.
    pub(crate) fn new() -> Self {
        Self::built(LIMITS, FEATURES)
    }

    /// With maps of other sizes.
    pub(crate) fn with(limits: Limits) -> Self {
        Self::built(limits, FEATURES)
    }

    /// With other features.
    pub(crate) fn featuring(features: Features) -> Self {
        Self::built(LIMITS, features)
    }

    /// With both.
    pub(crate) fn built(limits: Limits, features: Features) -> Self {
        ground::remove_leftovers();
        let interfaces = ground::namespace();
        let bpffs = ground::directory();
        let mut datapath = open_with(&bpffs, limits, features).expect("root, and a BPF file system at /sys/fs/bpf");
        for name in interfaces.keys() {
            datapath.attach(name, XdpMode::Native).unwrap();
        }
        Self {
            datapath,
            bpffs,
            interfaces,
            backends: BTreeMap::new(),
            services: 0,
            pages: 0,
            sources: 0,
        }
    }

    /// The index of an interface.
    pub(crate) fn ifindex(&self, name: &str) -> u32 {
        self.interfaces[name]
    }

    /// Another MTU than 1500 for an interface.
    pub(crate) fn set_mtu(&self, name: &str, mtu: u32) {
        debug_assert!(self.interfaces.contains_key(name));
        ground::set_mtu(name, mtu);
    }

    /// A new service with equal backends.
    pub(crate) fn serve(&mut self, case: Case, setup: &Setup) -> Service {
        let index = self.services;
        self.services += 1;
        let number = u8::try_from(index).unwrap();
        let vip = SocketAddr::new(case.ip(1, 1 + number), 8000 + u16::from(number));
        let first_source = self.add_sources(case, setup.sources);
        let servers = (0..setup.backends)
            .map(|number| {
                let host = u8::try_from(number + 1).unwrap();
                let server = Server {
                    index: u32::try_from(self.backends.len()).unwrap(),
                    address: SocketAddr::new(
                        case.server(20 + u8::try_from(index).unwrap(), host),
                        9000 + u16::from(host),
                    ),
                    mac: [2, 0, 0, 0xbe, 0, host],
                };
                let arm = if case.one_arm { CLIENT_IF } else { BACKEND_IF };
                let backend = Backend {
                    address: net::to_any(server.address.ip()),
                    port: Be16::new(server.address.port()),
                    first_source_port: Be16::new(FIRST_PORT),
                    source_ports: setup.source_ports,
                    first_source,
                    sources: setup.sources,
                    link: Link::new(MacAddr::new(server.mac), MacAddr::new(BACK_MAC), self.ifindex(arm)),
                    mtu: setup.mtu,
                    service: index,
                    timeouts: setup.timeouts,
                    state: BackendState::UP,
                    on_down: setup.on_down,
                    mode: case.mode,
                    protocol: if case.protocol == Protocol::Tcp {
                        net::TCP
                    } else {
                        net::UDP
                    },
                    family: if case.outer == Family::V4 { 4 } else { 6 },
                    tunnel_port: Be16::new(TUNNEL_PORT),
                    ..Backend::default()
                };
                self.backends.insert(server.index, backend);
                self.datapath.set_backend(server.index, backend).unwrap();
                server
            })
            .collect::<Vec<_>>();
        let service = Service {
            case,
            index,
            vip,
            servers,
        };
        self.schedule(
            &service,
            &service.servers.iter().map(|server| server.index).collect::<Vec<_>>(),
        );
        self.datapath.set_service(service.id(), setup.entry(index)).unwrap();
        service
    }

    /// Source addresses of a family, in places not used before; the first of these.
    pub(crate) fn add_sources(&mut self, case: Case, count: u32) -> u32 {
        let first = self.sources;
        self.sources += count.max(1);
        let count = if case.tunnel() { 1 } else { count };
        for place in 0..count {
            let address = case.source(u8::try_from(place).unwrap());
            self.datapath.set_source(first + place, address).unwrap();
        }
        first
    }

    /// Gives a service another schedule, of these backend indices, in pages not used before.
    pub(crate) fn schedule(&mut self, service: &Service, slots: &[u32]) {
        self.schedule_by(service, Rule::ROUND_ROBIN, slots);
    }

    /// The same with another rule.
    pub(crate) fn schedule_by(&mut self, service: &Service, rule: Rule, slots: &[u32]) -> Rotation {
        let rotation = self.rotation(rule, slots);
        self.datapath.set_rotation(service.index, rotation).unwrap();
        rotation
    }

    /// A schedule in pages not used before.
    pub(crate) fn rotation(&mut self, rule: Rule, slots: &[u32]) -> Rotation {
        let base = self.pages * SLOTS_PER_PAGE;
        let pages: Vec<_> = slots
            .chunks(SLOTS_PER_PAGE as usize)
            .map(|chunk| {
                let mut page = SlotPage([u32::MAX; SLOTS_PER_PAGE as usize]);
                page.0[..chunk.len()].copy_from_slice(chunk);
                page
            })
            .collect();
        self.datapath.write_pages(self.pages, &pages).unwrap();
        self.pages += u32::try_from(pages.len()).unwrap();
        Rotation::new(base, u32::try_from(slots.len()).unwrap(), rule)
    }

    /// How many flows each backend is counted to have.
    pub(crate) fn actives(&self, servers: &[Server]) -> Vec<u32> {
        let active = |server: &Server| self.datapath.active(server.index).unwrap();
        servers.iter().map(active).collect()
    }

    /// Has each backend of a service take so many flows at most.
    pub(crate) fn limit(&mut self, service: &Service, limit: u32) {
        for server in &service.servers {
            self.change(*server, |backend| backend.limit = limit);
        }
    }

    /// Publishes a changed backend.
    pub(crate) fn change(&mut self, server: Server, change: impl FnOnce(&mut Backend)) {
        let backend = self.backends.get_mut(&server.index).unwrap();
        change(backend);
        self.datapath.set_backend(server.index, *backend).unwrap();
    }

    /// One packet in by an interface.
    pub(crate) fn run_on(&mut self, interface: &str, frame: &[u8]) -> Outcome {
        let ifindex = self.ifindex(interface);
        run(self.program(), ifindex, &POISON, frame)
    }

    /// One packet in from the clients' side.
    pub(crate) fn run(&mut self, packet: &Packet) -> Outcome {
        self.run_on(CLIENT_IF, &packet.bytes())
    }

    /// One packet in from the servers' side.
    pub(crate) fn run_reply(&mut self, case: Case, packet: &Packet) -> Outcome {
        let interface = if case.one_arm { CLIENT_IF } else { BACKEND_IF };
        self.run_on(interface, &packet.bytes())
    }

    /// The program, to run it on other threads.
    pub(crate) fn program(&mut self) -> &Xdp {
        self.datapath.program().unwrap()
    }

    /// Sends a packet that must be forwarded as its flow says, checks every byte of it, and says to whom, from where.
    #[track_caller]
    pub(crate) fn forward(&mut self, service: &Service, packet: &Packet) -> (Server, SocketAddr) {
        let out = self.run(packet);
        let expected = if service.case.one_arm {
            Verdict::Tx
        } else {
            Verdict::Redirect
        };
        assert_eq!(
            out.verdict,
            expected,
            "{packet:?}\nreasons so far: {:?}",
            self.reasons()
        );
        let (server, source) = service.way_of(&out.frame);
        assert_same(&out.frame, &service.forwarded(packet, server, source));
        (server, source)
    }

    /// Sends a server's answer to a forwarded packet, which must reach the client of `request`. In modes whose replies do not
    /// come by, there is none.
    #[track_caller]
    pub(crate) fn answer(
        &mut self,
        service: &Service,
        request: &Packet,
        (server, source): (Server, SocketAddr),
        flags: u8,
    ) {
        if !service.case.mode.sees_replies() {
            return;
        }
        let reply = service.reply(&service.forwarded(request, server, source), flags);
        let out = self.run_reply(service.case, &reply);
        let expected = if service.case.one_arm {
            Verdict::Tx
        } else {
            Verdict::Redirect
        };
        assert_eq!(out.verdict, expected, "{reply:?}");
        assert_same(&out.frame, &service.answered(&reply, request));
    }

    /// Completes the handshake of a flow, or answers its datagram: what makes it an established one.
    #[track_caller]
    pub(crate) fn establish(&mut self, service: &Service, request: &Packet, flow: (Server, SocketAddr)) {
        self.answer(service, request, flow, SYN | ACK);
        if service.case.protocol == Protocol::Tcp {
            assert_eq!(self.forward(service, &request.clone().flags(ACK)), flow);
        }
    }

    /// Sends a TCP packet that must be answered with RST, and checks every byte of that.
    #[track_caller]
    pub(crate) fn refused(&mut self, packet: &Packet, reason: DropReason) {
        let out = self.dropped_for(packet, reason, Verdict::Tx);
        assert_same(&out.frame, &packet.reset());
        assert_eq!(out.frame.len(), if packet.from.is_ipv4() { 54 } else { 74 });
    }

    /// Sends a packet that must be dropped without an answer.
    #[track_caller]
    pub(crate) fn ignored(&mut self, packet: &Packet, reason: DropReason) {
        self.dropped_for(packet, reason, Verdict::Drop);
    }

    /// Sends a packet that must be answered, by ICMP, with why it goes no further.
    #[track_caller]
    pub(crate) fn told(&mut self, packet: &Packet, reason: DropReason) {
        self.dropped_for(packet, reason, Verdict::Tx);
    }

    /// Sends a packet that must go no further, with this verdict and for this reason.
    #[track_caller]
    fn dropped_for(&mut self, packet: &Packet, reason: DropReason, verdict: Verdict) -> Outcome {
        let before = self.dropped(reason);
        let out = self.run(packet);
        assert_eq!(out.verdict, verdict, "{packet:?}\n{:?}", self.reasons());
        self.counted_once(reason.as_str(), before, self.dropped(reason));
        out
    }

    /// Sends a frame that must reach the kernel as it came.
    #[track_caller]
    pub(crate) fn untouched(&mut self, frame: &[u8], reason: PassReason) {
        self.untouched_on(CLIENT_IF, frame, reason);
    }

    /// The same by any interface.
    #[track_caller]
    pub(crate) fn untouched_on(&mut self, interface: &str, frame: &[u8], reason: PassReason) {
        let before = self.passed(reason);
        let out = self.run_on(interface, frame);
        assert_eq!(
            (out.verdict, &out.frame[..]),
            (Verdict::Pass, frame),
            "{:?}",
            self.reasons()
        );
        self.counted_once(reason.as_str(), before, self.passed(reason));
    }

    #[track_caller]
    fn counted_once(&self, reason: &str, before: u64, after: u64) {
        assert_eq!(after, before + 1, "{reason}: {:?}", self.reasons());
    }

    /// A packet that opens no flow must be refused as its protocol allows.
    #[track_caller]
    pub(crate) fn turned_away(&mut self, packet: &Packet, reason: DropReason) {
        match packet.l4 {
            L4::Tcp(_) => self.refused(packet, reason),
            L4::Udp(_) => self.ignored(packet, reason),
        }
    }

    /// Packets that left for a reason so far.
    pub(crate) fn passed(&self, reason: PassReason) -> u64 {
        self.datapath.reasons().unwrap()[reason.counter() as usize]
    }

    /// Packets that left for a reason so far.
    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        self.datapath.reasons().unwrap()[reason.counter() as usize]
    }

    /// Names and packets of every reason that packets left for so far.
    pub(crate) fn reasons(&self) -> Vec<(&'static str, u64)> {
        let names = PassReason::ALL
            .iter()
            .map(|r| r.as_str())
            .chain(DropReason::ALL.iter().map(|r| r.as_str()))
            .chain(Note::ALL.iter().map(|r| r.as_str()));
        names
            .zip(self.datapath.reasons().unwrap())
            .filter(|(_, packets)| *packets > 0)
            .collect()
    }

    /// A server's counters.
    pub(crate) fn counters(&self, server: Server) -> BackendCounters {
        self.datapath.backend_counters(server.index).unwrap()
    }

    /// All flows.
    pub(crate) fn flows(&self) -> Vec<FlowEntry> {
        let mut flows = Vec::new();
        self.datapath
            .flow_tables()
            .for_each_flow(&mut |flow| flows.push(*flow))
            .unwrap();
        flows
    }

    /// The phase of the one flow of a client's packets.
    #[track_caller]
    pub(crate) fn phase(&self, request: &Packet) -> &'static str {
        let flows = self.flows();
        let mut of_client = flows
            .iter()
            .filter(|flow| flow.client == request.from && flow.vip == request.to);
        let phase = of_client.next().expect("a flow").phase.as_str();
        assert!(of_client.next().is_none(), "one flow");
        phase
    }

    /// An IPv4 flow table, as pinned.
    pub(crate) fn table_v4(&self, table: Table) -> HashMap<MapData, FlowKey<Addr4>, Flow<Addr4>> {
        let pin = self.pin(&format!("{}_V4", table.map()));
        HashMap::try_from(Map::LruHashMap(MapData::from_pin(pin).unwrap())).unwrap()
    }

    /// An IPv6 flow table, as pinned.
    pub(crate) fn table_v6(&self, table: Table) -> HashMap<MapData, FlowKey<Addr6>, Flow<Addr6>> {
        let pin = self.pin(&format!("{}_V6", table.map()));
        HashMap::try_from(Map::LruHashMap(MapData::from_pin(pin).unwrap())).unwrap()
    }

    /// Empties the flow tables.
    pub(crate) fn forget_flows(&self) {
        let keys = self.table_v4(Table::Established);
        forget_copies::<_, { size_of::<Entry<Addr4>>() }>(&self.pin("FLOW_CACHE_V4"), keys.keys());
        let keys = self.table_v6(Table::Established);
        forget_copies::<_, { size_of::<Entry<Addr6>>() }>(&self.pin("FLOW_CACHE_V6"), keys.keys());
        for table in [Table::HalfOpen, Table::Established] {
            empty(self.table_v4(table));
            empty(self.table_v6(table));
        }
        self.forget_fragments::<Addr4>("FRAGMENTS_V4");
        self.forget_fragments::<Addr6>("FRAGMENTS_V6");
        empty(self.mixed_v4());
        empty(self.mixed_v6());
    }

    fn forget_fragments<A>(&self, name: &str)
    where
        FragmentKey<A>: Pod,
    {
        let map = Map::LruHashMap(MapData::from_pin(self.pin(name)).unwrap());
        let mut fragments: HashMap<MapData, FragmentKey<A>, Datagram> = HashMap::try_from(map).unwrap();
        for key in fragments.keys().map(Result::unwrap).collect::<Vec<_>>() {
            fragments.remove(&key).unwrap();
        }
    }

    /// Flows that come over IPv4 and go on over IPv6, as pinned.
    pub(crate) fn mixed_v4(&self) -> HashMap<MapData, FlowKey<Addr4>, Flow<Addr6>> {
        HashMap::try_from(Map::LruHashMap(MapData::from_pin(self.pin("MIXED_V4")).unwrap())).unwrap()
    }

    /// Flows that come over IPv6 and go on over IPv4, as pinned.
    pub(crate) fn mixed_v6(&self) -> HashMap<MapData, FlowKey<Addr6>, Flow<Addr4>> {
        HashMap::try_from(Map::LruHashMap(MapData::from_pin(self.pin("MIXED_V6")).unwrap())).unwrap()
    }

    /// Lets so many ticks pass for all flows, without waiting for them.
    pub(crate) fn pass(&self, ticks: u32) {
        for table in [Table::HalfOpen, Table::Established] {
            age(self.table_v4(table), ticks);
            age(self.table_v6(table), ticks);
        }
        age(self.mixed_v4(), ticks);
        age(self.mixed_v6(), ticks);
        age_copies::<{ size_of::<Entry<Addr4>>() }>(&self.pin("FLOW_CACHE_V4"), ticks);
        age_copies::<{ size_of::<Entry<Addr6>>() }>(&self.pin("FLOW_CACHE_V6"), ticks);
    }

    /// Where a map is pinned.
    pub(crate) fn pin(&self, map: &str) -> PathBuf {
        self.bpffs
            .join(format!("lb/packet/v{}/maps/{map}", lb_common::abi::ABI_VERSION))
    }
}

fn empty<K: Pod, V: Pod>(mut map: HashMap<MapData, K, V>) {
    for key in map.keys().map(Result::unwrap).collect::<Vec<_>>() {
        map.remove(&key).unwrap();
    }
}

/// Removes the copies of flows.
fn forget_copies<A: Cached, const SIZE: usize>(pin: &Path, keys: impl Iterator<Item = Result<FlowKey<A>, MapError>>)
where
    [u8; SIZE]: Pod,
{
    let mut copies = copies::<SIZE>(pin);
    for key in keys {
        let place = place_of(A::hash(&A::tuple(&key.unwrap())), copies.len());
        copies.set(place, [0; SIZE], 0).unwrap();
    }
}

/// Lets time pass for all copies, whose second number is the tick that they are good until.
fn age_copies<const SIZE: usize>(pin: &Path, ticks: u32)
where
    [u8; SIZE]: Pod,
{
    let mut copies = copies::<SIZE>(pin);
    for place in 0..copies.len() {
        let mut copy = copies.get(&place, 0).unwrap();
        if copy != [0; SIZE] {
            let until = u32::from_ne_bytes(copy[4..8].try_into().unwrap());
            copy[4..8].copy_from_slice(&until.wrapping_sub(ticks).to_ne_bytes());
            copies.set(place, copy, 0).unwrap();
        }
    }
}

fn copies<const SIZE: usize>(pin: &Path) -> Array<MapData, [u8; SIZE]>
where
    [u8; SIZE]: Pod,
{
    Array::try_from(Map::Array(MapData::from_pin(pin).unwrap())).unwrap()
}

fn age<K: Pod, A: Copy>(mut flows: HashMap<MapData, K, Flow<A>>, ticks: u32)
where
    Flow<A>: Pod,
{
    let before = |tick: Tick| Tick(tick.0.wrapping_sub(ticks));
    for key in flows.keys().map(Result::unwrap).collect::<Vec<_>>() {
        let flow = flows.get(&key, 0).unwrap();
        let older = Flow {
            expires: before(flow.expires),
            refresh: before(flow.refresh),
            ..flow
        };
        flows.insert(key, older, 0).unwrap();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.datapath.destroy();
        let _ = fs::remove_dir_all(&self.bpffs);
    }
}
