//! VLAN tags: off before the packet path, on again behind it. All stages between see an untagged frame.

use lb_common::{
    abi::{Hop, Vlans},
    network_types::eth::EtherType,
    reason::{DropReason, PassReason},
    vlan::{self, Tags},
    wire::ETHERNET,
};

use crate::{
    Exit, Sent, features, maps,
    packet::{Frame, Window},
};

const MAC_ADDRESSES: usize = 12;
const TAG: usize = 4;
const MALFORMED: Exit = Exit::Pass(PassReason::Malformed);

/// Takes the tags off a frame that carries IP behind one or two of them. Others stay as they came.
#[inline(always)]
pub fn strip(frame: Frame) -> Result<Frame, Exit> {
    let head: Window<{ ETHERNET + TAG }> = frame.window(0).ok_or(MALFORMED)?;
    let addresses = head.words::<3, 0>();
    let [outer] = head.words::<1, MAC_ADDRESSES>();
    let next = head.read::<u16, { MAC_ADDRESSES + TAG }>();
    let (tags, next) = if vlan::is_tag(next) {
        let rest: Window<{ TAG + 2 }> = frame.window(MAC_ADDRESSES + TAG).ok_or(MALFORMED)?;
        let [inner] = rest.words::<1, 0>();
        (Tags::new(outer, inner), rest.read::<u16, TAG>())
    } else {
        (Tags::new(outer, 0), next)
    };
    carries_ip(next)?;
    frame.shorten_head(length(tags)).ok_or(MALFORMED)?;
    let head: Window<MAC_ADDRESSES> = frame.window(0).ok_or(Exit::Drop(DropReason::Internal))?;
    head.set_words::<3, 0>(addresses);
    maps::set_tags(tags);
    Ok(frame.perhaps_tagged(true))
}

#[inline(always)]
fn carries_ip(ethertype: u16) -> Result<(), Exit> {
    if ethertype == EtherType::Ipv4 as u16 || ethertype == EtherType::Ipv6 as u16 {
        return Ok(());
    }
    let third = vlan::is_tag(ethertype);
    Err(Exit::Pass(if third {
        PassReason::VlanTagged
    } else {
        PassReason::NotIp
    }))
}

/// Sends a frame to a next hop, with the tags of its VLANs.
#[inline(always)]
pub fn send(frame: Frame, hop: Hop) -> Result<Sent, Exit> {
    let sent = if hop.ifindex() == frame.ifindex() {
        Sent::Back
    } else {
        Sent::To(hop.ifindex())
    };
    if features::vlans() && hop.vlans != Vlans::NONE {
        put(frame, hop.vlans.tags(tags(frame))).ok_or(Exit::Drop(DropReason::NoHeadroom))?;
    }
    Ok(sent)
}

/// The tags that were taken off a frame. They lie in a map rather than in the frame: the verifier would follow every path
/// once for each thing that a register tells of them.
#[inline(always)]
fn tags(frame: Frame) -> Tags {
    if frame.may_have_tags() {
        maps::tags()
    } else {
        Tags::NONE
    }
}

/// The VLANs that a frame came from.
#[inline(always)]
pub fn of(frame: Frame) -> Vlans {
    if features::vlans() {
        tags(frame).vlans()
    } else {
        Vlans::NONE
    }
}

/// Puts the tags that a frame came with back on it: to leave it as it came, or to answer it.
#[inline(always)]
pub fn restore(frame: Frame) -> Option<()> {
    if !features::vlans() {
        return Some(());
    }
    let tags = tags(frame);
    if tags.is_none() { Some(()) } else { put(frame, tags) }
}

/// The frame that another program diverted to this one.
#[inline(always)]
pub fn resume(frame: Frame) -> Frame {
    if features::vlans() {
        frame.perhaps_tagged(true)
    } else {
        frame
    }
}

/// Leaves the tags for the program that goes on. None as well: what an earlier frame left there is not this one's.
#[inline(always)]
pub fn hand_over(frame: Frame) {
    if features::vlans() && !frame.may_have_tags() {
        maps::set_tags(Tags::NONE);
    }
}

#[inline(never)]
fn put(frame: Frame, tags: Tags) -> Option<()> {
    if tags.inner() == 0 {
        let addresses = make_room::<TAG>(frame)?;
        let head: Window<{ MAC_ADDRESSES + TAG }> = frame.window(0)?;
        head.set_words::<3, 0>(addresses);
        head.set_words::<1, MAC_ADDRESSES>([tags.outer()]);
    } else {
        let addresses = make_room::<{ 2 * TAG }>(frame)?;
        let head: Window<{ MAC_ADDRESSES + 2 * TAG }> = frame.window(0)?;
        head.set_words::<3, 0>(addresses);
        head.set_words::<2, MAC_ADDRESSES>([tags.outer(), tags.inner()]);
    }
    Some(())
}

/// Moves the frame's start to the front, and gives the MAC addresses, which are now too far behind.
#[inline(always)]
fn make_room<const BYTES: usize>(frame: Frame) -> Option<[u32; 3]> {
    frame.lengthen_head(BYTES)?;
    let moved: Window<MAC_ADDRESSES> = frame.window(BYTES)?;
    Some(moved.words::<3, 0>())
}

/// Bytes of a frame's tags.
#[inline(always)]
fn length(tags: Tags) -> usize {
    if tags.inner() == 0 { TAG } else { 2 * TAG }
}
