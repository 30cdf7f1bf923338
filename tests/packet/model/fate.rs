//! How a packet leaves.

use lb_common::{
    abi::Mode,
    reason::{DropReason, PassReason},
};

use crate::lab::Verdict;

/// How a packet left.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Left {
    Passed(PassReason),
    Dropped(DropReason),
    /// Answered with RST, by the interface that it came in on.
    Refused(DropReason),
    /// Answered with ICMP, which says what would fit, by the interface that it came in on.
    Told(DropReason, usize),
    /// By the interface that it came in on, in a mode of forwarding.
    Back(Mode),
    /// By another.
    Across(Mode),
}

/// How a packet left, and as what.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub(super) left: Left,
    pub(super) frame: Vec<u8>,
}

impl Expected {
    pub(super) fn verdict(&self) -> Verdict {
        match self.left {
            Left::Passed(_) => Verdict::Pass,
            Left::Dropped(_) => Verdict::Drop,
            Left::Refused(_) | Left::Told(..) | Left::Back(_) => Verdict::Tx,
            Left::Across(_) => Verdict::Redirect,
        }
    }

    /// The reason that is counted.
    pub(super) fn counter(&self) -> Option<usize> {
        match self.left {
            Left::Passed(reason) => Some(reason.counter() as usize),
            Left::Dropped(reason) | Left::Refused(reason) | Left::Told(reason, _) => Some(reason.counter() as usize),
            Left::Back(_) | Left::Across(_) => None,
        }
    }
}
