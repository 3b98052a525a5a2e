//! The status of a host: one small file, always replaced as a whole.
use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::{IpAddr, SocketAddr},
};

use emu_kernel::beneath::Folder;
use serde::{Deserialize, Serialize};

use super::{ClusterState, Offset, RendezvousError, StopCause, StopReason};

/// Largest status file that is read, in bytes.
const MOST_BYTES: u64 = 16 << 20;

/// Phase of a host's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The host has joined the others.
    #[default]
    Joined,
    /// The network is loaded; the host could start.
    Loaded,
    /// The programs run.
    Running,
    /// The run is over for the local processes.
    Over,
    /// The results are written.
    Done,
    /// The host has failed.
    Failed,
}

/// What a host publishes about itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct HostStatus {
    /// Name of the host in the topology.
    #[serde(deserialize_with = "emu_model::name::text")]
    pub host: String,
    /// From 0.
    pub rank: usize,
    /// Number of hosts.
    pub size: usize,
    /// Digest of the inputs that must be equal on all hosts.
    pub digest: String,
    pub machine: String,
    /// Seed of the run; if the files have none, the first host's seed holds for all.
    pub seed: u64,
    /// Interface towards the other hosts.
    pub interface: String,
    /// Addresses of the interface.
    pub addresses: Vec<IpAddr>,
    /// Addresses at which the host answers time requests.
    pub clock: Vec<SocketAddr>,
    /// Counter that grows with every write.
    pub heartbeat: u64,
    /// Time of the write by this host's clock, in nanoseconds since 1970.
    pub written_unix_ns: u64,
    pub phase: Phase,
    /// Why the host has failed.
    pub error: Option<String>,
    /// Programs of which all local processes are ready.
    pub ready: Vec<usize>,
    /// Number of local processes that have failed.
    pub failed: usize,
    /// Steps that this host has reached, by name, each with what the host publishes there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub steps: BTreeMap<String, String>,
    /// Why this host stops the run.
    pub stop: Option<StopCause>,
    /// Offset to the first host's clock.
    pub offset: Option<Offset>,
    /// The decisions for all hosts: published by the first host, or by every host once the
    /// first is lost.
    pub cluster: Option<ClusterState>,
}

impl HostStatus {
    pub(super) fn file(rank: usize) -> String {
        format!("{rank}.json")
    }

    /// Why the host has failed; `None` if it has not.
    pub(super) fn failure(&self) -> Option<StopReason> {
        (self.phase == Phase::Failed).then(|| StopReason::HostFailed {
            host: self.host.clone(),
            error: self.error.clone().unwrap_or_else(|| "gave up".to_owned()),
        })
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Creates the status file of this host, which must not exist.
    pub(super) fn claim(&self, status_folder: &Folder) -> Result<(), RendezvousError> {
        let path = status_folder.path().join(Self::file(self.rank));
        let what = |verb: &str| RendezvousError::system(format!("{verb} {}", path.display()));
        let mut file = match status_folder.create_new(Self::file(self.rank)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RendezvousError::RankTaken {
                    rank: self.rank,
                    path,
                });
            }
            Err(error) => return Err(what("make")(error)),
        };
        let bytes = self.bytes().map_err(what("write"))?;
        file.write_all(&bytes).map_err(what("write"))
    }

    /// Replaces the file as a whole, so that no reader sees half of it.
    pub(super) fn publish(&self, status_folder: &Folder) -> io::Result<()> {
        status_folder.replace_unsynced(Self::file(self.rank), &self.bytes()?)?;
        Ok(())
    }

    /// The last status of a host; `None` if it has none, or its file cannot be read now.
    pub(super) fn read(status_folder: &Folder, rank: usize) -> Option<Self> {
        let bytes = status_folder.read(Self::file(rank), MOST_BYTES).ok()?;
        let status: Self = serde_json::from_slice(&bytes).ok()?;
        (status.rank == rank).then_some(status)
    }
}
