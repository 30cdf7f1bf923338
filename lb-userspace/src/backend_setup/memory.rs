//! Which VIPs a backend was set up for, and what its kernel settings were before. Kept until a reboot, which forgets the
//! settings, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::SetupError;

/// What is kept.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Memory {
    #[serde(skip)]
    path: PathBuf,
    vips: BTreeSet<IpAddr>,
    settings: BTreeMap<String, String>,
}

impl Memory {
    /// What was kept; nothing, if there is no file or it is not readable.
    pub(super) fn load(directory: &Path, instance: &str) -> Self {
        let path = directory.join(format!("backend-setup-{instance}.json"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let kept: Self = serde_json::from_str(&text).unwrap_or_default();
        Self { path, ..kept }
    }

    /// Keeps the value that a setting had before the first VIP came.
    pub(super) fn remember(&mut self, vip: IpAddr, key: &str, value: &str) {
        self.vips.insert(vip);
        self.settings.entry(key.to_owned()).or_insert_with(|| value.to_owned());
    }

    /// A VIP is set up.
    pub(super) fn serve(&mut self, vip: IpAddr) {
        self.vips.insert(vip);
    }

    /// A VIP goes.
    pub(super) fn forget(&mut self, vip: IpAddr) {
        self.vips.remove(&vip);
    }

    /// Whether another VIP is served still.
    pub(super) fn is_needed(&self) -> bool {
        !self.vips.is_empty()
    }

    /// The value that a setting had, if it was changed and no other VIP needs that.
    pub(super) fn before(&self, key: &str) -> Option<&str> {
        if self.is_needed() {
            return None;
        }
        self.settings.get(key).map(String::as_str)
    }

    /// Writes it down. Nothing to keep, no file.
    pub(super) fn save(&self) -> Result<(), SetupError> {
        let failed = |cause| SetupError::Memory {
            path: self.path.display().to_string(),
            cause,
        };
        if !self.is_needed() {
            return match fs::remove_file(&self.path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed(e)),
                _ => Ok(()),
            };
        }
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory).map_err(failed)?;
        }
        let text = serde_json::to_string_pretty(self).map_err(|e| failed(e.into()))?;
        fs::write(&self.path, text).map_err(failed)
    }
}
