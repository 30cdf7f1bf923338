//! Whether a packet that belongs to no flow is a service's, and may open one.

use lb_common::{
    abi::{Service, ServiceKey},
    net::TCP,
    reason::{DropReason, PassReason},
};

use crate::{Exit, family::Family, parse::Packet};

/// The service that the packet is addressed to.
#[inline(always)]
pub fn find<F: Family>(packet: &Packet<F>) -> Result<Service, Exit> {
    let key = ServiceKey::new(packet.key.dst, packet.key.dst_port, packet.key.protocol());
    F::service(&key).ok_or(Exit::Pass(PassReason::NotAService))
}

/// Whether the packet may open a flow.
#[inline(always)]
pub fn admit<F: Family>(packet: &Packet<F>) -> Result<(), Exit> {
    if packet.ttl <= 1 {
        return Err(Exit::Pass(PassReason::TtlExpired));
    }
    if packet.fragment {
        return Err(Exit::Drop(DropReason::Fragment));
    }
    if packet.key.protocol() != TCP || packet.flags.opens() {
        return Ok(());
    }
    if packet.flags.nonsense() {
        return Err(Exit::Drop(DropReason::BadTcpFlags));
    }
    Err(Exit::Reject(DropReason::NoFlow))
}
