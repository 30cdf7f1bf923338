//! The control interface: one JSON request and one JSON reply a line, over a Unix socket.

pub mod client;
pub mod codec;
pub mod filter;
pub mod report;
pub mod request;
pub mod server;

pub use filter::*;
pub use report::*;
pub use request::*;
