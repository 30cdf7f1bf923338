//! Makes the next frame.
//!
//! Buffers are recycled and keep what was written into them on the way, so the head of each frame is written whole: from a
//! template, with what differs from frame to frame and what that makes of the checksums.
#![expect(unsafe_code, reason = "packet memory lies behind raw pointers")]

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use lb_common::{
    net::Be16,
    traffic::{self, Lane, MIX_LENGTH, SIZES, Stamp, stamp::with_sum},
};

use crate::{features, kernel, maps, packet::Frame};

/// Where in a frame the things lie that differ, in bytes.
pub struct Layout {
    words: usize,
    /// The last four bytes of the source address.
    source: usize,
    ip_checksum: Option<usize>,
    ports: usize,
    checksum: usize,
    /// TCP's sequence number.
    sequence: Option<usize>,
    /// The stamp behind its first two bytes, the run, which never differ.
    stamp: Option<usize>,
    udp: bool,
}

pub const UDP_V4: Layout = Layout {
    words: 15,
    source: 26,
    ip_checksum: Some(24),
    ports: 34,
    checksum: 40,
    sequence: None,
    stamp: Some(44),
    udp: true,
};
pub const UDP_V6: Layout = Layout {
    words: 20,
    source: 34,
    ip_checksum: None,
    ports: 54,
    checksum: 60,
    stamp: Some(64),
    ..UDP_V4
};
pub const BARE_V4: Layout = Layout {
    words: 15,
    checksum: 50,
    sequence: Some(38),
    stamp: None,
    udp: false,
    ..UDP_V4
};
pub const BARE_V6: Layout = Layout {
    words: 19,
    checksum: 70,
    sequence: Some(58),
    stamp: None,
    udp: false,
    ..UDP_V6
};
pub const DATA_V4: Layout = Layout {
    words: 18,
    stamp: Some(56),
    ..BARE_V4
};
pub const DATA_V6: Layout = Layout {
    words: 23,
    stamp: Some(76),
    ..BARE_V6
};

/// Writes the next frame, if there is one to be sent now, and has it sent.
#[inline(always)]
pub fn run(ctx: &XdpContext, layout: &Layout) -> u32 {
    let Some(lane) = maps::lane() else {
        return xdp_action::XDP_ABORTED;
    };
    if lane.left == 0 {
        return xdp_action::XDP_DROP;
    }
    if lane.begun == 0 {
        lane.begun = kernel::now();
    }
    if features::paced() != 0 && !lane.pace.take(kernel::now() - lane.begun) {
        return xdp_action::XDP_DROP;
    }
    match write(ctx, lane, layout) {
        Some(()) => {
            lane.left -= 1;
            if lane.left == 0 {
                lane.ended = kernel::now();
            }
            xdp_action::XDP_TX
        }
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn write(ctx: &XdpContext, lane: &mut Lane, layout: &Layout) -> Option<()> {
    let (flow, sequence) = next(lane)?;
    let mut number = 0;
    let targets = features::targets();
    if targets > 1 {
        number = flow % targets;
    }
    if features::mixed() != 0 {
        number = number * SIZES as u32 + traffic::mixed_size(lane.turn);
        lane.turn = if lane.turn + 1 < MIX_LENGTH { lane.turn + 1 } else { 0 };
    }
    let template = maps::template(number)?;
    let time = if features::latency() != 0 { kernel::now() } else { 0 };
    if features::timed_syns() != 0 {
        maps::track(flow)?.ask(kernel::now());
    }
    let frame = Frame::new(ctx);
    if features::mixed() != 0 {
        frame.lengthen(template.length as i32 - lane.longest as i32)?;
        lane.bytes += u64::from(template.length);
    }

    let start = ctx.data();
    if start + layout.words * size_of::<u32>() > ctx.data_end() {
        return None;
    }
    for (i, word) in template.words.iter().take(layout.words).enumerate() {
        // SAFETY: in bounds by the check above; the kernel starts these buffers at a multiple of eight.
        unsafe { (start as *mut u32).add(i).write(*word) };
    }
    let half = |offset: usize| (start + offset) as *mut u16;
    let (address, port) = traffic::source_of(flow);
    let source = features::source().wrapping_add(address).to_be();
    let port = Be16::new(port).word();
    let mut sum = u64::from(source) + u64::from(port);
    // SAFETY: the layouts' offsets are even and within their words.
    unsafe {
        half(layout.source).write(source as u16);
        half(layout.source + 2).write((source >> 16) as u16);
        half(layout.ports).write(port);
        if let Some(at) = layout.ip_checksum {
            half(at).write(with_sum(half(at).read(), source.into()));
        }
        if let Some(at) = layout.sequence {
            let number = flow.wrapping_add(lane.sequence_base).to_be();
            half(at).write(number as u16);
            half(at + 2).write((number >> 16) as u16);
            sum += u64::from(number);
        }
        if let Some(at) = layout.stamp {
            let stamp = Stamp {
                run: 0,
                flow,
                sequence,
                time,
            };
            let (_, words) = stamp.to_words();
            for (i, word) in words.into_iter().enumerate() {
                if i < 2 || features::latency() != 0 {
                    ((start + at) as *mut u32).add(i).write(word);
                    sum += u64::from(word);
                }
            }
        }
        let at = half(layout.checksum);
        let check = with_sum(at.read(), sum);
        at.write(if layout.udp && check == 0 { 0xffff } else { check });
    }
    Some(())
}

/// Whose turn it is, and the number of the packet in its flow.
#[inline(always)]
fn next(lane: &mut Lane) -> Option<(u32, u32)> {
    const ANY: u8 = 1;
    const DRAWN: u8 = 2;
    match features::order_kind() {
        ANY if lane.in_turn == 0 => {
            let flows = lane.end - lane.first;
            // A 32-bit random number times the number of flows: the upper half is below it, and as good as even.
            let flow = lane.first + ((u64::from(kernel::random()) * u64::from(flows)) >> 32) as u32;
            Some((flow, maps::next_sequence(flow)?))
        }
        DRAWN if lane.in_turn == 0 => {
            let flow = maps::drawn(advance(lane).0)?;
            Some((flow, maps::next_sequence(flow)?))
        }
        _ => Some(advance(lane)),
    }
}

/// The next place of the lane, and how often all had their turn before.
#[inline(always)]
fn advance(lane: &mut Lane) -> (u32, u32) {
    let (place, round) = (lane.next, lane.round);
    if place + 1 < lane.end {
        lane.next = place + 1;
    } else {
        lane.next = lane.first;
        lane.round = round.wrapping_add(1);
    }
    (place, round)
}
