//! `lb detach` when no daemon runs.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::{
    api::{ApiError, ErrorKind},
    controller::{Lock, LockError},
    datapath::{pinned_services, pins::Pins},
    model::ServiceId,
    net::{CleanupScope, KernelNetwork, Network as _, RemoveVipOutcome},
};

/// Takes the packet path of an instance down: links, maps, pins, VIP addresses and neighbours. Says what it removed.
///
/// # Errors
/// When a daemon holds the instance, or the system refuses.
pub fn detach(instance: &str, bpffs: &Path) -> Result<Vec<String>, ApiError> {
    let state_dir = PathBuf::from(crate::config::DEFAULT_STATE_DIR);
    let _lock = Lock::acquire(&state_dir, instance).map_err(|e| match e {
        LockError::Held { .. } => error(ErrorKind::Conflict, &e),
        LockError::Io { .. } => error(ErrorKind::System, &e),
    })?;
    let pins = Pins::new(bpffs, instance);
    let mut removed = Vec::new();
    if pins.exist() {
        // The maps know which addresses were this instance's.
        let vips: BTreeSet<IpAddr> = pinned_services(&pins)
            .unwrap_or_default()
            .iter()
            .map(|id: &ServiceId| id.vip.ip())
            .collect();
        removed.extend(clean_network(&vips)?);
        pins.remove().map_err(|e| error(ErrorKind::System, &e))?;
        removed.push(format!(
            "the packet path pinned below {}",
            bpffs.join("lb").join(instance).display()
        ));
    }
    let state_file = state_dir.join(format!("{instance}.state.json"));
    if fs::remove_file(&state_file).is_ok() {
        removed.push(state_file.display().to_string());
    }
    Ok(removed)
}

/// Removes the VIPs and neighbours that bear lb's mark.
fn clean_network(vips: &BTreeSet<IpAddr>) -> Result<Vec<String>, ApiError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| error(ErrorKind::System, &e))?;
    runtime.block_on(async {
        let (network, _events) = KernelNetwork::start().await.map_err(|e| error(ErrorKind::System, &e))?;
        let mut removed = Vec::new();
        let interfaces = network.interfaces();
        for address in network.addresses().await.map_err(|e| error(ErrorKind::System, &e))? {
            let Some(interface) = interfaces.iter().find(|i| i.index == address.index) else {
                continue;
            };
            if !address.marked || !vips.contains(&address.address) {
                continue;
            }
            let outcome = network.remove_vip(address.address, &interface.name).await;
            if outcome.map_err(|e| error(ErrorKind::System, &e))? == RemoveVipOutcome::Removed {
                removed.push(format!("{} on {}", address.address, interface.name));
            }
        }
        let neighbours = network
            .cleanup_neighbours(CleanupScope::Host)
            .await
            .map_err(|e| error(ErrorKind::System, &e))?;
        if neighbours > 0 {
            removed.push(format!("{neighbours} neighbour entries"));
        }
        Ok(removed)
    })
}

fn error(kind: ErrorKind, cause: &dyn std::error::Error) -> ApiError {
    ApiError {
        kind,
        message: cause.to_string(),
    }
}
