//! Experiments: which programs run on which vnodes of a topology, when, and for how long.
//!
//! A file becomes a checked [`Experiment`], and that a [`Schedule`]: all starts, stops and
//! command lines, known before the run. Nothing here starts a program; the crate `emu-runner`
//! does.
mod lengths;
mod random;
mod read;
mod schedule;
mod schema;
mod select;
mod start;
mod template;

use crate::name::Name;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

pub use lengths::Lengths;
pub use random::Stream;
pub use read::{Find, looks_like_one, parse, reference};
pub use schedule::{Process, Schedule, ScheduleError, Session, Slice};
pub use schema::json_schema;
pub use select::Vnode;
pub use start::Start;
pub use template::{Template, Values};

use crate::topology::Topology;

#[cfg(test)]
mod tests;

/// Where the topology of an experiment comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// The loaded topology.
    Loaded,
    /// A file.
    File(PathBuf),
}

/// A checked experiment file.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    /// Name, for users and for the folder of results.
    pub name: Name,
    /// Folder of the file.
    pub folder: PathBuf,
    /// Its topology.
    pub topology: Topology,
    /// Seed of the schedule and of churn; `None`: that of the topology, or a new one for each
    /// run.
    pub seed: Option<u64>,
    /// Time limit of the whole run.
    pub duration: Option<Duration>,
    /// Time between two rows of counters; `None`: no counters.
    pub sample: Option<Duration>,
    /// The clock that the experiment needs; `None`: any.
    pub clock: Option<Clock>,
    /// Programs in the order of the file.
    pub programs: Vec<Program>,
    /// The run is over when all processes of these programs have ended.
    pub until: Vec<usize>,
    /// The run is over when this number of processes have failed.
    pub until_failed: Option<usize>,
}

/// The clock of an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// An emulated clock, which advances with the work of the VM.
    Virtual,
    /// The machine's clock.
    Real,
}

/// A program and the vnodes that run it.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// Name, unique in the file.
    pub name: Name,
    /// Vnodes of the program, with one process on each.
    pub vnodes: Vec<Vnode>,
    /// Program and arguments.
    pub argv: Vec<Template>,
    /// Additional environment variables.
    pub env: Vec<(String, Template)>,
    /// When its processes start.
    pub start: Start,
    /// The condition that later programs wait for.
    pub ready: Option<Ready>,
    /// Longest time that each process runs.
    pub lasts: Option<Duration>,
    /// How it is stopped.
    pub stop: Stop,
    /// Its resource limits.
    pub limits: Limits,
    /// Alternating sessions and down times.
    pub churn: Option<Churn>,
    /// Patterns of files in the working folder that belong to the results.
    pub collect: Vec<String>,
    /// Whether the end of the run does not depend on it.
    pub background: bool,
}

/// When a process is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The condition.
    pub sign: Sign,
    /// Longest wait for it.
    pub within: Duration,
}

/// The condition under which a process is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It listens on this TCP port.
    Tcp(u16),
    /// It has bound this UDP port.
    Udp(u16),
    /// It has run for this time.
    After(Duration),
    /// It has ended without a failure.
    Exited,
}

/// How a program is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// The first signal.
    pub signal: Signal,
    /// Time from the signal to SIGKILL.
    pub grace: Duration,
}

/// A signal that stops programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum Signal {
    Hup,
    Int,
    Quit,
    Term,
    Kill,
    Usr1,
    Usr2,
}

impl Signal {
    /// All signals, with their names.
    pub const ALL: [(&'static str, Signal); 7] = [
        ("HUP", Signal::Hup),
        ("INT", Signal::Int),
        ("QUIT", Signal::Quit),
        ("TERM", Signal::Term),
        ("KILL", Signal::Kill),
        ("USR1", Signal::Usr1),
        ("USR2", Signal::Usr2),
    ];
}

impl Default for Stop {
    fn default() -> Self {
        Self {
            signal: Signal::Term,
            grace: Duration::from_secs(5),
        }
    }
}

/// Resource limits of a process and its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Memory limit, at which the kernel kills the processes.
    pub memory_bytes: Option<u64>,
    /// CPU weight; the default of others is 100.
    pub cpu_weight: Option<u16>,
}

impl Limits {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Alternating sessions and down times.
#[derive(Debug, Clone, PartialEq)]
pub struct Churn {
    /// Length of a session.
    pub up: Lengths,
    /// Time until the next session; `None`: there is none.
    pub down: Option<Lengths>,
    /// How a session ends.
    pub leave: Leave,
    /// Whether the working folder is kept for the next session.
    pub keep_state: bool,
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// With the stop signal, as at the end of the run.
    Term,
    /// With SIGKILL: the kernel still closes connections with FIN or RST.
    Kill,
    /// The vnode is disconnected, then the process gets SIGKILL: its peers receive nothing.
    Dark,
    /// The vnode is disconnected, and the process keeps running.
    Unplug,
}

impl Leave {
    /// All ways, with their names.
    pub const ALL: [(&'static str, Leave); 4] = [
        ("term", Leave::Term),
        ("kill", Leave::Kill),
        ("dark", Leave::Dark),
        ("unplug", Leave::Unplug),
    ];

    /// Whether the vnode is disconnected.
    pub const fn is_dark(self) -> bool {
        matches!(self, Leave::Dark | Leave::Unplug)
    }
}

impl Experiment {
    /// The program with a name.
    pub fn program(&self, name: &str) -> Option<usize> {
        self.programs.iter().position(|p| p.name == name)
    }

    /// Folder of the experiment's file as text.
    pub fn here(&self) -> String {
        absolute(&self.folder).display().to_string()
    }
}

/// The path as an absolute path.
fn absolute(path: &Path) -> PathBuf {
    path.canonicalize()
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}
