//! ICMP errors about the outer packet of a tunnel: the client is told what they mean for the packet inside.
//!
//! What is told goes to the sender of any packet that is quoted, so it must be one that `lb` sent: of a flow, wrapped in the very
//! headers that its packets get. Other errors are the kernel's.

use lb_common::{
    abi::{Backend, FlowKey, Hop, Mode},
    checksum::{Delta, fold, sum_words},
    encap, hash,
    icmp::HEADER,
    net::{Address, AnyAddr, Be16, TCP, UDP},
    reason::{DropReason, PassReason},
    tunnel_error::Trouble,
    wire::{ETHERNET, Udp},
};

use crate::{
    Exit, Sent,
    family::{Family, V4, V6},
    features, flow_table, kernel, maps, odd,
    packet::{Frame, Window},
    parse, quote, too_big, vlan,
};

const NO_FLOW: Exit = Exit::Pass(PassReason::IcmpNoFlow);
const INTERNAL: Exit = Exit::Drop(DropReason::Internal);

/// What a tunnel puts before packets (IANA).
const IPV4_INSIDE: u8 = 4;
const IPV6_INSIDE: u8 = 41;

/// Whether a packet of this protocol may be a tunnel's.
#[inline(always)]
pub const fn may_be(protocol: u8) -> bool {
    matches!(protocol, IPV4_INSIDE | IPV6_INSIDE | UDP)
}

/// What an error says, and about which outer packet.
struct Told {
    trouble: Trouble,
    src: AnyAddr,
    dst: AnyAddr,
    /// The UDP port that the tunnel's packets go to; 0 where there is no UDP.
    port: Be16,
    protocol: u8,
    /// IP version of the outer packet.
    family: u8,
    /// The checksum, and the sum of all that it covers besides the packet inside.
    checksum: u16,
    sum: u32,
    /// Where the packet inside begins, and the message ends.
    inside: usize,
    end: usize,
}

/// An error to one of the tunnels' sources.
#[inline(always)]
pub fn forward<O: Family>(frame: Frame) -> Result<Sent, Exit> {
    let mut told = Told {
        trouble: Trouble::Unreachable,
        src: [0; 4],
        dst: [0; 4],
        port: Be16::new(0),
        protocol: 0,
        family: O::VERSION,
        checksum: 0,
        sum: 0,
        inside: 0,
        end: 0,
    };
    if read::<O>(frame, &mut told)? == V6::VERSION {
        tell::<V6>(frame, &told)
    } else {
        tell::<V4>(frame, &told)
    }
}

/// Reads the message as far as the packet inside, and gives that one's IP version. A function of its own, as what it keeps and
/// what comes after would not fit one stack frame.
#[inline(never)]
fn read<O: Family>(frame: Frame, told: &mut Told) -> Result<u8, Exit> {
    let ip = &odd::headers::<O>(frame)?;
    let frame = kernel::anew(frame);
    told.end = ETHERNET + ip.length as usize;
    let head: Window<HEADER> = frame.window(ip.l4).ok_or(NO_FLOW)?;
    let (kind, [second]) = (head.read::<u16, 0>(), head.words::<1, 4>());
    let trouble = if O::VERSION == V6::VERSION {
        Trouble::v6(kind.to_ne_bytes(), second)
    } else {
        Trouble::v4(kind.to_ne_bytes(), second)
    };
    let at = (ip.l4 + HEADER) & quote::MAX_OFFSET;
    let outer = quote::read::<O>(frame, at).ok_or(NO_FLOW)?;
    // An error goes to whom it quotes.
    if outer.src != ip.dst.to_any() {
        return Err(NO_FLOW);
    }
    told.trouble = trouble.ok_or(NO_FLOW)?;
    (told.src, told.dst, told.protocol) = (outer.src, outer.dst, outer.carried.protocol);
    told.checksum = head.read::<u16, 2>();
    told.sum = u32::from(kind) + u32::from(sum_words([second, 0, 0, 0])) + outer.sum;
    if O::ICMP_COVERS_ADDRESSES {
        told.sum += quote::pseudo_header(ip.src, ip.dst, told.end - ip.l4);
    }
    told.inside = at + O::HEADER;
    match told.protocol {
        IPV4_INSIDE => Ok(V4::VERSION),
        IPV6_INSIDE => Ok(V6::VERSION),
        UDP => udp(frame, told).ok_or(NO_FLOW),
        _ => Err(NO_FLOW),
    }
}

/// Goes past the UDP header, and gives the IP version of what follows.
#[inline(always)]
fn udp(frame: Frame, told: &mut Told) -> Option<u8> {
    let window: Window<{ size_of::<Udp>() + 2 }> = frame.window(told.inside)?;
    let [ports, rest] = window.words::<2, 0>();
    let [first, _] = window.read::<u16, { size_of::<Udp>() }>().to_ne_bytes();
    told.port = parse::split(ports).1;
    told.sum += u32::from(sum_words([ports, rest, 0, 0]));
    told.inside += size_of::<Udp>();
    match first >> 4 {
        version @ (V4::VERSION | V6::VERSION) => Some(version),
        _ => None,
    }
}

/// Tells the client of the flow, if the packet inside is of one and was sent that way.
#[inline(never)]
fn tell<I: Family>(frame: Frame, told: &Told) -> Result<Sent, Exit> {
    let Ok(inside) = I::quote(frame, told.inside & quote::MAX_OFFSET) else {
        return Err(NO_FLOW);
    };
    let frame = kernel::anew(frame);
    // The window comes before the comparison, see `icmp`.
    let ports: Window<HEADER> = frame.window(inside.l4).ok_or(NO_FLOW)?;
    let [ports] = ports.words::<1, 0>();
    if inside.l4 + HEADER > told.end || inside.piece.is_later() || !matches!(inside.protocol, TCP | UDP) {
        return Err(NO_FLOW);
    }
    let (src_port, dst_port) = parse::split(ports);
    let key = FlowKey::new((inside.src, src_port), (inside.dst, dst_port), inside.protocol);
    let flow = flow_table::peek::<I>(&key, kernel::now()).ok_or(NO_FLOW)?;
    let backend = maps::backend(flow.backend).ok_or(INTERNAL)?;
    if !was_sent(told, hash::flow(&key), backend, I::VERSION).ok_or(INTERNAL)? {
        return Err(NO_FLOW);
    }
    let overhead = encap::overhead(backend.mode, backend.family);
    let trouble = told.trouble.inside(overhead, I::VERSION).ok_or(NO_FLOW)?;
    let length = (I::HEADER + told.end - told.inside + HEADER) as u32;
    if length > features::smallest_mtu() && length > kernel::mtu(frame, flow.client.ifindex).unwrap_or(u32::MAX) {
        return Err(Exit::Drop(DropReason::ExceedsMtu));
    }
    if !maps::may_send_icmp() {
        return Err(Exit::Drop(DropReason::IcmpRateLimited));
    }
    let link = &flow.client;
    write::<I>(frame, told, trouble, (inside.dst, inside.src), link.addresses).ok_or(INTERNAL)?;
    vlan::send(frame, Hop::from(link))
}

/// Whether the packet inside leaves in this outer header.
#[inline(always)]
fn was_sent(told: &Told, flow: u32, backend: &Backend, inside: u8) -> Option<bool> {
    let port = match backend.mode {
        Mode::IPIP => Be16::new(0),
        Mode::GUE => backend.tunnel_port,
        _ => return Some(false),
    };
    if (told.family, told.dst, told.port) != (backend.family, backend.address, port)
        || told.protocol != encap::protocol(backend.mode, inside)
    {
        return Some(false);
    }
    let base = maps::source(backend.first_source)?;
    Some(told.src == encap::source(base, backend.family, backend.sources, flow))
}

/// Makes of the frame a message about the packet inside. The sum of that one is what the old checksum says it is: a message
/// that was damaged on its way is so afterwards.
#[inline(always)]
fn write<I: Family>(
    frame: Frame,
    told: &Told,
    trouble: Trouble,
    (src, dst): (I::Addr, I::Addr),
    addresses: [u32; 3],
) -> Option<()> {
    let quote = told.end - told.inside;
    let (kind, second) = trouble.message(I::VERSION);
    let mut sum = u32::from(kind) + u32::from(sum_words([second, 0, 0, 0]));
    if I::ICMP_COVERS_ADDRESSES {
        sum += quote::pseudo_header(src, dst, HEADER + quote);
    }
    let checksum = Delta::ZERO.word(fold(told.sum), fold(sum)).apply(told.checksum);
    let ([k0, k1], [c0, c1]) = (kind.to_ne_bytes(), checksum.to_ne_bytes());
    let header = [u32::from_ne_bytes([k0, k1, c0, c1]), second];
    frame.shorten_head(told.inside - HEADER - I::HEADER - ETHERNET)?;
    too_big::write::<I>(frame, addresses, (src, dst), quote as u32, header)
}
