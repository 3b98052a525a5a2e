//! What came of a run.
use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use emu_kernel::{clock::VirtualTime, health::Health};
use emu_model::experiment::Schedule;
use serde::Serialize;

use super::{Input, counters::Traffic, shares::Share};

/// Most failures that are told of; all are in `processes.csv`.
const MOST_FAILURES: usize = 20;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// What it was to wait for has happened.
    Complete,
    /// Its time was over.
    Duration,
    /// So many processes failed as the file says.
    Failures,
    /// A signal.
    Interrupted,
    /// Another host had to end it, or was lost.
    Elsewhere,
    /// Programs waited in vain for another to be ready, or emu itself failed.
    Broken,
}

/// A process that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Program.
    pub program: String,
    /// Vnode, as group and index.
    pub vnode: String,
    /// What happened.
    pub what: String,
    /// The last line that it printed as an error.
    pub last_words: Option<String>,
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Name of the experiment.
    pub name: String,
    /// Folder of the results.
    pub folder: PathBuf,
    /// Name of the topology.
    pub topology: String,
    /// Whose part of the schedule it was.
    pub host: Option<String>,
    /// Seed of the schedule.
    pub seed: u64,
    /// When everything was ready to begin, in seconds since 1970.
    pub started_unix_s: f64,
    /// Time before that, for loading and the like.
    pub setup_s: f64,
    /// Time from the start to the first stop.
    pub run_s: f64,
    /// Time that stopping took.
    pub stop_s: f64,
    /// Why it ended.
    pub ended: Why,
    /// Processes of the schedule.
    pub processes: usize,
    /// That ended by themselves without a failure, or were stopped in time.
    pub done: usize,
    /// That failed.
    pub failed: usize,
    /// That still ran when the run was over.
    pub running: usize,
    /// That never started.
    pub not_started: usize,
    /// Programs started, each session counted.
    pub started: usize,
    /// That needed SIGKILL after their grace.
    pub killed: usize,
    /// How much later than planned programs started: the median, in milliseconds.
    pub late_median_ms: f64,
    /// The latest.
    pub late_max_ms: f64,
    /// Processor time of all programs.
    pub cpu_s: f64,
    /// How the vnodes of each program shared the processors.
    pub cpu_shares: Vec<Share>,
    /// What vnodes sent and received.
    pub traffic: Traffic,
    /// How the host kept up.
    pub host_health: Health,
    /// The run in virtual time; `None` where the clock was the machine's.
    pub virtual_time: Option<VirtualTime>,
    /// SHA-256 of what happened in the network (`processes.csv`, `counters.csv`,
    /// `events.csv`): in virtual time with one seed, the same run has the same.
    pub digest: Option<String>,
    /// Files that were collected.
    pub collected: usize,
    /// Failures, the first ones.
    pub failures: Vec<Failure>,
    /// What a reader of the results should know.
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
            ended: Why::Broken,
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

    /// The run begins now.
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

    /// How much later than planned each program started.
    pub(super) fn lateness(&mut self, mut late: Vec<Duration>) {
        late.sort_unstable();
        let ms = |d: Option<&Duration>| d.map_or(0.0, |d| d.as_secs_f64() * 1e3);
        self.late_median_ms = ms(late.get(late.len() / 2));
        self.late_max_ms = ms(late.last());
    }

    /// Whether all went as it should.
    pub fn is_good(&self) -> bool {
        self.failed == 0 && matches!(self.ended, Why::Complete | Why::Duration)
    }
}
