//! Which backend a new flow goes to.

use lb_common::{abi::Service, net::Address, reason::DropReason, schedule};

use crate::{Exit, family::Family, maps, parse::Packet};

const INTERNAL: Exit = Exit::Drop(DropReason::Internal);

/// The index of the backend whose turn it is.
#[inline(always)]
pub fn backend(service: Service) -> Result<u32, Exit> {
    let rotation = maps::rotation(service.index).ok_or(INTERNAL)?;
    if rotation.is_empty() {
        return Err(Exit::Reject(DropReason::NoBackend));
    }
    let ticket = maps::next_ticket(service.index).ok_or(INTERNAL)?;
    maps::slot(rotation.base() + schedule::round_robin(ticket, rotation.len())).ok_or(INTERNAL)
}

/// The index of the backend that the packet's addresses and ports alone give, for as long as the schedule does not change.
#[inline(always)]
pub fn by_hash<F: Family>(service: Service, packet: &Packet<F>) -> Result<u32, Exit> {
    let rotation = maps::rotation(service.index).ok_or(INTERNAL)?;
    if rotation.is_empty() {
        return Err(Exit::Reject(DropReason::NoBackend));
    }
    let key = &packet.key;
    let slot = schedule::by_hash(key.src.to_any(), key.src_port, key.dst_port, rotation.len());
    maps::slot(rotation.base() + slot).ok_or(INTERNAL)
}
