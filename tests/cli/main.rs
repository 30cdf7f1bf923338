//! Every verb of the command line against a running daemon.

mod change;
mod errors;
mod show;
