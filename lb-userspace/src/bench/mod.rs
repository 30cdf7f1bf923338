//! Load for one's own installation: what `lb bench` measures, and how its results look to programs.
//!
//! A kind of traffic makes a [`report::Plan`], which is shown before the first packet, runs until its [`stop::Stop`] says so or
//! its count is reached, feeds a [`meter::Meter`] with its counters meanwhile, and returns a [`report::Outcome`].

pub mod closed;
pub mod meter;
pub mod plot;
pub mod progress;
pub mod report;
pub mod stop;
pub mod target;
