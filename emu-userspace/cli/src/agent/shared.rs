//! State shared by the threads of an agent.
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use emu_kernel::session::Loaded;
use serde::Serialize;

use super::server::Refusals;

/// Result of a check of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// The loaded topology matches the file; another agent loaded it.
    Adopted,
    /// Changed in place.
    InPlace,
    /// What somebody had taken away was restored.
    Repaired,
    /// A full reload.
    #[serde(rename = "anew")]
    FullReload,
    /// The file is invalid; the loaded topology stays.
    BadFile,
    /// The kernel rejected the load, or another process held the lock for too long.
    Failed,
}

impl Outcome {
    pub const ALL: [Outcome; 6] = [
        Outcome::Adopted,
        Outcome::InPlace,
        Outcome::Repaired,
        Outcome::FullReload,
        Outcome::BadFile,
        Outcome::Failed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Outcome::Adopted => "adopted",
            Outcome::InPlace => "in_place",
            Outcome::Repaired => "repaired",
            Outcome::FullReload => "anew",
            Outcome::BadFile => "bad_file",
            Outcome::Failed => "failed",
        }
    }

    pub fn is_good(self) -> bool {
        !matches!(self, Outcome::BadFile | Outcome::Failed)
    }
}

/// State of the agent.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// The loaded topology.
    pub loaded: Option<Arc<Loaded>>,
    /// The current problem, if any.
    pub problem: Option<String>,
    /// Objects that somebody took away and that are not yet in place again.
    pub missing: Vec<String>,
    /// Objects that somebody took away since the start.
    pub losses: u64,
    /// Checks that led to a result, by result.
    pub reloads: [u64; Outcome::ALL.len()],
    /// The last result.
    pub last: Option<Outcome>,
    /// Time of the last check after which everything matched the file.
    pub good_at: Option<SystemTime>,
    /// Duration of the last load.
    pub took: Option<Duration>,
    /// Events that have run, and those that failed.
    pub events: [u64; 2],
    /// Delay of the last event.
    pub late: Option<Duration>,
    /// Time origin of the events.
    pub zero: Option<SystemTime>,
    /// Whether the agent is about to end.
    pub stopping: bool,
    /// Whether everybody who reaches the HTTP server can read all of it.
    pub is_open_to_all: bool,
}

/// Content of `/readyz`.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    pub ready: bool,
    pub topology: Option<String>,
    pub host: Option<String>,
    pub vnodes: usize,
    pub problem: Option<String>,
    pub missing: Vec<String>,
    pub last_reload: Option<Outcome>,
    pub events_start_unix_s: Option<f64>,
    pub stopping: bool,
}

/// The facts and the time of the reconciler's last heartbeat.
pub(super) struct Shared {
    /// What the HTTP server refused.
    pub refusals: Arc<Refusals>,
    facts: Mutex<Facts>,
    beat: Mutex<Instant>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            refusals: Arc::default(),
            facts: Mutex::default(),
            beat: Mutex::new(Instant::now()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain data, which is complete even after a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds since 1970.
pub(super) fn unix_s(time: SystemTime) -> f64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    }
}

impl Shared {
    pub fn facts(&self) -> Facts {
        lock(&self.facts).clone()
    }

    /// What is loaded.
    pub fn loaded(&self) -> Option<Arc<Loaded>> {
        lock(&self.facts).loaded.clone()
    }

    pub fn change(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut lock(&self.facts));
    }

    /// Records a heartbeat of the reconciler.
    pub fn heartbeat(&self) {
        *lock(&self.beat) = Instant::now();
    }

    /// Time since the last heartbeat.
    pub fn age(&self) -> Duration {
        lock(&self.beat).elapsed()
    }

    pub fn stopping(&self) {
        self.change(|facts| facts.stopping = true);
    }

    pub fn readiness(&self) -> Readiness {
        let facts = self.facts();
        let loaded = facts.loaded.as_ref();
        Readiness {
            ready: loaded.is_some() && !facts.stopping && facts.missing.is_empty(),
            topology: loaded.map(|l| l.topology.name.to_string()),
            host: loaded.and_then(|l| l.state.host.clone()),
            vnodes: loaded.map_or(0, |l| l.plan.vnodes.len()),
            problem: facts.problem,
            missing: facts.missing,
            last_reload: facts.last,
            events_start_unix_s: facts.zero.map(unix_s),
            stopping: facts.stopping,
        }
    }
}
