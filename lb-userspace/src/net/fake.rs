//! A network in memory, for tests of those who use one.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use super::{
    Network,
    error::{NetError, NextHopError},
    types::{CleanupScope, InterfaceAddress, InterfaceInfo, Mac, NetEvent, NextHop, RemoveVipOutcome, VipOutcome},
};

/// A network that does what a test says. Clones share it, so that a test keeps one in hand.
#[derive(Debug, Clone)]
pub struct FakeNetwork {
    state: Arc<Mutex<State>>,
    events: mpsc::Sender<NetEvent>,
}

#[derive(Debug, Default)]
struct State {
    interfaces: Vec<InterfaceInfo>,
    addresses: Vec<InterfaceAddress>,
    next_hops: HashMap<IpAddr, Result<NextHop, NextHopError>>,
    vip_owners: BTreeMap<IpAddr, Mac>,
    refreshed: Vec<IpAddr>,
    announced: Vec<IpAddr>,
    cleanups: Vec<CleanupScope>,
}

impl FakeNetwork {
    /// An empty network, and its events.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<NetEvent>) {
        let (events, receiver) = mpsc::channel(1024);
        let network = Self {
            state: Arc::default(),
            events,
        };
        (network, receiver)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an event; the receiver is told of nothing else.
    pub fn emit(&self, event: NetEvent) {
        let _ = self.events.try_send(event);
    }

    /// Adds or changes an interface, without an event.
    pub fn set_interface(&self, interface: InterfaceInfo) {
        let mut state = self.state();
        state.interfaces.retain(|i| i.index != interface.index);
        state.interfaces.push(interface);
        state.interfaces.sort_by_key(|i| i.index);
    }

    /// Removes an interface and its addresses, without an event.
    pub fn remove_interface(&self, name: &str) {
        let Some(interface) = self.interface(name) else { return };
        let mut state = self.state();
        state.interfaces.retain(|i| i.index != interface.index);
        state.addresses.retain(|a| a.index != interface.index);
    }

    /// Adds an address as the operator would.
    pub fn add_operator_address(&self, index: u32, address: IpAddr, prefix_len: u8) {
        self.state().addresses.push(InterfaceAddress {
            index,
            address,
            prefix_len,
            marked: false,
            dad_failed: false,
        });
    }

    /// Says how a backend is reached; one of which nothing was said has no route.
    pub fn set_next_hop(&self, to: IpAddr, next_hop: Result<NextHop, NextHopError>) {
        self.state().next_hops.insert(to, next_hop);
    }

    /// Gives a VIP to another host.
    pub fn set_vip_owner(&self, vip: IpAddr, owner: Mac) {
        self.state().vip_owners.insert(vip, owner);
    }

    /// VIPs that are on an interface by `lb`'s doing, with the interface's index, in the order they were added.
    #[must_use]
    pub fn own_vips(&self) -> Vec<(IpAddr, u32)> {
        let state = self.state();
        let own = state.addresses.iter().filter(|a| a.marked);
        own.map(|a| (a.address, a.index)).collect()
    }

    /// Backends that were refreshed, in order, as often as they were.
    #[must_use]
    pub fn refreshed(&self) -> Vec<IpAddr> {
        self.state().refreshed.clone()
    }

    /// VIPs that were announced, those that were added included, in order.
    #[must_use]
    pub fn announced(&self) -> Vec<IpAddr> {
        self.state().announced.clone()
    }

    /// Clean-ups that were asked for, in order.
    #[must_use]
    pub fn cleanups(&self) -> Vec<CleanupScope> {
        self.state().cleanups.clone()
    }

    fn known_interface(&self, name: &str) -> Result<InterfaceInfo, NetError> {
        self.interface(name)
            .ok_or_else(|| NetError::NoSuchInterface { name: name.to_owned() })
    }
}

impl Network for FakeNetwork {
    fn interfaces(&self) -> Vec<InterfaceInfo> {
        self.state().interfaces.clone()
    }

    async fn addresses(&self) -> Result<Vec<InterfaceAddress>, NetError> {
        Ok(self.state().addresses.clone())
    }

    async fn next_hop(&self, to: IpAddr) -> Result<NextHop, NextHopError> {
        let known = self.state().next_hops.get(&to).cloned();
        known.unwrap_or(Err(NextHopError::NoRoute { to }))
    }

    async fn refresh(&self, backends: &[IpAddr]) {
        self.state().refreshed.extend(backends);
    }

    async fn ask_anew(&self, backend: IpAddr) {
        self.state().refreshed.push(backend);
    }

    async fn cleanup_neighbours(&self, scope: CleanupScope) -> Result<usize, NetError> {
        self.state().cleanups.push(scope);
        Ok(0)
    }

    async fn add_vip(&self, vip: IpAddr, interface: &str) -> Result<VipOutcome, NetError> {
        let link = self.known_interface(interface)?;
        let present = self.state().addresses.iter().find(|a| a.address == vip).cloned();
        if let Some(present) = present {
            let on = self.interfaces().into_iter().find(|i| i.index == present.index);
            return Ok(VipOutcome::AlreadyPresent {
                interface: on.map_or_else(String::new, |i| i.name),
                ours: present.marked,
            });
        }
        if !link.loopback && (!link.up || !link.carrier) {
            return Err(NetError::InterfaceDown { name: link.name });
        }
        let owner = self.state().vip_owners.get(&vip).copied();
        if let Some(mac) = owner {
            return Err(NetError::VipInUse {
                vip,
                mac,
                interface: link.name,
            });
        }
        let mut state = self.state();
        state.announced.push(vip);
        state.addresses.push(InterfaceAddress {
            index: link.index,
            address: vip,
            prefix_len: if vip.is_ipv4() { 32 } else { 128 },
            marked: true,
            dad_failed: false,
        });
        Ok(VipOutcome::Added)
    }

    async fn remove_vip(&self, vip: IpAddr, interface: &str) -> Result<RemoveVipOutcome, NetError> {
        let wanted_index = self.interface(interface).map(|i| i.index);
        let mut state = self.state();
        if let Some(own) = state.addresses.iter().position(|a| a.address == vip && a.marked) {
            state.addresses.remove(own);
            return Ok(RemoveVipOutcome::Removed);
        }
        let there = state
            .addresses
            .iter()
            .any(|a| a.address == vip && Some(a.index) == wanted_index);
        Ok(if there {
            RemoveVipOutcome::NotOurs
        } else {
            RemoveVipOutcome::Absent
        })
    }

    fn adopt_vip(&self, vip: IpAddr, interface: &str) {
        let index = self.interface(interface).map(|i| i.index);
        for address in &mut self.state().addresses {
            address.marked |= address.address == vip && Some(address.index) == index;
        }
    }

    async fn announce_vip(&self, vip: IpAddr, interface: &str) -> Result<(), NetError> {
        self.known_interface(interface)?;
        self.state().announced.push(vip);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> (FakeNetwork, mpsc::Receiver<NetEvent>) {
        let (network, events) = FakeNetwork::new();
        network.set_interface(InterfaceInfo {
            index: 2,
            name: "eth0".to_owned(),
            mac: Some(Mac([2, 0, 0, 0, 0, 2])),
            mtu: 1500,
            up: true,
            carrier: true,
            loopback: false,
            veth: false,
            vlan: None,
        });
        (network, events)
    }

    #[tokio::test]
    async fn treats_vips_as_the_kernel_does() {
        let (network, _events) = network();
        let [own, operators, taken] = [10, 11, 12].map(|n| IpAddr::from([192, 0, 2, n]));
        assert_eq!(network.add_vip(own, "eth0").await.unwrap(), VipOutcome::Added);
        assert_eq!(network.own_vips(), [(own, 2)]);
        assert_eq!(network.announced(), [own]);
        network.add_operator_address(2, operators, 24);
        let present = network.add_vip(operators, "eth0").await.unwrap();
        let interface = "eth0".to_owned();
        assert_eq!(present, VipOutcome::AlreadyPresent { interface, ours: false });
        network.set_vip_owner(taken, Mac([2, 0, 0, 0, 0, 9]));
        let refused = network.add_vip(taken, "eth0").await;
        assert!(matches!(refused, Err(NetError::VipInUse { .. })));
        let missing = network.add_vip(taken, "eth7").await;
        assert!(matches!(missing, Err(NetError::NoSuchInterface { .. })));

        assert_eq!(
            network.remove_vip(own, "eth0").await.unwrap(),
            RemoveVipOutcome::Removed
        );
        assert_eq!(network.remove_vip(own, "eth0").await.unwrap(), RemoveVipOutcome::Absent);
        assert_eq!(
            network.remove_vip(operators, "eth0").await.unwrap(),
            RemoveVipOutcome::NotOurs
        );
        network.adopt_vip(operators, "eth0");
        assert_eq!(
            network.remove_vip(operators, "eth0").await.unwrap(),
            RemoveVipOutcome::Removed
        );
    }

    #[tokio::test]
    async fn answers_and_tells_what_the_test_said() {
        let (network, mut events) = network();
        let backend = IpAddr::from([10, 0, 0, 11]);
        let unknown = network.next_hop(backend).await.unwrap_err();
        assert_eq!(unknown, NextHopError::NoRoute { to: backend });
        network.set_next_hop(backend, Err(NextHopError::Local));
        assert_eq!(network.next_hop(backend).await, Err(NextHopError::Local));
        network.emit(NetEvent::RoutesChanged);
        assert_eq!(events.recv().await, Some(NetEvent::RoutesChanged));
        network.remove_interface("eth0");
        assert_eq!(network.interface("eth0"), None);
    }
}
