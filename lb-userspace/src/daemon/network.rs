//! The kernel's network as the controller sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tokio::{sync::mpsc, time::timeout};

use crate::{
    controller::ports::{self, HopError, PlacedVip},
    net::{
        CleanupScope, InterfaceInfo, KernelNetwork, Lower, NetEvent, Network, NextHopError, RemoveVipOutcome,
        VipOutcome, pick_vip_interface,
    },
};

/// Between the end of the network's events and that of the controller, when the daemon ends.
const GRACE: Duration = Duration::from_secs(1);

/// Adapts [`KernelNetwork`] to [`ports::Network`].
pub(super) struct Adapter(KernelNetwork);

/// The adapter, and the events in the controller's terms.
pub(super) fn start(
    (network, mut events): (KernelNetwork, mpsc::Receiver<NetEvent>),
) -> (Adapter, mpsc::UnboundedReceiver<ports::NetEvent>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            for event in translate(event) {
                if sender.send(event).is_err() {
                    return;
                }
            }
        }
        // At the daemon's end the controller goes as well.
        if timeout(GRACE, sender.closed()).await.is_ok() {
            return;
        }
        tracing::error!("the kernel ceased to tell of changes in the network; restart lb to follow them again");
    });
    (Adapter(network), receiver)
}

impl Adapter {
    /// Whether an interface exists and is one end of a veth pair.
    pub(super) fn is_veth(&self, name: &str) -> bool {
        self.0.interface(name).is_some_and(|i| i.veth)
    }

    /// The largest IP packet that an interface takes, if it exists.
    pub(super) fn mtu(&self, name: &str) -> Option<u32> {
        self.0.interface(name).map(|i| i.mtu)
    }

    /// VLAN devices on top of these interfaces.
    pub(super) fn vlan_devices(&self, on: &[String]) -> Vec<String> {
        let all = self.0.interfaces();
        let mut below: BTreeSet<u32> = all.iter().filter(|i| on.contains(&i.name)).map(|i| i.index).collect();
        let mut names = Vec::new();
        // Once more for devices on top of VLAN devices: a frame has two tags at most.
        for _ in 0..2 {
            let on_top =
                |i: &&InterfaceInfo| !below.contains(&i.index) && i.vlan.is_some_and(|v| below.contains(&v.lower));
            let found: Vec<_> = all.iter().filter(on_top).collect();
            names.extend(found.iter().map(|i| i.name.clone()));
            below.extend(found.iter().map(|i| i.index));
        }
        names
    }
}

fn lower(lower: Lower) -> ports::Lower {
    ports::Lower {
        ifindex: lower.ifindex,
        interface: lower.interface_name,
        vlans: lower.vlans,
    }
}

fn translate(event: NetEvent) -> Vec<ports::NetEvent> {
    match event {
        NetEvent::LinkAdded { link } => vec![ports::NetEvent::Link { name: link.name }],
        NetEvent::LinkRemoved { name, .. } => vec![ports::NetEvent::Link { name }],
        NetEvent::LinkChanged { before, after } if before.name == after.name => {
            vec![ports::NetEvent::Link { name: after.name }]
        }
        NetEvent::LinkChanged { before, after } => {
            vec![
                ports::NetEvent::Link { name: before.name },
                ports::NetEvent::Link { name: after.name },
            ]
        }
        NetEvent::AddressChanged {
            address,
            present: false,
            ..
        } => vec![ports::NetEvent::AddressGone { address }],
        NetEvent::AddressChanged { .. }
        | NetEvent::RoutesChanged
        | NetEvent::NeighbourChanged { .. }
        | NetEvent::Resync => vec![ports::NetEvent::NextHops],
    }
}

impl ports::Network for Adapter {
    fn interfaces(&self) -> BTreeMap<String, u32> {
        self.0.interfaces().into_iter().map(|i| (i.name, i.index)).collect()
    }

    fn vlan_devices(&self, on: &[String]) -> Vec<String> {
        self.vlan_devices(on)
    }

    async fn next_hop(&self, to: IpAddr) -> Result<ports::NextHop, HopError> {
        let hop = self.0.next_hop(to).await.map_err(|e| HopError {
            message: e.to_string(),
            resolving: matches!(e, NextHopError::Resolving { .. }),
        })?;
        Ok(ports::NextHop {
            ifindex: hop.ifindex,
            interface: hop.interface_name,
            local_mac: hop.local_mac.0,
            remote_mac: hop.remote_mac.0,
            mtu: hop.mtu,
            gateway: hop.gateway,
            source: hop.source,
            lower: hop.lower.into_iter().map(lower).collect(),
        })
    }

    async fn refresh(&self, backends: &[IpAddr]) {
        self.0.refresh(backends).await;
    }

    async fn ask_anew(&self, backend: IpAddr) {
        self.0.ask_anew(backend).await;
    }

    async fn cleanup_neighbours(&self) -> Result<(), String> {
        self.0
            .cleanup_neighbours(CleanupScope::Daemon)
            .await
            .map(drop)
            .map_err(|e| e.to_string())
    }

    async fn add_vip(&self, vip: IpAddr, candidates: &[String]) -> Result<PlacedVip, String> {
        let mut interfaces = self.0.interfaces();
        interfaces.retain(|i| candidates.contains(&i.name));
        interfaces.sort_by_key(|i| candidates.iter().position(|name| *name == i.name));
        let addresses = self.0.addresses().await.map_err(|e| e.to_string())?;
        let interface = pick_vip_interface(vip, &interfaces, &addresses)
            .map(|i| i.name.clone())
            .ok_or_else(|| {
                format!(
                    "{vip} has no interface to stand on: {} is missing",
                    candidates.join(", ")
                )
            })?;
        match self.0.add_vip(vip, &interface).await.map_err(|e| e.to_string())? {
            VipOutcome::Added => Ok(PlacedVip { interface, ours: true }),
            VipOutcome::AlreadyPresent { interface, ours } => Ok(PlacedVip { interface, ours }),
        }
    }

    async fn remove_vip(&self, vip: IpAddr, interface: &str) -> Result<(), String> {
        match self.0.remove_vip(vip, interface).await.map_err(|e| e.to_string())? {
            RemoveVipOutcome::Removed | RemoveVipOutcome::Absent | RemoveVipOutcome::NotOurs => Ok(()),
        }
    }

    fn adopt_vip(&self, vip: IpAddr, interface: &str) {
        self.0.adopt_vip(vip, interface);
    }

    async fn announce_vip(&self, vip: IpAddr, interface: &str) -> Result<(), String> {
        self.0.announce_vip(vip, interface).await.map_err(|e| e.to_string())
    }
}
