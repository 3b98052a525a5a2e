//! Rendezvous of the hosts of one experiment or measurement: they wait for each other, agree on a start,
//! exchange which programs are ready and when the run is over, and notice when a host is
//! lost.
//!
//! The launcher that starts a process on every host (Slurm, ssh) stays in charge of the
//! hosts; the rendezvous needs only a folder that they share. Each host keeps one small file
//! there, its [`HostStatus`], and rewrites it every second. The first host reads all of them
//! and publishes the decisions for all hosts in its own ([`ClusterState`]). Liveness uses a
//! heartbeat counter, not a comparison of clocks.
//!
//! Work that is no run uses the same rendezvous with barriers at named steps
//! ([`Membership::publish_step`], [`Membership::collect`]).
mod clock;
mod cluster;
mod membership;
mod status;
mod stop;

use std::{
    ffi::OsString,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use emu_kernel::beneath::Folder;

pub use clock::Offset;
pub use cluster::ClusterState;
pub use membership::Membership;
pub use status::{HostStatus, Phase};
pub use stop::{StopCause, StopReason};

/// Folder of the status files, below the folder of results.
pub const FOLDER: &str = "meet";

/// Why the hosts could not run together.
#[derive(Debug, thiserror::Error)]
pub enum RendezvousError {
    #[error("{what}: {source}")]
    System { what: String, source: io::Error },
    /// The status file of this rank exists already.
    #[error(
        "{} is there already: an earlier run, or host {rank} was started twice; \
         name another folder with --out", path.display()
    )]
    RankTaken {
        rank: usize,
        /// The status file.
        path: PathBuf,
    },
    /// Some hosts have not reached a state in time.
    #[error(
        "{} {} not {state} within {} s; do all hosts share {}?",
        names(missing), if missing.len() == 1 { "is" } else { "are" }, within.as_secs(), folder.display()
    )]
    Missing {
        /// Names of the hosts.
        missing: Vec<String>,
        /// The state, as a past participle or adverb for the message.
        state: &'static str,
        /// The time limit.
        within: Duration,
        /// The shared folder.
        folder: PathBuf,
    },
    /// Another host failed.
    #[error("{host}: {error}")]
    Failed { host: String, error: String },
    /// Hosts were lost before the start.
    #[error("{} before the start", stop::missed_heartbeats(lost))]
    Lost {
        /// Names of the hosts.
        lost: Vec<String>,
    },
    /// The run stops for another reason.
    #[error("{0}")]
    Stopped(StopReason),
    /// Two hosts have different inputs.
    #[error("{host} runs {what} than {other}")]
    Different {
        host: String,
        /// What differs, as the middle of the message.
        what: &'static str,
        other: String,
    },
}

impl RendezvousError {
    fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| RendezvousError::System { what, source }
    }
}

/// Joins at most ten names with commas.
fn names(names: &[String]) -> String {
    const MOST: usize = 10;
    let shown = names[..names.len().min(MOST)].join(", ");
    match names.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Reaction to the loss of a host during the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnLoss {
    /// The other hosts stop.
    #[default]
    End,
    /// The other hosts go on, and the results name the lost host and the time of the loss.
    Mark,
}

#[derive(Debug, Clone)]
pub struct RendezvousConfig {
    /// The shared folder, which is the folder of results.
    pub folder: PathBuf,
    /// Rank of this host, from 0.
    pub rank: usize,
    /// Names of all hosts, by rank.
    pub names: Vec<String>,
    /// Digest of the inputs that must be equal on all hosts: experiment and topology.
    pub digest: String,
    pub on_loss: OnLoss,
    /// Time limit for the other hosts to join, and then to load.
    pub within: Duration,
    /// A host is lost if its heartbeat does not change for this time.
    pub lost_after: Duration,
}

/// What this host publishes during the run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalStatus {
    /// Programs of which all local processes are ready, by their index in the experiment.
    pub ready: Vec<usize>,
    /// Number of local processes that have failed.
    pub failed: usize,
    /// Whether the run is over for the local processes.
    pub over: bool,
    /// Why this host stops the run, which stops it on all hosts.
    pub stop: Option<StopCause>,
}

/// What a host publishes when it joins.
#[derive(Debug, Clone, Default)]
pub struct JoinInfo {
    /// Number of programs of the experiment.
    pub programs: usize,
    pub seed: u64,
    /// Interface towards the other hosts.
    pub interface: String,
    /// Addresses of that interface.
    pub addresses: Vec<IpAddr>,
}

/// What a host knows about the whole run.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// Programs that are ready on every live host.
    pub ready: Vec<usize>,
    /// Number of processes that have failed, on all hosts.
    pub failed: usize,
    pub over: bool,
    /// Names of the lost hosts.
    pub lost: Vec<String>,
    /// Why all hosts must stop.
    pub stop: Option<StopReason>,
}

/// Folder of a host's own results, below the shared folder.
pub fn results_of(host: &str) -> PathBuf {
    Path::new("hosts").join(host)
}

fn unix_ns(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
}

/// The last status of every host in a folder, by rank.
pub fn statuses(shared: &Folder) -> Vec<HostStatus> {
    let Ok(status_folder) = shared.folder(FOLDER) else {
        return Vec::new();
    };
    // The list comes from the folder, not from a status: a damaged status may claim any
    // number of hosts.
    let entries = status_folder.entries().unwrap_or_default();
    let number = |name: &OsString| name.to_str()?.strip_suffix(".json")?.parse().ok();
    let mut ranks: Vec<usize> = entries
        .iter()
        .filter_map(|(name, _)| number(name))
        .collect();
    ranks.sort_unstable();
    let found = ranks
        .into_iter()
        .map(|rank| HostStatus::read(&status_folder, rank));
    found.flatten().collect()
}
