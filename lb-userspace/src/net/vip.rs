//! VIP addresses on interfaces: asked for, added, announced, removed.

use std::net::IpAddr;

use netlink_packet_route::{RouteNetlinkMessage, address::AddressMessage};
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::{
    duplicate,
    error::NetError,
    message,
    monitor::{SharedTables, lock},
    request::Requests,
    types::{InterfaceAddress, InterfaceInfo, Mac, RemoveVipOutcome, VipOutcome},
};

pub(super) async fn addresses(requests: &Requests) -> Result<Vec<InterfaceAddress>, NetError> {
    let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let answers = requests.dump("list the addresses", question).await?;
    let mut addresses = Vec::new();
    for answer in &answers {
        if let RouteNetlinkMessage::NewAddress(address) = answer {
            addresses.extend(message::address(address));
        }
    }
    Ok(addresses)
}

pub(super) async fn add(
    requests: &Requests,
    tables: &SharedTables,
    vip: IpAddr,
    interface: &str,
) -> Result<VipOutcome, NetError> {
    let (link, own_macs) = link_and_own_macs(tables, interface)?;
    if let Some(present) = present(requests, tables, vip, link.index).await? {
        return already_present(tables, &present);
    }
    if let Some(mac) = owner(vip, &link, own_macs).await? {
        return Err(NetError::VipInUse {
            vip,
            mac,
            interface: link.name,
        });
    }
    let message = RouteNetlinkMessage::NewAddress(message::vip_message(vip, link.index));
    let action = format!("add {vip} to {}", link.name);
    match requests.change(&action, message, NLM_F_CREATE | NLM_F_EXCL).await {
        Ok(()) => {}
        // Somebody was faster.
        Err(error) if error.errno() == Some(libc::EEXIST) => {
            return Ok(VipOutcome::AlreadyPresent {
                interface: link.name,
                ours: false,
            });
        }
        Err(error) if error.errno() == Some(libc::EACCES) && vip.is_ipv6() => {
            return Err(NetError::Ipv6Disabled { interface: link.name });
        }
        Err(error) => return Err(error),
    }
    lock(tables).own_vips.insert((link.index, vip));
    if let Err(error) = announce(tables, vip, interface) {
        // Neighbours learn of it all the same, when their entries age.
        tracing::warn!(%error, "a VIP was added, but could not be announced");
    }
    Ok(VipOutcome::Added)
}

/// Asks the link; one without addresses of its own, such as loopback, has nobody to ask.
async fn owner(vip: IpAddr, link: &InterfaceInfo, own: Vec<Mac>) -> Result<Option<Mac>, NetError> {
    if link.mac.is_none() {
        return Ok(None);
    }
    if !link.up || !link.carrier {
        return Err(NetError::InterfaceDown {
            name: link.name.clone(),
        });
    }
    duplicate::find_owner(vip, link, own).await
}

/// Where this host has the VIP already; the wanted interface goes before others.
async fn present(
    requests: &Requests,
    tables: &SharedTables,
    vip: IpAddr,
    wanted_index: u32,
) -> Result<Option<InterfaceAddress>, NetError> {
    let mut found: Vec<_> = addresses(requests)
        .await?
        .into_iter()
        .filter(|a| a.address == vip)
        .collect();
    found.sort_by_key(|a| (a.index != wanted_index, !is_ours(tables, a)));
    Ok(found.into_iter().next())
}

fn already_present(tables: &SharedTables, address: &InterfaceAddress) -> Result<VipOutcome, NetError> {
    let interface = lock(tables).link_name(address.index);
    if address.dad_failed {
        return Err(NetError::VipDadFailed {
            vip: address.address,
            interface,
        });
    }
    Ok(VipOutcome::AlreadyPresent {
        interface,
        ours: is_ours(tables, address),
    })
}

fn is_ours(tables: &SharedTables, address: &InterfaceAddress) -> bool {
    address.marked || lock(tables).own_vips.contains(&(address.index, address.address))
}

pub(super) async fn remove(
    requests: &Requests,
    tables: &SharedTables,
    vip: IpAddr,
    interface: &str,
) -> Result<RemoveVipOutcome, NetError> {
    let wanted_index = lock(tables).link(interface).map(|l| l.index);
    let found: Vec<_> = addresses(requests)
        .await?
        .into_iter()
        .filter(|a| a.address == vip)
        .collect();
    // By its mark rather than by the interface's name: that may have been renamed since.
    let Some(own) = found.iter().find(|a| is_ours(tables, a)) else {
        let there = found.iter().any(|a| Some(a.index) == wanted_index);
        return Ok(if there {
            RemoveVipOutcome::NotOurs
        } else {
            RemoveVipOutcome::Absent
        });
    };
    delete(requests, own).await?;
    lock(tables).own_vips.remove(&(own.index, vip));
    Ok(RemoveVipOutcome::Removed)
}

async fn delete(requests: &Requests, own: &InterfaceAddress) -> Result<(), NetError> {
    let mut message = message::vip_message(own.address, own.index);
    message.header.prefix_len = own.prefix_len;
    let action = format!("remove {}", own.address);
    let deleted = requests
        .change(&action, RouteNetlinkMessage::DelAddress(message), 0)
        .await;
    match deleted {
        Err(error) if matches!(error.errno(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
        done => done,
    }
}

pub(super) fn adopt(tables: &SharedTables, vip: IpAddr, interface: &str) {
    let mut tables = lock(tables);
    if let Some(index) = tables.link(interface).map(|l| l.index) {
        tables.own_vips.insert((index, vip));
    }
}

pub(super) fn announce(tables: &SharedTables, vip: IpAddr, interface: &str) -> Result<(), NetError> {
    let (link, _) = link_and_own_macs(tables, interface)?;
    duplicate::announce(vip, &link)
}

fn link_and_own_macs(tables: &SharedTables, interface: &str) -> Result<(InterfaceInfo, Vec<Mac>), NetError> {
    let tables = lock(tables);
    let link = tables.link(interface).ok_or_else(|| NetError::NoSuchInterface {
        name: interface.to_owned(),
    })?;
    Ok((link.clone(), tables.links().filter_map(|l| l.mac).collect()))
}
