//! TCP RST in answer to a segment that has no connection (RFC 9293, section 3.10.7.1).

use crate::{
    checksum::{self, fold, sum_words},
    flow::TcpFlags,
    net::{Addr4, Address, Be16, TCP},
    wire::{self, Ipv4, Ports, Tcp},
};

/// Bytes of the RST.
pub const RST_LENGTH: u16 = size_of::<Tcp>() as u16;

/// What a segment tells about the RST that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its sequence number.
    pub seq: u32,
    /// Its acknowledgement number.
    pub ack: u32,
    /// Its flags.
    pub flags: TcpFlags,
    /// Its bytes of payload.
    pub payload: u32,
}

/// The RST that answers a segment, from `from` to `to` (the segment's destination and source), checksum included.
#[inline(always)]
#[must_use]
pub fn answer<A: Address>(segment: Segment, from: (A, Be16), to: (A, Be16)) -> Tcp {
    let (seq, ack, flags) = if segment.flags.any(TcpFlags::ACK) {
        (segment.ack, 0, TcpFlags::RST)
    } else {
        let counted = u32::from(segment.flags.any(TcpFlags::SYN)) + u32::from(segment.flags.any(TcpFlags::FIN));
        (
            0,
            segment.seq.wrapping_add(segment.payload).wrapping_add(counted),
            TcpFlags::RST | TcpFlags::ACK,
        )
    };
    let rst = Tcp {
        ports: Ports { src: from.1, dst: to.1 },
        seq: wire::halves(seq),
        ack: wire::halves(ack),
        data_offset: 5 << 4,
        flags,
        window: Be16::new(0),
        checksum: 0,
        urgent: Be16::new(0),
    };
    let pseudo = u32::from(sum_words(from.0.words()))
        + u32::from(sum_words(to.0.words()))
        + u32::from(u16::from(TCP).to_be())
        + u32::from(RST_LENGTH.to_be());
    Tcp {
        checksum: checksum::full(words(&rst), fold(pseudo)),
        ..rst
    }
}

/// The words of a RST that can be other than zero.
#[inline(always)]
fn words(rst: &Tcp) -> [u16; 7] {
    let ([s0, s1], [a0, a1]) = (rst.seq, rst.ack);
    let offset_flags = u16::from_ne_bytes([rst.data_offset, rst.flags]);
    [
        rst.ports.src.word(),
        rst.ports.dst.word(),
        s0.word(),
        s1.word(),
        a0.word(),
        a1.word(),
        offset_flags,
    ]
}

/// The IPv4 header before a TCP segment of so many bytes: DF, no identification (RFC 6864), TTL 64.
#[inline(always)]
#[must_use]
pub fn ipv4_header(src: Addr4, dst: Addr4, segment: u16) -> Ipv4 {
    let length = size_of::<Ipv4>() as u16 + segment;
    const DONT_FRAGMENT: u16 = 0x4000;
    let (src, dst) = (src.to_words(), dst.to_words());
    let first = u16::from_ne_bytes([0x45, 0]);
    let ttl_protocol = u16::from_ne_bytes([64, TCP]);
    let words = [
        first,
        length.to_be(),
        DONT_FRAGMENT.to_be(),
        ttl_protocol,
        src[0],
        src[1],
        dst[0],
        dst[1],
    ];
    Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        length: Be16::new(length),
        id: Be16::new(0),
        fragment: Be16::new(DONT_FRAGMENT),
        ttl: 64,
        protocol: TCP,
        checksum: checksum::full(words, 0),
        src,
        dst,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::Addr6;

    fn segment(flags: u8) -> Segment {
        Segment {
            seq: 1000,
            ack: 77,
            flags: TcpFlags(flags),
            payload: 5,
        }
    }

    fn v4(segment: Segment) -> Tcp {
        let (from, to) = (Addr4::from_wire([10, 0, 0, 1]), Addr4::from_wire([10, 0, 0, 2]));
        answer(segment, (from, Be16::new(80)), (to, Be16::new(9)))
    }

    #[test]
    fn with_ack_the_reset_takes_the_place_of_what_was_expected() {
        let rst = v4(segment(TcpFlags::ACK | TcpFlags::PSH));
        assert_eq!(
            (wire::number(rst.seq), wire::number(rst.ack), rst.flags),
            (77, 0, TcpFlags::RST)
        );
        assert_eq!((rst.ports.src.get(), rst.ports.dst.get()), (80, 9));
    }

    #[test]
    fn without_ack_the_reset_acknowledges_what_came() {
        let rst = v4(segment(TcpFlags::SYN));
        let flags = TcpFlags::RST | TcpFlags::ACK;
        assert_eq!(
            (wire::number(rst.seq), wire::number(rst.ack), rst.flags),
            (0, 1006, flags)
        );
    }

    fn sum(words: impl IntoIterator<Item = u16>) -> u16 {
        let sum = words.into_iter().map(u32::from).sum::<u32>();
        fold(fold(sum).into())
    }

    proptest! {
        /// The sum over pseudo-header and segment, checksum included, is all ones (RFC 1071).
        #[test]
        fn checksums_verify(src: [u8; 16], dst: [u8; 16], ports: [u16; 2], seq: u32, ack: u32, flags: u8) {
            let s = Segment { seq, ack, flags: TcpFlags(flags), payload: 0 };
            let (src, dst) = (Addr6::from_wire(src), Addr6::from_wire(dst));
            let rst = answer(s, (src, Be16::new(ports[0])), (dst, Be16::new(ports[1])));
            let pseudo = [u16::from(TCP).to_be(), 20u16.to_be()];
            let all = src.to_words().into_iter().chain(dst.to_words()).chain(pseudo).chain(words(&rst));
            prop_assert_eq!(sum(all.chain([rst.checksum])), 0xffff);
        }

        #[test]
        fn ipv4_headers_verify(src: [u8; 4], dst: [u8; 4], length in 20u16..60) {
            let h = ipv4_header(Addr4::from_wire(src), Addr4::from_wire(dst), length);
            let start = [u16::from_ne_bytes([h.version_ihl, h.tos]), h.length.word(), h.id.word(), h.fragment.word()];
            let ttl = u16::from_ne_bytes([h.ttl, h.protocol]);
            let rest = [ttl, h.checksum].into_iter().chain(h.src).chain(h.dst);
            prop_assert_eq!(sum(start.into_iter().chain(rest)), 0xffff);
        }
    }
}
