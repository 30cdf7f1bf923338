//! Looks at one change of the backend, makes it, and takes it back.

use std::{fs, path::PathBuf};

use super::{Action, SetupError, host::ip, memory::Memory};
use crate::datapath::decap::Decap;

/// Whether it is there already.
pub(super) fn is_done(action: &Action, decap: &Decap) -> Result<bool, SetupError> {
    Ok(match action {
        Action::Sysctl { key, value } => setting(key)? == value.to_string(),
        // A table that was never used cannot be shown.
        Action::Ip { show, shown, .. } => ip(show).unwrap_or_default().contains(shown),
        Action::Unwrap { hosts, vip, .. } => decap
            .state()?
            .is_some_and(|s| s.vips.contains(vip) && hosts.iter().all(|h| s.hosts.contains(h))),
    })
}

/// Makes it.
pub(super) fn apply(action: &Action, decap: &Decap) -> Result<(), SetupError> {
    match action {
        Action::Sysctl { key, value } => set(key, &value.to_string()),
        Action::Ip { apply, .. } => ip(apply).map(drop),
        Action::Unwrap { hosts, vip, port } => Ok(decap.add(hosts, *vip, *port)?),
    }
}

/// Takes it back, as far as it is there and nothing else needs it.
pub(super) fn undo(action: &Action, decap: &Decap, memory: &Memory) -> Result<(), SetupError> {
    match action {
        Action::Sysctl { key, .. } => match memory.before(key) {
            Some(before) => set(key, before),
            None => Ok(()),
        },
        // Other VIPs share the routing table.
        Action::Ip { undo, .. } if memory.is_needed() && undo.iter().any(|word| word == "route") => Ok(()),
        Action::Ip { undo, .. } if is_done(action, decap)? => ip(undo).map(drop),
        Action::Ip { .. } => Ok(()),
        Action::Unwrap { vip, .. } => Ok(decap.remove(*vip)?),
    }
}

/// The value of a kernel setting.
pub(super) fn setting(key: &str) -> Result<String, SetupError> {
    let text = fs::read_to_string(path(key)).map_err(|cause| refused(key, cause))?;
    Ok(text.trim().to_owned())
}

fn set(key: &str, value: &str) -> Result<(), SetupError> {
    fs::write(path(key), value).map_err(|cause| refused(key, cause))
}

fn refused(key: &str, cause: std::io::Error) -> SetupError {
    SetupError::Setting {
        key: key.to_owned(),
        cause,
    }
}

/// `net.ipv4.conf.NAME.KEY`, whose name may hold dots.
fn path(key: &str) -> PathBuf {
    let root = PathBuf::from("/proc/sys/net/ipv4/conf");
    let parts = key
        .strip_prefix("net.ipv4.conf.")
        .and_then(|rest| rest.rsplit_once('.'));
    match parts {
        Some((name, leaf)) => root.join(name).join(leaf),
        None => root.join(key),
    }
}
