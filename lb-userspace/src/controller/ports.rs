//! What the controller needs of the network and of the health checks, and what they tell it.

use std::{collections::BTreeMap, future::Future, net::IpAddr};

use lb_common::abi::Vlans;

use crate::{
    api::{HealthReport, HealthState},
    model::HealthTarget,
};

/// How packets to a backend leave this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Index of the interface they leave by.
    pub ifindex: u32,
    /// Its name.
    pub interface: String,
    /// Its MAC address.
    pub local_mac: [u8; 6],
    /// MAC address of the backend or the gateway.
    pub remote_mac: [u8; 6],
    /// Largest IP packet on this path, in bytes.
    pub mtu: u32,
    /// The gateway; absent when the backend is on the link.
    pub gateway: Option<IpAddr>,
    /// Address of this host that the route prefers as a source.
    pub source: Option<IpAddr>,
    /// The interfaces below, if that interface is a VLAN device; nearest first.
    pub lower: Vec<Lower>,
}

/// An interface below a VLAN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lower {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub interface: String,
    /// The tags that the frames of the VLAN device bear on it.
    pub vlans: Vlans,
}

/// Why there is no next hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HopError {
    /// In words fit for `lb status`.
    pub message: String,
    /// The neighbour was asked and may still answer: not a reason to take a backend out whose MAC address is known.
    pub resolving: bool,
}

/// A VIP is on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedVip {
    /// Interface that has it, perhaps another one than was asked for.
    pub interface: String,
    /// Whether `lb` put it there, now or earlier, and so may remove it.
    pub ours: bool,
}

/// The network around the packet path. Errors read as sentences that say what to do.
pub trait Network: Send + Sync + 'static {
    /// Index of each existing interface by name.
    fn interfaces(&self) -> BTreeMap<String, u32>;
    /// VLAN devices on top of these interfaces.
    fn vlan_devices(&self, on: &[String]) -> Vec<String>;
    /// Where packets to a backend go next.
    fn next_hop(&self, to: IpAddr) -> impl Future<Output = Result<NextHop, HopError>> + Send;
    /// Confirms the neighbours on the way to these backends.
    fn refresh(&self, backends: &[IpAddr]) -> impl Future<Output = ()> + Send;
    /// Has a backend on the link tell its MAC address anew: another host may have taken its place.
    fn ask_anew(&self, backend: IpAddr) -> impl Future<Output = ()> + Send;
    /// Deletes the neighbour entries that exist by `lb`'s doing.
    fn cleanup_neighbours(&self) -> impl Future<Output = Result<(), String>> + Send;
    /// Puts a VIP on one of these interfaces: the one whose subnet holds it, else the first. Takes up to a second.
    fn add_vip(&self, vip: IpAddr, candidates: &[String]) -> impl Future<Output = Result<PlacedVip, String>> + Send;
    /// Takes a VIP off an interface if `lb` put it there.
    fn remove_vip(&self, vip: IpAddr, interface: &str) -> impl Future<Output = Result<(), String>> + Send;
    /// States that an earlier daemon put this VIP there.
    fn adopt_vip(&self, vip: IpAddr, interface: &str);
    /// Tells the link again who owns a VIP.
    fn announce_vip(&self, vip: IpAddr, interface: &str) -> impl Future<Output = Result<(), String>> + Send;
}

/// Something changed in the network. Bursts are merged by the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetEvent {
    /// An interface came, went or changed; next hops may have changed with it.
    Link {
        /// Its name.
        name: String,
    },
    /// This host has an address no longer.
    AddressGone {
        /// The address.
        address: IpAddr,
    },
    /// Routes, neighbours or addresses changed: next hops may have.
    NextHops,
}

/// The health checks.
pub trait Health: Send {
    /// Checks these targets from now on and no others. A new one starts from the state given with it.
    fn set_targets(&mut self, targets: Vec<(HealthTarget, Option<HealthState>)>);
    /// Goes on with all targets but those that are gone, and begins with new ones, each from the state given with it. One
    /// that is checked already goes on undisturbed.
    fn change_targets(&mut self, gone: &[HealthTarget], new: Vec<(HealthTarget, Option<HealthState>)>);
    /// The health of a target; nothing for one that is not checked.
    fn snapshot(&self, target: &HealthTarget) -> Option<HealthReport>;
}

/// A target changed its state.
#[derive(Debug, Clone, PartialEq)]
pub struct HealthEvent {
    /// Which.
    pub target: HealthTarget,
    /// Its health just after that.
    pub report: HealthReport,
}
