//! The load generator and its sink, as `lb bench` offers them, against each other and through the real load balancer.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod refusal;
mod rig;
mod stream;
mod through;
