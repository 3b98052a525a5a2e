//! What the parts of an agent know of each other.
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use emu_kernel::session::Loaded;
use serde::Serialize;

/// How a look at the file ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// What is loaded is what the file asks for; another agent loaded it.
    Adopted,
    /// Changed in place.
    InPlace,
    /// What somebody had taken away was put back.
    Repaired,
    /// Loaded from anew.
    Anew,
    /// The file is bad; what was loaded stays.
    BadFile,
    /// The kernel refused, or another process was at work for too long.
    Failed,
}

impl Outcome {
    pub const ALL: [Outcome; 6] = [
        Outcome::Adopted,
        Outcome::InPlace,
        Outcome::Repaired,
        Outcome::Anew,
        Outcome::BadFile,
        Outcome::Failed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Outcome::Adopted => "adopted",
            Outcome::InPlace => "in_place",
            Outcome::Repaired => "repaired",
            Outcome::Anew => "anew",
            Outcome::BadFile => "bad_file",
            Outcome::Failed => "failed",
        }
    }

    pub fn is_good(self) -> bool {
        !matches!(self, Outcome::BadFile | Outcome::Failed)
    }
}

/// The agent's own figures.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// What is loaded, as the keeper found or made it.
    pub loaded: Option<Arc<Loaded>>,
    /// What is wrong, if anything.
    pub problem: Option<String>,
    /// Objects that somebody took away and that are not yet in place again.
    pub missing: Vec<String>,
    /// Objects that somebody took away since the start.
    pub losses: u64,
    /// Looks at the file that led to something, by outcome.
    pub reloads: [u64; Outcome::ALL.len()],
    /// The last of them.
    pub last: Option<Outcome>,
    /// When a look last found or made everything as the file asks.
    pub good_at: Option<SystemTime>,
    /// How long the last load took.
    pub took: Option<Duration>,
    /// Events that happened, and those that failed.
    pub events: [u64; 2],
    /// How late the last event was.
    pub late: Option<Duration>,
    /// When events began or begin.
    pub zero: Option<SystemTime>,
    /// Whether the agent is about to end.
    pub stopping: bool,
}

/// What `/readyz` says.
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

/// Facts and the time of the keeper's last sign of life.
pub(super) struct Shared {
    facts: Mutex<Facts>,
    beat: Mutex<Instant>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            facts: Mutex::default(),
            beat: Mutex::new(Instant::now()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain data: whoever panicked left it whole.
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

    /// The keeper lives.
    pub fn beat(&self) {
        *lock(&self.beat) = Instant::now();
    }

    /// Time since its last sign of life.
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
