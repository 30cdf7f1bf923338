//! ICMP: the errors that the packet path makes, as another implementation reads them, and those that it translates.
#![no_main]

use etherparse::{Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, Ipv4HeaderSlice, icmpv4};
use lb_common::{
    checksum::Delta,
    icmp::{self, Message, QUOTE_V4, QUOTE_V6, Sum},
    net::{Addr4, Addr6},
};
use libfuzzer_sys::fuzz_target;

/// The bytes of the sum are taken 16 at a time.
const STEP: usize = 16;

/// An MTU, addresses, a packet, and what changes in it.
type Input = (u32, [u8; 16], [u8; 16], Vec<u8>, Vec<[u8; 4]>);

fuzz_target!(|input: Input| {
    let (mtu, from, to, packet, changes) = input;
    fragmentation_needed(mtu, (first4(from), first4(to)), &packet);
    packet_too_big(mtu, (from, to), &packet);
    translation(&packet, &changes);
    for kind in packet {
        let (v4, v6) = (icmp::message_v4(kind), icmp::message_v6(kind));
        assert!(
            v6 != Message::Error || kind < 128,
            "ICMPv6 errors are below 128 (RFC 4443, section 2.1)"
        );
        assert!(v4 != Message::EchoRequest || kind == icmp::ECHO_REQUEST_V4);
    }
});

fn first4([a, b, c, d, ..]: [u8; 16]) -> [u8; 4] {
    [a, b, c, d]
}

/// What is quoted of a packet, and its sum.
fn quote(packet: &[u8], most: u32) -> Option<(&[u8], Sum)> {
    let length = icmp::quoted(packet.len() as u32, most)?;
    assert!(length <= most && (length as usize).is_multiple_of(STEP));
    let quote = packet.get(..length as usize).expect("no more than there is");
    let (steps, _) = quote.as_chunks::<STEP>();
    let sum = steps.iter().fold(Sum::default(), |sum, step| {
        let (words, _) = step.as_chunks::<4>();
        let word = |n: usize| words.get(n).map_or(0, |word| u32::from_ne_bytes(*word));
        sum.and([word(0), word(1), word(2), word(3)])
    });
    Some((quote, sum))
}

fn message(header: [u32; 2], quote: &[u8]) -> Vec<u8> {
    let mut message = header.map(u32::to_ne_bytes).concat();
    message.extend(quote);
    message
}

fn fragmentation_needed(mtu: u32, (from, to): ([u8; 4], [u8; 4]), packet: &[u8]) {
    let Some((quote, sum)) = quote(packet, QUOTE_V4) else {
        return;
    };
    let message = message(icmp::fragmentation_needed(mtu, sum), quote);
    let read = Icmpv4Slice::from_slice(&message).expect("a whole message");
    let told = icmpv4::DestUnreachableHeader::FragmentationNeeded {
        next_hop_mtu: u16::try_from(mtu).unwrap_or(u16::MAX),
    };
    assert_eq!(read.icmp_type(), Icmpv4Type::DestinationUnreachable(told));
    assert_eq!(read.checksum(), read.icmp_type().calc_checksum(read.payload()));
    let header = icmp::ipv4_header(Addr4::from_wire(from), Addr4::from_wire(to), quote.len() as u32);
    let fields = [
        vec![header.version_ihl, header.tos],
        header.length.to_wire().to_vec(),
        header.id.to_wire().to_vec(),
        header.fragment.to_wire().to_vec(),
        vec![header.ttl, header.protocol],
        header.checksum.to_ne_bytes().to_vec(),
        from.to_vec(),
        to.to_vec(),
    ];
    let bytes = fields.concat();
    let read = Ipv4HeaderSlice::from_slice(&bytes).expect("a header").to_header();
    assert_eq!(read.header_checksum, read.calc_header_checksum());
    assert_eq!((read.source, read.destination), (from, to));
    assert_eq!(usize::from(read.total_len), bytes.len() + message.len());
}

fn packet_too_big(mtu: u32, (from, to): ([u8; 16], [u8; 16]), packet: &[u8]) {
    let Some((quote, sum)) = quote(packet, QUOTE_V6) else {
        return;
    };
    let (source, destination) = (Addr6::from_wire(from), Addr6::from_wire(to));
    let header = icmp::packet_too_big(mtu, sum, quote.len() as u32, source, destination);
    let message = message(header, quote);
    let read = Icmpv6Slice::from_slice(&message).expect("a whole message");
    assert_eq!(read.icmp_type(), Icmpv6Type::PacketTooBig { mtu });
    assert!(read.is_checksum_valid(from, to));
}

/// An error whose quote is changed word by word has the checksum that a message with the new words would have.
fn translation(quote: &[u8], changes: &[[u8; 4]]) {
    let mut words: Vec<u16> = quote
        .chunks_exact(2)
        .map(|w| u16::from_ne_bytes([w[0], w[1]]))
        .collect();
    // One more word than zeroes: a sum of nothing but zeroes is the one that may be written in two ways.
    words.push(1);
    let before = checksum(&words);
    let mut parts = [Delta::ZERO; 2];
    let last = words.len() - 1;
    for (n, [at, _, new, other]) in changes.iter().enumerate() {
        let (at, new) = (usize::from(*at) % words.len(), u16::from_ne_bytes([*new, *other]));
        if at < last {
            parts[n % 2] = parts[n % 2].word(words[at], new);
            words[at] = new;
        }
    }
    let [addresses, rest] = parts;
    let unchanged = (0x1234, 0x1234);
    let delta = icmp::quote_delta(addresses, unchanged, unchanged).and(rest);
    assert_eq!(delta.apply(before), checksum(&words));
    assert_eq!(delta.inverse().apply(checksum(&words)), before);
}

/// RFC 1071, as plainly as it can be written.
fn checksum(words: &[u16]) -> u16 {
    let mut sum: u64 = words.iter().map(|w| u64::from(*w)).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}
