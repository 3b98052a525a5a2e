//! The hosts of one experiment meet: they wait for each other, agree on a start, tell
//! each other what is ready and when all is over, and notice when one is lost.
//!
//! Whatever starts a process on every host (Slurm, ssh) stays in charge of the hosts.
//! All that is needed here is a folder that they share. Each host keeps one small
//! file there, its [`Word`], and rewrites it every second; the first host reads them
//! all and says in its own what holds for everybody ([`Orders`]). No clock is compared
//! to tell whether a host lives: its word must change.
mod clock;
mod keeper;
mod orders;
mod word;

use std::{
    ffi::OsString,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use emu_kernel::beneath::Folder;

pub use clock::Offset;
pub use keeper::Fleet;
pub use orders::Orders;
pub use word::{Phase, Word};

/// Folder of the hosts' words, below that of the results.
pub const FOLDER: &str = "meet";

/// What kept the hosts from running together.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A file in the shared folder.
    #[error("{what}: {source}")]
    System {
        /// Operation and object.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The place of this host is taken.
    #[error(
        "{} is there already: an earlier run, or host {rank} was started twice; \
         name another folder with --out", path.display()
    )]
    Taken {
        /// This host.
        rank: usize,
        /// Its file.
        path: PathBuf,
    },
    /// Hosts that did not come.
    #[error(
        "{} not {state} within {} s; do all hosts share {}?",
        list(missing), within.as_secs(), folder.display()
    )]
    Missing {
        /// Names of the hosts.
        missing: Vec<String>,
        /// What they should be.
        state: &'static str,
        /// How long they had.
        within: Duration,
        /// Where they should be seen.
        folder: PathBuf,
    },
    /// A host gave up.
    #[error("{host}: {error}")]
    Failed {
        /// Its name.
        host: String,
        /// Why.
        error: String,
    },
    /// A host fell silent before the start.
    #[error("{} fell silent before the start", list(lost))]
    Lost {
        /// Names.
        lost: Vec<String>,
    },
    /// A host runs something else.
    #[error("{host} runs {what} than {other}")]
    Different {
        /// A host.
        host: String,
        /// What differs.
        what: &'static str,
        /// Another host.
        other: String,
    },
}

impl FleetError {
    fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| FleetError::System { what, source }
    }
}

/// Names with commas; at most ten.
fn list(names: &[String]) -> String {
    const MOST: usize = 10;
    let shown = names[..names.len().min(MOST)].join(", ");
    let verb = if names.len() == 1 { "is" } else { "are" };
    match names.len().saturating_sub(MOST) {
        0 => format!("{shown} {verb}"),
        more => format!("{shown} and {more} more {verb}"),
    }
}

/// What happens when a host is lost in mid-run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLoss {
    /// The others stop.
    #[default]
    End,
    /// The others go on, and the results say which host is missing from when on.
    Mark,
}

/// How the hosts meet.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Folder that all share, that of the results.
    pub folder: PathBuf,
    /// Number of this host, from 0.
    pub rank: usize,
    /// Names of all, by their numbers.
    pub names: Vec<String>,
    /// Digest of what all must have alike: experiment and topology.
    pub digest: String,
    /// What happens when one is lost.
    pub on_loss: OnLoss,
    /// How long the others may take to come, and then to load.
    pub within: Duration,
    /// A host whose word does not change for so long is lost.
    pub lost_after: Duration,
}

/// What this host tells the others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Here {
    /// Programs, by their places in the experiment, of which all local processes are
    /// ready.
    pub ready: Vec<usize>,
    /// Processes that have failed.
    pub failed: usize,
    /// Whether the run is over as far as this host's processes go.
    pub over: bool,
    /// Why the run is broken off here, and so everywhere.
    pub stop: Option<String>,
}

/// What a host brings along.
#[derive(Debug, Clone, Default)]
pub struct Luggage {
    /// Programs of the experiment.
    pub programs: usize,
    /// Seed of the run.
    pub seed: u64,
    /// Interface towards the others.
    pub interface: String,
    /// Addresses there.
    pub addresses: Vec<IpAddr>,
}

/// What holds for all hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct There {
    /// Programs that are ready on every host that still lives.
    pub ready: Vec<usize>,
    /// Processes that have failed, on all hosts.
    pub failed: usize,
    /// Whether the run is over on every host.
    pub over: bool,
    /// Hosts that are lost, by name.
    pub lost: Vec<String>,
    /// Why all must stop, if they must.
    pub stop: Option<String>,
}

/// Where a host puts its own results, below the shared folder.
pub fn results_of(host: &str) -> PathBuf {
    Path::new("hosts").join(host)
}

fn unix_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// The last words of all hosts that met in a folder, in the order of their numbers.
pub fn words(shared: &Folder) -> Vec<Word> {
    let Ok(meet) = shared.folder(FOLDER) else {
        return Vec::new();
    };
    // By what is there: a damaged word may name any number of hosts.
    let entries = meet.entries().unwrap_or_default();
    let number = |name: &OsString| name.to_str()?.strip_suffix(".json")?.parse().ok();
    let mut ranks: Vec<usize> = entries
        .iter()
        .filter_map(|(name, _)| number(name))
        .collect();
    ranks.sort_unstable();
    let heard = ranks.into_iter().map(|rank| Word::hear(&meet, rank));
    heard.flatten().collect()
}
