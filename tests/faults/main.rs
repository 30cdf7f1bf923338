//! Bad input and a hostile host: `lb` refuses, says what is wrong and what to do, and touches nothing.
#![expect(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod configuration;
mod host;
mod refusal;
