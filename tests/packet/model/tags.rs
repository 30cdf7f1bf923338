//! VLAN tags of a frame.

use lb_common::reason::PassReason;

use super::{fate::Left, wire::number};
use crate::{lab::Server, vlan::Tag};

/// The VLANs of a server: every third has one, every third but one two.
pub(super) fn server_vlans(server: Server) -> Vec<Tag> {
    match server.index % 3 {
        0 => Vec::new(),
        1 => vec![(0x8100, 7)],
        _ => vec![(0x88a8, 4000), (0x8100, 1)],
    }
}

/// The frame without its tags, or why it is the kernel's with them.
pub(super) fn untagged(frame: &[u8]) -> Result<(Vec<u8>, Vec<Tag>), Left> {
    let (mut at, mut tags) = (12, Vec::new());
    while frame.len() >= at + 2 && [0x8100, 0x88a8].contains(&number(frame, at)) {
        if tags.len() == 2 {
            return Err(Left::Passed(PassReason::VlanTagged));
        }
        if frame.len() < at + 6 {
            return Err(Left::Passed(PassReason::Malformed));
        }
        tags.push((number(frame, at), number(frame, at + 2)));
        at += 4;
    }
    if !tags.is_empty() && ![0x0800, 0x86dd].contains(&number(frame, at)) {
        return Err(Left::Passed(PassReason::NotIp));
    }
    if !tags.is_empty() && frame.len() < at + 2 {
        return Err(Left::Passed(PassReason::Malformed));
    }
    Ok(([&frame[..12], &frame[at..]].concat(), tags))
}

/// The VLANs alone.
pub(super) fn without_priority(tags: &[Tag]) -> Vec<Tag> {
    tags.iter().map(|(tpid, tci)| (*tpid, tci & 0x0fff)).collect()
}

/// A frame keeps the priority that it came with, its outer tag's.
pub(super) fn with_priority(tags: &[Tag], came_with: &[Tag]) -> Vec<Tag> {
    let priority = came_with.first().map_or(0, |(_, tci)| tci & 0xf000);
    tags.iter().map(|(tpid, tci)| (*tpid, tci | priority)).collect()
}
