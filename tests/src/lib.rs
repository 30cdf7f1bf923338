//! What the tests of `lb` share: laboratories made of network namespaces, the daemon under test, servers and clients.
//!
//! A [`Lab`] is a small network of its own. Labs work side by side: each has its own namespaces, its own instance name
//! (which is part of the pins' path) and its own temporary directory. Dropping a lab removes all of it; what a killed
//! test run left behind is removed when the next one starts.
//!
//! Everything here is test code: a step that fails ends the test with a message, so nothing returns an error that a
//! test would only unwrap.
#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a harness reports a failed step by failing the test"
)]

pub mod balancer;
pub mod cable;
pub mod client;
pub mod config;
pub mod control;
pub mod lab;
pub mod leftovers;
pub mod netns;
pub mod nginx;
pub mod poll;
pub mod scale;
pub mod server;
pub mod stand_in;

pub use balancer::{Balancer, Outcome};
pub use cable::{Cable, Faults};
pub use config::{Backend, Config, Service};
pub use lab::{Host, Lab, Topology};
pub use netns::Namespace;
pub use nginx::Nginx;
pub use poll::{eventually, never, patience};
pub use server::{HttpServer, UdpEcho};
