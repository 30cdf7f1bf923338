//! The packet path of `lb`: an XDP program that forwards the packets of services and hands everything else to the
//! kernel as it came. [`pipeline`] is the whole of it on one screen.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(
    internal_features,
    reason = "BPF's atomics that return a value have no stable name on this target"
)]

mod affinity;
mod compose;
mod cookie;
mod direct;
mod encap;
mod family;
mod features;
mod flow_cache;
mod flow_table;
mod half_open;
mod icmp;
mod kernel;
mod log;
mod maps;
mod mixed;
mod mixed_error;
mod odd;
mod outer;
mod packet;
mod parse;
mod pipeline;
mod quote;
mod reset;
mod rewrite;
mod select;
mod service;
mod splice;
mod stats;
mod too_big;
mod unstored;
mod vlan;
mod word;

use aya_ebpf::{
    bindings::{xdp_action, xdp_md},
    macros::xdp,
    programs::XdpContext,
};
use lb_common::{
    network_types::eth::EtherType,
    reason::{DropReason, PassReason},
};

use crate::packet::Frame;

/// The programs of the packet path besides its entry. Each is reached by a tail call, with a stack and a verification of
/// its own, and starts from the frame alone. The order is that of the program map.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Stage {
    /// For packets of no established flow: those of half-open ones, and what goes on to `New` and `TakeUp`.
    Open,
    /// For what is not a plain packet: fragments, IPv6 extension headers, ICMP.
    Odd,
    /// For packets that do not fit the way on.
    TooBig,
    /// For packets that may open a flow.
    New,
    /// For packets in the middle of a connection that has no flow, or none any more.
    TakeUp,
    /// For frames with VLAN tags.
    Tagged,
    /// For flows between IPv4 and IPv6.
    Mixed,
    /// For packets whose flow another stage found or made.
    Deliver,
    /// For SYNs that are answered with cookies, and the acknowledgements of those.
    Cookie,
    /// For flows whose SYN was answered with a cookie.
    Splice,
    /// For ICMP errors about the outer packets of tunnels.
    Outer,
    /// For packets of flows that the flow cache has no copy of, or that change their flow.
    Flow,
    /// For ICMP errors about packets of flows between IPv4 and IPv6.
    MixedError,
}

/// How a packet leaves the packet path when it is forwarded.
#[derive(Clone, Copy)]
enum Sent {
    /// By the interface that it came in on.
    Back,
    /// By another interface.
    To(u32),
}

/// How it leaves otherwise; `?` carries this out of the stages.
#[derive(Clone, Copy)]
enum Exit {
    /// Another program goes on.
    Divert(Stage),
    /// To the kernel, as it came.
    Pass(PassReason),
    /// Nowhere.
    Drop(DropReason),
    /// Nowhere; the sender is told that so many bytes would fit, from the IP header on. No packet is larger than what this
    /// can say.
    TooBig(u16),
    /// Nowhere; a TCP sender is told by RST.
    Reject(DropReason),
}

/// In a register: where a function returns it through memory, what is left in its return register may be the address of that
/// memory, which the verifier refuses.
const _: () = assert!(size_of::<Result<Sent, Exit>>() <= 8);
// All of them know frames of several buffers, as drivers hand over what is larger than a page: the kernel joins only
// programs that agree on that.

/// Entry point on every interface.
#[xdp(frags)]
pub fn lb(ctx: XdpContext) -> u32 {
    forward(Frame::new(&ctx))
}

/// [`Stage::Open`].
#[xdp(frags)]
pub fn lb_open(ctx: XdpContext) -> u32 {
    let frame = vlan::resume(Frame::new(&ctx));
    leave(frame, pipeline::open(frame))
}

/// [`Stage::Odd`].
#[xdp(frags)]
pub fn lb_odd(ctx: XdpContext) -> u32 {
    let frame = vlan::resume(Frame::new(&ctx));
    leave(frame, pipeline::odd(frame))
}

/// [`Stage::TooBig`].
#[xdp(frags)]
pub fn lb_too_big(ctx: XdpContext) -> u32 {
    let frame = vlan::resume(Frame::new(&ctx));
    let answered = too_big::answer(frame).and_then(|()| vlan::restore(frame));
    let dropped = drop(frame, DropReason::ExceedsMtu);
    if answered.is_some() { back(frame) } else { dropped }
}

/// [`Stage::New`].
#[xdp(frags)]
pub fn lb_new(ctx: XdpContext) -> u32 {
    let frame = vlan::resume(Frame::new(&ctx));
    leave(frame, pipeline::new(frame))
}

/// [`Stage::TakeUp`].
#[xdp(frags)]
pub fn lb_take_up(ctx: XdpContext) -> u32 {
    let frame = vlan::resume(Frame::new(&ctx));
    leave(frame, pipeline::take_up(frame))
}

/// [`Stage::Tagged`]: the entry once more, for the frame without its tags. Untagged frames so pay nothing for them.
#[xdp(frags)]
pub fn lb_tagged(ctx: XdpContext) -> u32 {
    let frame = Frame::new(&ctx);
    if !features::vlans() {
        return pass(frame, PassReason::VlanTagged);
    }
    match vlan::strip(frame) {
        Ok(frame) => forward(frame),
        Err(exit) => leave(frame, Err(exit)),
    }
}

/// [`Stage::Mixed`].
#[xdp(frags)]
pub fn lb_mixed(ctx: XdpContext) -> u32 {
    let frame = vlan::resume(Frame::new(&ctx));
    leave(frame, pipeline::mixed(frame))
}

/// [`Stage::Deliver`].
#[xdp(frags)]
pub fn lb_deliver(ctx: XdpContext) -> u32 {
    let frame = vlan::resume(Frame::new(&ctx));
    leave(frame, pipeline::delivery(frame))
}

/// [`Stage::Cookie`].
#[xdp(frags)]
pub fn lb_cookie(ctx: XdpContext) -> u32 {
    let frame = vlan::resume(Frame::new(&ctx));
    leave(frame, pipeline::cookie(frame))
}

/// [`Stage::Splice`].
#[xdp(frags)]
pub fn lb_splice(ctx: XdpContext) -> u32 {
    let frame = vlan::resume(Frame::new(&ctx));
    leave(frame, pipeline::splice(frame))
}

/// [`Stage::Outer`].
#[xdp(frags)]
pub fn lb_outer(ctx: XdpContext) -> u32 {
    let frame = vlan::resume(Frame::new(&ctx));
    leave(frame, pipeline::outer(frame))
}

/// [`Stage::Flow`].
#[xdp(frags)]
pub fn lb_flow(ctx: XdpContext) -> u32 {
    let frame = vlan::resume(Frame::new(&ctx));
    leave(frame, pipeline::flow(frame))
}

/// [`Stage::MixedError`].
#[xdp(frags)]
pub fn lb_mixed_error(ctx: XdpContext) -> u32 {
    let frame = vlan::resume(Frame::new(&ctx));
    leave(frame, pipeline::mixed_error(frame))
}

/// How a packet leaves is seen to for each IP version by itself: brought together first, that would cost.
#[inline(always)]
fn forward(frame: Frame) -> u32 {
    match parse::ethertype(frame) {
        Ok(EtherType::Ipv4) => {
            let action = if maps::any_direct() {
                direct_ipv4(frame)
            } else {
                NOT_DIRECT
            };
            if action != NOT_DIRECT {
                return action;
            }
            leave(frame, pipeline::established_ipv4(frame))
        }
        Ok(EtherType::Ipv6) => {
            let action = if maps::any_direct() {
                direct_ipv6(frame)
            } else {
                NOT_DIRECT
            };
            if action != NOT_DIRECT {
                return action;
            }
            leave(frame, pipeline::established_ipv6(frame))
        }
        Ok(_) => leave(frame, Err(Exit::Pass(PassReason::NotIp))),
        Err(exit) => leave(frame, Err(exit)),
    }
}

/// What no way that a packet leaves comes to.
const NOT_DIRECT: u32 = xdp_action::XDP_ABORTED;

// Packets whose hash alone tells their backend. Functions of their own, with all registers for what most packets of such services
// take; other packets pay the call.

#[inline(never)]
fn direct_ipv4(frame: Frame) -> u32 {
    direct::plain_ipv4(frame)
        .and_then(|packet| direct::send(frame, packet, |result| leave(frame, result)))
        .unwrap_or(NOT_DIRECT)
}

#[inline(never)]
fn direct_ipv6(frame: Frame) -> u32 {
    direct::plain_ipv6(frame)
        .and_then(|packet| direct::send(frame, packet, |result| leave(frame, result)))
        .unwrap_or(NOT_DIRECT)
}

/// From how a packet leaves to what XDP does with it.
#[inline(always)]
fn leave(frame: Frame, result: Result<Sent, Exit>) -> u32 {
    match result {
        Ok(Sent::Back) => back(frame),
        Ok(Sent::To(ifindex)) => redirect(frame, ifindex),
        Err(Exit::Divert(stage)) => {
            vlan::hand_over(frame);
            // It returns only if the program is not there.
            maps::divert(frame, stage);
            drop(frame, DropReason::Internal)
        }
        Err(Exit::TooBig(mtu)) => {
            vlan::hand_over(frame);
            maps::set_mtu(mtu.into());
            maps::divert(frame, Stage::TooBig);
            drop(frame, DropReason::ExceedsMtu)
        }
        Err(Exit::Pass(reason)) => pass(frame, reason),
        Err(Exit::Drop(reason)) => drop(frame, reason),
        Err(Exit::Reject(reason)) => reject(frame, reason),
    }
}

/// The packet path's time, for user space: run by `BPF_PROG_TEST_RUN`, never attached.
#[xdp]
pub fn clock(_ctx: XdpContext) -> u32 {
    kernel::now().0
}

/// By the interface that the frame came in on.
#[inline(always)]
fn back(frame: Frame) -> u32 {
    if features::redirect_back() {
        redirect(frame, frame.ifindex())
    } else {
        xdp_action::XDP_TX
    }
}

#[inline(always)]
fn redirect(frame: Frame, ifindex: u32) -> u32 {
    maps::redirect(ifindex).unwrap_or_else(|| drop(frame, DropReason::InterfaceGone))
}

// What follows has global names: the verifier goes through such a function once, for any reason (as its counter), and not once for
// each state that a packet may leave a program in.

#[inline(always)]
fn pass(frame: Frame, reason: PassReason) -> u32 {
    pass_on(frame.pointer(), frame.may_have_tags().into(), reason.counter())
}

#[inline(always)]
fn drop(frame: Frame, reason: DropReason) -> u32 {
    drop_for(frame.pointer(), reason.counter())
}

#[inline(always)]
fn reject(frame: Frame, reason: DropReason) -> u32 {
    reject_for(frame.pointer(), frame.may_have_tags().into(), reason.counter())
}

#[expect(unsafe_code, reason = "its name is one of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pass_on(ctx: *mut xdp_md, tagged: u32, counter: u32) -> u32 {
    let frame = Frame::from_pointer(ctx, tagged != 0);
    if vlan::restore(frame).is_none() {
        return drop_for(ctx, DropReason::NoHeadroom.counter());
    }
    stats::count_reason(counter);
    log::passed(frame, counter);
    xdp_action::XDP_PASS
}

#[expect(unsafe_code, reason = "its name is one of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn drop_for(ctx: *mut xdp_md, counter: u32) -> u32 {
    stats::count_reason(counter);
    log::dropped(Frame::from_pointer(ctx, false), counter);
    xdp_action::XDP_DROP
}

/// Nowhere, and the sender of a TCP segment is told by RST.
#[expect(unsafe_code, reason = "its name is one of its own")]
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn reject_for(ctx: *mut xdp_md, tagged: u32, counter: u32) -> u32 {
    let frame = Frame::from_pointer(ctx, tagged != 0);
    let answered = reset::answer(frame).and_then(|()| vlan::restore(frame));
    let dropped = drop_for(ctx, counter);
    if answered.is_some() { back(frame) } else { dropped }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lends some helpers to GPL programs only.
#[expect(unsafe_code, reason = "the kernel looks for this section and symbol")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
