//! What a frame says: its headers, read as the packet path is to read them.

use std::net::{IpAddr, SocketAddr};

use lb_common::reason::PassReason;

use super::{
    fate::Left,
    wire::{ETHERNET, TCP, UDP, address, long_number, number},
};

/// A packet's addresses, ports and protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) protocol: u8,
}

impl Key {
    pub(super) fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }
}

/// What is read of a packet.
pub(super) struct Parsed {
    pub(super) key: Key,
    pub(super) flags: u8,
    /// TCP's sequence and acknowledgement number.
    pub(super) numbers: (u32, u32),
    pub(super) ttl: u8,
    /// Of the IP packet.
    pub(super) length: usize,
    pub(super) piece: Piece,
    pub(super) l4: usize,
}

/// Where a payload stands in the packet that it is a fragment of.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Piece {
    pub(super) id: u32,
    pub(super) offset: usize,
    pub(super) more: bool,
    /// Where IPv6's fragment header is.
    pub(super) header: usize,
}

impl Piece {
    pub(super) fn is_fragment(self) -> bool {
        self.offset > 0 || self.more
    }

    pub(super) fn is_sound(self, length: usize) -> bool {
        length > 0 && (!self.more || length.is_multiple_of(8)) && self.offset + length <= 0xffff
    }
}

/// What the headers before TCP or UDP say.
pub(super) struct Headers {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    /// Of the IP packet.
    pub(super) length: usize,
    pub(super) l4: usize,
    pub(super) piece: Piece,
}

impl Headers {
    /// As of a packet whose ports are known by other means.
    pub(super) fn packet(&self, key: Key) -> Parsed {
        Parsed {
            key,
            flags: 0,
            numbers: (0, 0),
            ttl: self.ttl,
            length: self.length,
            piece: self.piece,
            l4: self.l4,
        }
    }
}

const MALFORMED: Left = Left::Passed(PassReason::Malformed);

/// Reads the headers before TCP or UDP, or says why the packet is the kernel's.
pub(super) fn headers(frame: &[u8]) -> Result<Headers, Left> {
    let v4 = match number(frame, 12) {
        0x0800 => true,
        0x86dd => false,
        _ => return Err(Left::Passed(PassReason::NotIp)),
    };
    let headers = ip_headers(frame, ETHERNET, v4)?;
    if ETHERNET + headers.length > frame.len() {
        return Err(MALFORMED);
    }
    let headers = past_extensions(frame, headers)?;
    let icmp_error = v4 && headers.protocol == 1 && !headers.piece.is_fragment();
    if icmp_error {
        return Err(icmp(frame, &headers));
    }
    let odd = headers.piece.is_fragment() || !v4 && headers.l4 > ETHERNET + 40;
    if odd && headers.piece.offset == 0 && ![TCP, UDP].contains(&headers.protocol) {
        return Err(Left::Passed(PassReason::NotTcpOrUdp));
    }
    Ok(headers)
}

/// An IP header at an offset.
fn ip_headers(frame: &[u8], ip: usize, v4: bool) -> Result<Headers, Left> {
    if frame.len() < ip + if v4 { 20 } else { 40 } || frame[ip] >> 4 != if v4 { 4 } else { 6 } {
        return Err(MALFORMED);
    }
    if v4 {
        let (words, flags_offset) = (usize::from(frame[ip] & 15), number(frame, ip + 6));
        if words < 5 {
            return Err(MALFORMED);
        }
        return Ok(Headers {
            src: address(frame, ip + 12, true),
            dst: address(frame, ip + 16, true),
            protocol: frame[ip + 9],
            ttl: frame[ip + 8],
            length: usize::from(number(frame, ip + 2)),
            l4: ip + words * 4,
            piece: Piece {
                id: number(frame, ip + 4).into(),
                offset: usize::from(flags_offset & 0x1fff) * 8,
                more: flags_offset & 0x2000 != 0,
                header: 0,
            },
        });
    }
    Ok(Headers {
        src: address(frame, ip + 8, false),
        dst: address(frame, ip + 24, false),
        protocol: frame[ip + 6],
        ttl: frame[ip + 7],
        length: 40 + usize::from(number(frame, ip + 4)),
        l4: ip + 40,
        piece: Piece::default(),
    })
}

/// Along the extension headers of IPv6, eight at most and not too far.
fn past_extensions(frame: &[u8], mut headers: Headers) -> Result<Headers, Left> {
    const REFUSED: Left = Left::Passed(PassReason::Ipv6Extension);
    if headers.src.is_ipv4() {
        return Ok(headers);
    }
    let mut count = 0;
    while headers.piece.offset == 0 && [0, 43, 44, 51, 60, 135, 139, 140].contains(&headers.protocol) {
        let at = headers.l4;
        count += 1;
        if at > 2047 || count > 8 {
            return Err(REFUSED);
        }
        if frame.len() < at + 8 {
            return Err(MALFORMED);
        }
        headers.l4 += match headers.protocol {
            44 => {
                headers.piece = Piece {
                    id: long_number(frame, at + 4),
                    offset: usize::from(number(frame, at + 2) & 0xfff8),
                    more: frame[at + 3] & 1 != 0,
                    header: at,
                };
                8
            }
            43 if frame[at + 3] != 0 => return Err(REFUSED),
            0 | 43 | 60 => (usize::from(frame[at + 1]) + 1) * 8,
            _ => return Err(REFUSED),
        };
        headers.protocol = frame[at];
    }
    if headers.l4 > 2047 { Err(REFUSED) } else { Ok(headers) }
}

/// An ICMP message of IPv4. The dice throw none that quotes a packet of a flow.
fn icmp(frame: &[u8], headers: &Headers) -> Left {
    let l4 = headers.l4;
    if frame.len() < l4 + 8 {
        return MALFORMED;
    }
    if ![3, 11, 12].contains(&frame[l4]) {
        return Left::Passed(PassReason::NotTcpOrUdp);
    }
    match ip_headers(frame, l4 + 8, true) {
        Ok(quote) if quote.l4 + 8 <= frame.len().min(ETHERNET + headers.length) => Left::Passed(PassReason::IcmpNoFlow),
        _ => MALFORMED,
    }
}

/// Reads ports and flags, or says why the packet is the kernel's.
pub(super) fn parse(frame: &[u8], headers: &Headers) -> Result<Parsed, Left> {
    let Headers {
        src,
        dst,
        protocol,
        ttl,
        length,
        l4,
        piece,
    } = *headers;
    let l4_length = (ETHERNET + length).checked_sub(l4).ok_or(MALFORMED)?;
    let flags = match protocol {
        TCP => {
            if frame.len() < l4 + 20 {
                return Err(MALFORMED);
            }
            let header = usize::from(frame[l4 + 12] >> 4) * 4;
            if header < 20 || header > l4_length {
                return Err(MALFORMED);
            }
            frame[l4 + 13]
        }
        UDP => {
            if frame.len() < l4 + 8 {
                return Err(MALFORMED);
            }
            let claimed = usize::from(number(frame, l4 + 4));
            if l4_length < 8 || claimed < 8 || (claimed > l4_length && !piece.is_fragment()) {
                return Err(MALFORMED);
            }
            0
        }
        _ => return Err(Left::Passed(PassReason::NotTcpOrUdp)),
    };
    let at = |ip, port| SocketAddr::new(ip, number(frame, port));
    Ok(Parsed {
        key: Key {
            from: at(src, l4),
            to: at(dst, l4 + 2),
            protocol,
        },
        flags,
        numbers: if protocol == TCP {
            (long_number(frame, l4 + 4), long_number(frame, l4 + 8))
        } else {
            (0, 0)
        },
        ttl,
        length,
        piece,
        l4,
    })
}
