//! `lb`: an XDP layer-4 load balancer. This crate is its daemon and its command line.

pub mod api;
pub mod backend_setup;
pub mod bench;
pub mod cli;
pub mod config;
pub mod controller;
pub mod daemon;
pub mod datapath;
pub mod doctor;
pub mod health;
pub mod model;
pub mod net;
pub mod plan;
pub mod state;
