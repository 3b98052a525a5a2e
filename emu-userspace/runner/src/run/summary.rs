//! The summary of a run.
use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use emu_kernel::{clock::VirtualTime, health::Health};
use emu_model::experiment::Schedule;
use serde::Serialize;

use super::{Input, counters::Traffic, shares::Share};

/// Largest number of failures in the summary; all are in `processes.csv`.
const MOST_FAILURES: usize = 20;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// All programs that the run waits for have ended.
    Complete,
    /// The duration of the experiment was over.
    Duration,
    /// The number of failed processes reached `until: failed`.
    Failures,
    /// The run received a signal.
    Interrupted,
    /// Another host ended the run, or was lost.
    Elsewhere,
    /// A program that others wait for did not become ready, or emu itself failed.
    Broken,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub program: String,
    /// The vnode, as group and index.
    pub vnode: String,
    pub what: String,
    /// The last line that it wrote to standard error.
    pub last_words: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Name of the experiment.
    pub name: String,
    /// Folder of the results.
    pub folder: PathBuf,
    /// Name of the topology.
    pub topology: String,
    /// The host whose part of the schedule this is.
    pub host: Option<String>,
    /// Seed of the schedule.
    pub seed: u64,
    /// Start of the run, in seconds since 1970.
    pub started_unix_s: f64,
    /// Time for loading and other preparation, before the start.
    pub setup_s: f64,
    /// Time from the start to the first stop.
    pub run_s: f64,
    /// Time for stopping all programs.
    pub stop_s: f64,
    pub ended: EndReason,
    /// Number of processes in the schedule.
    pub processes: usize,
    /// Processes that ended by themselves without a failure, or were stopped on schedule.
    pub done: usize,
    pub failed: usize,
    /// Processes that were still running at the end of the run.
    pub running: usize,
    pub not_started: usize,
    /// Number of program starts, one per session.
    pub started: usize,
    /// Processes that needed SIGKILL after the grace period.
    pub killed: usize,
    /// Delay of program starts against the schedule: median.
    pub late_median_ms: f64,
    /// Delay of program starts against the schedule: maximum.
    pub late_max_ms: f64,
    /// CPU time of all programs.
    pub cpu_s: f64,
    /// Shares of the processors, per program.
    pub cpu_shares: Vec<Share>,
    pub traffic: Traffic,
    /// Whether the host kept up.
    pub host_health: Health,
    /// Facts about the virtual time; `None` in real time.
    pub virtual_time: Option<VirtualTime>,
    /// SHA-256 of `processes.csv`, `counters.csv` and `events.csv`: in virtual time, two runs
    /// with the same seed have the same digest.
    pub digest: Option<String>,
    /// Number of collected files.
    pub collected: usize,
    /// The first failures.
    pub failures: Vec<Failure>,
    /// Warnings for the reader of the results.
    pub warnings: Vec<String>,
    #[serde(skip)]
    begin: SystemTime,
}

impl Summary {
    pub(super) fn new(input: &Input, schedule: &Schedule, begin: SystemTime, out: &Path) -> Self {
        Self {
            name: schedule.name.clone(),
            folder: out.to_owned(),
            topology: schedule.topology.clone(),
            host: schedule.host.clone(),
            seed: input.seed,
            started_unix_s: 0.0,
            setup_s: 0.0,
            run_s: 0.0,
            stop_s: 0.0,
            ended: EndReason::Broken,
            processes: schedule.processes.len(),
            done: 0,
            failed: 0,
            running: 0,
            not_started: 0,
            started: 0,
            killed: 0,
            late_median_ms: 0.0,
            late_max_ms: 0.0,
            cpu_s: 0.0,
            cpu_shares: Vec::new(),
            traffic: Traffic::default(),
            host_health: Health::default(),
            virtual_time: None,
            digest: None,
            collected: 0,
            failures: Vec::new(),
            warnings: Vec::new(),
            begin,
        }
    }

    /// Records the start of the run.
    pub(super) fn start(&mut self) {
        let now = SystemTime::now();
        let since = |then| now.duration_since(then).unwrap_or(Duration::ZERO);
        self.started_unix_s = since(UNIX_EPOCH).as_secs_f64();
        self.setup_s = since(self.begin).as_secs_f64();
    }

    pub(super) fn failure(&mut self, failure: Failure) {
        if self.failures.len() < MOST_FAILURES {
            self.failures.push(failure);
        }
    }

    /// Computes the statistics of the start delays.
    pub(super) fn lateness(&mut self, mut late: Vec<Duration>) {
        late.sort_unstable();
        let ms = |d: Option<&Duration>| d.map_or(0.0, |d| d.as_secs_f64() * 1e3);
        self.late_median_ms = ms(late.get(late.len() / 2));
        self.late_max_ms = ms(late.last());
    }

    /// Whether no process failed and the run was not aborted.
    pub fn is_good(&self) -> bool {
        self.failed == 0 && matches!(self.ended, EndReason::Complete | EndReason::Duration)
    }
}
