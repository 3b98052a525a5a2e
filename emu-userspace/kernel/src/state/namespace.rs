//! Records of the network namespaces that a load made: `/run/emu/netns/NAME` has the cookie of
//! the namespace, so that another namespace with the same name counts as the user's.
use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};

use super::{ROOT, StateError, file_error, lock, private};

/// Longest wait for another process that makes or removes a namespace.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The records, while no other `emu` makes or removes a named namespace.
#[derive(Debug)]
pub(crate) struct NamespaceRecords {
    _lock: Flock<File>,
}

impl NamespaceRecords {
    /// Names of all records.
    pub(crate) fn names() -> Result<Vec<String>, StateError> {
        let folder = folder();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(file_error("read", &folder)(e)),
        };
        let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
        Ok(entries.flatten().filter_map(name).collect())
    }

    /// Takes the lock of all records.
    pub(crate) fn lock() -> Result<Self, StateError> {
        let path = Path::new(ROOT).join("netns.lock");
        let lock = lock::flock(&path, FlockArg::LockExclusiveNonblock, TIMEOUT)?;
        Ok(Self { _lock: lock })
    }

    /// The cookie of the namespace that a load made under a name; `None` if no load made it.
    /// A record whose writing was interrupted has the cookie 0, which no namespace has.
    pub(crate) fn get(&self, name: &str) -> Result<Option<u64>, StateError> {
        let path = path(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().parse().unwrap_or(0))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(file_error("read", &path)(e)),
        }
    }

    /// Stores the cookie of a namespace, before the namespace gets its name.
    pub(crate) fn store(&self, name: &str, cookie: u64) -> Result<(), StateError> {
        let folder = folder();
        private::folder(&folder).map_err(file_error("make", &folder))?;
        let path = path(name);
        let written = private::write(&path, cookie.to_string().as_bytes());
        written.map_err(file_error("write", &path))
    }

    /// Removes a record, after the name of the namespace.
    pub(crate) fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = path(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(file_error("remove", &path)(e)),
            _ => Ok(()),
        }
    }
}

fn folder() -> PathBuf {
    Path::new(ROOT).join("netns")
}

fn path(name: &str) -> PathBuf {
    folder().join(name)
}
