//! Where the packet path is pinned: `<bpffs>/lb/<instance>/v<ABI>/{maps,links}`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use lb_common::abi::ABI_VERSION;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::DatapathError;

/// The pin directories of one instance.
#[derive(Debug, Clone)]
pub struct Pins {
    instance: PathBuf,
}

impl Pins {
    /// Of an instance below a BPF file system.
    #[must_use]
    pub fn new(bpffs: &Path, instance: &str) -> Self {
        Self {
            instance: bpffs.join("lb").join(instance),
        }
    }

    /// Checks that the file system is there and holds no packet path of another ABI version.
    pub fn check(&self, bpffs: &Path) -> Result<(), DatapathError> {
        if !statfs(bpffs).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC) {
            return Err(DatapathError::NoBpffs(bpffs.to_path_buf()));
        }
        match self.versions().into_iter().find(|name| *name != version()) {
            Some(found) => Err(DatapathError::AbiMismatch {
                path: self.instance.clone(),
                found: found.trim_start_matches('v').to_owned(),
                expected: ABI_VERSION,
            }),
            None => Ok(()),
        }
    }

    /// Makes the directories. Another instance may just be removing the one that all share, so a directory that is
    /// missing halfway is made once more.
    pub fn create(&self) -> Result<(), DatapathError> {
        for directory in [self.maps(), self.links()] {
            fs::create_dir_all(&directory)
                .or_else(|_| fs::create_dir_all(&directory))
                .map_err(|e| kernel(format!("cannot create {}", directory.display()), e))?;
        }
        Ok(())
    }

    /// Whether a packet path is pinned, of whatever version.
    #[must_use]
    pub fn exist(&self) -> bool {
        !self.versions().is_empty()
    }

    /// The directory of maps.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.instance.join(version()).join("maps")
    }

    /// The directory of links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.instance.join(version()).join("links")
    }

    /// The pin of an interface's link. A name may hold a dot, which bpffs refuses, so the index stands for it.
    #[must_use]
    pub fn link(&self, ifindex: u32, native: bool) -> PathBuf {
        self.links()
            .join(format!("if{ifindex}-{}", if native { "native" } else { "generic" }))
    }

    /// Removes every pin of the instance, of all versions; links without a pin are detached by the kernel.
    pub fn remove(&self) -> Result<(), DatapathError> {
        match fs::remove_dir_all(&self.instance) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(kernel(format!("cannot remove {}", self.instance.display()), e));
            }
            _ => {}
        }
        // The directory that instances share goes with the last of them.
        if let Some(shared) = self.instance.parent() {
            let _ = fs::remove_dir(shared);
        }
        Ok(())
    }

    fn versions(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.instance) else {
            return Vec::new();
        };
        entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect()
    }
}

fn version() -> String {
    format!("v{ABI_VERSION}")
}

/// A refusal of the kernel or the system.
pub(super) fn kernel(context: impl Into<String>, cause: impl std::fmt::Display) -> DatapathError {
    DatapathError::Kernel {
        context: context.into(),
        cause: cause.to_string(),
    }
}
