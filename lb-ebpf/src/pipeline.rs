//! What happens to a packet, top to bottom.

use lb_common::{
    abi::{Backend, Flow, Link},
    flow::Direction,
    network_types::eth::EtherType,
    reason::{DropReason, PassReason},
};

use crate::{
    Exit, Sent,
    family::{Family, V4, V6},
    flow_table::{self, Found},
    kernel, log,
    packet::Frame,
    parse::{self, Packet},
    rewrite, select, service, stats,
};

/// IPv4 or IPv6, of a flow or opening one; anything else is the kernel's.
#[inline(always)]
pub fn forward(frame: Frame) -> Result<Sent, Exit> {
    match parse::ethertype(frame)? {
        EtherType::Ipv4 => match established::<V4>(frame)? {
            Some(sent) => Ok(sent),
            None => open::<V4>(frame),
        },
        EtherType::Ipv6 => match established_ipv6(frame)? {
            Some(sent) => Ok(sent),
            None => open::<V6>(frame),
        },
        _ => Err(Exit::Pass(PassReason::NotIp)),
    }
}

/// IPv6 in a function of its own: its addresses and IPv4's would not fit one stack frame.
#[inline(never)]
fn established_ipv6(frame: Frame) -> Result<Option<Sent>, Exit> {
    established::<V6>(frame)
}

/// A packet of a flow costs the flow, its backend and a counter. `None`: it belongs to no flow.
#[inline(always)]
fn established<F: Family>(frame: Frame) -> Result<Option<Sent>, Exit> {
    let packet = parse::packet::<F>(frame)?;
    match flow_table::find::<F>(frame, &packet, kernel::now())? {
        Found::Flow(flow, backend) => deliver::<F>(frame, &packet, flow, backend).map(Some),
        Found::Nothing => Ok(None),
    }
}

/// A packet of no flow may open one, if it is a service's. It is parsed once more, because the stack has no room to keep
/// what was parsed while this runs.
#[inline(never)]
fn open<F: Family>(frame: Frame) -> Result<Sent, Exit> {
    let packet = parse::packet::<F>(frame)?;
    let service = service::find::<F>(&packet)?;
    service::admit::<F>(&packet)?;
    let backend = select::backend(service)?;
    let (flow, backend) = flow_table::open::<F>(frame, &packet, backend, kernel::now())?;
    log::opened::<F>(frame);
    deliver::<F>(frame, &packet, flow, backend)
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
