//! The record of machines whose line leads to a container.
use std::{collections::BTreeMap, fs, io, net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::state::{StateDir, StateError, WriterLock};

/// Where the line of a machine leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Whom it is for: the name or identifier of a container, a process, or a path.
    pub holder: String,
    /// Path of the network namespace.
    pub namespace: PathBuf,
    /// Name of the interface there.
    pub interface: String,
}

/// All attachments of a load, by address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachments(pub BTreeMap<IpAddr, Attachment>);

const FILE: &str = "attachments.json";

impl Attachments {
    /// The attachments of the load in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn here() -> Result<Self, StateError> {
        Self::read(&StateDir::here()?)
    }

    pub(crate) fn read(dir: &StateDir) -> Result<Self, StateError> {
        let path = dir.path().join(FILE);
        let error = |source| StateError::File {
            operation: "read",
            path: path.clone(),
            source,
        };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| error(e.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(error(e)),
        }
    }

    pub(crate) fn store(&self, dir: &StateDir, lock: &WriterLock) -> Result<(), StateError> {
        let bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        dir.replace(lock, FILE, &bytes)
    }
}
