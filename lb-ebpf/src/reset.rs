//! Answering a TCP segment with RST, in place: the frame goes back where it came from.

use lb_common::{
    flow::TcpFlags,
    net::{Addr6, Be16, TCP},
    network_types::eth::EtherType,
    reset::{self, RST_LENGTH, Segment},
    wire::{self, ETHERNET, Ipv6, Tcp},
};

use crate::{
    family::{Family, V4, V6},
    packet::{Frame, Window},
    parse::{self, HEAD_V4, HEAD_V6, Packet},
};

/// Turns the frame into a RST to its sender; `None`, and the frame as it was, where none is due.
#[inline(always)]
pub fn answer(frame: Frame) -> Option<()> {
    match parse::ethertype(frame).ok()? {
        EtherType::Ipv4 => answer_ipv4(frame),
        EtherType::Ipv6 => answer_ipv6(frame),
        _ => None,
    }
}

// A function of its own for each family, for the stack's sake.

#[inline(never)]
fn answer_ipv4(frame: Frame) -> Option<()> {
    let (packet, rst) = segment::<V4>(frame)?;
    let head: Window<HEAD_V4> = frame.window(0)?;
    head.write::<_, ETHERNET>(reset::ipv4_header(packet.key.dst, packet.key.src, RST_LENGTH));
    finish(frame, HEAD_V4, rst)
}

#[inline(never)]
fn answer_ipv6(frame: Frame) -> Option<()> {
    let (packet, rst) = segment::<V6>(frame)?;
    let head: Window<HEAD_V6> = frame.window(0)?;
    head.write::<_, ETHERNET>(ipv6_header(packet.key.dst, packet.key.src, RST_LENGTH));
    finish(frame, HEAD_V6, rst)
}

/// The segment, and the RST that answers it. A RST is never answered (RFC 9293).
#[inline(always)]
fn segment<F: Family>(frame: Frame) -> Option<(Packet<F>, Tcp)> {
    let (packet, piece) = parse::any_packet::<F>(frame).ok()?;
    // Of a segment that came in fragments, the length is not known.
    if piece.is_fragment() || packet.key.protocol() != TCP || packet.flags.any(TcpFlags::RST) {
        return None;
    }
    let tcp: Window<{ size_of::<Tcp>() }> = frame.window(packet.l4)?;
    let tcp: Tcp = tcp.read::<_, 0>();
    let headers = packet.l4 as u32 + u32::from(tcp.data_offset >> 4) * 4;
    let segment = Segment {
        seq: wire::number(tcp.seq),
        ack: wire::number(tcp.ack),
        flags: packet.flags,
        payload: (ETHERNET as u32 + packet.length).saturating_sub(headers),
    };
    let (from, to) = (
        (packet.key.dst, packet.key.dst_port),
        (packet.key.src, packet.key.src_port),
    );
    let rst = reset::answer(segment, from, to);
    Some((packet, rst))
}

/// The IPv6 header before a TCP segment of so many bytes.
#[inline(always)]
pub fn ipv6_header(src: Addr6, dst: Addr6, segment: u16) -> Ipv6 {
    Ipv6 {
        version_class_flow: [Be16::new(0x6000), Be16::new(0)],
        length: Be16::new(segment),
        next_header: TCP,
        hop_limit: 64,
        src: src.to_words(),
        dst: dst.to_words(),
    }
}

/// The TCP header, Ethernet addresses exchanged, and nothing behind.
#[inline(always)]
fn finish(frame: Frame, l4: usize, rst: Tcp) -> Option<()> {
    let ethernet: Window<ETHERNET> = frame.window(0)?;
    ethernet.set_words::<3, 0>(parse::way_back(ethernet));
    let header: Window<{ size_of::<Tcp>() }> = frame.window(l4)?;
    header.write::<_, 0>(rst);
    frame.truncate(l4 + size_of::<Tcp>())
}
