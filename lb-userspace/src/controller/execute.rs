//! Actions become writes.

use crate::{
    datapath::{Datapath, DatapathError},
    plan::Action,
};

/// Does one action.
///
/// # Errors
/// What the packet path says; the action may then be done in part, which no packet sees.
pub(crate) fn execute_action(datapath: &mut impl Datapath, action: &Action) -> Result<(), DatapathError> {
    match action {
        Action::RemoveService(id) => datapath.remove_service(*id),
        Action::SetSource { place, address } => datapath.set_source(*place, *address),
        Action::ClearCounters(index) => datapath.clear_backend_counters(*index),
        Action::SetBackend { index, backend } => datapath.set_backend(*index, *backend),
        Action::WritePages { first, pages } => datapath.write_pages(*first, pages),
        Action::SetRotation { service, rotation } => datapath.set_rotation(*service, *rotation),
        Action::SetSpill { service, rotation } => datapath.set_spill(*service, *rotation),
        Action::SetPrevious { service, previous } => datapath.set_previous(*service, *previous),
        Action::SetService { id, service } => datapath.set_service(*id, *service),
    }
}
