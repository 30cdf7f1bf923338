//! The network around the packet path: interfaces, routes, neighbours and VIP addresses.
//!
//! The controller sees the [`Network`] trait only. [`KernelNetwork`] is the Linux kernel over rtnetlink
//! (rtnetlink(7)); [`FakeNetwork`] holds the same promises in memory, for tests without root.

mod duplicate;
mod error;
mod fake;
mod frame;
mod kernel;
mod message;
mod monitor;
mod neighbour;
mod path_test;
mod poll;
mod polls;
mod request;
mod route;
mod sysctl;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod vip;

use std::{future::Future, net::IpAddr};

pub use self::{
    error::{NetError, NextHopError},
    fake::FakeNetwork,
    kernel::KernelNetwork,
    path_test::{Answer, Carriage, Question},
    sysctl::{HostPorts, parse_port_list},
    types::{
        CleanupScope, InterfaceAddress, InterfaceInfo, Lower, Mac, NetEvent, NextHop, RemoveVipOutcome, VipOutcome,
        VlanDevice, Way, pick_vip_interface,
    },
};

/// What the controller needs of the network. Every method may be called concurrently.
///
/// State moves under the caller's feet: after any [`NetEvent`], ask again. Answers come from tables that events
/// keep current, so asking again for thousands of backends is cheap.
pub trait Network: Send + Sync + 'static {
    /// All interfaces of this network namespace, by index.
    fn interfaces(&self) -> Vec<InterfaceInfo>;

    /// The interface of that name, if it exists.
    fn interface(&self, name: &str) -> Option<InterfaceInfo> {
        self.interfaces().into_iter().find(|i| i.name == name)
    }

    /// All addresses of this host.
    ///
    /// # Errors
    /// When the kernel refuses or does not answer.
    fn addresses(&self) -> impl Future<Output = Result<Vec<InterfaceAddress>, NetError>> + Send;

    /// Where packets to a backend go next. Never waits for the network: a neighbour whose MAC is not known yet is
    /// asked for it, the answer is [`NextHopError::Resolving`], and a [`NetEvent::NeighbourChanged`] follows.
    ///
    /// # Errors
    /// Why there is no next hop, in words fit for `lb status`.
    fn next_hop(&self, to: IpAddr) -> impl Future<Output = Result<NextHop, NextHopError>> + Send;

    /// Keeps the neighbours on the way to these backends fresh: confirms those that the kernel has not heard of for
    /// a while, and asks again for those that do not answer. Call it every few seconds. What changes comes as events.
    fn refresh(&self, backends: &[IpAddr]) -> impl Future<Output = ()> + Send;

    /// Has a backend on the link tell its MAC address anew, whatever the kernel believes: another host may have taken its
    /// place without a word. One behind a gateway is left alone.
    fn ask_anew(&self, backend: IpAddr) -> impl Future<Output = ()> + Send;

    /// Deletes the neighbour entries that exist by `lb`'s doing, and returns how many those were. Entries that were
    /// there before and permanent ones stay. Cease to call `next_hop` and `refresh` first: they make new ones.
    ///
    /// # Errors
    /// The first refusal of the kernel; the other entries are deleted all the same.
    fn cleanup_neighbours(&self, scope: CleanupScope) -> impl Future<Output = Result<usize, NetError>> + Send;

    /// Puts a VIP on an interface, as a /32 or /128, after asking the link whether another host has it (about 300 ms),
    /// and tells the link about its new owner. A VIP that this host already has, on any interface, stays as it is.
    ///
    /// # Errors
    /// [`NetError::VipInUse`] when another host has the address, [`NetError::InterfaceDown`] when the link
    /// cannot be asked (try again at the next event), and what the kernel refuses.
    fn add_vip(&self, vip: IpAddr, interface: &str) -> impl Future<Output = Result<VipOutcome, NetError>> + Send;

    /// Takes a VIP off an interface if `lb` put it there.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn remove_vip(
        &self,
        vip: IpAddr,
        interface: &str,
    ) -> impl Future<Output = Result<RemoveVipOutcome, NetError>> + Send;

    /// States that an earlier daemon put this VIP there. Needed before Linux 5.18 only, which does not keep the mark
    /// by which `lb` knows its own addresses.
    fn adopt_vip(&self, vip: IpAddr, interface: &str);

    /// Tells the link again who owns a VIP (gratuitous ARP, unsolicited neighbour advertisement); for links that
    /// came back up.
    ///
    /// # Errors
    /// When the interface is missing or down, or raw packets may not be sent.
    fn announce_vip(&self, vip: IpAddr, interface: &str) -> impl Future<Output = Result<(), NetError>> + Send;
}
