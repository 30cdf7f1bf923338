//! Packets through the packet path, in the kernel, without a wire: BPF_PROG_TEST_RUN.
//!
//! Each test has an instance and a network namespace of its own ([`lab`]), says what goes in as a [`frames::Packet`],
//! and compares what comes out byte for byte with the packet that it expects, whose checksums are computed from
//! nothing. They need root.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod admission;
mod adoption;
mod balance;
mod case;
mod cookies;
mod counters;
mod decap;
mod direct;
mod down;
mod extensions;
mod flow_cache;
mod forward;
mod fragments;
mod frames;
mod garbage;
mod ground;
mod half_open;
mod icmp;
mod jumbo;
mod lab;
mod lifetime;
mod links;
mod many_ports;
mod mixed;
mod mixed_admission;
mod mixed_errors;
mod mixed_seen;
mod model;
mod one_way;
mod outer;
mod ports;
mod random;
mod reasons;
mod run;
mod schedulers;
mod service;
mod tunnels;
mod twins;
mod verification;
mod vlan;
