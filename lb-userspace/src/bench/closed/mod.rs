//! Closed-loop load: real connections of this host's kernel, each of which waits for its answer before it goes on.
//!
//! Without a rate, every connection starts anew as soon as it is done, so that a slow server is asked less often, and the
//! latencies hide what others would have waited meanwhile. With a rate, requests are due at fixed times, and latency counts from
//! then: a request that had to wait for a free connection took that long, too (coordinated omission, corrected as by wrk2).

mod connect;
mod failure;
mod gate;
mod http;
mod results;
mod run;
mod schedule;
mod settings;
mod tally;
mod tcp;
#[cfg(test)]
mod tests;

pub use self::{
    run::{RunError, run},
    settings::{Http, Kind, Settings, Spread, Tcp},
};
