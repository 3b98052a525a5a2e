//! What the HTTP server refuses: counters, and a line in the log that a flood cannot fill.
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Time between two lines in the log about the same reason.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Why a connection or a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(in crate::agent) enum Refusal {
    /// All places were taken: the connection that had waited longest for its request was
    /// closed for a new one.
    Displaced = 0,
    /// All places were taken by connections with requests: the new one was closed.
    Full = 1,
    /// No complete request in time.
    SlowRequest = 2,
    /// The answer was not taken in time.
    SlowReader = 3,
    /// The kernel gave no descriptor.
    NoDescriptor = 4,
    /// As many metrics as may be in memory were being sent.
    ManyScrapes = 5,
    /// No token, or a wrong one.
    Unauthorized = 6,
}

impl Refusal {
    pub const ALL: [Refusal; 7] = [
        Refusal::Displaced,
        Refusal::Full,
        Refusal::SlowRequest,
        Refusal::SlowReader,
        Refusal::NoDescriptor,
        Refusal::ManyScrapes,
        Refusal::Unauthorized,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Refusal::Displaced => "displaced",
            Refusal::Full => "full",
            Refusal::SlowRequest => "slow_request",
            Refusal::SlowReader => "slow_reader",
            Refusal::NoDescriptor => "no_descriptor",
            Refusal::ManyScrapes => "many_scrapes",
            Refusal::Unauthorized => "unauthorized",
        }
    }

    fn text(self) -> &'static str {
        match self {
            Refusal::Displaced => {
                "all connections are in use: closed the one that waited longest for its request"
            }
            Refusal::Full => "all connections are in use: refused a new one",
            Refusal::SlowRequest => "closed a connection that sent no complete request in time",
            Refusal::SlowReader => "closed a connection that did not take its answer in time",
            Refusal::NoDescriptor => "no file descriptor for a new connection",
            Refusal::ManyScrapes => "refused a scrape: too many are being sent",
            Refusal::Unauthorized => "refused a request without the right token",
        }
    }
}

/// Counters of the HTTP server.
#[derive(Debug, Default)]
pub(in crate::agent) struct Refusals {
    counts: [AtomicU64; Refusal::ALL.len()],
    logged: Mutex<[Option<Instant>; Refusal::ALL.len()]>,
    open: AtomicU64,
}

impl Refusals {
    /// Counts a refusal, and logs it if the last line about this reason is old.
    pub fn count(&self, why: Refusal) {
        let so_far = self.counts[why as usize].fetch_add(1, Relaxed) + 1;
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut logged[why as usize];
        if last.is_none_or(|last| last.elapsed() >= LOG_INTERVAL) {
            *last = Some(Instant::now());
            tracing::warn!(reason = why.name(), so_far, "HTTP: {}", why.text());
        }
    }

    pub fn counts(&self) -> [(Refusal, u64); Refusal::ALL.len()] {
        Refusal::ALL.map(|why| (why, self.counts[why as usize].load(Relaxed)))
    }

    pub fn set_open(&self, connections: usize) {
        self.open.store(connections as u64, Relaxed);
    }

    /// Number of open connections.
    pub fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_in_index_order() {
        for (i, why) in Refusal::ALL.iter().enumerate() {
            assert_eq!(*why as usize, i);
        }
    }
}
