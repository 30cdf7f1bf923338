//! The Ethernet frames by which a VIP's owner is asked for and announced, and next hops are asked: ARP (RFC 826, RFC 5227) and IPv6 neighbour
//! discovery (RFC 4861, RFC 4862). Pure: bytes in, bytes out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::types::Mac;

pub(super) const ETHERTYPE_ARP: u16 = 0x0806;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(super) const NEXT_HEADER_ICMPV6: u8 = 58;
pub(super) const NEIGHBOUR_SOLICITATION: u8 = 135;
pub(super) const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
/// Hardware type Ethernet, protocol type IPv4, address lengths 6 and 4.
const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const BROADCAST: Mac = Mac([0xff; 6]);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Neighbour discovery is valid only with this hop limit: no router forwarded it (RFC 4861, section 7.1).
const ND_HOP_LIMIT: u8 = 255;
/// "Override" of an advertisement: replaces what neighbours had cached.
const FLAG_OVERRIDE: u32 = 0x2000_0000;
const OPTION_SOURCE_LINK_LAYER: u8 = 1;
const OPTION_TARGET_LINK_LAYER: u8 = 2;

/// "Who has this VIP?", without saying that we do: an ARP probe (RFC 5227, section 2.1.1), or the solicitation of
/// duplicate address detection (RFC 4862, section 5.4.2).
pub(super) fn probe(vip: IpAddr, own: Mac) -> Vec<u8> {
    match vip {
        IpAddr::V4(vip) => arp(ARP_REQUEST, BROADCAST, own, Ipv4Addr::UNSPECIFIED, vip),
        IpAddr::V6(vip) => {
            let body = neighbour_message(NEIGHBOUR_SOLICITATION, 0, vip, &[]);
            let everybody = solicited_node(vip);
            ipv6(multicast_mac(everybody), own, Ipv6Addr::UNSPECIFIED, everybody, body)
        }
    }
}

/// "This VIP is here": a gratuitous ARP as request and as reply, because hosts differ in which they heed, or an
/// unsolicited neighbour advertisement.
pub(super) fn announcements(vip: IpAddr, own: Mac) -> Vec<Vec<u8>> {
    match vip {
        IpAddr::V4(vip) => [ARP_REQUEST, ARP_REPLY]
            .map(|operation| arp(operation, BROADCAST, own, vip, vip))
            .to_vec(),
        IpAddr::V6(vip) => {
            let option = link_layer(OPTION_TARGET_LINK_LAYER, own);
            let body = neighbour_message(NEIGHBOUR_ADVERTISEMENT, FLAG_OVERRIDE, vip, &option);
            vec![ipv6(multicast_mac(ALL_NODES), own, vip, ALL_NODES, body)]
        }
    }
}

/// "Who has this address?", sent to one host, or to everybody on the link; the answer goes to `source`, an address of this host.
/// `None` if their IP versions differ.
pub(super) fn question(address: IpAddr, at: Option<Mac>, own: Mac, source: IpAddr) -> Option<Vec<u8>> {
    match (address, source) {
        (IpAddr::V4(address), IpAddr::V4(source)) => {
            Some(arp(ARP_REQUEST, at.unwrap_or(BROADCAST), own, source, address))
        }
        (IpAddr::V6(address), IpAddr::V6(source)) => {
            let option = link_layer(OPTION_SOURCE_LINK_LAYER, own);
            let body = neighbour_message(NEIGHBOUR_SOLICITATION, 0, address, &option);
            let everybody = solicited_node(address);
            Some(match at {
                Some(mac) => ipv6(mac, own, source, address, body),
                None => ipv6(multicast_mac(everybody), own, source, everybody, body),
            })
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
    }
}

/// Whose presence a frame shows: the sender of an ARP message, or who advertises itself as a neighbour.
pub(super) fn speaker(frame: &[u8]) -> Option<IpAddr> {
    if let Some((_, arp)) = payload(frame, ETHERTYPE_ARP) {
        return Some(ArpMessage::read(arp)?.sender.into());
    }
    let message = NeighbourMessage::read(frame)?;
    (message.kind == NEIGHBOUR_ADVERTISEMENT).then_some(message.target.into())
}

/// The MAC address of another host that claims the VIP with this frame, or probes for it as we do.
pub(super) fn claimant(frame: &[u8], vip: IpAddr) -> Option<Mac> {
    match vip {
        IpAddr::V4(vip) => arp_claimant(frame, vip),
        IpAddr::V6(vip) => nd_claimant(frame, vip),
    }
}

fn ethernet(destination: Mac, source: Mac, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend(destination.0);
    frame.extend(source.0);
    frame.extend(ethertype.to_be_bytes());
    frame
}

fn arp(operation: u16, to: Mac, own: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(to, own, ETHERTYPE_ARP);
    frame.extend(ARP_ETHERNET_IPV4);
    frame.extend(operation.to_be_bytes());
    frame.extend(own.0);
    frame.extend(sender.octets());
    // "Target hardware address" is unknown in a request, and our own in a gratuitous reply.
    frame.extend(if operation == ARP_REPLY { own.0 } else { [0; 6] });
    frame.extend(target.octets());
    frame
}

/// ICMPv6 type, flags, target and options; the checksum is still zero.
fn neighbour_message(kind: u8, flags: u32, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    let mut body = vec![kind, 0, 0, 0];
    body.extend(flags.to_be_bytes());
    body.extend(target.octets());
    body.extend(options);
    body
}

/// An option that tells a MAC address.
fn link_layer(option: u8, own: Mac) -> Vec<u8> {
    let mut option = vec![option, 1];
    option.extend(own.0);
    option
}

fn ipv6(to: Mac, own: Mac, source: Ipv6Addr, destination: Ipv6Addr, body: Vec<u8>) -> Vec<u8> {
    let mut frame = ethernet(to, own, ETHERTYPE_IPV6);
    // Neighbour messages are far shorter than 64 KiB.
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([NEXT_HEADER_ICMPV6, ND_HOP_LIMIT]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    let checksum = icmpv6_checksum(source, destination, &body).to_be_bytes();
    let (head, tail) = body.split_at(2);
    frame.extend(head);
    frame.extend(checksum);
    frame.extend(tail.iter().skip(2));
    frame
}

/// RFC 4291, section 2.7.1.
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let low = address.to_bits() & 0xff_ffff;
    Ipv6Addr::from_bits(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).to_bits() | low)
}

/// RFC 2464, section 7.
fn multicast_mac(address: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = address.octets();
    Mac([0x33, 0x33, a, b, c, d])
}

/// The Internet checksum (RFC 1071) over the pseudo-header (RFC 8200, section 8.1) and a body whose own checksum is zero.
fn icmpv6_checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(40 + body.len());
    bytes.extend(source.octets());
    bytes.extend(destination.octets());
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0, NEXT_HEADER_ICMPV6]);
    bytes.extend(body);
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            u32::from(u16::from_be_bytes([high, low]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Takes `N` bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk::<N>()?;
    *bytes = tail;
    Some(*head)
}

/// A frame's source and payload, if it is of that type.
fn payload(mut frame: &[u8], ethertype: u16) -> Option<(Mac, &[u8])> {
    let _destination: [u8; 6] = take(&mut frame)?;
    let source = Mac(take(&mut frame)?);
    (u16::from_be_bytes(take(&mut frame)?) == ethertype).then_some((source, frame))
}

struct ArpMessage {
    operation: u16,
    sender_mac: Mac,
    sender: Ipv4Addr,
    target: Ipv4Addr,
}

impl ArpMessage {
    /// Reads a frame's payload.
    fn read(mut arp: &[u8]) -> Option<Self> {
        let kind: [u8; 6] = take(&mut arp)?;
        let operation = u16::from_be_bytes(take(&mut arp)?);
        let sender_mac = Mac(take(&mut arp)?);
        let sender = Ipv4Addr::from(take::<4>(&mut arp)?);
        let _target_mac: [u8; 6] = take(&mut arp)?;
        let target = Ipv4Addr::from(take::<4>(&mut arp)?);
        (kind == ARP_ETHERNET_IPV4).then_some(Self {
            operation,
            sender_mac,
            sender,
            target,
        })
    }
}

fn arp_claimant(frame: &[u8], vip: Ipv4Addr) -> Option<Mac> {
    let (_, arp) = payload(frame, ETHERTYPE_ARP)?;
    let message = ArpMessage::read(arp)?;
    let claims = message.sender == vip;
    let probes = message.operation == ARP_REQUEST && message.sender.is_unspecified() && message.target == vip;
    (claims || probes).then_some(message.sender_mac)
}

/// A message of neighbour discovery about one address.
struct NeighbourMessage<'a> {
    kind: u8,
    frame_source: Mac,
    source: Ipv6Addr,
    target: Ipv6Addr,
    options: &'a [u8],
}

impl<'a> NeighbourMessage<'a> {
    /// Reads a whole frame.
    fn read(frame: &'a [u8]) -> Option<Self> {
        let (frame_source, mut ip) = payload(frame, ETHERTYPE_IPV6)?;
        let _version_class_flow_length: [u8; 6] = take(&mut ip)?;
        let [next_header, hop_limit] = take(&mut ip)?;
        let source = Ipv6Addr::from(take::<16>(&mut ip)?);
        let _destination: [u8; 16] = take(&mut ip)?;
        let [kind, code, _, _] = take(&mut ip)?;
        let _flags: [u8; 4] = take(&mut ip)?;
        let target = Ipv6Addr::from(take::<16>(&mut ip)?);
        (next_header == NEXT_HEADER_ICMPV6 && hop_limit == ND_HOP_LIMIT && code == 0).then_some(Self {
            kind,
            frame_source,
            source,
            target,
            options: ip,
        })
    }
}

fn nd_claimant(frame: &[u8], vip: Ipv6Addr) -> Option<Mac> {
    let message = NeighbourMessage::read(frame).filter(|m| m.target == vip)?;
    match message.kind {
        NEIGHBOUR_ADVERTISEMENT => Some(target_link_layer(message.options).unwrap_or(message.frame_source)),
        NEIGHBOUR_SOLICITATION if message.source.is_unspecified() => Some(message.frame_source),
        _ => None,
    }
}

/// Finds the "target link-layer address" among options of type, length in units of eight bytes, and value.
fn target_link_layer(mut options: &[u8]) -> Option<Mac> {
    loop {
        let &[kind, units, ..] = options else { return None };
        let (option, rest) = options.split_at_checked(usize::from(units) * 8)?;
        if kind == OPTION_TARGET_LINK_LAYER {
            return option.get(2..8)?.try_into().ok().map(Mac);
        }
        if units == 0 {
            return None;
        }
        options = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);

    #[test]
    fn an_arp_probe_has_no_sender_and_asks_everyone() {
        let frame = probe("192.0.2.10".parse().unwrap(), OWN);
        let expected = [
            &[0xff; 6][..],
            &OWN.0,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &OWN.0,
            &[0, 0, 0, 0],
            &[0; 6],
            &[192, 0, 2, 10],
        ]
        .concat();
        assert_eq!(frame, expected);
    }

    #[test]
    fn a_solicitation_for_duplicates_verifies() {
        let vip: Ipv6Addr = "2001:db8::1:2:3".parse().unwrap();
        let frame = probe(vip.into(), OWN);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0x02, 0, 0x03]);
        assert_eq!(frame.len(), 14 + 40 + 24);
        let destination: Ipv6Addr = "ff02::1:ff02:3".parse().unwrap();
        assert_eq!(frame[38..54], destination.octets());
        // The sum over a message that holds its own checksum is zero.
        assert_eq!(icmpv6_checksum(Ipv6Addr::UNSPECIFIED, destination, &frame[54..]), 0);
    }

    #[test]
    fn announcements_are_claims() {
        for vip in ["192.0.2.10", "2001:db8::10"] {
            let vip: IpAddr = vip.parse().unwrap();
            for frame in announcements(vip, OWN) {
                assert_eq!(claimant(&frame, vip), Some(OWN));
            }
        }
    }

    #[test]
    fn another_host_that_probes_is_a_claimant_too() {
        for vip in ["192.0.2.10", "2001:db8::10"] {
            let vip: IpAddr = vip.parse().unwrap();
            assert_eq!(claimant(&probe(vip, OWN), vip), Some(OWN));
        }
    }

    #[test]
    fn a_question_goes_to_one_host_or_to_all_and_shows_who_asks() {
        let at = Mac([2, 0, 0, 0, 0, 9]);
        for (address, source, everybody) in [
            ("192.0.2.10", "192.0.2.1", [0xff; 6]),
            ("2001:db8::ab:cdef", "2001:db8::1", [0x33, 0x33, 0xff, 0xab, 0xcd, 0xef]),
        ] {
            let (address, source): (IpAddr, IpAddr) = (address.parse().unwrap(), source.parse().unwrap());
            for (to, expected) in [(Some(at), at.0), (None, everybody)] {
                let frame = question(address, to, OWN, source).unwrap();
                assert_eq!((&frame[..6], &frame[6..12]), (&expected[..], &OWN.0[..]));
                // An IPv6 question says nothing of the asker that counts as an answer.
                assert_eq!(speaker(&frame), source.is_ipv4().then_some(source));
                assert_eq!(claimant(&frame, address), None);
            }
        }
        let (v4, v6) = (IpAddr::from([192, 0, 2, 10]), "2001:db8::1".parse().unwrap());
        assert_eq!(question(v4, None, OWN, v6), None);
    }

    #[test]
    fn who_announces_an_address_is_heard() {
        for vip in ["192.0.2.10", "2001:db8::10"] {
            let vip: IpAddr = vip.parse().unwrap();
            assert!(announcements(vip, OWN).iter().all(|frame| speaker(frame) == Some(vip)));
        }
    }

    #[test]
    fn claims_for_other_addresses_do_not_count() {
        for (vip, other) in [("192.0.2.10", "192.0.2.11"), ("2001:db8::10", "2001:db8::11")] {
            let (vip, other): (IpAddr, IpAddr) = (vip.parse().unwrap(), other.parse().unwrap());
            for frame in announcements(other, OWN) {
                assert_eq!(claimant(&frame, vip), None);
            }
        }
    }

    #[test]
    fn an_ordinary_question_for_the_vip_is_no_claim() {
        let vip = Ipv4Addr::new(192, 0, 2, 10);
        let question = question(vip.into(), None, OWN, Ipv4Addr::new(192, 0, 2, 1).into()).unwrap();
        assert_eq!(claimant(&question, vip.into()), None);
    }

    #[test]
    fn an_advertisement_from_beyond_a_router_is_refused() {
        let vip: IpAddr = "2001:db8::10".parse().unwrap();
        let mut frame = announcements(vip, OWN).remove(0);
        frame[21] = 254;
        assert_eq!(claimant(&frame, vip), None);
    }

    #[test]
    fn truncated_frames_are_no_claims() {
        for vip in ["192.0.2.10", "2001:db8::10"] {
            let vip: IpAddr = vip.parse().unwrap();
            for frame in announcements(vip, OWN) {
                for length in 0..frame.len() {
                    // An IPv6 advertisement without its option still names its target.
                    let expected = (vip.is_ipv6() && length >= 78).then_some(OWN);
                    assert_eq!(claimant(&frame[..length], vip), expected, "{length} bytes");
                }
            }
        }
    }
}
