//! What happens to a packet, top to bottom.

use lb_common::{
    abi::{Backend, Flow, Link},
    flow::{Direction, Tick},
    network_types::eth::EtherType,
    reason::{DropReason, PassReason},
};

use crate::{
    Exit, Sent, Stage,
    family::{Family, V4, V6},
    features,
    flow_table::{self, Found},
    half_open, kernel, log,
    packet::Frame,
    parse::{self, Packet},
    rewrite, select, service, stats, unstored,
};

/// A packet of an established flow is forwarded at once; what is unusual, other programs see to.
#[inline(always)]
pub fn forward(frame: Frame) -> Result<Sent, Exit> {
    match parse::ethertype(frame)? {
        EtherType::Ipv4 => established::<V4>(frame),
        EtherType::Ipv6 => established_ipv6(frame),
        _ => Err(Exit::Pass(PassReason::NotIp)),
    }
}

/// IPv6 in a function of its own: its addresses and IPv4's would not fit one stack frame.
#[inline(never)]
fn established_ipv6(frame: Frame) -> Result<Sent, Exit> {
    established::<V6>(frame)
}

/// It costs the flow, its backend and a counter.
#[inline(always)]
fn established<F: Family>(frame: Frame) -> Result<Sent, Exit> {
    let packet = parse::packet::<F>(frame)?;
    let found = flow_table::find::<F>(frame, &packet, kernel::now())?;
    let (flow, backend) = found.ok_or(Exit::Divert(Stage::Open))?;
    deliver::<F>(frame, &packet, flow, backend)
}

/// A packet of no established flow belongs to a half-open one, or may open one, if it is a service's.
#[inline(always)]
pub fn open(frame: Frame) -> Result<Sent, Exit> {
    match parse::ethertype(frame)? {
        EtherType::Ipv4 => open_ipv4(frame),
        EtherType::Ipv6 => open_ipv6(frame),
        _ => Err(Exit::Pass(PassReason::NotIp)),
    }
}

#[inline(never)]
fn open_ipv4(frame: Frame) -> Result<Sent, Exit> {
    opening::<V4>(frame)
}

#[inline(never)]
fn open_ipv6(frame: Frame) -> Result<Sent, Exit> {
    opening::<V6>(frame)
}

#[inline(always)]
fn opening<F: Family>(frame: Frame) -> Result<Sent, Exit> {
    let packet = parse::packet::<F>(frame)?;
    let now = kernel::now();
    let (flow, backend) = match known::<F>(frame, &packet, now)? {
        Some(found) => found,
        None => new_flow::<F>(frame, &packet, now)?,
    };
    deliver::<F>(frame, &packet, flow, backend)
}

/// The half-open flow of a packet; or the established one, if another CPU made it so since the entry looked.
#[inline(always)]
fn known<F: Family>(frame: Frame, packet: &Packet<F>, now: Tick) -> Result<Option<Found<F>>, Exit> {
    match half_open::find::<F>(frame, packet, now)? {
        None if !packet.flags.opens() => flow_table::find::<F>(frame, packet, now),
        found => Ok(found),
    }
}

#[inline(always)]
fn new_flow<F: Family>(frame: Frame, packet: &Packet<F>, now: Tick) -> Result<Found<F>, Exit> {
    let service = service::find::<F>(packet)?;
    match service::admit::<F>(packet) {
        Ok(()) if unstored::is_needed(now) => {
            let refused = Exit::Drop(DropReason::NewFlowLimit);
            return unstored::find::<F>(frame, packet, service, now, refused);
        }
        // It may be of a flow that was not stored.
        Err(refused @ Exit::Reject(DropReason::NoFlow)) if features::new_flow_credit().is_some() => {
            return unstored::find::<F>(frame, packet, service, now, refused);
        }
        admitted => admitted?,
    }
    let backend = select::backend(service)?;
    let found = flow_table::open::<F>(frame, packet, backend, now)?;
    log::opened::<F>(frame);
    Ok(found)
}

/// Rewrites the packet as its flow says and sends it on.
#[inline(always)]
fn deliver<F: Family>(frame: Frame, packet: &Packet<F>, flow: &Flow<F::Addr>, backend: &Backend) -> Result<Sent, Exit> {
    let link: &Link = if flow.direction == Direction::TO_BACKEND {
        &backend.link
    } else {
        &flow.client
    };
    if packet.ttl <= 1 {
        return Err(Exit::Pass(PassReason::TtlExpired));
    }
    if packet.fragment {
        return Err(Exit::Drop(DropReason::Fragment));
    }
    if flow.direction == Direction::TO_BACKEND && packet.length > backend.mtu {
        return Err(Exit::Drop(DropReason::ExceedsMtu));
    }
    rewrite::apply::<F>(frame, packet, &flow.rewrite, link)?;
    stats::count_packet(flow.backend, flow.direction, frame.length());
    Ok(if link.ifindex == frame.ifindex() {
        Sent::Back
    } else {
        Sent::To(link.ifindex)
    })
}
