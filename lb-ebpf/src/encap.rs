//! Tunnels: an outer header before the client's packet, for a backend that takes it off.

use lb_common::{
    abi::{Backend, Link, Mode},
    encap::{self, Outer},
    hash,
    net::UDP,
    network_types::eth::EtherType,
    reason::DropReason,
    wire::{ETHERNET, Udp},
};

use crate::{
    Exit,
    family::{Family, V4, V6},
    maps,
    packet::{Frame, Window},
    parse::{ETHERTYPE, HEAD_V4, HEAD_V6, Packet},
};

/// Wraps the packet, which makes a hop (RFC 2003, section 3.1): its TTL goes down by one.
#[inline(always)]
pub fn apply<F: Family>(frame: Frame, packet: &Packet<F>, backend: &Backend) -> Result<(), Exit> {
    let flow = hash::flow(&packet.key);
    let wrapped = if backend.family == V6::VERSION {
        wrap::<F, V6>(frame, packet.length, flow, backend)
    } else {
        wrap::<F, V4>(frame, packet.length, flow, backend)
    };
    wrapped.map_err(Exit::Drop)
}

/// A packet of family `I` in one of family `O`. A function of its own: what it keeps is no weight on the callers' stack.
#[inline(never)]
fn wrap<I: Family, O: Family>(frame: Frame, length: u32, flow: u32, backend: &Backend) -> Result<(), DropReason> {
    let base = maps::source(backend.first_source).ok_or(DropReason::Internal)?;
    let overhead = encap::overhead(backend.mode, O::VERSION);
    frame.lengthen_head(overhead as usize).ok_or(DropReason::NoHeadroom)?;
    let class = I::hop(frame, ETHERNET + overhead as usize).ok_or(DropReason::Internal)?;
    let protocol = encap::protocol(backend.mode, I::VERSION);
    let outer = Outer {
        src: encap::source(base, O::VERSION, backend.sources, flow),
        dst: backend.address,
        class,
        protocol,
        payload: length + if protocol == UDP { size_of::<Udp>() as u32 } else { 0 },
        flow,
    };
    O::outer(frame, &outer, &backend.link).ok_or(DropReason::Internal)?;
    if backend.mode == Mode::GUE {
        let header: Window<{ size_of::<Udp>() }> = frame.window(O::HEAD).ok_or(DropReason::Internal)?;
        header.set_words::<2, 0>(encap::udp(backend.tunnel_port, flow, outer.payload));
    }
    Ok(())
}

/// MAC addresses, and an IPv4 header.
#[inline(always)]
pub fn ipv4(frame: Frame, outer: &Outer, link: &Link) -> Option<()> {
    let head: Window<HEAD_V4> = frame.window(0)?;
    head.set_words::<3, 0>(link.addresses);
    head.write::<u16, ETHERTYPE>(EtherType::Ipv4 as u16);
    head.set_words::<5, ETHERNET>(encap::ipv4(outer));
    Some(())
}

/// MAC addresses, and an IPv6 header.
#[inline(always)]
pub fn ipv6(frame: Frame, outer: &Outer, link: &Link) -> Option<()> {
    let head: Window<HEAD_V6> = frame.window(0)?;
    head.set_words::<3, 0>(link.addresses);
    head.write::<u16, ETHERTYPE>(EtherType::Ipv6 as u16);
    let [a, b, c, d, e, f, g, h, i, j] = encap::ipv6(outer);
    head.set_words::<5, ETHERNET>([a, b, c, d, e]);
    head.set_words::<5, { ETHERNET + 20 }>([f, g, h, i, j]);
    Some(())
}
