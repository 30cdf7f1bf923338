//! The control interface: one JSON request and one JSON reply a line, over a Unix socket.

pub mod report;
pub mod request;

pub use report::*;
pub use request::*;
