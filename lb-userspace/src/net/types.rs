//! What `net/` tells the controller.

use std::{fmt, net::IpAddr};

use lb_common::abi::Vlans;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceInfo {
    /// Kernel index.
    pub index: u32,
    /// Kernel name.
    pub name: String,
    /// Ethernet address; absent on tunnels and such.
    pub mac: Option<Mac>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// The link is there: cable in, peer up.
    pub carrier: bool,
    /// Whether this is a loopback interface.
    pub loopback: bool,
    /// One end of a veth pair.
    pub veth: bool,
    /// What a VLAN device makes of its frames.
    pub vlan: Option<VlanDevice>,
}

/// A VLAN device: its frames are those of the device below, with a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VlanDevice {
    /// Index of the device below, which may be a VLAN device itself.
    pub lower: u32,
    /// Kind of the tag: [`lb_common::vlan::TPID_CUSTOMER`] or [`lb_common::vlan::TPID_PROVIDER`].
    pub tpid: u16,
    /// Number of the VLAN.
    pub id: u16,
}

/// An interface below a VLAN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lower {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub interface_name: String,
    /// The tags that the frames of the VLAN device bear on it.
    pub vlans: Vlans,
}

/// An address of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Index of the interface.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Bits of the subnet.
    pub prefix_len: u8,
    /// Whether it bears `lb`'s mark (`proto 108` in `ip address`); never before Linux 5.18.
    pub marked: bool,
    /// The kernel found another host with this IPv6 address and does not use it.
    pub dad_failed: bool,
}

impl InterfaceAddress {
    /// Whether an address lies in this address's subnet.
    #[must_use]
    pub fn subnet_contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let difference = a.to_bits() ^ b.to_bits();
                difference.leading_zeros() >= u32::from(self.prefix_len)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let difference = a.to_bits() ^ b.to_bits();
                difference.leading_zeros() >= u32::from(self.prefix_len)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Chooses the interface for a VIP whose interface the operator left open: the candidate with the longest subnet that
/// holds the VIP, else the first candidate.
#[must_use]
pub fn pick_vip_interface<'a>(
    vip: IpAddr,
    candidates: &'a [InterfaceInfo],
    addresses: &[InterfaceAddress],
) -> Option<&'a InterfaceInfo> {
    let in_subnet = addresses
        .iter()
        .filter(|a| a.address != vip && a.subnet_contains(vip))
        .filter_map(|a| Some((a.prefix_len, candidates.iter().find(|c| c.index == a.index)?)))
        .max_by_key(|(prefix_len, _)| *prefix_len);
    in_subnet.map(|(_, interface)| interface).or_else(|| candidates.first())
}

/// The way that packets to an address take out of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The interface they leave by.
    pub interface: String,
    /// The router; absent when the address is on the link.
    pub gateway: Option<IpAddr>,
}

/// How packets to a backend leave this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the interface they leave by.
    pub ifindex: u32,
    /// Its name.
    pub interface_name: String,
    /// Its MAC address: the source of the frames.
    pub local_mac: Mac,
    /// MAC address of the backend or the gateway: the destination of the frames.
    pub remote_mac: Mac,
    /// Largest IP packet on this path, in bytes.
    pub mtu: u32,
    /// The gateway; absent when the backend is on the link.
    pub gateway: Option<IpAddr>,
    /// Address of this host that the route prefers as a source.
    pub source: Option<IpAddr>,
    /// The interfaces below, if that interface is a VLAN device; nearest first.
    pub lower: Vec<Lower>,
}

impl NextHop {
    /// As `ip neighbour` would say it: `10.0.0.1 (02:00:00:00:00:01) dev eth0`. `to` is the backend.
    #[must_use]
    pub fn describe(&self, to: IpAddr) -> String {
        let address = self.gateway.unwrap_or(to);
        format!("{address} ({}) dev {}", self.remote_mac, self.interface_name)
    }
}

/// Something changed. Bursts are not merged: the receiver does that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetEvent {
    /// A new interface.
    LinkAdded {
        /// The interface.
        link: InterfaceInfo,
    },
    /// An interface is gone.
    LinkRemoved {
        /// Its former index.
        index: u32,
        /// Its last name.
        name: String,
    },
    /// An interface went up or down, was renamed, or has another MAC address or MTU. Next hops may have changed with
    /// it: the kernel drops the IPv4 routes of an interface that goes down without a word.
    LinkChanged {
        /// As it was.
        before: InterfaceInfo,
        /// As it is.
        after: InterfaceInfo,
    },
    /// An address of this host came or went; next hops may have changed with it.
    AddressChanged {
        /// Index of its interface.
        index: u32,
        /// The address.
        address: IpAddr,
        /// Whether it is there now.
        present: bool,
    },
    /// Routes or rules changed: every next hop may have changed.
    RoutesChanged,
    /// A neighbour answered, ceased to answer, or answers with another MAC address.
    NeighbourChanged {
        /// Index of the interface it is on.
        ifindex: u32,
        /// Its address.
        address: IpAddr,
    },
    /// Events were lost: everything may have changed.
    Resync,
}

/// What came of adding a VIP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VipOutcome {
    /// It is on the interface now, and is `lb`'s to remove.
    Added,
    /// This host had it already.
    AlreadyPresent {
        /// Interface that has it, perhaps another one than was asked for.
        interface: String,
        /// Whether `lb` put it there (in this run or an earlier one), and so may remove it.
        ours: bool,
    },
}

/// What came of removing a VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoveVipOutcome {
    /// It is gone.
    Removed,
    /// It was not there, or its interface is gone.
    Absent,
    /// It is there, but not by `lb`'s doing, and stays.
    NotOurs,
}

/// Which neighbour entries to delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CleanupScope {
    /// Those on the way to backends that this daemon was asked about, made by it or by a daemon before it.
    Daemon,
    /// Every one that bears `lb`'s mark, whichever instance made it: for a detach when no daemon runs.
    Host,
}
