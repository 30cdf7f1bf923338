//! Programs for measurements: those that the packet path is compared with, which do nothing but send the frame on, and
//! the [`generator`] of the traffic.
#![no_std]
#![no_main]

mod generator;

use aya_ebpf::{
    bindings::xdp_action,
    macros::{map, xdp},
    maps::DevMapHash,
    programs::XdpContext,
};

#[map]
static TARGET: DevMapHash = DevMapHash::with_max_entries(1, 0);

/// Sends every frame back by the interface that it came in on.
#[xdp]
pub fn bare_tx(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

/// Sends every frame on by the one interface in the map.
#[xdp]
pub fn bare_redirect(_ctx: XdpContext) -> u32 {
    TARGET
        .redirect(0, u64::from(xdp_action::XDP_ABORTED))
        .unwrap_or(xdp_action::XDP_ABORTED)
}

/// Drops every frame: the far end of a measurement.
#[xdp]
pub fn sink(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Hands every frame to the kernel, large ones too: what a veth needs at its peer's side.
#[xdp(frags)]
pub fn pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
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
