//! `lb`: an XDP layer-4 load balancer. This crate is its daemon and its command line.

pub mod api;
pub mod controller;
pub mod datapath;
pub mod model;
pub mod plan;
pub mod state;
