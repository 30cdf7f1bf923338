//! What the packet path and its controller share: the layout of the kernel maps, and the pure packet logic.
//!
//! Nothing here performs I/O or knows a clock, so every function runs the same in the kernel and under `cargo test`.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(not(feature = "user"), forbid(unsafe_code))]

pub mod abi;
pub mod checksum;
pub mod decap;
pub mod direct;
pub mod encap;
pub mod flow;
pub mod flow_cache;
pub mod fragment;
pub mod hash;
pub mod icmp;
pub mod limit;
pub mod net;
pub mod reason;
pub mod reset;
pub mod rewrite;
pub mod schedule;
pub mod splice;
pub mod traffic;
pub mod translate;
pub mod translate_error;
pub mod tunnel_error;
pub mod vlan;
pub mod wire;

pub use network_types;
