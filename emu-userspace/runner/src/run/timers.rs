//! The queue of the timers of processes.
use std::{collections::BinaryHeap, time::Instant};

use super::gate::ProcessId;

/// What a timer does to its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Action {
    Start,
    End,
    /// Send SIGKILL if the program of this start is still running.
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
