//! What survives the daemon: run-time changes, slow starts, and which VIP addresses are ours.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::climb::SavedClimb;
use crate::{api::Counters, model::ServiceId, state::Desired};

/// The state file's contents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// What the configuration file asked for when this was written.
    pub configured: Desired,
    /// What was wanted in the end.
    pub desired: Desired,
    /// How many requests led from the one to the other.
    pub changes: u64,
    /// VIP addresses that `lb` put on interfaces.
    pub vips: Vec<(IpAddr, String)>,
    /// Traffic of backends that were removed, by service.
    pub departed: Vec<(ServiceId, Counters)>,
    /// Slow starts that were under way.
    #[serde(default)]
    pub climbing: Vec<SavedClimb>,
}

/// Where the state of an instance is kept.
#[derive(Debug, Clone)]
pub struct StateFile(PathBuf);

impl StateFile {
    /// `<state_dir>/<instance>.state.json`.
    #[must_use]
    pub fn new(state_dir: &Path, instance: &str) -> Self {
        Self(state_dir.join(format!("{instance}.state.json")))
    }

    /// What an earlier daemon saved, if any did. A file that cannot be read is reported in the log and passed over: the
    /// configuration is there.
    #[must_use]
    pub fn load(&self) -> Option<Saved> {
        let read = fs::read(&self.0).and_then(|text| serde_json::from_slice(&text).map_err(io::Error::other));
        match read {
            Ok(saved) => Some(saved),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let path = self.0.display();
                tracing::warn!("{path} cannot be read ({error}): run-time changes of an earlier daemon are lost");
                None
            }
        }
    }

    /// Replaces the file as a whole.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&self, saved: &impl Serialize) -> io::Result<()> {
        let new = self.0.with_extension("json.new");
        if let Some(directory) = self.0.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(&new, serde_json::to_vec(saved)?)?;
        fs::rename(&new, &self.0)
    }

    /// Removes the file, if it is there.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// What to start from: `(desired, number of run-time changes in it)`. A changed configuration file wins over run-time
/// changes, which were made to another one.
#[must_use]
pub fn restore(configured: &Desired, saved: Option<&Saved>, forget: bool) -> (Desired, u64) {
    let Some(saved) = saved.filter(|s| s.changes > 0) else {
        return (configured.clone(), 0);
    };
    let n = crate::state::count(usize::try_from(saved.changes).unwrap_or(usize::MAX), "run-time change");
    if forget {
        tracing::info!("forgot {n}, as asked for");
    } else if saved.configured != *configured {
        tracing::warn!("the configuration file has changed: it replaces {n} made to the former one");
    } else {
        tracing::info!("restored {n}");
        return (saved.desired.clone(), saved.changes);
    }
    (configured.clone(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::testing::{backend, service};

    fn desired(weight: u16) -> Desired {
        let mut service = service("web", 80, &[backend("web1", 1)]);
        service.backends[0].weight = weight;
        Desired {
            services: vec![std::sync::Arc::new(service)],
            interfaces: Vec::new(),
        }
    }

    #[test]
    fn run_time_changes_last_until_the_configuration_changes() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::new(dir.path(), "default");
        assert_eq!(file.load(), None);
        let saved = Saved {
            configured: desired(1),
            desired: desired(5),
            changes: 2,
            ..Saved::default()
        };
        file.save(&saved).unwrap();
        let loaded = file.load();
        assert_eq!(loaded.as_ref(), Some(&saved));
        assert_eq!(restore(&desired(1), loaded.as_ref(), false), (desired(5), 2));
        assert_eq!(restore(&desired(1), loaded.as_ref(), true), (desired(1), 0));
        assert_eq!(restore(&desired(3), loaded.as_ref(), false), (desired(3), 0));
        fs::write(dir.path().join("default.state.json"), "{").unwrap();
        assert_eq!(
            file.load(),
            None,
            "a broken file does not keep the daemon from starting"
        );
        file.remove().unwrap();
        file.remove().unwrap();
    }
}
