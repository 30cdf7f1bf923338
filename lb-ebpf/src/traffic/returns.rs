//! The sending end: what comes back to the generator's flows.

use aya_ebpf::bindings::xdp_action;
use lb_common::{
    net::{TCP, UDP},
    network_types::eth::EtherType,
    traffic::{self, ACKNOWLEDGED, Counter},
    wire::{ETHERNET, Ports, Udp, number},
};

use crate::{
    family::{Family, Ip, V4, V6},
    features, kernel, maps,
    packet::{Frame, Window},
    segment, sink,
};

/// Takes a frame for one of the generator's flows; `None`: it is none.
#[inline(always)]
pub fn run(frame: Frame) -> Option<u32> {
    const IPV4: u16 = EtherType::Ipv4 as u16;
    const IPV6: u16 = EtherType::Ipv6 as u16;
    let ethernet: Window<ETHERNET> = frame.window(0)?;
    match ethernet.read::<u16, 12>() {
        IPV4 => take_v4(frame),
        IPV6 => take_v6(frame),
        _ => None,
    }
}

#[inline(never)]
fn take_v4(frame: Frame) -> Option<u32> {
    take::<V4>(frame)
}

#[inline(never)]
fn take_v6(frame: Frame) -> Option<u32> {
    take::<V6>(frame)
}

#[inline(always)]
fn take<F: Family>(frame: Frame) -> Option<u32> {
    let ip = F::parse(frame)?;
    let ports: Window<{ size_of::<Ports>() }> = frame.window(F::L4)?;
    let ports: Ports = ports.read::<_, 0>();
    if features::port() != 0 && ports.src.get() != features::port() {
        return None;
    }
    let address = F::destination(frame)?.wrapping_sub(features::source());
    let flow = traffic::flow_of(address, ports.dst.get())?;
    if flow >= features::flows() {
        return None;
    }
    match ip.protocol {
        UDP => reflection::<F>(frame, &ip, flow),
        TCP => answer::<F>(frame, &ip, flow),
        _ => None,
    }
}

/// A datagram that was sent back.
#[inline(always)]
fn reflection<F: Family>(frame: Frame, ip: &Ip, flow: u32) -> Option<u32> {
    const HEADER: usize = size_of::<Udp>();
    let stamp = sink::stamp(frame, F::L4 + HEADER, ip.length.checked_sub(HEADER as u32)?)?;
    if stamp.run != features::run() || stamp.flow != flow {
        return None;
    }
    if sink::intact::<F>(frame, ip) {
        maps::count(Counter::Packets, 1);
        maps::count(Counter::Bytes, frame.length() as u64);
        sink::follow(maps::track(flow)?, stamp.run, Some(&stamp));
        if features::latency() != 0 && stamp.time != 0 {
            maps::record(kernel::now().saturating_sub(stamp.time));
        }
    }
    Some(xdp_action::XDP_DROP)
}

/// What a server says to a connection request, or to a segment.
#[inline(always)]
fn answer<F: Family>(frame: Frame, ip: &Ip, flow: u32) -> Option<u32> {
    let tcp = segment::tcp::<F>(frame, ip.length)?;
    let (theirs, ours) = (number(tcp.seq), flow.wrapping_add(1));
    let to_ours = number(tcp.ack).wrapping_sub(ours) <= traffic::MAX_FRAME as u32;
    if tcp.flags & segment::RST != 0 {
        // Without ACK it has the number that was acknowledged.
        if !(to_ours && tcp.flags & segment::ACK != 0) && theirs != ACKNOWLEDGED {
            return None;
        }
        if sink::intact::<F>(frame, ip) {
            maps::count(Counter::Resets, 1);
        }
        return Some(xdp_action::XDP_DROP);
    }
    if tcp.flags != segment::SYN | segment::ACK || number(tcp.ack) != ours {
        return None;
    }
    if !sink::intact::<F>(frame, ip) {
        return Some(xdp_action::XDP_DROP);
    }
    maps::count(Counter::SynAcks, 1);
    let first = maps::track(flow)?.answered(if features::timed_syns() != 0 { kernel::now() } else { 0 });
    if let Some(took) = first {
        maps::record(took);
    }
    if features::acknowledge() == 0 {
        return Some(xdp_action::XDP_DROP);
    }
    // Acknowledged each time, as the sender of a repeated SYN-ACK has not seen the first answer.
    segment::answer::<F>(frame, ours, theirs.wrapping_add(1), segment::ACK, features::run())?;
    if first.is_some() {
        maps::count(Counter::Handshakes, 1);
    }
    Some(segment::back(frame))
}
