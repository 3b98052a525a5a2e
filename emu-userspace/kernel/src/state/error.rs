//! Why the state on disk could not be read or changed.
use std::{io, path::PathBuf};

use super::lock::{self, Holder};

/// The state folder or the lock failed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file operation failed.
    #[error("{operation} {}: {source}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// Another `emu` is changing this namespace.
    #[error(
        "another emu is changing this network namespace: {}",
        lock::who(holders, path)
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The processes that hold it, as far as they are visible.
        holders: Vec<Holder>,
    },
    /// The state file is damaged.
    #[error("{} is damaged: {detail}; `emu unload` restores what the journal holds", path.display())]
    Damaged {
        path: PathBuf,
        /// The parser's message.
        detail: String,
    },
    /// The network namespace could not be named.
    #[error("read the cookie of the network namespace: {0}")]
    Cookie(#[source] io::Error),
}
