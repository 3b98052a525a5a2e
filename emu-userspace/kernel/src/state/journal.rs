//! The journal: one line for each step of `unload`, written before the change that it
//! undoes.
use std::{
    fs,
    io::{self, Write},
    net::IpAddr,
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{JOURNAL, StateDir, StateError, WriterLock, file_error, private};
use crate::{offload::Feature, tc::Hook};

/// One step of `unload`, recorded before the change that it undoes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "undo", rename_all = "kebab-case")]
pub enum Undo {
    /// Delete an interface that the load created.
    DeleteLink { name: String },
    /// Restore the MTU of an interface.
    Mtu {
        interface: String,
        /// MTU before, in bytes.
        mtu_bytes: u32,
    },
    /// Allow super-packets on an interface again.
    GsoMaxSegments {
        interface: String,
        /// Segments before.
        segments: u32,
    },
    /// Set an interface down again.
    LinkDown { interface: String },
    /// Restore the root qdisc of an interface.
    RootQdisc {
        interface: String,
        /// How to create the previous one; `None` for the kernel's default.
        recipe: Option<Vec<u8>>,
    },
    /// Delete the clsact qdisc that the load added.
    Clsact { interface: String },
    /// Delete emu's filter.
    Filter { interface: String, hook: Hook },
    /// Restore the offloads of an interface.
    Features {
        interface: String,
        /// Previous settings.
        features: Vec<Feature>,
    },
    /// Remove the aliases that the load added.
    Aliases {
        interface: String,
        /// First and last address of each range.
        runs: Vec<(IpAddr, IpAddr)>,
        /// Addresses that existed before, and stay.
        keep: Vec<IpAddr>,
    },
    /// Restore a kernel setting.
    Sysctl {
        path: PathBuf,
        /// Value before.
        before: String,
    },
    /// Remove AnyIP routes.
    LocalRoutes {
        /// Their prefixes.
        prefixes: Vec<IpNet>,
    },
    /// Remove routes to other hosts.
    Routes {
        interface: String,
        /// Prefix and gateway.
        routes: Vec<(IpNet, IpAddr)>,
    },
    /// Remove the cgroups of vnodes' processes, and with them the programs
    /// attached there.
    Cgroup {
        /// Folder of the namespace below emu's.
        name: String,
    },
    /// Remove a folder of pinned maps.
    Pins { directory: PathBuf },
}

impl StateDir {
    /// Records how to undo the following change.
    ///
    /// # Errors
    /// [`StateError::File`]; the change must then not be made.
    pub fn record(&self, _lock: &WriterLock, undo: &Undo) -> Result<(), StateError> {
        tracing::debug!(?undo, "journal");
        self.make()?;
        let path = self.path.join(JOURNAL);
        let mut line = serde_json::to_vec(undo).map_err(|e| StateError::Damaged {
            path: path.clone(),
            detail: e.to_string(),
        })?;
        line.push(b'\n');
        let mut file = private::open(&path).map_err(file_error("open", &path))?;
        file.write_all(&line)
            .map_err(file_error("append to", &path))
    }

    /// The undo steps in the order in which they were recorded. A truncated line belongs to a
    /// change that was not made, and is skipped.
    pub fn journal(&self) -> Result<Vec<Undo>, StateError> {
        let path = self.path.join(JOURNAL);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(file_error("read", &path)(e)),
        };
        Ok(text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect())
    }
}
