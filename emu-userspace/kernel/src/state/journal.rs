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
    /// Delete an interface that we create.
    DeleteLink { name: String },
    /// Give an interface its MTU back.
    Mtu {
        interface: String,
        /// MTU before, in bytes.
        mtu_bytes: u32,
    },
    /// Let an interface take super-packets again.
    GsoMaxSegments {
        interface: String,
        /// Segments before.
        segments: u32,
    },
    /// Set an interface down again.
    LinkDown { interface: String },
    /// Give an interface its root qdisc back.
    RootQdisc {
        interface: String,
        /// How to create the one before; none for the kernel's default.
        recipe: Option<Vec<u8>>,
    },
    /// Delete the clsact qdisc that we add.
    Clsact { interface: String },
    /// Delete our filter.
    Filter {
        interface: String,
        /// Hook.
        hook: Hook,
    },
    /// Give an interface its offloads back.
    Features {
        interface: String,
        /// Features as they were.
        features: Vec<Feature>,
    },
    /// Remove the aliases that we add.
    Aliases {
        interface: String,
        /// First and last address of each run.
        runs: Vec<(IpAddr, IpAddr)>,
        /// Addresses that were there before and stay.
        keep: Vec<IpAddr>,
    },
    /// Give a kernel setting its value back.
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
        /// Folder of the namespace below ours.
        name: String,
    },
    /// Remove a folder of pinned maps.
    Pins { directory: PathBuf },
}

impl StateDir {
    /// Records how to undo the change that follows.
    ///
    /// # Errors
    /// [`StateError::File`]; the change must then not be made.
    pub fn record(&self, _lock: &WriterLock, undo: &Undo) -> Result<(), StateError> {
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

    /// The undo steps in the order in which they were recorded. A line cut off
    /// by a kill belongs to a change that was not made, and is passed over.
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
