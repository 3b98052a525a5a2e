//! A host's word: one small file, replaced as a whole.
use std::{
    fs::{self, File},
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{FleetError, Offset, Orders};

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
    /// Its file.
    pub(super) fn path(folder: &Path, rank: usize) -> PathBuf {
        folder.join(format!("{rank}.json"))
    }

    fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// Takes this host's place: its file must not be there.
    pub(super) fn claim(&self, folder: &Path) -> Result<(), FleetError> {
        let path = Self::path(folder, self.rank);
        let what = |verb: &str| FleetError::system(format!("{verb} {}", path.display()));
        fs::create_dir_all(folder)
            .map_err(FleetError::system(format!("make {}", folder.display())))?;
        let mut file = match File::create_new(&path) {
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
    pub(super) fn say(&self, folder: &Path) -> io::Result<()> {
        let path = Self::path(folder, self.rank);
        let new = folder.join(format!(".{}.new", self.rank));
        fs::write(&new, self.bytes()?)?;
        fs::rename(&new, &path)
    }

    /// A host's last word; none if it has said none, or one that cannot be read now.
    pub(super) fn hear(folder: &Path, rank: usize) -> Option<Self> {
        let bytes = fs::read(Self::path(folder, rank)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}
