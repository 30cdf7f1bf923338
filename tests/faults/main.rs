//! Bad input and a hostile host: `lb` refuses, says what is wrong and what to do, and touches nothing.

mod configuration;
mod host;
mod refusal;
