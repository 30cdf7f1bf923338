//! Every verb of the command line against a running daemon.
#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod change;
mod errors;
mod show;
