//! Netlink messages to and from plain values.

use std::net::IpAddr;

use lb_common::vlan::TPID_CUSTOMER;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, CacheInfo},
    link::{InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::RouteProtocol,
};

use super::{
    table::{Neighbour, NeighbourKey},
    types::{InterfaceAddress, InterfaceInfo, Mac, VlanDevice},
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
        vlan: vlan(&message.attributes),
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

/// What a VLAN device makes of its frames. One that stands on an interface of another network namespace has no way out
/// here.
fn vlan(attributes: &[LinkAttribute]) -> Option<VlanDevice> {
    let foreign = attributes.iter().any(|a| matches!(a, LinkAttribute::LinkNetNsId(_)));
    let lower = attributes.iter().find_map(|a| match a {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    });
    let details = attributes.iter().find_map(|a| match a {
        LinkAttribute::LinkInfo(details) => Some(details),
        _ => None,
    })?;
    let data = details.iter().find_map(|d| match d {
        LinkInfo::Data(InfoData::Vlan(data)) => Some(data),
        _ => None,
    })?;
    // Kernels before the provider's kind did not tell the kind.
    let mut tpid = TPID_CUSTOMER;
    let mut id = None;
    for attribute in data {
        match attribute {
            InfoVlan::Id(number) => id = Some(*number),
            InfoVlan::Protocol(protocol) => tpid = (*protocol).into(),
            _ => {}
        }
    }
    Some(VlanDevice {
        lower: lower.filter(|_| !foreign)?,
        tpid,
        id: id?,
    })
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

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::Parseable as _;

    use super::*;

    /// A netlink attribute, padded to four bytes.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// RTM_NEWLINK as Linux writes it for `ip link add link LOWER name NAME type vlan proto TPID id ID`.
    fn vlan_device(lower: u32, tpid: u16, id: u16, more: &[u8]) -> InterfaceInfo {
        // struct ifinfomsg: family, padding, type, index, flags, change.
        let mut bytes = vec![0, 0];
        bytes.extend(1u16.to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(0x0001_1043u32.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(attribute(3, b"eth0.10\0"));
        bytes.extend(attribute(4, &1496u32.to_ne_bytes()));
        bytes.extend(attribute(1, &[2, 0, 0, 0, 0, 7]));
        bytes.extend(attribute(5, &lower.to_ne_bytes()));
        bytes.extend(more);
        let data = [
            attribute(5, &tpid.to_be_bytes()),
            attribute(1, &id.to_ne_bytes()),
            attribute(2, &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]),
        ]
        .concat();
        let info = [attribute(1, b"vlan\0"), attribute(2, &data)].concat();
        bytes.extend(attribute(18, &info));
        interface(&LinkMessage::parse(&bytes).unwrap()).unwrap()
    }

    #[test]
    fn a_vlan_device_names_the_one_below_and_its_tag() {
        let link = vlan_device(2, 0x8100, 10, &[]);
        assert_eq!(
            (link.name.as_str(), link.mtu, link.up, link.carrier),
            ("eth0.10", 1496, true, true)
        );
        let vlan = |tpid, id| Some(VlanDevice { lower: 2, tpid, id });
        assert_eq!(link.vlan, vlan(0x8100, 10));
        assert_eq!(vlan_device(2, 0x88a8, 4094, &[]).vlan, vlan(0x88a8, 4094));
    }

    #[test]
    fn a_device_below_in_another_namespace_is_none() {
        let namespace = attribute(37, &0u32.to_ne_bytes());
        assert_eq!(vlan_device(2, 0x8100, 10, &namespace).vlan, None);
    }
}
