//! Every map, behind typed functions. The names are those of the pins.
#![expect(unsafe_code, reason = "map values are shared memory behind raw pointers")]

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST, xdp_action},
    helpers::generated::bpf_redirect_map,
    macros::map,
    maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray, ProgramArray},
};
use lb_common::{
    abi::{
        Active, Affinity, AffinityKey, Backend, BackendEntry, BackendStats, Cursor, Datagram, DirectBucket, Flow,
        FlowKey, FragmentKey, Previous, Rotation, SLOTS_PER_PAGE, Service, ServiceKey, SlotPage, VipFlags,
    },
    direct,
    flow::Tick,
    flow_cache::{Cached, Entry, Place, VOID, place_of},
    fragment::Piece,
    limit::Bucket,
    net::{Addr4, Addr6, AnyAddr},
    reason, schedule, splice,
    vlan::Tags,
};

use crate::{
    Stage,
    family::{Family, V4, V6},
    features, kernel,
    packet::Frame,
    parse::Packet,
};

// The loader sets the sizes that the configuration asks for; those below are placeholders.

#[map]
static SERVICES_V4: HashMap<ServiceKey<Addr4>, Service> = HashMap::with_max_entries(1, 0);
#[map]
static SERVICES_V6: HashMap<ServiceKey<Addr6>, Service> = HashMap::with_max_entries(1, 0);
#[map]
static FLOWS_V4: LruHashMap<FlowKey<Addr4>, Flow<Addr4>> = LruHashMap::with_max_entries(1, 0);
#[map]
static FLOWS_V6: LruHashMap<FlowKey<Addr6>, Flow<Addr6>> = LruHashMap::with_max_entries(1, 0);
#[map]
static EMBRYONIC_V4: LruHashMap<FlowKey<Addr4>, Flow<Addr4>> = LruHashMap::with_max_entries(1, 0);
#[map]
static EMBRYONIC_V6: LruHashMap<FlowKey<Addr6>, Flow<Addr6>> = LruHashMap::with_max_entries(1, 0);
#[map]
static MIXED_V4: LruHashMap<FlowKey<Addr4>, Flow<Addr6>> = LruHashMap::with_max_entries(1, 0);
#[map]
static MIXED_V6: LruHashMap<FlowKey<Addr6>, Flow<Addr4>> = LruHashMap::with_max_entries(1, 0);
// Values begin with a page, so that each is on cache lines of its own, only if user space may map them.
#[map]
static FLOW_CACHE_V4: Array<Entry<Addr4>> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static FLOW_CACHE_V6: Array<Entry<Addr6>> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static MIXED_SEEN: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static ROTATIONS: Array<Rotation> = Array::with_max_entries(1, 0);
#[map]
static PREVIOUS: Array<Previous> = Array::with_max_entries(1, 0);
#[map]
static SPILLS: Array<Rotation> = Array::with_max_entries(1, 0);
#[map]
static ACTIVE: Array<Active> = Array::with_max_entries(1, 0);
#[map]
static AFFINITY_V4: LruHashMap<AffinityKey<Addr4>, Affinity> = LruHashMap::with_max_entries(1, 0);
#[map]
static AFFINITY_V6: LruHashMap<AffinityKey<Addr6>, Affinity> = LruHashMap::with_max_entries(1, 0);
#[map]
static CURSORS: Array<Cursor> = Array::with_max_entries(1, 0);
#[map]
static SLOTS: Array<SlotPage> = Array::with_max_entries(1, 0);
#[map]
static DIRECT: Array<DirectBucket> = Array::with_max_entries(direct::BUCKETS, 0);
#[map]
static BACKENDS: Array<BackendEntry> = Array::with_max_entries(1, 0);
#[map]
static SOURCES: Array<AnyAddr> = Array::with_max_entries(1, 0);
#[map]
static SOURCE_CURSORS: Array<u64> = Array::with_max_entries(1, 0);
#[map]
static DEVICES: DevMapHash = DevMapHash::with_max_entries(64, 0);
#[map]
static BACKEND_STATS: PerCpuArray<BackendStats> = PerCpuArray::with_max_entries(1, 0);
#[map]
static REASONS: PerCpuArray<u64> = PerCpuArray::with_max_entries(reason::COUNTERS, 0);

#[map]
static VIPS_V4: HashMap<Addr4, VipFlags> = HashMap::with_max_entries(1, 0);
#[map]
static VIPS_V6: HashMap<Addr6, VipFlags> = HashMap::with_max_entries(1, 0);
#[map]
static FRAGMENTS_V4: LruHashMap<FragmentKey<Addr4>, Datagram> = LruHashMap::with_max_entries(1, 0);
#[map]
static FRAGMENTS_V6: LruHashMap<FragmentKey<Addr6>, Datagram> = LruHashMap::with_max_entries(1, 0);
#[map]
static FRAGMENT_IDS: Array<u64> = Array::with_max_entries(schedule::SOURCE_CURSORS, 0);

#[map]
static STAGES: ProgramArray = ProgramArray::with_max_entries(lb_common::abi::STAGES.len() as u32, 0);

// The VLAN tags of the frame at hand, from one program to the next. Not pinned.
#[map]
static TAGS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

// What was chosen for a flow between families, from the program that chose to the one that opens it. Not pinned.
#[map]
static CHOICE: PerCpuArray<Choice> = PerCpuArray::with_max_entries(1, 0);

// Room to build new flows in, which the 512 bytes of stack have not. Not pinned: nothing in it outlives a packet.
#[map]
static NEW_FLOW_V4: PerCpuArray<NewFlow<Addr4>> = PerCpuArray::with_max_entries(1, 0);
#[map]
static NEW_FLOW_V6: PerCpuArray<NewFlow<Addr6>> = PerCpuArray::with_max_entries(1, 0);

// Not pinned either.
#[map]
static NEW_FLOW_BUDGET: PerCpuArray<Bucket> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's budget of new flows.
#[inline(always)]
pub fn new_flow_budget() -> Option<&'static mut Bucket> {
    // SAFETY: a per-CPU value; programs on one CPU do not interrupt each other.
    NEW_FLOW_BUDGET.get_ptr_mut(0).map(|bucket| unsafe { &mut *bucket })
}

// When a SYN was answered with a cookie last; 0: none was.
#[map]
static COOKIE_SENT: Array<Tick> = Array::with_max_entries(1, 0);
// Not pinned.
#[map]
static SYN_BUDGET: PerCpuArray<Bucket> = PerCpuArray::with_max_entries(1, 0);
#[map]
static HEADERS: PerCpuArray<Headers> = PerCpuArray::with_max_entries(1, 0);

/// Headers of a packet, as the kernel's helpers want them: in one piece.
#[repr(C)]
pub struct Headers {
    /// The IP header, without options.
    pub ip: [u32; 10],
    /// The TCP header, of 60 bytes at most; room for what the verifier takes its length for, see [`kernel::copy_tcp`].
    pub tcp: [u32; 20],
}

impl Headers {
    /// TCP's sequence number.
    #[inline(always)]
    pub fn seq(&self) -> u32 {
        let [_, seq, ..] = self.tcp;
        u32::from_be(seq)
    }

    /// TCP's acknowledgement number.
    #[inline(always)]
    pub fn ack(&self) -> u32 {
        let [_, _, ack, ..] = self.tcp;
        u32::from_be(ack)
    }

    /// Another sequence number.
    #[inline(always)]
    pub fn set_seq(&mut self, new: u32) {
        let [_, seq, ..] = &mut self.tcp;
        *seq = new.to_be();
    }

    /// Another acknowledgement number.
    #[inline(always)]
    pub fn set_ack(&mut self, new: u32) {
        let [_, _, ack, ..] = &mut self.tcp;
        *ack = new.to_be();
    }
}

/// This CPU's room for headers.
#[inline(always)]
pub fn headers() -> Option<&'static mut Headers> {
    // SAFETY: a per-CPU value that only the packet at hand uses; programs on one CPU do not interrupt each other.
    HEADERS.get_ptr_mut(0).map(|headers| unsafe { &mut *headers })
}

/// Whether this CPU may open another flow for a SYN of a service with cookies; it counts as opened.
#[inline(always)]
pub fn may_open_without_cookie(now: Tick) -> bool {
    // SAFETY: as above.
    SYN_BUDGET
        .get_ptr_mut(0)
        .is_some_and(|bucket| unsafe { &mut *bucket }.take(now, features::syn_credit()))
}

/// Takes note that a SYN is answered with a cookie. CPUs write it once a second at most.
#[inline(always)]
pub fn note_cookie(now: Tick) {
    const SECOND: u32 = 954;
    if let Some(at) = COOKIE_SENT.get_ptr_mut(0) {
        // SAFETY: an aligned value of four bytes.
        unsafe {
            let last = at.read_volatile();
            if last.plus(SECOND).passed(now) || last == Tick(0) {
                at.write_volatile(now);
            }
        }
    }
}

/// Whether a SYN was answered with a cookie that may still be good.
#[inline(always)]
pub fn cookie_sent_lately(now: Tick) -> bool {
    // SAFETY: as above.
    let last = COOKIE_SENT.get_ptr(0).map(|at| unsafe { at.read_volatile() });
    last.is_some_and(|last| last != Tick(0) && !last.plus(splice::COOKIE_LIFETIME).passed(now))
}

// What one program leaves to the next on the same CPU, and what a CPU may still send. Not pinned either.
#[map]
static MTU: PerCpuArray<u32> = PerCpuArray::with_max_entries(1, 0);
#[map]
static ICMP_BUDGET: PerCpuArray<Bucket> = PerCpuArray::with_max_entries(1, 0);

// Where numbers are laid down for a moment, see [`Forget`].
#[map]
static FORGET: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

// Packets on their forwarding to the program that delivers them. Not pinned either.
#[map]
static PENDING_V4: PerCpuArray<Pending<V4>> = PerCpuArray::with_max_entries(1, 0);
#[map]
static PENDING_V6: PerCpuArray<Pending<V6>> = PerCpuArray::with_max_entries(1, 0);

/// A packet that was read, and the flow that it is of. What the next program knows of these numbers is nothing but their size,
/// so that one verification serves all that come to it.
pub struct Pending<F: Family> {
    pub packet: Packet<F>,
    pub piece: Piece,
    pub flow: Flow<F::Addr>,
}

/// Copies a flow word by word. For all the compiler knows, two entries may be the same one, and what it would call for that goes
/// byte by byte.
#[inline(always)]
pub fn copy_flow<A>(from: &Flow<A>, to: &mut Flow<A>) {
    const { assert!(size_of::<Flow<A>>().is_multiple_of(4) && align_of::<Flow<A>>() == 4) };
    let (from, to) = ((&raw const *from).cast::<u32>(), (&raw mut *to).cast::<u32>());
    for word in 0..size_of::<Flow<A>>() / 4 {
        // SAFETY: both are flows, which consist of aligned words and have no padding.
        unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
    }
}

/// This CPU's pending IPv4 packet.
#[inline(always)]
pub fn pending_v4() -> Option<&'static mut Pending<V4>> {
    // SAFETY: a per-CPU value that only the packet at hand uses; programs on one CPU do not interrupt each other. All zeroes,
    // as it begins, is a value.
    PENDING_V4.get_ptr_mut(0).map(|pending| unsafe { &mut *pending })
}

/// This CPU's pending IPv6 packet.
#[inline(always)]
pub fn pending_v6() -> Option<&'static mut Pending<V6>> {
    // SAFETY: as above.
    PENDING_V6.get_ptr_mut(0).map(|pending| unsafe { &mut *pending })
}

/// The two entries of a flow that is being opened.
#[repr(C)]
pub struct NewFlow<A> {
    /// The key of the client's packets.
    pub key: FlowKey<A>,
    /// The client's direction.
    pub flow: Flow<A>,
    /// The replies' direction.
    pub reply: Flow<A>,
    /// The key of the replies.
    pub reply_key: FlowKey<A>,
}

/// This CPU's room for a new IPv4 flow.
#[inline(always)]
pub fn new_flow_v4() -> Option<&'static mut NewFlow<Addr4>> {
    // SAFETY: a per-CPU value that only the packet at hand uses; programs on one CPU do not interrupt each other.
    NEW_FLOW_V4.get_ptr_mut(0).map(|new| unsafe { &mut *new })
}

/// This CPU's room for a new IPv6 flow.
#[inline(always)]
pub fn new_flow_v6() -> Option<&'static mut NewFlow<Addr6>> {
    // SAFETY: as for IPv4.
    NEW_FLOW_V6.get_ptr_mut(0).map(|new| unsafe { &mut *new })
}

/// The table of the flows of one family's packets, which are rewritten to the same or, in a mixed table, to the other.
pub struct Flows<A: 'static, B: 'static = A>(&'static LruHashMap<FlowKey<A>, Flow<B>>);

/// A place of the flow cache.
#[derive(Clone, Copy)]
pub struct CachePlace<A: Cached + 'static>(*mut Entry<A>);

/// The place for a hash in the IPv4 flow cache, if there is a cache.
#[inline(always)]
pub fn cache_place_v4(hash: u32) -> Option<CachePlace<Addr4>> {
    match features::flow_cache_places_v4() {
        0 => None,
        places => FLOW_CACHE_V4.get_ptr_mut(place_of(hash, places)).map(CachePlace),
    }
}

/// The place for a hash in the IPv6 flow cache, if there is a cache.
#[inline(always)]
pub fn cache_place_v6(hash: u32) -> Option<CachePlace<Addr6>> {
    match features::flow_cache_places_v6() {
        0 => None,
        places => FLOW_CACHE_V6.get_ptr_mut(place_of(hash, places)).map(CachePlace),
    }
}

impl<A: Cached> CachePlace<A> {
    /// The words behind version and time.
    #[inline(always)]
    const fn words(self) -> *mut u64 {
        // SAFETY: within the entry.
        unsafe { (&raw mut (*self.0).tuple).cast() }
    }
}

impl<A: Cached> Place for CachePlace<A> {
    #[inline(always)]
    fn version(&self) -> u32 {
        // SAFETY: an aligned field of a map value, which stays where it is; as for those that follow.
        unsafe { (&raw const (*self.0).version).read_volatile() }
    }

    #[inline(always)]
    fn swap_version(&self, old: u32, new: u32) -> bool {
        // SAFETY: as above.
        unsafe { kernel::swap(&raw mut (*self.0).version, old, new) }
    }

    #[inline(always)]
    fn set_version(&self, new: u32) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.0).version).write_volatile(new) };
    }

    #[inline(always)]
    fn void(&self) {
        // SAFETY: as above.
        unsafe { kernel::set_bits(&raw mut (*self.0).version, VOID) };
    }

    #[inline(always)]
    fn until(&self) -> Tick {
        // SAFETY: as above.
        unsafe { (&raw const (*self.0).until).read_volatile() }
    }

    #[inline(always)]
    fn set_until(&self, until: Tick) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.0).until).write_volatile(until) };
    }

    #[inline(always)]
    fn word(&self, i: usize) -> u64 {
        // SAFETY: as above; the caller counts the words of a key and a copy.
        unsafe { self.words().add(i).read_volatile() }
    }

    #[inline(always)]
    fn set_word(&self, i: usize, word: u64) {
        // SAFETY: as above.
        unsafe { self.words().add(i).write_volatile(word) };
    }
}

/// Established flows over IPv4.
pub const fn flows_v4() -> Flows<Addr4> {
    Flows(&FLOWS_V4)
}

/// Established flows over IPv6.
pub const fn flows_v6() -> Flows<Addr6> {
    Flows(&FLOWS_V6)
}

/// Half-open flows over IPv4.
pub const fn embryonic_v4() -> Flows<Addr4> {
    Flows(&EMBRYONIC_V4)
}

/// Half-open flows over IPv6.
pub const fn embryonic_v6() -> Flows<Addr6> {
    Flows(&EMBRYONIC_V6)
}

/// Flows that come over IPv4 and go on over IPv6.
pub const fn mixed_v4() -> Flows<Addr4, Addr6> {
    Flows(&MIXED_V4)
}

/// Flows that come over IPv6 and go on over IPv4.
pub const fn mixed_v6() -> Flows<Addr6, Addr4> {
    Flows(&MIXED_V6)
}

/// Whether there may be flows between families: one load, since the kernel replaces the look-up in an array of one.
#[inline(always)]
pub fn mixed_seen() -> bool {
    // SAFETY: an aligned eight-byte value.
    MIXED_SEEN
        .get_ptr(0)
        .is_none_or(|seen| unsafe { seen.read_volatile() } != 0)
}

/// There may be flows between families from now on. All CPUs know before what follows.
#[inline(always)]
pub fn see_mixed() {
    if mixed_seen() {
        return;
    }
    if let Some(seen) = MIXED_SEEN.get_ptr_mut(0) {
        // SAFETY: an aligned eight-byte value.
        let _ = unsafe { kernel::take_ticket(seen) };
    }
}

/// An entry of a flow table. Other CPUs may change its phase, expiry and client link at any time.
pub type FlowRef<A> = &'static mut Flow<A>;

impl<A: Copy, B: Copy> Flows<A, B> {
    /// The entry of a key.
    #[inline(always)]
    pub fn get(&self, key: &FlowKey<A>) -> Option<FlowRef<B>> {
        // SAFETY: the entry stays valid memory until the program ends (RCU); LRU maps recycle entries, so a reader may
        // see another flow's bytes in the rarest case, as any user of such a map does.
        self.0.get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
    }

    /// Makes an entry, unless there is one.
    #[inline(always)]
    pub fn insert(&self, key: &FlowKey<A>, flow: &Flow<B>) -> Result<(), Refused> {
        const EEXIST: i32 = -17;
        match self.0.insert(key, flow, BPF_NOEXIST.into()) {
            Ok(()) => Ok(()),
            Err(EEXIST) => Err(Refused::Exists),
            Err(_) => Err(Refused::Full),
        }
    }

    /// Removes an entry, if there is one.
    #[inline(always)]
    pub fn remove(&self, key: &FlowKey<A>) {
        // An entry that is gone already is as wanted.
        let _ = self.0.remove(key);
    }
}

/// Why an entry was not made.
pub enum Refused {
    /// There is one already.
    Exists,
    /// No memory for one.
    Full,
}

/// The IPv4 service of a key.
#[inline(always)]
pub fn service_v4(key: &ServiceKey<Addr4>) -> Option<Service> {
    // SAFETY: valid until the program ends; replaced as a whole, never changed in place.
    unsafe { SERVICES_V4.get(key) }.copied()
}

/// The IPv6 service of a key.
#[inline(always)]
pub fn service_v6(key: &ServiceKey<Addr6>) -> Option<Service> {
    // SAFETY: as for IPv4.
    unsafe { SERVICES_V6.get(key) }.copied()
}

/// The slots of a service, in one load.
#[inline(always)]
pub fn rotation(service: u32) -> Option<Rotation> {
    // SAFETY: an aligned eight-byte value, written by one store.
    ROTATIONS
        .get_ptr(service)
        .map(|rotation| unsafe { rotation.read_volatile() })
}

/// The slots of a service's next tier, in one load.
#[inline(always)]
pub fn spill(service: u32) -> Option<Rotation> {
    // SAFETY: as for rotations.
    SPILLS
        .get_ptr(service)
        .map(|rotation| unsafe { rotation.read_volatile() })
}

/// The slots of a service before the last change. Half of a change is seen as none: it is written before the rotation
/// flips, and slots that were given up are not used again at once.
#[inline(always)]
pub fn previous(service: u32) -> Option<Previous> {
    PREVIOUS.get(service).copied()
}

/// The backend that a slot names.
#[inline(always)]
pub fn slot(slot: u32) -> Option<u32> {
    marked_slot(slot).map(direct::backend_of)
}

/// A slot with its mark, see [`direct`].
#[inline(always)]
pub fn marked_slot(slot: u32) -> Option<u32> {
    let page = SLOTS.get(slot / SLOTS_PER_PAGE)?;
    page.0.get((slot % SLOTS_PER_PAGE) as usize).copied()
}

/// How many ports [`direct_bucket`] knows, which the controller keeps up to date. It is no map of its own: the program has its
/// address, so that asking is one load.
#[unsafe(no_mangle)]
static mut DIRECT_PORTS: u64 = 0;

/// Whether [`direct_bucket`] knows any port.
#[inline(always)]
pub fn any_direct() -> bool {
    // SAFETY: an aligned eight-byte value, which only the controller writes.
    unsafe { (&raw const DIRECT_PORTS).read_volatile() != 0 }
}

/// Ports of services whose flows are stored only where their slot moved.
#[inline(always)]
pub fn direct_bucket(bucket: u32) -> Option<&'static DirectBucket> {
    DIRECT.get(bucket)
}

/// The version of a backend that counts now.
#[inline(always)]
pub fn backend(index: u32) -> Option<&'static Backend> {
    // SAFETY: array values never move; the live side is not written to while it is live.
    let entry: &'static BackendEntry = unsafe { &*BACKENDS.get_ptr(index)? };
    Some(entry.current())
}

/// How many active flows a backend has.
#[inline(always)]
pub fn active(backend: u32) -> u32 {
    // SAFETY: an aligned eight-byte value.
    let flows = ACTIVE
        .get_ptr(backend)
        .map_or(0, |active| unsafe { (&raw const (*active).flows).read_volatile() });
    flows.clamp(0, i64::from(u32::MAX)) as u32
}

/// A backend has so many flows more.
#[inline(always)]
pub fn add_active(backend: u32, flows: i64) {
    if let Some(active) = ACTIVE.get_ptr_mut(backend) {
        // SAFETY: the first eight bytes of a 64-byte value.
        unsafe { kernel::add((&raw mut (*active).flows).cast(), flows.cast_unsigned()) };
    }
}

/// Where an IPv4 client stays.
#[inline(always)]
pub fn affinity_v4(key: &AffinityKey<Addr4>) -> Option<&'static mut Affinity> {
    // SAFETY: as for flows.
    AFFINITY_V4.get_ptr_mut(key).map(|affinity| unsafe { &mut *affinity })
}

/// Where an IPv6 client stays.
#[inline(always)]
pub fn affinity_v6(key: &AffinityKey<Addr6>) -> Option<&'static mut Affinity> {
    // SAFETY: as for flows.
    AFFINITY_V6.get_ptr_mut(key).map(|affinity| unsafe { &mut *affinity })
}

/// Takes note of where an IPv4 client stays.
#[inline(always)]
pub fn set_affinity_v4(key: &AffinityKey<Addr4>, affinity: &Affinity) {
    // Without room for a note the client is scheduled again next time.
    let _ = AFFINITY_V4.insert(key, affinity, 0);
}

/// Takes note of where an IPv6 client stays.
#[inline(always)]
pub fn set_affinity_v6(key: &AffinityKey<Addr6>, affinity: &Affinity) {
    let _ = AFFINITY_V6.insert(key, affinity, 0);
}

/// A source address.
#[inline(always)]
pub fn source(place: u32) -> Option<AnyAddr> {
    SOURCES.get(place).copied()
}

/// A service's next ticket.
#[inline(always)]
pub fn next_ticket(service: u32) -> Option<u64> {
    let cursor = CURSORS.get_ptr_mut(service)?;
    // SAFETY: the first eight bytes of a 64-byte value.
    Some(unsafe { kernel::take_ticket(&raw mut (*cursor).next) })
}

/// The next source port of a cursor, as a running number.
#[inline(always)]
pub fn next_source(cursor: u32) -> Option<u64> {
    let cursor = SOURCE_CURSORS.get_ptr_mut(cursor)?;
    // SAFETY: an eight-byte value.
    Some(unsafe { kernel::take_ticket(cursor) })
}

/// This CPU's counters of a backend.
#[inline(always)]
pub fn backend_stats(backend: u32) -> Option<&'static mut BackendStats> {
    // SAFETY: a per-CPU value; programs on one CPU do not interrupt each other.
    BACKEND_STATS.get_ptr_mut(backend).map(|stats| unsafe { &mut *stats })
}

/// This CPU's counter of a reason.
#[inline(always)]
pub fn reason_counter(counter: u32) -> Option<&'static mut u64> {
    // SAFETY: as above.
    REASONS.get_ptr_mut(counter).map(|counter| unsafe { &mut *counter })
}

/// Redirects to an interface, if the packet path is attached to it.
#[inline(always)]
pub fn redirect(ifindex: u32) -> Option<u32> {
    let device = (&raw const DEVICES).cast_mut().cast();
    // SAFETY: the map lives as long as the program.
    let action = unsafe { bpf_redirect_map(device, ifindex.into(), xdp_action::XDP_ABORTED.into()) } as u32;
    (action == xdp_action::XDP_REDIRECT).then_some(action)
}

/// What is done for an IPv4 VIP besides its services; `None`: it is no VIP.
#[inline(always)]
pub fn vip_v4(vip: &Addr4) -> Option<VipFlags> {
    // SAFETY: an aligned four-byte value.
    unsafe { VIPS_V4.get(vip) }.copied()
}

/// What is done for an IPv6 VIP besides its services; `None`: it is no VIP.
#[inline(always)]
pub fn vip_v6(vip: &Addr6) -> Option<VipFlags> {
    // SAFETY: as for IPv4.
    unsafe { VIPS_V6.get(vip) }.copied()
}

/// What is known of packets by their first fragments, in one family.
pub struct Fragments<A: 'static>(&'static LruHashMap<FragmentKey<A>, Datagram>);

/// Fragments of IPv4.
pub const fn fragments_v4() -> Fragments<Addr4> {
    Fragments(&FRAGMENTS_V4)
}

/// Fragments of IPv6.
pub const fn fragments_v6() -> Fragments<Addr6> {
    Fragments(&FRAGMENTS_V6)
}

impl<A> Fragments<A> {
    /// What the first fragment told.
    #[inline(always)]
    pub fn get(&self, key: &FragmentKey<A>) -> Option<&'static mut Datagram> {
        // SAFETY: as for flows.
        self.0.get_ptr_mut(key).map(|datagram| unsafe { &mut *datagram })
    }

    /// Remembers a first fragment, instead of what was known of a packet before it.
    #[inline(always)]
    pub fn set(&self, key: &FragmentKey<A>, datagram: &Datagram) -> Option<()> {
        self.0.insert(key, datagram, 0).ok()
    }
}

/// The next identification of a cursor, as a running number.
#[inline(always)]
pub fn next_fragment_id(cursor: u32) -> Option<u64> {
    let cursor = FRAGMENT_IDS.get_ptr_mut(cursor)?;
    // SAFETY: an eight-byte value.
    Some(unsafe { kernel::take_ticket(cursor) })
}

/// Whether this CPU may send another ICMP message; it counts as sent.
#[inline(always)]
pub fn may_send_icmp() -> bool {
    // SAFETY: a per-CPU value; programs on one CPU do not interrupt each other.
    ICMP_BUDGET
        .get_ptr_mut(0)
        .is_some_and(|bucket| unsafe { &mut *bucket }.take(kernel::now(), features::icmp_credit()))
}

/// Lets the verifier forget what it knows of a number, by forwarding of memory that it does not follow. Paths that differ in that
/// alone then are one to it; it would follow each path through a chain of headers by itself, and there are too many.
#[derive(Clone, Copy)]
pub struct Forget(*mut u64);

impl Forget {
    #[inline(always)]
    pub fn new() -> Option<Self> {
        FORGET.get_ptr_mut(0).map(Self)
    }

    /// The same number.
    #[inline(always)]
    pub fn number(self, number: u64) -> u64 {
        // SAFETY: a per-CPU value of eight bytes; programs on one CPU do not interrupt each other.
        unsafe {
            self.0.write_volatile(number);
            self.0.read_volatile()
        }
    }
}

/// Leaves the MTU that a packet exceeds for the program that tells its sender.
#[inline(always)]
pub fn set_mtu(mtu: u32) {
    if let Some(left) = MTU.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { *left = mtu };
    }
}

/// What [`set_mtu`] left.
#[inline(always)]
pub fn mtu() -> Option<u32> {
    MTU.get(0).copied()
}

/// Goes on in another program. Comes back if that program is not there.
#[inline(always)]
pub fn divert(frame: Frame, stage: Stage) {
    // SAFETY: the index is a stage's, and programs of the map are XDP programs that start from the context alone.
    unsafe { STAGES.tail_call(&frame.context(), stage as u32) };
}

/// The tags that the program before took off the frame.
#[inline(always)]
pub fn tags() -> Tags {
    TAGS.get(0).map_or(Tags::NONE, |tags| Tags::from_bits(*tags))
}

/// Leaves the tags that were taken off the frame to the next program.
#[inline(always)]
pub fn set_tags(tags: Tags) {
    if let Some(place) = TAGS.get_ptr_mut(0) {
        // SAFETY: a per-CPU value; programs on one CPU do not interrupt each other.
        unsafe { *place = tags.to_bits() };
    }
}

/// What one program chose for a flow that another one opens.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Choice {
    /// Index of the backend, plus one; 0: the flow is there already.
    next_backend: u32,
    /// 1: the datagram is scheduled by itself.
    alone: u32,
}

impl Choice {
    /// No flow is to be opened.
    pub const NONE: Self = Self {
        next_backend: 0,
        alone: 0,
    };

    #[inline(always)]
    pub fn new(backend: u32, alone: bool) -> Self {
        Self {
            next_backend: backend + 1,
            alone: alone.into(),
        }
    }

    /// The backend's index, if one was chosen.
    #[inline(always)]
    pub fn backend(self) -> Option<u32> {
        self.next_backend.checked_sub(1)
    }

    #[inline(always)]
    pub fn is_alone(self) -> bool {
        self.alone != 0
    }
}

/// Leaves a choice to the next program.
#[inline(always)]
pub fn set_choice(choice: Choice) {
    if let Some(place) = CHOICE.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { *place = choice };
    }
}

/// What the program before chose.
#[inline(always)]
pub fn choice() -> Choice {
    CHOICE.get(0).copied().unwrap_or(Choice::NONE)
}
