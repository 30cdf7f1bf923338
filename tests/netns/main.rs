//! End to end: real clients, real servers and the real daemon in network namespaces.
#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod backends;
mod common;
mod cookies;
mod direct;
mod dns;
mod failover;
mod flood;
mod harness;
mod lifecycle;
mod load;
mod lossy;
mod mixed;
mod modes;
mod moved;
mod network;
mod odd;
mod quic;
mod scale;
mod schedulers;
mod spread;
mod udp;
mod vlan;
mod xdp;
