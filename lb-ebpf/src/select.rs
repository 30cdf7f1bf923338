//! Which backend a new flow goes to.

use lb_common::{abi::Service, reason::DropReason, schedule};

use crate::{Exit, maps};

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
