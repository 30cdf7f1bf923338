//! The load generator and its far end, for `lb bench`.
//!
//! [`generator`] makes frames: the kernel runs it over and over on recycled buffers (`BPF_PROG_TEST_RUN` with live frames) and
//! sends each by the interface that the run names. [`sink`] is attached where they arrive, [`returns`] where they left, for
//! what comes back. Both take the frames of their run and leave everything else to the kernel as it came.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod family;
mod features;
mod generator;
mod kernel;
mod maps;
#[expect(dead_code, reason = "tags and room before the frame are the packet path's")]
#[path = "../packet.rs"]
mod packet;
mod returns;
mod segment;
mod sink;
#[path = "../word.rs"]
mod word;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

use crate::packet::Frame;

/// UDP over IPv4, with stamps.
#[xdp]
pub fn generate_udp_v4(ctx: XdpContext) -> u32 {
    generator::run(&ctx, &generator::UDP_V4)
}

/// UDP over IPv6, with stamps.
#[xdp]
pub fn generate_udp_v6(ctx: XdpContext) -> u32 {
    generator::run(&ctx, &generator::UDP_V6)
}

/// Segments of TCP over IPv4 without data.
#[xdp]
pub fn generate_bare_v4(ctx: XdpContext) -> u32 {
    generator::run(&ctx, &generator::BARE_V4)
}

/// Segments of TCP over IPv6 without data.
#[xdp]
pub fn generate_bare_v6(ctx: XdpContext) -> u32 {
    generator::run(&ctx, &generator::BARE_V6)
}

/// Segments of TCP over IPv4 with stamps.
#[xdp]
pub fn generate_data_v4(ctx: XdpContext) -> u32 {
    generator::run(&ctx, &generator::DATA_V4)
}

/// Segments of TCP over IPv6 with stamps.
#[xdp]
pub fn generate_data_v6(ctx: XdpContext) -> u32 {
    generator::run(&ctx, &generator::DATA_V6)
}

/// The receiving end.
#[xdp]
pub fn sink(ctx: XdpContext) -> u32 {
    sink::run(Frame::new(&ctx)).unwrap_or(xdp_action::XDP_PASS)
}

/// What comes back to the sender.
#[xdp]
pub fn returns(ctx: XdpContext) -> u32 {
    returns::run(Frame::new(&ctx)).unwrap_or(xdp_action::XDP_PASS)
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
