//! One process of the schedule while the run lasts.
use std::{
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use emu_kernel::cohort::Place;

use super::{gate::ProcessId, record::Cause};

/// What is to be done with a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
    /// Start a session.
    Start,
    /// End a session.
    End,
    /// Send SIGKILL if this session's program still runs.
    Kill(usize),
}

/// Something to do at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub at: Instant,
    /// Of two at once, the one that was planned first.
    pub order: u64,
    pub process: ProcessId,
    pub action: Action,
}

impl Ord for Due {
    /// The earliest is the greatest, as a heap wants it.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What is still to come, the earliest first.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    heap: BinaryHeap<Due>,
    planned: u64,
}

impl Agenda {
    pub fn plan(&mut self, at: Instant, process: ProcessId, action: Action) {
        self.heap.push(Due {
            at,
            order: self.planned,
            process,
            action,
        });
        self.planned += 1;
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|due| due.at)
    }

    /// The next one that is due by now.
    pub fn pop(&mut self, now: Instant) -> Option<Due> {
        self.next().filter(|at| *at <= now)?;
        self.heap.pop()
    }

    pub fn clear(&mut self) {
        self.heap.clear();
    }
}

/// A program that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub pid: i32,
    pub planned: Instant,
    pub started: Instant,
    /// Why it is about to end, once it is.
    pub cause: Option<Cause>,
    /// Whether SIGKILL had to help.
    pub killed: bool,
}

/// One process of the schedule.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Its cgroup while it runs.
    pub place: Option<Place>,
    /// Processor time of its sessions that are over.
    pub cpu_past: Duration,
    /// What its times count from.
    pub base: Option<Instant>,
    /// Index of the session that is under way or comes next.
    pub session: usize,
    pub running: Option<Running>,
    /// Sessions that were started.
    pub starts: usize,
    /// Whether it keeps its vnode dark.
    pub dark: bool,
    /// Start again as soon as the program has gone.
    pub again: bool,
    /// Whether nothing more comes of it.
    pub finished: bool,
    pub failed: bool,
    /// Whether it ran when the run was over.
    pub cut_short: bool,
    /// Files that were collected so far, for each pattern.
    pub collected: Vec<usize>,
}

impl Slot {
    /// Files were collected, so many for each pattern.
    pub fn has_collected(&mut self, counts: &[usize]) {
        self.collected.resize(counts.len(), 0);
        for (sum, count) in self.collected.iter_mut().zip(counts) {
            *sum += count;
        }
    }

    /// Processor time of all its sessions.
    pub fn cpu(&self) -> Duration {
        let now = self.place.as_ref().and_then(Place::cpu);
        self.cpu_past + now.unwrap_or_default()
    }
}
