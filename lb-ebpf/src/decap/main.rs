//! Unwraps tunnelled packets on a backend: those whose outer destination is the backend's own address and whose inner
//! destination is a VIP that it serves. Everything else goes to the kernel byte for byte as it came, other tunnels included.
//! Marks of congestion on the outer header go on to the inner one (RFC 6040).
//!
//! Protocols: IP in IP (RFC 2003, RFC 2473, RFC 4213) and Generic UDP Encapsulation, variant 1 (draft-ietf-intarea-gue,
//! section 3.2: the inner IP header follows the UDP header at once).
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod head;
mod maps;
#[path = "../packet.rs"]
#[expect(dead_code, reason = "the packet path needs more of it")]
mod packet;
#[path = "../word.rs"]
mod word;

use aya_ebpf::{Global, bindings::xdp_action, macros::xdp, programs::XdpContext};
use lb_common::{
    checksum::Delta,
    decap::{self, Counter, Role},
    network_types::eth::EtherType,
    wire::{ETHERNET, Ipv4, Ipv6, Udp},
};

use crate::packet::{Frame, Window};

const IPV4: usize = size_of::<Ipv4>();
const IPV6: usize = size_of::<Ipv6>();
const UDP: usize = size_of::<Udp>();

/// Protocol numbers of what is wrapped (IANA).
const IPV4_IN: u8 = 4;
const IPV6_IN: u8 = 41;
const UDP_IN: u8 = 17;

/// UDP port of Generic UDP Encapsulation.
#[expect(unsafe_code, reason = "the loader finds it by its symbol")]
#[unsafe(no_mangle)]
static GUE_PORT: Global<u16> = Global::new(6080);

/// Entry point on the backend's interface.
#[xdp(frags)]
pub fn decap(ctx: XdpContext) -> u32 {
    // What is not unwrapped is the kernel's, and so is what is.
    match unwrap(Frame::new(&ctx)) {
        Some(Left::Congested) => xdp_action::XDP_DROP,
        Some(Left::Unwrapped) | None => xdp_action::XDP_PASS,
    }
}

/// What became of a packet for a VIP.
enum Left {
    Unwrapped,
    /// To be dropped.
    Congested,
}

/// `None`: nothing was changed.
#[inline(always)]
fn unwrap(frame: Frame) -> Option<Left> {
    const V4: u16 = EtherType::Ipv4 as u16;
    const V6: u16 = EtherType::Ipv6 as u16;
    let ethernet: Window<ETHERNET> = frame.window(0)?;
    match ethernet.read::<u16, 12>() {
        V4 => from_ipv4(frame),
        V6 => from_ipv6(frame),
        _ => None,
    }
}

/// Outer IPv4 without options and in one piece: that is how `lb` sends it.
#[inline(always)]
fn from_ipv4(frame: Frame) -> Option<Left> {
    const MORE_OR_OFFSET: u16 = 0x3fff;
    let window: Window<IPV4> = frame.window(ETHERNET)?;
    let ip: Ipv4 = window.read::<_, 0>();
    let to = maps::ipv4(window.words::<1, 16>());
    if ip.version_ihl != 0x45 || ip.fragment.get() & MORE_OR_OFFSET != 0 || !maps::role(&to).is(Role::HOST) {
        return None;
    }
    let payload = ip.length.get().checked_sub(IPV4 as u16)?;
    unwrap_after::<{ ETHERNET + IPV4 }, { ETHERNET + IPV4 + UDP }>(frame, ip.protocol, payload, ip.tos)
}

/// Outer IPv6 without extension headers.
#[inline(always)]
fn from_ipv6(frame: Frame) -> Option<Left> {
    let window: Window<IPV6> = frame.window(ETHERNET)?;
    let ip: Ipv6 = window.read::<_, 0>();
    let to = maps::ipv6(window.words::<4, 24>());
    if !maps::role(&to).is(Role::HOST) {
        return None;
    }
    let class = class_of_ipv6(window.read::<u16, 0>());
    unwrap_after::<{ ETHERNET + IPV6 }, { ETHERNET + IPV6 + UDP }>(frame, ip.next_header, ip.length.get(), class)
}

/// DSCP and ECN in the first two bytes of an IPv6 header.
#[inline(always)]
const fn class_of_ipv6(start: u16) -> u8 {
    let [a, b] = start.to_ne_bytes();
    a << 4 | b >> 4
}

/// `BARE` and `GUE` are where the inner header begins without and with UDP between; `payload` bytes follow the outer header,
/// whose DSCP and ECN are `class`.
#[inline(always)]
fn unwrap_after<const BARE: usize, const GUE: usize>(
    frame: Frame,
    protocol: u8,
    payload: u16,
    class: u8,
) -> Option<Left> {
    match protocol {
        IPV4_IN => inner_ipv4::<BARE>(frame, payload, class),
        IPV6_IN => inner_ipv6::<BARE>(frame, payload, class),
        UDP_IN => {
            let window: Window<UDP> = frame.window(BARE)?;
            let udp: Udp = window.read::<_, 0>();
            if udp.ports.dst.get() != GUE_PORT.load() {
                return None;
            }
            let payload = payload.checked_sub(UDP as u16)?;
            let first: Window<1> = frame.window(GUE)?;
            match first.read::<u8, 0>() >> 4 {
                4 => inner_ipv4::<GUE>(frame, payload, class),
                6 => inner_ipv6::<GUE>(frame, payload, class),
                _ => None,
            }
        }
        _ => None,
    }
}

#[inline(always)]
fn inner_ipv4<const AT: usize>(frame: Frame, payload: u16, outer: u8) -> Option<Left> {
    const CHECKSUM: usize = 10;
    let window: Window<IPV4> = frame.window(AT)?;
    let ip: Ipv4 = window.read::<_, 0>();
    let to = maps::ipv4(window.words::<1, 16>());
    if ip.version_ihl >> 4 != 4 || ip.length.get() > payload {
        return None;
    }
    for_vip(maps::role(&to))?;
    let Some(class) = decap::class(outer, ip.tos) else {
        return Some(congested());
    };
    let (old, new) = (window.read::<u16, 0>(), u16::from_ne_bytes([ip.version_ihl, class]));
    let checksum = Delta::ZERO.word(old, new).apply(window.read::<u16, CHECKSUM>());
    uncover::<AT>(frame, EtherType::Ipv4)?;
    if new != old {
        let window: Window<IPV4> = frame.window(ETHERNET)?;
        window.write::<u16, 0>(new);
        window.write::<u16, CHECKSUM>(checksum);
    }
    Some(Left::Unwrapped)
}

#[inline(always)]
fn inner_ipv6<const AT: usize>(frame: Frame, payload: u16, outer: u8) -> Option<Left> {
    let window: Window<IPV6> = frame.window(AT)?;
    let ip: Ipv6 = window.read::<_, 0>();
    let to = maps::ipv6(window.words::<4, 24>());
    let old = window.read::<u16, 0>();
    let [version, label] = old.to_ne_bytes();
    if version >> 4 != 6 || u32::from(ip.length.get()) + IPV6 as u32 > u32::from(payload) {
        return None;
    }
    for_vip(maps::role(&to))?;
    let Some(class) = decap::class(outer, class_of_ipv6(old)) else {
        return Some(congested());
    };
    uncover::<AT>(frame, EtherType::Ipv6)?;
    let new = u16::from_ne_bytes([6 << 4 | class >> 4, class << 4 | label & 0x0f]);
    if new != old {
        let window: Window<IPV6> = frame.window(ETHERNET)?;
        window.write::<u16, 0>(new);
    }
    Some(Left::Unwrapped)
}

/// Whether what is inside is for a VIP.
#[inline(always)]
fn for_vip(to: Role) -> Option<()> {
    if to.is(Role::VIP) {
        return Some(());
    }
    maps::count(Counter::NotForVip);
    None
}

#[inline(always)]
fn congested() -> Left {
    maps::count(Counter::Congested);
    Left::Congested
}

/// Puts the Ethernet header before the inner packet.
#[inline(always)]
fn uncover<const AT: usize>(frame: Frame, ethertype: EtherType) -> Option<()> {
    let ethernet: Window<ETHERNET> = frame.window(0)?;
    let addresses = ethernet.words::<3, 0>();
    head::cut(frame, AT - ETHERNET)?;
    let ethernet: Window<ETHERNET> = frame.window(0)?;
    ethernet.set_words::<3, 0>(addresses);
    ethernet.write::<u16, 12>(ethertype as u16);
    maps::count(Counter::Unwrapped);
    Some(())
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
