//! Whether a packet that belongs to no flow is a service's, and may open one.

use lb_common::{
    abi::{Service, ServiceKey},
    net::{Be16, TCP},
    reason::{DropReason, PassReason},
};

use crate::{Exit, family::Family, parse::Packet};

/// The service that the packet is addressed to: one on its very port, or else one on all ports of the VIP.
#[inline(always)]
pub fn find<F: Family>(packet: &Packet<F>) -> Result<Service, Exit> {
    let key = ServiceKey::new(packet.key.dst, packet.key.dst_port, packet.key.protocol());
    if let Some(service) = F::service(&key) {
        return Ok(service);
    }
    let every_port = ServiceKey::new(packet.key.dst, Be16::default(), packet.key.protocol());
    F::service(&every_port).ok_or(Exit::Pass(PassReason::NotAService))
}

/// Whether the packet may open a flow.
#[inline(always)]
pub fn admit<F: Family>(packet: &Packet<F>) -> Result<(), Exit> {
    if packet.key.protocol() != TCP || packet.flags.opens() {
        return Ok(());
    }
    if packet.flags.nonsense() {
        return Err(Exit::Drop(DropReason::BadTcpFlags));
    }
    Err(Exit::Reject(DropReason::NoFlow))
}
