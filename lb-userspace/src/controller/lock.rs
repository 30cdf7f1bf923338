//! One daemon for one instance.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Why the lock was not had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error(
        "instance `{instance}` is already run by pid {pid} ({path}): stop that daemon, or give this one another `instance` name"
    )]
    Held {
        /// Instance.
        instance: String,
        /// Process ID of the holder, or `unknown`.
        pid: String,
        /// Lock file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot lock {path}: {source}; `state-dir` must be a directory that lb can write to")]
    Io {
        /// Lock file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Held until dropped, or until the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock `<state_dir>/<instance>.lock` and writes this process's ID into it. The file stays when the lock
    /// is given up: were it removed, two daemons could hold locks on two files of that name.
    ///
    /// # Errors
    /// [`LockError::Held`] says who holds it.
    pub fn acquire(state_dir: &Path, instance: &str) -> Result<Self, LockError> {
        let path = state_dir.join(format!("{instance}.lock"));
        let io = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        fs::create_dir_all(state_dir).map_err(io)?;
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                write_pid(&mut file).map_err(io)?;
                Ok(Self { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => Err(LockError::Held {
                instance: instance.to_owned(),
                pid: read_pid(&mut file),
                path,
            }),
            Err((_, errno)) => Err(io(errno.into())),
        }
    }
}

fn write_pid(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> String {
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::acquire(dir.path(), "default").unwrap();
        let error = Lock::acquire(dir.path(), "default").unwrap_err().to_string();
        let expected = format!("instance `default` is already run by pid {} (", std::process::id());
        assert!(error.starts_with(&expected), "{error}");
        Lock::acquire(dir.path(), "other").unwrap();
        drop(first);
        Lock::acquire(dir.path(), "default").unwrap();
    }
}
