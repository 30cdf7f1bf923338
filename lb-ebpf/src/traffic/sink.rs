//! The receiving end: what came, where to, in which order, how intact and how late; on request it answers.

use aya_ebpf::bindings::xdp_action;
use lb_common::{
    net::{Be16, TCP, UDP},
    network_types::eth::EtherType,
    traffic::{
        self, BackendKey, Counter, Stamp,
        stamp::STAMP,
        track::{Arrival, Track},
    },
    wire::{ETHERNET, Ethernet, Ports, Tcp, Udp, number},
};

use crate::{
    family::{Family, Ip, V4, V6},
    features, kernel, maps,
    packet::{Frame, Window},
    segment,
};

/// Takes a frame of the run; `None`: it is none.
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

// Functions of their own, so that each has a stack frame of its own.

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
    if features::port() != 0 && ports.dst.get() != features::port() {
        return None;
    }
    match ip.protocol {
        UDP => datagram::<F>(frame, &ip, ports.dst),
        TCP => connection::<F>(frame, &ip, ports.dst),
        _ => None,
    }
}

#[inline(always)]
fn datagram<F: Family>(frame: Frame, ip: &Ip, port: Be16) -> Option<u32> {
    const HEADER: usize = size_of::<Udp>();
    let stamp = stamp(frame, F::L4 + HEADER, ip.length.checked_sub(HEADER as u32)?)?;
    if !ours(stamp.run, stamp.flow) {
        return None;
    }
    if intact::<F>(frame, ip) {
        arrived::<F>(frame, ip.protocol, port, (stamp.run, stamp.flow), Some(&stamp));
    }
    if features::reflect() == 0 {
        return Some(xdp_action::XDP_DROP);
    }
    // Exchanged addresses and ports leave the checksums as they are.
    F::turn_round(frame)?;
    let header: Window<HEADER> = frame.window(F::L4)?;
    let ports: Ports = header.read::<_, 0>();
    header.write::<_, 0>(Ports {
        src: ports.dst,
        dst: ports.src,
    });
    Some(segment::back(frame))
}

#[inline(always)]
fn connection<F: Family>(frame: Frame, ip: &Ip, port: Be16) -> Option<u32> {
    const HEADER: usize = size_of::<Tcp>();
    let tcp = segment::tcp::<F>(frame, ip.length)?;
    if tcp.data_offset != segment::PLAIN {
        return None;
    }
    if let Some(stamp) = stamp(frame, F::L4 + HEADER, ip.length - HEADER as u32)
        && ours(stamp.run, stamp.flow)
    {
        if intact::<F>(frame, ip) {
            arrived::<F>(frame, ip.protocol, port, (stamp.run, stamp.flow), Some(&stamp));
        }
        return Some(xdp_action::XDP_DROP);
    }
    bare::<F>(frame, ip, &tcp, port)
}

/// A segment without data: its window has the run, its sequence number the flow.
#[inline(always)]
fn bare<F: Family>(frame: Frame, ip: &Ip, tcp: &Tcp, port: Be16) -> Option<u32> {
    let sequence = number(tcp.seq);
    let syn = tcp.flags == segment::SYN;
    let flow = if syn { sequence } else { sequence.wrapping_sub(1) };
    if !ours(tcp.window.get(), flow) {
        return None;
    }
    if !intact::<F>(frame, ip) {
        return Some(xdp_action::XDP_DROP);
    }
    arrived::<F>(frame, ip.protocol, port, (tcp.window.get(), flow), None);
    if syn {
        maps::count(Counter::Syns, 1);
        if features::respond() != 0 {
            let isn = traffic::answer_sequence(sequence);
            segment::answer::<F>(
                frame,
                isn,
                sequence.wrapping_add(1),
                segment::SYN | segment::ACK,
                tcp.window.get(),
            )?;
            maps::count(Counter::SynAcks, 1);
            return Some(segment::back(frame));
        }
    } else if tcp.flags & segment::RST != 0 {
        maps::count(Counter::Resets, 1);
    } else if tcp.flags & (segment::ACK | segment::FIN) == segment::ACK
        && number(tcp.ack) == traffic::answer_sequence(flow).wrapping_add(1)
    {
        maps::count(Counter::Handshakes, 1);
    }
    Some(xdp_action::XDP_DROP)
}

/// The stamp at an offset, if that much data is there.
#[inline(always)]
pub fn stamp(frame: Frame, offset: usize, data: u32) -> Option<Stamp> {
    if data < STAMP as u32 {
        return None;
    }
    let payload: Window<STAMP> = frame.window(offset)?;
    Some(Stamp::from_words(payload.read::<_, 0>(), payload.words::<4, 2>()))
}

/// Whether a packet is of the run that is followed. What is no run's at all is not counted either.
#[inline(always)]
fn ours(run: u16, flow: u32) -> bool {
    if run == 0 || flow >= features::flows() {
        return false;
    }
    let followed = if features::run() != 0 {
        features::run()
    } else {
        maps::seen_run(run).unwrap_or(run)
    };
    if run != followed {
        maps::count(Counter::OtherRun, 1);
    }
    run == followed
}

/// Whether the checksums are right, as far as that is asked for.
#[inline(always)]
pub fn intact<F: Family>(frame: Frame, ip: &Ip) -> bool {
    if features::check() == 0 {
        return true;
    }
    if !F::header_intact(frame) {
        maps::count(Counter::IpFaults, 1);
        return false;
    }
    if F::VERSION == 4 && ip.protocol == UDP && unsummed::<F>(frame) {
        return true;
    }
    match segment::intact::<F>(frame, ip.protocol, ip.length) {
        Some(true) => true,
        Some(false) => {
            maps::count(Counter::L4Faults, 1);
            false
        }
        None => {
            maps::count(Counter::Unchecked, 1);
            true
        }
    }
}

/// Whether a datagram goes without a checksum (RFC 768).
#[inline(always)]
fn unsummed<F: Family>(frame: Frame) -> bool {
    let header: Option<Window<{ size_of::<Udp>() }>> = frame.window(F::L4);
    header.is_some_and(|header| header.read::<u16, 6>() == 0)
}

/// Takes note of a packet.
#[inline(always)]
fn arrived<F: Family>(frame: Frame, protocol: u8, port: Be16, (run, flow): (u16, u32), stamp: Option<&Stamp>) {
    let bytes = frame.length() as u64;
    maps::count(Counter::Packets, 1);
    maps::count(Counter::Bytes, bytes);
    let Some(key) = backend::<F>(frame, protocol, port) else {
        return;
    };
    let Some(track) = maps::track(flow) else { return };
    let first = follow(track, run, stamp);
    if track.moved(key.fingerprint()) {
        maps::count(Counter::Moved, 1);
    }
    if let Some(count) = maps::backend(&key) {
        count.packets += 1;
        count.bytes += bytes;
        count.flows += u64::from(first);
    }
    if features::latency() != 0
        && let Some(stamp) = stamp
        && stamp.time != 0
    {
        maps::record(kernel::now().saturating_sub(stamp.time));
    }
}

/// Judges the order of arrival; says whether it is the flow's first packet.
#[inline(always)]
pub fn follow(track: &mut Track, run: u16, stamp: Option<&Stamp>) -> bool {
    let first = match stamp {
        Some(stamp) => number_of(track, stamp),
        // Segments without data have no number.
        None => track.open(run),
    };
    if first {
        maps::count(Counter::Flows, 1);
    }
    first
}

#[inline(always)]
fn number_of(track: &mut Track, stamp: &Stamp) -> bool {
    match track.arrive(stamp.run, stamp.sequence) {
        Arrival::First(number) => {
            if number != 0 {
                maps::count(Counter::BegunLate, 1);
            }
            return true;
        }
        Arrival::Next(0) => {}
        Arrival::Next(missing) => maps::count(Counter::Missing, missing.into()),
        Arrival::Reordered | Arrival::Ancient => maps::count(Counter::Reordered, 1),
        Arrival::Duplicate => maps::count(Counter::Duplicates, 1),
    }
    false
}

/// Where a frame was addressed to.
#[inline(always)]
fn backend<F: Family>(frame: Frame, protocol: u8, port: Be16) -> Option<BackendKey> {
    let head: Window<ETHERNET> = frame.window(0)?;
    let ethernet: Ethernet = head.read::<_, 0>();
    let (_, address) = F::addresses(frame)?;
    Some(BackendKey {
        address,
        mac: ethernet.dst,
        port,
        version: F::VERSION,
        protocol: protocol.into(),
    })
}
