//! What the sender of a packet is answered.

use lb_common::reason::DropReason;

use super::{
    fate::Left,
    read::{Parsed, headers, parse},
    wire::{ETHERNET, TCP, long_number, put},
};
use crate::{
    frames::{L4, Packet, RST, Tcp},
    icmp::Icmp,
};

/// What the sender of a packet that does not fit is told.
pub(super) fn told(frame: &[u8], mtu: usize) -> Vec<u8> {
    let headers = headers(frame).expect("what does not fit was read");
    let mac = |at: usize| <[u8; 6]>::try_from(&frame[at..at + 6]).unwrap();
    let v4 = headers.src.is_ipv4();
    Icmp {
        src_mac: mac(0),
        dst_mac: mac(6),
        from: headers.dst,
        to: headers.src,
        ttl: 64,
        tos: if v4 { 0xc0 } else { 0 },
        kind: if v4 { 3 } else { 2 },
        code: if v4 { 4 } else { 0 },
        word: u32::try_from(mtu).unwrap().to_be_bytes(),
        body: frame[ETHERNET..ETHERNET + if v4 { 544 } else { 1232 }].to_vec(),
        outer: None,
    }
    .bytes()
}

/// A refusal as the protocol allows: TCP is answered, unless with RST to RST.
pub(super) fn refuse(reason: DropReason, packet: &Parsed) -> Left {
    if packet.key.protocol == TCP && packet.flags & RST == 0 && !packet.piece.is_fragment() {
        Left::Refused(reason)
    } else {
        Left::Dropped(reason)
    }
}

/// The RST that answers a segment.
pub(super) fn reset(frame: &[u8]) -> Vec<u8> {
    let packet = headers(frame).and_then(|headers| parse(frame, &headers));
    let packet = packet.expect("what is refused was read");
    let header = usize::from(frame[packet.l4 + 12] >> 4) * 4;
    let payload = (ETHERNET + packet.length).saturating_sub(packet.l4 + header);
    let mac = |at: usize| <[u8; 6]>::try_from(&frame[at..at + 6]).unwrap();
    let segment = Packet {
        src_mac: mac(6),
        dst_mac: mac(0),
        from: packet.key.from,
        to: packet.key.to,
        ttl: packet.ttl,
        tos: 0,
        id: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ip_options: Vec::new(),
        l4: L4::Tcp(Tcp {
            flags: packet.flags,
            seq: long_number(frame, packet.l4 + 4),
            ack: long_number(frame, packet.l4 + 8),
            window: 0,
            urgent: 0,
            options: Vec::new(),
        }),
        payload: vec![0; payload],
        trailer: Vec::new(),
        outer: None,
    };
    segment.reset().bytes()
}

/// MAC addresses of a frame back to where this one came from.
pub(super) fn back(frame: &[u8]) -> [u8; 12] {
    let mut macs = [0; 12];
    put(&mut macs, 0, &frame[6..12]);
    put(&mut macs, 6, &frame[0..6]);
    macs
}
