//! Traffic for measurements, made by XDP programs that the kernel runs over and over on one buffer
//! (`BPF_PROG_TEST_RUN` with live frames) and that send each frame out of the interface they are run on.
//!
//! Flows take turns, packet by packet, which is the worst order for every cache on the way. Buffers are recycled and
//! keep what was written into them on the way, so the headers of each frame are written anew. Payload behind them stays as
//! the kernel put it there: a longer frame costs the generator no more than a short one.
#![expect(unsafe_code, reason = "packet memory and map values lie behind raw pointers")]

use aya_ebpf::{
    Global,
    bindings::xdp_action,
    macros::{map, xdp},
    maps::Array,
    programs::XdpContext,
};
use lb_common::{checksum::Delta, net::Be16};

/// 32-bit words of headers, and of the payload that a smallest frame has.
const WORDS: usize = 16;
/// The lowest source port, and how many there are as a power of two.
const FIRST_PORT: u16 = 1024;
const PORT_BITS: u32 = 15;

/// A frame whose checksums are right while its source port and the last two bytes of its source address are zero.
#[map]
static TEMPLATE: Array<[u32; WORDS]> = Array::with_max_entries(1, 0);
/// Over how many services flows are spread, which is over how many destination ports, from the template's on. The verifier
/// removes what that costs when there is one.
#[unsafe(no_mangle)]
static SERVICES: Global<u32> = Global::new(1);
/// The number of the next frame's flow, and the number of flows.
#[map]
static TURN: Array<[u32; 2]> = Array::with_max_entries(1, 0);

/// Where in a frame the things lie that differ from flow to flow, in bytes.
struct Layout {
    words: usize,
    host: usize,
    ip_checksum: Option<usize>,
    port: usize,
    l4_checksum: usize,
}

const IPV4_UDP: Layout = Layout {
    words: 15,
    host: 28,
    ip_checksum: Some(24),
    port: 34,
    l4_checksum: 40,
};
const IPV4_TCP: Layout = Layout {
    l4_checksum: 50,
    ..IPV4_UDP
};
const IPV6_UDP: Layout = Layout {
    words: 16,
    host: 36,
    ip_checksum: None,
    port: 54,
    l4_checksum: 60,
};

/// UDP over IPv4, 60 bytes: with the frame check sequence, Ethernet's smallest frame of 64.
#[xdp]
pub fn generate_udp_v4(ctx: XdpContext) -> u32 {
    send(write(&ctx, &IPV4_UDP))
}

/// TCP over IPv4, 60 bytes.
#[xdp]
pub fn generate_tcp_v4(ctx: XdpContext) -> u32 {
    send(write(&ctx, &IPV4_TCP))
}

/// UDP over IPv6, 64 bytes.
#[xdp]
pub fn generate_udp_v6(ctx: XdpContext) -> u32 {
    send(write(&ctx, &IPV6_UDP))
}

#[inline(always)]
fn send(written: Option<()>) -> u32 {
    written.map_or(xdp_action::XDP_ABORTED, |()| xdp_action::XDP_TX)
}

/// Writes the next flow's frame.
#[inline(always)]
fn write(ctx: &XdpContext, layout: &Layout) -> Option<()> {
    let template = TEMPLATE.get(0)?;
    let flow = next_flow()?;
    let host = Be16::new(1 + (flow >> PORT_BITS) as u16);
    let port = Be16::new(FIRST_PORT + (flow & ((1 << PORT_BITS) - 1)) as u16);
    let changes = Delta::ZERO.port(Be16::new(0), host);

    let start = ctx.data();
    if start + layout.words * size_of::<u32>() > ctx.data_end() {
        return None;
    }
    for (i, word) in template.iter().take(layout.words).enumerate() {
        // SAFETY: in bounds by the check above; the kernel starts these buffers at a multiple of eight.
        unsafe { (start as *mut u32).add(i).write(*word) };
    }
    let field = |offset: usize| (start + offset) as *mut u16;
    // SAFETY: the layouts' offsets are even and within their words.
    unsafe {
        field(layout.host).write(host.word());
        field(layout.port).write(port.word());
        if let Some(at) = layout.ip_checksum {
            field(at).write(changes.apply(field(at).read()));
        }
        let l4 = field(layout.l4_checksum);
        let mut changes = changes.port(Be16::new(0), port);
        let services = SERVICES.load();
        if services > 1 {
            let at = field(layout.port + size_of::<u16>());
            let first = Be16::from_wire(at.read().to_ne_bytes());
            let service = Be16::new(first.get() + (flow % services) as u16);
            at.write(service.word());
            changes = changes.port(first, service);
        }
        l4.write(changes.apply_udp(l4.read()));
    }
    Some(())
}

/// Whose turn it is.
#[inline(always)]
fn next_flow() -> Option<u32> {
    // SAFETY: a map value; one generator runs on a map at a time.
    let [next, flows] = unsafe { &mut *TURN.get_ptr_mut(0)? };
    let flow = *next;
    *next = if flow + 1 >= *flows { 0 } else { flow + 1 };
    Some(flow)
}
