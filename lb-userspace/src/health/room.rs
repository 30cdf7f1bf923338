//! How many checks may be under way at a time: each has a socket, and a process may have so many files open.
//!
//! When thousands of backends fall silent at once, their checks are under way for the whole of their timeout. Without a bound
//! they would take every descriptor, and the checks of all others would fail for want of one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors that are not for checks: maps, programs, links, sockets of the network and of the control interface.
pub const RESERVED: u64 = 256;
/// Checks at a time, however many descriptors there are.
pub const MOST: usize = 16_384;
/// Even where there are hardly any.
const LEAST: usize = 16;

/// Raises the limit of open files of this process as far as it may; returns what it is then.
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::RLIMIT_NOFILE);
    let (soft, hard) = limit.unwrap_or((1024, 1024));
    if soft >= hard {
        return soft;
    }
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!("the limit of open files stays at {soft}: {error}");
            soft
        }
    }
}

/// Checks at a time, for a process that may have so many files open.
#[must_use]
pub fn for_checks(open_files: u64) -> usize {
    let left = usize::try_from(open_files.saturating_sub(RESERVED)).unwrap_or(MOST);
    left.clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_left_for_the_rest() {
        assert_eq!(for_checks(1024), 768);
        assert_eq!(for_checks(524_288), MOST);
        assert_eq!((for_checks(100), for_checks(0)), (LEAST, LEAST));
    }

    #[test]
    fn the_limit_is_raised_to_what_is_allowed() {
        let raised = raise_open_files();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!((raised, soft), (hard, hard));
    }
}
