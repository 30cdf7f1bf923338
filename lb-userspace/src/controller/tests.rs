//! The controller with an in-memory packet path, network and health, on a paused clock. The packet path asserts at each
//! write that packets see no half of a change.

mod adoption;
mod failover;
mod lab;
mod network;
mod requests;
