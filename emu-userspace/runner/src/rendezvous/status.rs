//! A host's word: one small file, replaced as a whole.
use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
};

use emu_kernel::beneath::Folder;
use serde::{Deserialize, Serialize};

use super::{FleetError, Offset, Orders};

/// Largest file of a word, in bytes.
const MOST_BYTES: u64 = 16 << 20;

/// How far a host is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It is there.
    #[default]
    Joined,
    /// It could start.
    Loaded,
    /// It runs.
    Running,
    /// As far as its own processes go, the run is over.
    Over,
    /// Its results are written.
    Done,
    /// It gave up.
    Failed,
}

/// What a host says of itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Word {
    /// Its name in the topology.
    pub host: String,
    /// Its number, from 0.
    pub rank: usize,
    /// Number of all.
    pub size: usize,
    /// What all must have alike.
    pub digest: String,
    /// Name of the machine.
    pub machine: String,
    /// Seed of the run; the first host's counts where the files say none.
    pub seed: u64,
    /// Its interface towards the others.
    pub interface: String,
    /// Its addresses there.
    pub addresses: Vec<IpAddr>,
    /// Where its clock can be read.
    pub clock: Vec<SocketAddr>,
    /// Grows with every word.
    pub beat: u64,
    /// When it was said, by this host's clock, in nanoseconds since 1970.
    pub said_unix_ns: u64,
    /// How far it is.
    pub phase: Phase,
    /// Why it gave up.
    pub error: Option<String>,
    /// Programs that are ready here.
    pub ready: Vec<usize>,
    /// Processes that have failed here.
    pub failed: usize,
    /// Why the run is broken off here.
    pub stop: Option<String>,
    /// How far its clock is ahead of the first host's.
    pub offset: Option<Offset>,
    /// What holds for all; the first host's, or every host's once that is lost.
    pub orders: Option<Orders>,
}

impl Word {
    /// Name of its file.
    pub(super) fn file(rank: usize) -> String {
        format!("{rank}.json")
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Takes this host's place: its file must not be there.
    pub(super) fn claim(&self, meet: &Folder) -> Result<(), FleetError> {
        let path = meet.path().join(Self::file(self.rank));
        let what = |verb: &str| FleetError::system(format!("{verb} {}", path.display()));
        let mut file = match meet.create_new(Self::file(self.rank)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(FleetError::Taken {
                    rank: self.rank,
                    path,
                });
            }
            Err(error) => return Err(what("make")(error)),
        };
        let bytes = self.bytes().map_err(what("write"))?;
        file.write_all(&bytes).map_err(what("write"))
    }

    /// Replaces the file as a whole, so that nobody reads half of it.
    pub(super) fn say(&self, meet: &Folder) -> io::Result<()> {
        meet.replace(Self::file(self.rank), &self.bytes()?)?;
        Ok(())
    }

    /// A host's last word; none if it has said none, or one that cannot be read now.
    pub(super) fn hear(meet: &Folder, rank: usize) -> Option<Self> {
        let bytes = meet.read(Self::file(rank), MOST_BYTES).ok()?;
        let word: Self = serde_json::from_slice(&bytes).ok()?;
        (word.rank == rank).then_some(word)
    }
}
