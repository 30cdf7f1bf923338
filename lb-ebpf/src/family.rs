//! What differs between IPv4 and IPv6, so that every stage is written once.

use lb_common::{
    abi::{Affinity, AffinityKey, FlowKey, Hop, Link, Service, ServiceKey, VipFlags},
    encap::Outer,
    flow::Tick,
    flow_cache::Cached,
    fragment::Piece,
    icmp::{self, Message},
    net::{Addr4, Addr6, Address, ICMP, ICMPV6},
    network_types::eth::EtherType,
    reason::PassReason,
    rewrite::Rewrite,
    translate::Carried,
    wire::{ETHERNET, Ipv4, Ipv6},
};

use crate::{
    Exit, encap, flow_table,
    maps::{self, CachePlace, Flows, Fragments, NewFlow, Pending},
    mixed,
    packet::{Frame, Window},
    parse::{self, Ip},
    quote::MAX_OFFSET,
    rewrite,
};

const MALFORMED: Exit = Exit::Pass(PassReason::Malformed);

/// An IP version.
pub trait Family: Copy + 'static {
    /// Its addresses.
    type Addr: Address + Cached + Default + 'static;
    /// The other version.
    type Other: Family<Other = Self>;
    /// Its number.
    const VERSION: u8;
    /// Bytes of Ethernet and IP header.
    const HEAD: usize;
    /// Ethernet and IP header in a frame.
    type Head: Copy;
    /// What stands before it in an Ethernet header, as loaded.
    const ETHERTYPE: u16;
    /// Bytes of its header, without options and extensions.
    const HEADER: usize;
    /// Whether a UDP checksum of zero means "none" (IPv4) or is forbidden (IPv6).
    const UDP_CHECKSUM_OPTIONAL: bool;

    /// IP protocol number of its ICMP.
    const ICMP: u8;
    /// Whether ICMP's checksum covers the addresses of the IP header.
    const ICMP_COVERS_ADDRESSES: bool;
    /// ICMP type of an echo reply.
    const ECHO_REPLY: u8;

    /// Reads the IP header.
    fn parse(frame: Frame, head: Self::Head) -> Result<Ip<Self::Addr>, Exit>;
    /// Whether a protocol number is one that [`Stage::Odd`](crate::Stage::Odd) sees to.
    fn odd(protocol: u8) -> bool;
    /// Goes on to the transport header, past what may stand between it and the IP header.
    fn walk(frame: Frame, ip: Ip<Self::Addr>) -> Result<Ip<Self::Addr>, Exit>;
    /// Reads the headers of a packet that an ICMP error quotes at an offset. Most of the packet is not there.
    fn quote(frame: Frame, at: usize) -> Result<Ip<Self::Addr>, Exit>;
    /// What an ICMP type means.
    fn message(kind: u8) -> Message;
    /// The Ethernet header.
    fn ethernet(head: Self::Head) -> Window<ETHERNET>;
    /// Finds Ethernet and IP header.
    fn head(frame: Frame) -> Option<Self::Head>;
    /// Writes new MAC and IP addresses, the decremented TTL and the header checksum.
    fn rewrite(head: Self::Head, rewrite: &Rewrite<Self::Addr>, hop: Hop);
    /// Decrements the TTL of the IP header that lies there, and gives its DSCP and ECN.
    fn hop(frame: Frame, offset: usize) -> Option<u8>;
    /// Writes Ethernet and IP header of a tunnel.
    fn outer(frame: Frame, outer: &Outer, link: &Link) -> Option<()>;
    /// Translates the addresses of a quoted packet back; gives its header checksum before and after.
    fn rewrite_quote(frame: Frame, at: usize, rewrite: &Rewrite<Self::Addr>) -> Option<(u16, u16)>;
    /// Gives a fragment another identification.
    fn identify(frame: Frame, piece: &Piece, id: u32) -> Option<()>;
    /// Exchanges the addresses of a packet that is answered in place.
    fn send_back(frame: Frame, ip: &Ip<Self::Addr>, link: &Link) -> Option<()>;
    /// The place for a hash in its flow cache, if there is a cache.
    fn cache_place(hash: u32) -> Option<CachePlace<Self::Addr>>;
    /// Its table of established flows.
    fn flows() -> Flows<Self::Addr>;
    /// Its table of half-open flows.
    fn half_open_flows() -> Flows<Self::Addr>;
    /// [`flow_table::claim`], by a name of its own.
    fn claim(now: Tick) -> u32;
    /// [`flow_table::attempt`], by a name of its own.
    fn attempt(now: Tick, attempt: u32) -> u32;
    /// [`mixed::attempt`], by a name of its own.
    fn attempt_mixed(now: Tick, attempt: u32) -> u32;
    /// Its packets of flows whose other side is of the other version.
    fn mixed() -> Flows<Self::Addr, <Self::Other as Family>::Addr>;
    /// DSCP and ECN.
    fn class(frame: Frame) -> Option<u8>;
    /// Writes its header into a frame that came with the other version's, behind the Ethernet header.
    fn write_header(frame: Frame, carried: Carried, rewrite: &Rewrite<Self::Addr>) -> Option<()>;
    /// This CPU's packet on its way to [`Stage::Deliver`](crate::Stage::Deliver).
    fn pending() -> Option<&'static mut Pending<Self>>;
    /// This CPU's room for a new flow.
    fn new_flow() -> Option<&'static mut NewFlow<Self::Addr>>;
    /// Its services.
    fn service(key: &ServiceKey<Self::Addr>) -> Option<Service>;
    /// What is done for an address besides its services; `None`: it is no VIP.
    fn vip(address: &Self::Addr) -> Option<VipFlags>;
    /// What is known of packets by their first fragments.
    fn fragments() -> Fragments<Self::Addr>;
    /// Where one of its clients stays.
    fn affinity(key: &AffinityKey<Self::Addr>) -> Option<&'static mut Affinity>;
    /// Takes note of where one of its clients stays.
    fn set_affinity(key: &AffinityKey<Self::Addr>, affinity: &Affinity);
}

/// IPv4.
#[derive(Clone, Copy)]
pub struct V4;

/// IPv6.
#[derive(Clone, Copy)]
pub struct V6;

impl Family for V4 {
    type Addr = Addr4;
    type Other = V6;
    const VERSION: u8 = 4;
    const HEAD: usize = parse::HEAD_V4;
    type Head = Window<{ parse::HEAD_V4 }>;
    const ETHERTYPE: u16 = EtherType::Ipv4 as u16;
    const HEADER: usize = size_of::<Ipv4>();
    const UDP_CHECKSUM_OPTIONAL: bool = true;
    const ICMP: u8 = ICMP;
    const ICMP_COVERS_ADDRESSES: bool = false;
    const ECHO_REPLY: u8 = icmp::ECHO_REPLY_V4;

    #[inline(always)]
    fn parse(frame: Frame, head: Self::Head) -> Result<Ip<Addr4>, Exit> {
        parse::ipv4(frame, head)
    }

    #[inline(always)]
    fn odd(protocol: u8) -> bool {
        protocol == ICMP
    }

    #[inline(always)]
    fn walk(_frame: Frame, ip: Ip<Addr4>) -> Result<Ip<Addr4>, Exit> {
        Ok(ip)
    }

    #[inline(always)]
    fn quote(frame: Frame, at: usize) -> Result<Ip<Addr4>, Exit> {
        let header: Window<{ size_of::<Ipv4>() }> = frame.window(at).ok_or(MALFORMED)?;
        parse::ipv4_header(header.words::<5, 0>(), at).ok_or(MALFORMED)
    }

    #[inline(always)]
    fn message(kind: u8) -> Message {
        icmp::message_v4(kind)
    }

    #[inline(always)]
    fn ethernet(head: Self::Head) -> Window<ETHERNET> {
        head.part::<ETHERNET, 0>()
    }

    #[inline(always)]
    fn head(frame: Frame) -> Option<Self::Head> {
        frame.window(0)
    }

    #[inline(always)]
    fn rewrite(head: Self::Head, rewrite: &Rewrite<Addr4>, hop: Hop) {
        rewrite::ipv4(head, rewrite, hop);
    }

    #[inline(always)]
    fn hop(frame: Frame, offset: usize) -> Option<u8> {
        rewrite::hop_ipv4(frame, offset)
    }

    #[inline(always)]
    fn outer(frame: Frame, outer: &Outer, link: &Link) -> Option<()> {
        encap::ipv4(frame, outer, link)
    }

    #[inline(always)]
    fn rewrite_quote(frame: Frame, at: usize, rewrite: &Rewrite<Addr4>) -> Option<(u16, u16)> {
        rewrite::quoted_ipv4(frame, at, rewrite)
    }

    #[inline(always)]
    fn identify(frame: Frame, piece: &Piece, id: u32) -> Option<()> {
        rewrite::identify_ipv4(frame, piece.id, id)
    }

    #[inline(always)]
    fn send_back(frame: Frame, ip: &Ip<Addr4>, link: &Link) -> Option<()> {
        rewrite::exchange_ipv4(frame, ip, link)
    }

    #[inline(always)]
    fn cache_place(hash: u32) -> Option<CachePlace<Addr4>> {
        maps::cache_place_v4(hash)
    }

    #[inline(always)]
    fn flows() -> Flows<Addr4> {
        maps::flows_v4()
    }

    #[inline(always)]
    fn half_open_flows() -> Flows<Addr4> {
        maps::embryonic_v4()
    }

    #[inline(always)]
    fn claim(now: Tick) -> u32 {
        claim_v4(now.0)
    }

    #[inline(always)]
    fn attempt(now: Tick, attempt: u32) -> u32 {
        attempt_v4(now.0, attempt)
    }

    #[inline(always)]
    fn attempt_mixed(now: Tick, attempt: u32) -> u32 {
        attempt_mixed_v4(now.0, attempt)
    }

    #[inline(always)]
    fn mixed() -> Flows<Addr4, Addr6> {
        maps::mixed_v4()
    }

    #[inline(always)]
    fn class(frame: Frame) -> Option<u8> {
        mixed::class_ipv4(frame)
    }

    #[inline(always)]
    fn write_header(frame: Frame, carried: Carried, rewrite: &Rewrite<Addr4>) -> Option<()> {
        mixed::write_ipv4(frame, carried, rewrite)
    }

    #[inline(always)]
    fn pending() -> Option<&'static mut Pending<V4>> {
        maps::pending_v4()
    }

    #[inline(always)]
    fn new_flow() -> Option<&'static mut NewFlow<Addr4>> {
        maps::new_flow_v4()
    }

    #[inline(always)]
    fn service(key: &ServiceKey<Addr4>) -> Option<Service> {
        maps::service_v4(key)
    }

    #[inline(always)]
    fn vip(address: &Addr4) -> Option<VipFlags> {
        maps::vip_v4(address)
    }

    #[inline(always)]
    fn fragments() -> Fragments<Addr4> {
        maps::fragments_v4()
    }

    #[inline(always)]
    fn affinity(key: &AffinityKey<Addr4>) -> Option<&'static mut Affinity> {
        maps::affinity_v4(key)
    }

    #[inline(always)]
    fn set_affinity(key: &AffinityKey<Addr4>, affinity: &Affinity) {
        maps::set_affinity_v4(key, affinity);
    }
}

impl Family for V6 {
    type Addr = Addr6;
    type Other = V4;
    const VERSION: u8 = 6;
    const HEAD: usize = parse::HEAD_V6;
    type Head = Window<{ parse::HEAD_V6 }>;
    const ETHERTYPE: u16 = EtherType::Ipv6 as u16;
    const HEADER: usize = size_of::<Ipv6>();
    const UDP_CHECKSUM_OPTIONAL: bool = false;
    const ICMP: u8 = ICMPV6;
    const ICMP_COVERS_ADDRESSES: bool = true;
    const ECHO_REPLY: u8 = icmp::ECHO_REPLY_V6;

    #[inline(always)]
    fn parse(frame: Frame, head: Self::Head) -> Result<Ip<Addr6>, Exit> {
        parse::ipv6(frame, head)
    }

    #[inline(always)]
    fn odd(protocol: u8) -> bool {
        protocol == ICMPV6 || parse::is_ipv6_extension(protocol)
    }

    #[inline(always)]
    fn walk(frame: Frame, ip: Ip<Addr6>) -> Result<Ip<Addr6>, Exit> {
        parse::ipv6_extensions(frame, ip)
    }

    #[inline(always)]
    fn quote(frame: Frame, at: usize) -> Result<Ip<Addr6>, Exit> {
        let header: Window<{ size_of::<Ipv6>() }> = frame.window(at & MAX_OFFSET).ok_or(MALFORMED)?;
        let addresses = (header.words::<4, 8>(), header.words::<4, 24>());
        let ip = parse::ipv6_header(header.words::<2, 0>(), addresses, at & MAX_OFFSET).ok_or(MALFORMED)?;
        Self::walk(frame, ip)
    }

    #[inline(always)]
    fn message(kind: u8) -> Message {
        icmp::message_v6(kind)
    }

    #[inline(always)]
    fn ethernet(head: Self::Head) -> Window<ETHERNET> {
        head.part::<ETHERNET, 0>()
    }

    #[inline(always)]
    fn head(frame: Frame) -> Option<Self::Head> {
        frame.window(0)
    }

    #[inline(always)]
    fn rewrite(head: Self::Head, rewrite: &Rewrite<Addr6>, hop: Hop) {
        rewrite::ipv6(head, rewrite, hop);
    }

    #[inline(always)]
    fn hop(frame: Frame, offset: usize) -> Option<u8> {
        rewrite::hop_ipv6(frame, offset)
    }

    #[inline(always)]
    fn outer(frame: Frame, outer: &Outer, link: &Link) -> Option<()> {
        encap::ipv6(frame, outer, link)
    }

    #[inline(always)]
    fn rewrite_quote(frame: Frame, at: usize, rewrite: &Rewrite<Addr6>) -> Option<(u16, u16)> {
        rewrite::quoted_ipv6(frame, at, rewrite)
    }

    #[inline(always)]
    fn identify(frame: Frame, piece: &Piece, id: u32) -> Option<()> {
        rewrite::identify_ipv6(frame, piece.header, id)
    }

    #[inline(always)]
    fn send_back(frame: Frame, ip: &Ip<Addr6>, link: &Link) -> Option<()> {
        rewrite::exchange_ipv6(frame, ip, link)
    }

    #[inline(always)]
    fn cache_place(hash: u32) -> Option<CachePlace<Addr6>> {
        maps::cache_place_v6(hash)
    }

    #[inline(always)]
    fn flows() -> Flows<Addr6> {
        maps::flows_v6()
    }

    #[inline(always)]
    fn half_open_flows() -> Flows<Addr6> {
        maps::embryonic_v6()
    }

    #[inline(always)]
    fn claim(now: Tick) -> u32 {
        claim_v6(now.0)
    }

    #[inline(always)]
    fn attempt(now: Tick, attempt: u32) -> u32 {
        attempt_v6(now.0, attempt)
    }

    #[inline(always)]
    fn attempt_mixed(now: Tick, attempt: u32) -> u32 {
        attempt_mixed_v6(now.0, attempt)
    }

    #[inline(always)]
    fn mixed() -> Flows<Addr6, Addr4> {
        maps::mixed_v6()
    }

    #[inline(always)]
    fn class(frame: Frame) -> Option<u8> {
        mixed::class_ipv6(frame)
    }

    #[inline(always)]
    fn write_header(frame: Frame, carried: Carried, rewrite: &Rewrite<Addr6>) -> Option<()> {
        mixed::write_ipv6(frame, carried, rewrite)
    }

    #[inline(always)]
    fn pending() -> Option<&'static mut Pending<V6>> {
        maps::pending_v6()
    }

    #[inline(always)]
    fn new_flow() -> Option<&'static mut NewFlow<Addr6>> {
        maps::new_flow_v6()
    }

    #[inline(always)]
    fn service(key: &ServiceKey<Addr6>) -> Option<Service> {
        maps::service_v6(key)
    }

    #[inline(always)]
    fn vip(address: &Addr6) -> Option<VipFlags> {
        maps::vip_v6(address)
    }

    #[inline(always)]
    fn fragments() -> Fragments<Addr6> {
        maps::fragments_v6()
    }

    #[inline(always)]
    fn affinity(key: &AffinityKey<Addr6>) -> Option<&'static mut Affinity> {
        maps::affinity_v6(key)
    }

    #[inline(always)]
    fn set_affinity(key: &AffinityKey<Addr6>, affinity: &Affinity) {
        maps::set_affinity_v6(key, affinity);
    }
}

/// The key of the flow that a packet belongs to.
pub type Key<F> = FlowKey<<F as Family>::Addr>;

#[expect(unsafe_code, reason = "its name is one of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn claim_v4(now: u32) -> u32 {
    flow_table::claim::<V4>(Tick(now))
}

#[expect(unsafe_code, reason = "its name is one of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn claim_v6(now: u32) -> u32 {
    flow_table::claim::<V6>(Tick(now))
}

#[expect(unsafe_code, reason = "its name is one of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn attempt_v4(now: u32, attempt: u32) -> u32 {
    flow_table::attempt::<V4>(Tick(now), attempt)
}

#[expect(unsafe_code, reason = "its name is one of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn attempt_v6(now: u32, attempt: u32) -> u32 {
    flow_table::attempt::<V6>(Tick(now), attempt)
}

#[expect(unsafe_code, reason = "its name is one of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn attempt_mixed_v4(now: u32, attempt: u32) -> u32 {
    mixed::attempt::<V4>(Tick(now), attempt)
}

#[expect(unsafe_code, reason = "its name is one of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn attempt_mixed_v6(now: u32, attempt: u32) -> u32 {
    mixed::attempt::<V6>(Tick(now), attempt)
}
