//! Whether a packet that belongs to no flow is a service's, and may open one.

use lb_common::{
    abi::{Service, ServiceFlags, ServiceKey},
    flow::TcpFlags,
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

/// Whether a datagram is scheduled by itself, so that no flow is made of it and those that follow.
#[inline(always)]
pub fn schedules_alone<F: Family>(packet: &Packet<F>, service: Service) -> bool {
    packet.key.protocol() != TCP && service.flags.any(ServiceFlags::ONE_PACKET)
}

/// Whether a TCP packet that opens no flow may go on with one that is not in the table, or not any more, if it can be told
/// which backend has it.
#[inline(always)]
pub fn goes_on<F: Family>(packet: &Packet<F>) -> Result<(), Exit> {
    if packet.flags.nonsense() {
        return Err(Exit::Drop(DropReason::BadTcpFlags));
    }
    // A connection that ends needs no entry any more, and one that does not exist is not answered for.
    if packet.flags.any(TcpFlags::SYN | TcpFlags::RST) {
        return Err(Exit::Reject(DropReason::NoFlow));
    }
    Ok(())
}
