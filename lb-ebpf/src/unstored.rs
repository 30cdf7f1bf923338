//! Packets whose flow is in no table, because more flows open than a core may take: where the backend answers the client itself,
//! the packet alone tells which backend is its, so that nothing need be stored.

use lb_common::{abi::Service, flow::Tick, reason::DropReason};

use crate::{
    Exit, family::Family, features, flow_table, flow_table::Found, maps, packet::Frame, parse::Packet, select,
};

const INTERNAL: Exit = Exit::Drop(DropReason::Internal);

/// Whether this core may open one more flow.
#[inline(always)]
pub fn is_needed(now: Tick) -> bool {
    let Some(credit) = features::new_flow_credit() else {
        return false;
    };
    maps::new_flow_budget().is_some_and(|budget| !budget.take(now, credit))
}

/// The flow of a packet, as its hash gives it; `refused` in modes in which flows have to be stored.
#[inline(always)]
pub fn find<F: Family>(
    frame: Frame,
    packet: &Packet<F>,
    service: Service,
    now: Tick,
    refused: Exit,
) -> Result<Found<F>, Exit> {
    let index = select::by_hash::<F>(service, packet, now)?;
    let backend = maps::backend(index).ok_or(INTERNAL)?;
    if backend.mode.sees_replies() {
        return Err(refused);
    }
    let new = F::new_flow().ok_or(INTERNAL)?;
    flow_table::describe::<F>(frame, packet, (index, backend), now, &mut new.flow)?;
    Ok((&mut new.flow, backend))
}
