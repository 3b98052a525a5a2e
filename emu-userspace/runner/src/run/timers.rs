//! The state of one process of the schedule, and the queue of its timers.
use std::{
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use emu_kernel::run_cgroup::ProcessCgroup;

use super::{gate::ProcessId, record::Cause};

/// What a timer does to its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
    Start,
    End,
    /// Send SIGKILL if the program of this session is still running.
    Kill(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Timer {
    pub at: Instant,
    /// Among timers of the same time, the first that was scheduled runs first.
    pub order: u64,
    pub process: ProcessId,
    pub action: Action,
}

impl Ord for Timer {
    /// The earliest timer is the greatest, since the heap pops the greatest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The timers, earliest first.
#[derive(Debug, Default)]
pub(super) struct TimerQueue {
    heap: BinaryHeap<Timer>,
    planned: u64,
}

impl TimerQueue {
    pub fn schedule(&mut self, at: Instant, process: ProcessId, action: Action) {
        self.heap.push(Timer {
            at,
            order: self.planned,
            process,
            action,
        });
        self.planned += 1;
    }

    /// Due time of the next timer.
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|due| due.at)
    }

    /// Removes the next timer if it is due.
    pub fn pop(&mut self, now: Instant) -> Option<Timer> {
        self.next().filter(|at| *at <= now)?;
        self.heap.pop()
    }

    pub fn clear(&mut self) {
        self.heap.clear();
    }
}

#[derive(Debug)]
pub(super) struct Running {
    pub pid: i32,
    pub planned: Instant,
    pub started: Instant,
    /// Why it is being ended.
    pub cause: Option<Cause>,
    /// Whether it got SIGKILL.
    pub killed: bool,
}

/// The state of one process of the schedule.
#[derive(Debug, Default)]
pub(super) struct ProcessState {
    /// The cgroup of the running program.
    pub cgroup: Option<ProcessCgroup>,
    /// CPU time of past sessions.
    pub cpu_past: Duration,
    /// Time origin of this process's session offsets.
    pub base: Option<Instant>,
    /// Index of the current or next session.
    pub session: usize,
    pub running: Option<Running>,
    /// Number of sessions that were started.
    pub starts: usize,
    /// Whether the process keeps its vnode disconnected.
    pub dark: bool,
    /// Whether to start again as soon as the program has ended.
    pub again: bool,
    /// Whether no further session follows.
    pub finished: bool,
    pub failed: bool,
    /// Whether it was running at the end of the run.
    pub cut_short: bool,
    /// Number of collected files, for each pattern.
    pub collected: Vec<usize>,
}

impl ProcessState {
    /// Adds to the number of collected files, for each pattern.
    pub fn has_collected(&mut self, counts: &[usize]) {
        self.collected.resize(counts.len(), 0);
        for (sum, count) in self.collected.iter_mut().zip(counts) {
            *sum += count;
        }
    }

    /// CPU time of all sessions.
    pub fn cpu(&self) -> Duration {
        let now = self.cgroup.as_ref().and_then(ProcessCgroup::cpu);
        self.cpu_past + now.unwrap_or_default()
    }
}
