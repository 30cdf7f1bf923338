//! The controller with an in-memory packet path, network and health, on a paused clock. The packet path asserts at each
//! write that packets see no half of a change.

mod adoption;
mod failover;
mod lab;
mod modes;
mod network;
mod requests;
mod scheduling;

use super::{ControllerError, Deps, Inputs, Options, ports, run};
use crate::datapath::Datapath;

/// The controller can be spawned whatever it works with, also with a packet path that threads must not share.
fn _can_be_spawned<D: Datapath, N: ports::Network, H: ports::Health>(
    deps: Deps<D, N, H>,
    options: Options,
    inputs: Inputs,
) -> impl Future<Output = Result<(), ControllerError>> + Send {
    run(deps, options, inputs)
}
