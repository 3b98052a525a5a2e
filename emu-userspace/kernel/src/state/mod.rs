//! Records the loader's changes on disk before they are made.
//!
//! One folder for each network namespace below `/run/emu`: the journal of undo steps (one
//! JSON line each, appended before the change that it undoes), the state of a finished load,
//! and a copy of the topology. A lock next to it admits one writer.
mod error;
mod journal;
mod lock;
mod marker;
mod namespace;
mod private;
mod record;

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use emu_model::plan::FqPlan;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

pub use error::StateError;
pub use journal::{Content as JournalContent, Undo, parse as parse_journal};
pub use lock::{Holder, SharedLock, WriterLock};
pub(crate) use namespace::NamespaceRecords;
pub use record::IdentityRecord;

const ROOT: &str = "/run/emu";
const JOURNAL: &str = "journal.jsonl";
const STATE: &str = "state.json";
const IDENTITY: &str = "identity.json";
const TOPOLOGY: &str = "topology.yaml";
/// Socket option that names the network namespace (uapi/asm-generic/socket.h).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// A finished load.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    /// Version of the file format.
    pub version: u32,
    /// The topology file, by the name that the user gave.
    pub topology: PathBuf,
    /// Name of this host in the topology.
    pub host: Option<String>,
    /// Number of hosts, if it differs from the topology's.
    #[serde(default)]
    pub size: Option<usize>,
    /// Seconds since 1970 at which the load finished.
    pub loaded_at_unix_s: u64,
    /// Identifiers of the maps, for processes that cannot access the pins.
    pub map_ids: Vec<(String, u32)>,
    /// Device number of the BPF file system that holds the pins: another mount namespace
    /// may have another one. 0 in files of older versions.
    #[serde(default)]
    pub bpffs_device: u64,
    /// Identifiers of the programs of filters, by their names; empty: not known.
    #[serde(default)]
    pub program_ids: Vec<(String, u32)>,
    /// Offloads that a driver left on although the load turned them off, with their
    /// interfaces.
    #[serde(default)]
    pub offloads_on: Vec<(String, String)>,
    /// Where the maps are pinned.
    pub pins: PathBuf,
    /// Seed of all random decisions: that of the topology, or one of this load.
    #[serde(default)]
    pub seed: u64,
    /// Slot of each vnode of the plan; empty: in the plan's order.
    #[serde(default)]
    pub slots: Vec<u32>,
    /// Features that the programs were loaded with.
    #[serde(default)]
    pub features: u32,
    /// Whether checksum offloads are off.
    #[serde(default)]
    pub corrupts: bool,
    /// One-way latency of the network between the hosts that the programs were loaded with,
    /// in nanoseconds.
    #[serde(default)]
    pub host_latency_ns: u64,
    /// Current settings of fq; `None`: those of the plan.
    #[serde(default)]
    pub fq: Option<FqPlan>,
    /// Identifies the build of the programs.
    #[serde(default)]
    pub object: u64,
    /// Name of the copy of the topology in the state folder.
    #[serde(default = "first_copy")]
    pub copy: String,
}

fn first_copy() -> String {
    TOPOLOGY.to_owned()
}

/// Room for a small journal and state.
const LEAST_ROOM_BYTES: u64 = 32 << 10;

/// A state that is written and not yet in its place.
pub struct Staged {
    new: PathBuf,
    path: PathBuf,
}

impl Staged {
    /// Puts it in its place.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn commit(self) -> Result<(), StateError> {
        fs::rename(&self.new, &self.path).map_err(file_error("write", &self.path))
    }
}

/// The state folder of one network namespace.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
    cookie: u64,
}

/// Names of the state folders of all namespaces that have left something: below
/// `/run/emu`, or as pinned maps.
pub(crate) fn names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let pins = crate::apply::pins("");
    for folder in [Path::new(ROOT), &pins] {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let name = file.to_str().and_then(|name| name.split('.').next());
            let number = name.and_then(|name| name.strip_prefix("ns-"));
            if number.is_some_and(|n| n.parse::<u64>().is_ok()) {
                names.extend(name.map(str::to_owned));
            }
        }
    }
    names
}

/// Files of a namespace below `/run/emu`.
pub(crate) fn paths(name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries
        .filter(|entry| {
            let file = entry.file_name();
            file.to_str().and_then(|f| f.split('.').next()) == Some(name)
        })
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

/// Whether a process holds the lock of a namespace.
pub(crate) fn is_locked(name: &str) -> bool {
    lock::is_held(&Path::new(ROOT).join(format!("{name}.lock")))
}

/// Stores the verifier's log of a program, readable by root.
pub(crate) fn store_verifier_log(program: &str, text: &str) -> Result<PathBuf, StateError> {
    private::root()?;
    let path = Path::new(ROOT).join(format!("verifier-{program}.log"));
    let written = private::write(&path, text.as_bytes());
    written.map_err(file_error("write", &path))?;
    Ok(path)
}

fn file_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::File {
        operation,
        path,
        source,
    }
}

/// Whether a file exists. One that cannot be looked up is taken to be there, so that nothing is
/// called unloaded because of an error.
fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(true)
}

/// The number of the calling thread's network namespace, unique until the next boot.
fn netns_cookie() -> io::Result<u64> {
    // Not bound: a process of a vnode may not bind to every wildcard.
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the buffer is a live u64 and `length` is its size; the kernel
    // writes at most that much.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

impl StateDir {
    /// The folder of the calling thread's network namespace; nothing is created.
    pub fn here() -> Result<Self, StateError> {
        let cookie = netns_cookie().map_err(StateError::Cookie)?;
        Ok(Self {
            path: Path::new(ROOT).join(format!("ns-{cookie}")),
            cookie,
        })
    }

    /// Path of the folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Name of the folder, unique for the namespace.
    pub fn name(&self) -> String {
        format!("ns-{}", self.cookie)
    }

    /// The number of the namespace, unique until the next boot.
    pub(crate) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Whether anything was recorded and not yet cleared.
    pub fn exists(&self) -> bool {
        is_there(&self.path.join(JOURNAL)) || is_there(&self.path.join(STATE))
    }

    /// Stores the finished load and a copy of its topology.
    pub fn store(
        &self,
        lock: &WriterLock,
        state: &State,
        topology: &str,
    ) -> Result<(), StateError> {
        self.stage(lock, state, topology)?.commit()
    }

    /// Writes a finished load and a copy of its topology next to those that are there, so
    /// that putting them in their place needs no room on the disk.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn stage(
        &self,
        _lock: &WriterLock,
        state: &State,
        topology: &str,
    ) -> Result<Staged, StateError> {
        self.make()?;
        // A copy under another name, so that the previous state stays complete until the new
        // one replaces it.
        let now = fs::read(self.path.join(STATE)).ok();
        let now = now.and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok());
        let old = now.map(|state| state.copy);
        let mut state = state.clone();
        state.copy = match &old {
            Some(old) if old == TOPOLOGY => "topology-2.yaml".to_owned(),
            _ => TOPOLOGY.to_owned(),
        };
        let path = self.path.join(&state.copy);
        let written = private::write(&path, topology.as_bytes());
        written.map_err(file_error("write", &path))?;
        let path = self.path.join(STATE);
        let bytes = serde_json::to_vec_pretty(&state).map_err(|e| StateError::Damaged {
            path: path.clone(),
            detail: e.to_string(),
        })?;
        let new = self.path.join(format!("{STATE}.staged"));
        private::write(&new, &bytes).map_err(file_error("write", &new))?;
        Ok(Staged { new, path })
    }

    /// Path of the state, for messages.
    pub fn state_path(&self) -> PathBuf {
        self.path.join(STATE)
    }

    /// Checks that there is room for the journal and the state of a load, before what is
    /// loaded is undone for it.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn check_room(&self, _lock: &WriterLock, topology_bytes: usize) -> Result<(), StateError> {
        private::root()?;
        let path = self.room();
        let size = |name: &str| fs::metadata(self.path.join(name)).map_or(0, |m| m.len());
        let bytes = topology_bytes as u64 + size(JOURNAL) + size(STATE) + LEAST_ROOM_BYTES;
        let written = private::write(&path, &vec![0; usize::try_from(bytes).unwrap_or(0)]);
        let removed = fs::remove_file(&path);
        written
            .and(removed)
            .map_err(file_error("make room at", &path))
    }

    /// The file that shows whether there is room on the disk.
    fn room(&self) -> PathBuf {
        Path::new(ROOT).join(format!("{}.room", self.name()))
    }

    /// Stores a state without its topology.
    pub fn update(&self, _lock: &WriterLock, state: &State) -> Result<(), StateError> {
        let bytes = serde_json::to_vec_pretty(state).map_err(|e| StateError::Damaged {
            path: self.path.join(STATE),
            detail: e.to_string(),
        })?;
        let path = self.path.join(STATE);
        private::replace(&path, &bytes).map_err(file_error("write", &path))
    }

    /// Replaces a file of the folder.
    pub(crate) fn replace(
        &self,
        _lock: &WriterLock,
        name: &str,
        bytes: &[u8],
    ) -> Result<(), StateError> {
        let path = self.path.join(name);
        private::replace(&path, bytes).map_err(file_error("write", &path))
    }

    /// Stores the facts about the attached programs that later commands need.
    pub fn store_identity(
        &self,
        _lock: &WriterLock,
        record: &IdentityRecord,
    ) -> Result<(), StateError> {
        let path = self.path.join(IDENTITY);
        let bytes = serde_json::to_vec(record).map_err(|e| StateError::Damaged {
            path: path.clone(),
            detail: e.to_string(),
        })?;
        private::replace(&path, &bytes).map_err(file_error("write", &path))
    }

    /// The stored facts about the attached programs; `None` if they were never attached.
    pub fn identity(&self) -> Option<IdentityRecord> {
        let bytes = fs::read(self.path.join(IDENTITY)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn agent_path(&self) -> PathBuf {
        Path::new(ROOT).join(format!("ns-{}.agent.json", self.cookie))
    }

    /// The agent's record of this namespace, which outlives loads.
    pub fn agent_record(&self) -> Option<Vec<u8>> {
        fs::read(self.agent_path()).ok()
    }

    /// Stores the agent's record.
    pub fn store_agent_record(&self, bytes: &[u8]) -> Result<(), StateError> {
        private::root()?;
        let path = self.agent_path();
        private::replace(&path, bytes).map_err(file_error("write", &path))
    }

    /// Removes the agent's record, if there is one.
    pub fn remove_agent_record(&self) {
        // The file may not exist.
        let _ = fs::remove_file(self.agent_path());
    }

    /// Creates the folder and its parent.
    fn make(&self) -> Result<(), StateError> {
        private::root()?;
        private::folder(&self.path).map_err(file_error("make", &self.path))
    }

    /// Whether there is a finished load.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub fn is_loaded(&self) -> Result<bool, StateError> {
        let path = self.path.join(STATE);
        path.try_exists().map_err(file_error("look for", &path))
    }

    /// The finished load and its topology, if there is one.
    pub fn loaded(&self) -> Result<Option<(State, String)>, StateError> {
        let path = self.path.join(STATE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(file_error("read", &path)(e)),
        };
        let state: State = serde_json::from_slice(&bytes).map_err(|e| StateError::Damaged {
            path: path.clone(),
            detail: e.to_string(),
        })?;
        let path = self.path.join(&state.copy);
        let topology = fs::read_to_string(&path).map_err(file_error("read", &path))?;
        Ok(Some((state, topology)))
    }

    /// Removes the state of the finished load but keeps the journal: an unload calls it
    /// first, so that a kill during the unload leaves no state that looks complete.
    pub fn forget_load(&self, _lock: &WriterLock) -> Result<(), StateError> {
        let path = self.path.join(STATE);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(file_error("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Removes the folder once everything is undone.
    pub fn clear(&self, _lock: &WriterLock) -> Result<(), StateError> {
        // It is left if a load could not remove it.
        let _ = fs::remove_file(self.room());
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(file_error("remove", &self.path)(e))
            }
            _ => Ok(()),
        }
    }
}
