//! Netlink messages to and from plain values.

use std::net::IpAddr;

use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, CacheInfo},
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::RouteProtocol,
};

use super::{
    table::{Neighbour, NeighbourKey},
    types::{InterfaceAddress, InterfaceInfo, Mac},
};

/// Originator that `lb` writes on the addresses (`IFA_PROTO`, since Linux 5.18) and neighbours (`NDA_PROTOCOL`, since
/// Linux 5.0) that it makes, so that it knows them again after a restart; `proto 108` in iproute2. The number is free
/// in iproute2's `rt_protos` and `rt_addrprotos`.
pub(super) const MARK: u8 = 108;

pub(super) const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

pub(super) const fn host_prefix_len(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

pub(super) fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}

/// `None` for the messages of bridges and of IPv6, which share the message type but tell of ports and settings: a port
/// that leaves its bridge is announced as a removed link of the bridge family.
pub(super) fn interface(message: &LinkMessage) -> Option<InterfaceInfo> {
    let header = &message.header;
    if header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let mut info = InterfaceInfo {
        index: header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        loopback: header.flags.contains(LinkFlags::Loopback),
        veth: false,
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            info.name.clone_from(name);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            info.mtu = *mtu;
        } else if let LinkAttribute::LinkInfo(details) = attribute {
            info.veth = details.contains(&LinkInfo::Kind(InfoKind::Veth));
        } else if let LinkAttribute::Address(bytes) = attribute
            && header.link_layer_type == LinkLayerType::Ether
        {
            info.mac = mac(bytes);
        }
    }
    Some(info)
}

pub(super) fn address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let (mut local, mut peer, mut marked) = (None, None, false);
    let mut dad_failed = message.header.flags.contains(AddressHeaderFlags::Dadfailed);
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            local = Some(*address);
        } else if let AddressAttribute::Address(address) = attribute {
            peer = Some(*address);
        } else if let AddressAttribute::Protocol(protocol) = attribute {
            marked = *protocol == AddressProtocol::Other(MARK);
        } else if let AddressAttribute::Flags(flags) = attribute {
            dad_failed |= flags.contains(AddressFlags::Dadfailed);
        }
    }
    Some(InterfaceAddress {
        index: message.header.index,
        // Without IFA_LOCAL there is no peer, and IFA_ADDRESS is the address itself.
        address: local.or(peer)?,
        prefix_len: message.header.prefix_len,
        marked,
        dad_failed,
    })
}

/// An address for one host alone, marked as `lb`'s own.
pub(super) fn vip_message(vip: IpAddr, ifindex: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(vip);
    message.header.prefix_len = host_prefix_len(vip);
    message.header.index = ifindex;
    message.attributes = vec![
        AddressAttribute::Local(vip),
        AddressAttribute::Address(vip),
        AddressAttribute::Protocol(AddressProtocol::Other(MARK)),
    ];
    if vip.is_ipv6() {
        // The kernel's duplicate address detection takes up to two seconds; `lb` asked already.
        message.header.flags = AddressHeaderFlags::Nodad;
        // Preferred for no time: a /128 would otherwise win source address selection (RFC 6724, rule 8) for this
        // host's own connections, those to the backends among them.
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_preferred = 0;
        lifetimes.ifa_valid = u32::MAX;
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
    }
    message
}

/// `None` for what is not an IP neighbour: forwarding entries of bridges, and proxy entries.
pub(super) fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourKey, Neighbour)> {
    if message.header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let mut destination = None;
    let mut neighbour = Neighbour {
        state: message.header.state,
        mac: None,
        marked: false,
    };
    for attribute in &message.attributes {
        if let NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) = attribute {
            destination = Some(IpAddr::V4(*address));
        } else if let NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) = attribute {
            destination = Some(IpAddr::V6(*address));
        } else if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
            neighbour.mac = mac(bytes);
        } else if let NeighbourAttribute::Protocol(protocol) = attribute {
            neighbour.marked = u8::from(*protocol) == MARK;
        }
    }
    let key = NeighbourKey {
        ifindex: message.header.ifindex,
        address: destination?,
    };
    Some((key, neighbour))
}

/// Names a neighbour, without saying anything about it.
pub(super) fn neighbour_message(key: NeighbourKey) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(key.address);
    message.header.ifindex = key.ifindex;
    message.attributes = vec![NeighbourAttribute::Destination(match key.address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    })];
    message
}

/// Has the kernel resolve or confirm a neighbour as if a packet for it had been sent: `ip neighbour ... use`.
pub(super) fn solicitation(key: NeighbourKey, marked: bool) -> NeighbourMessage {
    let mut message = neighbour_message(key);
    message.header.state = NeighbourState::None;
    message.header.flags = NeighbourFlags::Use;
    if marked {
        let mark = NeighbourAttribute::Protocol(RouteProtocol::from(MARK));
        message.attributes.push(mark);
    }
    message
}
