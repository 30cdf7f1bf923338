//! The frames that the generator starts from: one for each target and size. Pure.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    net::{TCP, UDP},
    traffic::{ACKNOWLEDGED, HEAD_WORDS, Template, stamp},
};

use crate::net::Mac;

/// What a frame carries behind its IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// UDP with a stamp.
    Udp,
    /// TCP without data.
    Bare {
        /// TCP's flags.
        flags: u8,
    },
    /// TCP with a stamp.
    Data,
}

/// SYN.
pub const SYN: u8 = 2;
/// RST and ACK.
pub const RST_ACK: u8 = 0x14;
const ACK_PSH: u8 = 0x18;

const ETHERNET: usize = 14;

impl Content {
    /// The shortest frame that holds it, in bytes, frame check sequence not counted.
    #[must_use]
    pub const fn shortest(self, v6: bool) -> u16 {
        match (self, v6) {
            (Self::Udp | Self::Bare { .. }, false) => 60,
            (Self::Data, false) => 72,
            // Two bytes of padding: heads are written by words of four bytes.
            (Self::Bare { .. }, true) => 76,
            (Self::Udp, true) => 80,
            (Self::Data, true) => 92,
        }
    }

    const fn protocol(self) -> u8 {
        match self {
            Self::Udp => UDP,
            Self::Bare { .. } | Self::Data => TCP,
        }
    }
}

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Address and port.
    pub address: SocketAddr,
    /// MAC address of the next hop.
    pub mac: Mac,
}

/// What the frames of a run have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Common {
    /// MAC address of the sending interface.
    pub mac: Mac,
    /// The first source address.
    pub source: IpAddr,
    /// Number of the run.
    pub run: u16,
}

/// A frame with all that the generator fills in at zero: the last 32 bits of the source address, the source port, TCP's
/// sequence number and the stamp's numbers. Its checksums are right as it is.
///
/// `length` is that of the frame, frame check sequence not counted; at least [`Content::shortest`]. Source and target are
/// of the same family.
#[must_use]
pub fn frame(common: &Common, target: &Target, content: Content, length: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(length.into());
    frame.extend(target.mac.0);
    frame.extend(common.mac.0);
    let (source, destination) = (blank(common.source), octets(target.address.ip()));
    let v6 = target.address.is_ipv6();
    let ip_header: u16 = if v6 { 40 } else { 20 };
    let l4_length = match content {
        Content::Bare { .. } => 20,
        Content::Udp | Content::Data => length - ETHERNET as u16 - ip_header,
    };
    if v6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(l4_length.to_be_bytes());
        frame.extend([content.protocol(), 64]);
        frame.extend(&source);
        frame.extend(&destination);
    } else {
        frame.extend([0x08, 0, 0x45, 0]);
        frame.extend((l4_length + ip_header).to_be_bytes());
        // Don't fragment.
        frame.extend([0, 0, 0x40, 0, 64, content.protocol(), 0, 0]);
        frame.extend(&source);
        frame.extend(&destination);
        let check = checksum(frame.iter().skip(ETHERNET).copied());
        put(&mut frame, ETHERNET + 10, check);
    }
    let l4 = frame.len();
    frame.extend([0, 0]);
    frame.extend(target.address.port().to_be_bytes());
    let checksum_at = l4 + extend_l4(&mut frame, common, content, l4_length);
    if !matches!(content, Content::Bare { .. }) {
        frame.extend(common.run.to_be_bytes());
    }
    frame.resize(length.into(), 0);
    let pseudo = source
        .iter()
        .chain(&destination)
        .copied()
        .chain([0, content.protocol()])
        .chain(l4_length.to_be_bytes());
    let data = frame.iter().skip(l4).take(l4_length.into()).copied();
    let check = checksum(pseudo.chain(data));
    put(&mut frame, checksum_at, check);
    frame
}

/// Writes the rest of the TCP or UDP header behind the ports; returns where in it the checksum lies.
fn extend_l4(frame: &mut Vec<u8>, common: &Common, content: Content, l4_length: u16) -> usize {
    let (flags, acknowledged) = match content {
        Content::Udp => {
            frame.extend(l4_length.to_be_bytes());
            frame.extend([0, 0]);
            return lb_common::wire::UDP_CHECKSUM;
        }
        Content::Bare { flags: SYN } => (SYN, 0),
        Content::Bare { flags } => (flags, ACKNOWLEDGED),
        Content::Data => (ACK_PSH, ACKNOWLEDGED),
    };
    frame.extend([0; 4]);
    frame.extend(acknowledged.to_be_bytes());
    frame.extend([0x50, flags]);
    frame.extend(common.run.to_be_bytes());
    frame.extend([0; 4]);
    lb_common::wire::TCP_CHECKSUM
}

/// The head of a frame as the generator wants it.
#[must_use]
pub fn template(frame: &[u8]) -> Template {
    let mut words = [0; HEAD_WORDS];
    for (place, bytes) in words.iter_mut().zip(frame.chunks(4)) {
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().zip(bytes) {
            *to = *from;
        }
        *place = u32::from_ne_bytes(word);
    }
    Template {
        words,
        length: u32::try_from(frame.len()).unwrap_or_default(),
    }
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    for (to, from) in frame.iter_mut().skip(at).zip(value.to_be_bytes()) {
        *to = from;
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An address with its last 32 bits at zero.
fn blank(address: IpAddr) -> Vec<u8> {
    let mut octets = octets(address);
    for octet in octets.iter_mut().rev().take(4) {
        *octet = 0;
    }
    octets
}

/// The last 32 bits of an address, as a number.
#[must_use]
pub fn last_bits(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => address.to_bits() as u32,
    }
}

/// RFC 1071.
fn checksum(bytes: impl Iterator<Item = u8>) -> u16 {
    let mut words = 0u64;
    let mut high = true;
    for byte in bytes {
        words += u64::from(byte) << if high { 8 } else { 0 };
        high = !high;
    }
    !stamp::sum(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: fn(&str) -> Common = |source| Common {
        mac: Mac([2, 0, 0, 0, 0, 1]),
        source: source.parse().unwrap(),
        run: 0x1234,
    };

    fn target(address: &str) -> Target {
        Target {
            address: address.parse().unwrap(),
            mac: Mac([2, 0, 0, 0, 0, 2]),
        }
    }

    #[test]
    fn the_shortest_udp_frame_over_ipv4_ends_with_the_stamp() {
        let frame = frame(&COMMON("10.1.2.3"), &target("10.0.0.9:53"), Content::Udp, 60);
        assert_eq!(frame.len(), 60);
        assert_eq!(frame[26..30], [0; 4], "the generator writes the source");
        assert_eq!(frame[36..38], [0, 53]);
        assert_eq!(frame[42..44], [0x12, 0x34]);
        assert_eq!(checksum(frame[14..34].iter().copied()), 0);
    }

    #[test]
    fn a_syn_has_the_run_as_its_window_and_padding_behind_it() {
        let content = Content::Bare { flags: SYN };
        let frame = frame(
            &COMMON("fd00::7"),
            &target("[fd00::9]:80"),
            content,
            content.shortest(true),
        );
        assert_eq!(frame.len(), 76);
        assert_eq!(frame[18..20], [0, 20], "the padding is not TCP's");
        assert_eq!(frame[66..70], [0x50, SYN, 0x12, 0x34]);
        assert_eq!(frame[22..38].last(), Some(&0));
    }

    #[test]
    fn a_head_is_the_frame_word_by_word() {
        let template = template(&[1, 2, 3, 4, 5, 6]);
        assert_eq!(template.words[0].to_ne_bytes(), [1, 2, 3, 4]);
        assert_eq!(template.words[1].to_ne_bytes(), [5, 6, 0, 0]);
        assert_eq!(template.length, 6);
    }
}
