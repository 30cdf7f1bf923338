//! From what is wanted to what is written: schedules, places in the maps, and the order of writes. Pure.

pub mod diff;
pub mod indices;
pub mod layout;
pub mod maglev;
pub mod moved;
pub mod ramp;
pub mod ranges;
pub mod schedule;
pub mod slots;
pub mod sources;

pub use diff::{Action, diff};
pub use layout::{Capacities, Layout, LayoutError, WantedBackend, WantedService};
pub use schedule::{Candidate, Filling, TierChoice, choose_tier};
