//! Packets that go to the backend that their hash gives, without a look at the flow table: those of services that store flows
//! only where their slot moved lately ([`lb_common::direct`]). It comes before all that knows of flows.

use lb_common::{
    abi::{Backend, BackendState, Flow, FlowKey, Hop, Mode, OnDown, Rule, Service, ServiceFlags},
    direct,
    encap::inner_mtu,
    flow::{Direction, TcpFlags, Tick},
    hash,
    net::{Addr4, Addr6, Address, TCP, UDP},
    reason::DropReason,
    schedule,
    wire::{ETHERNET, Ipv6, Tcp, Udp},
};

use crate::{
    Exit, Sent, encap,
    family::{Family, Key, V4, V6},
    flow_table, kernel, maps,
    packet::{Frame, Window},
    parse::{self, HEAD_V4, HEAD_V6, IPV6_DESTINATION, IPV6_SOURCE, Packet},
    rewrite, select, stats, vlan,
};

/// A backend and its index.
pub type Direct = (u32, &'static Backend);

/// The backend of a packet, if its hash alone tells it.
#[inline(always)]
fn find<F: Family>(key: &Key<F>) -> Option<Direct> {
    if maps::any_direct() { lookup::<F>(key) } else { None }
}

#[inline(always)]
fn lookup<F: Family>(key: &Key<F>) -> Option<Direct> {
    let index = slot::<F>(key)?;
    let backend = maps::backend(index)?;
    // What becomes of the packets of others, those know who know of flows.
    let up = backend.state == BackendState::UP;
    let kept = || backend.state == BackendState::DOWN && backend.on_down == OnDown::KEEP;
    let serves = (up || kept()) && !backend.mode.sees_replies();
    serves.then_some((index, backend))
}

/// The slot of a packet, unless it moved.
#[inline(always)]
fn slot<F: Family>(key: &Key<F>) -> Option<u32> {
    let what = direct::what(key.dst_port, key.protocol(), F::VERSION);
    let service = maps::direct_bucket(direct::bucket(key.dst, what))?.find(key.dst, what)?;
    let rotation = maps::rotation(service)?;
    // One that is empty has neither rule.
    let hash = match rotation.rule() {
        Rule::MAGLEV => hash::of_flow(key),
        Rule::SOURCE_HASH => hash::of_client(key.src),
        _ => return None,
    };
    let slot = maps::marked_slot(rotation.base() + schedule::by_hash(hash, rotation.len()))?;
    (!direct::is_moved(slot)).then_some(slot)
}

/// A packet that is as plain as most are, and what of its frame is written.
pub struct Plain<F: Family> {
    packet: Packet<F>,
    ethernet: Window<ETHERNET>,
}

/// A packet with TCP or UDP right behind an IPv4 header without options, in one piece.
#[inline(always)]
pub fn plain_ipv4(frame: Frame) -> Option<Plain<V4>> {
    const NO_OPTIONS: u32 = 0x45;
    let head: Window<{ HEAD_V4 + size_of::<Udp>() }> = frame.window(0)?;
    let [first, second, third, src, dst] = head.words::<5, ETHERNET>();
    let piece_of_more = u32::from_be(second) & 0x3fff;
    if u32::from_be(first) >> 24 != NO_OPTIONS || piece_of_more != 0 {
        return None;
    }
    let [ttl, protocol, ..] = third.to_ne_bytes();
    let length = u32::from_be(first) & 0xffff;
    let ends = (Addr4::from_word(src), Addr4::from_word(dst));
    let rest = head.part::<{ size_of::<Udp>() }, HEAD_V4>();
    let packet = plain(frame, ends, (protocol, ttl, length), rest)?;
    let ethernet = head.part::<ETHERNET, 0>();
    Some(Plain { packet, ethernet })
}

/// The same behind an IPv6 header.
#[inline(always)]
pub fn plain_ipv6(frame: Frame) -> Option<Plain<V6>> {
    let head: Window<{ HEAD_V6 + size_of::<Udp>() }> = frame.window(0)?;
    let [first, second] = head.words::<2, ETHERNET>();
    if u32::from_be(first) >> 28 != 6 {
        return None;
    }
    let [_, _, protocol, ttl] = second.to_ne_bytes();
    let length = (u32::from_be(second) >> 16) + size_of::<Ipv6>() as u32;
    let ends = (
        Addr6::from_any(head.words::<4, IPV6_SOURCE>()),
        Addr6::from_any(head.words::<4, IPV6_DESTINATION>()),
    );
    let rest = head.part::<{ size_of::<Udp>() }, HEAD_V6>();
    let packet = plain(frame, ends, (protocol, ttl, length), rest)?;
    let ethernet = head.part::<ETHERNET, 0>();
    Some(Plain { packet, ethernet })
}

/// What was read of the IP header, with what the first bytes of the transport header say.
#[inline(always)]
fn plain<F: Family>(
    frame: Frame,
    (src, dst): (F::Addr, F::Addr),
    (protocol, ttl, length): (u8, u8, u32),
    rest: Window<{ size_of::<Udp>() }>,
) -> Option<Packet<F>> {
    let payload = length.wrapping_sub(F::HEADER as u32);
    // Also where the header claims less than itself.
    if length < F::HEADER as u32 || !parse::fits(frame, length) {
        return None;
    }
    let [ports, second] = rest.words::<2, 0>();
    let flags = match protocol {
        UDP => {
            let claimed = u32::from_be(second) >> 16;
            let sound = claimed >= size_of::<Udp>() as u32 && claimed <= payload;
            sound.then_some(TcpFlags(0))?
        }
        TCP => {
            let header: Window<{ size_of::<Tcp>() }> = frame.window(F::HEAD)?;
            let [data_offset, flags] = header.read::<u16, 12>().to_ne_bytes();
            let bytes = u32::from(data_offset >> 4) * 4;
            let sound = bytes >= size_of::<Tcp>() as u32 && bytes <= payload;
            sound.then_some(TcpFlags(flags))?
        }
        _ => return None,
    };
    let (src_port, dst_port) = parse::split(ports);
    Some(Packet {
        key: FlowKey::new((src, src_port), (dst, dst_port), protocol),
        flags,
        ttl,
        length,
        l4: F::HEAD,
    })
}

/// Sends it on, if its hash tells where to, and gives what comes of it. `None`: those see to it who see to all.
#[inline(always)]
pub fn send<F: Family>(frame: Frame, plain: Plain<F>, leave: impl Fn(Result<Sent, Exit>) -> u32) -> Option<u32> {
    let Plain { packet, ethernet } = plain;
    let (index, backend) = lookup::<F>(&packet.key)?;
    // Those who are told why not are told so elsewhere.
    if packet.length > inner_mtu(backend) || (packet.ttl <= 1 && backend.mode != Mode::L2_DSR) {
        return None;
    }
    count_opened(&packet, index);
    stats::count_packet(index, Direction::TO_BACKEND, ETHERNET as u32 + packet.length);
    let hop = Hop::from(&backend.link);
    if backend.mode == Mode::L2_DSR {
        rewrite::set_macs(ethernet, hop);
        return Some(leave(vlan::send(frame, hop)));
    }
    Some(leave(
        encap::apply::<F>(frame, &packet, backend).and_then(|()| vlan::send(frame, hop)),
    ))
}

/// A connection that nothing is stored of is opened by its SYN, and nobody sees it end.
#[inline(always)]
fn count_opened<F: Family>(packet: &Packet<F>, index: u32) {
    if packet.flags.opens() {
        stats::count_datagram(index);
    }
}

/// The flow of a packet as if it were stored, for the stages that go by flows; `None`: it is not one that its hash alone
/// tells the backend of.
#[inline(always)]
pub fn flow<F: Family>(frame: Frame, packet: &Packet<F>) -> Result<Option<&'static mut Flow<F::Addr>>, Exit> {
    let Some((index, backend)) = find::<F>(&packet.key) else {
        return Ok(None);
    };
    let new = F::new_flow().ok_or(Exit::Drop(DropReason::Internal))?;
    flow_table::describe::<F>(frame, packet, (index, backend), kernel::now(), &mut new.flow)?;
    count_opened(packet, index);
    Ok(Some(&mut new.flow))
}

/// The backend that had the slot of a datagram before, for as long as that counts: the datagram may be of a flow that was not
/// stored, and none tells which of them open one.
#[inline(always)]
pub fn going_on<F: Family>(service: Service, packet: &Packet<F>, now: Tick) -> Option<u32> {
    if packet.key.protocol() == TCP || !service.flags.any(ServiceFlags::MOVED_ONLY) {
        return None;
    }
    select::previous::<F>(service, packet, now)
}
