//! An experiment: which programs run on which vnodes of a topology, when, and for
//! how long.
//!
//! A file becomes a checked [`Experiment`], and that a [`Schedule`]: every start and
//! stop and every command line, known before anything runs. Nothing here starts
//! anything; that is the business of what runs a schedule.
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

/// Where the topology of an experiment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// The one that is loaded.
    Loaded,
    /// This file.
    File(PathBuf),
}

/// A checked experiment file.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiment {
    /// Name, for people and for the results' folder.
    pub name: Name,
    /// Folder of the file.
    pub folder: PathBuf,
    /// Its topology.
    pub topology: Topology,
    /// Seed of the schedule and of churn; none: the topology's, or another one each
    /// time.
    pub seed: Option<u64>,
    /// Hard stop of the whole run.
    pub duration: Option<Duration>,
    /// Time between two rows of counters; none: no counters.
    pub sample: Option<Duration>,
    /// The clock that it needs; none: any.
    pub clock: Option<Clock>,
    /// Programs in the order of the file.
    pub programs: Vec<Program>,
    /// When the run is over: when all processes of these programs have ended.
    pub until: Vec<usize>,
    /// The run is over when so many processes have failed.
    pub until_failed: Option<usize>,
}

/// Whose time an experiment runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// An emulated clock, which goes on with the work of the VM.
    Virtual,
    /// The machine's.
    Real,
}

/// A program and where it runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// Name, unique in the file.
    pub name: Name,
    /// Vnodes that it runs on, one process on each.
    pub vnodes: Vec<Vnode>,
    /// Program and arguments.
    pub argv: Vec<Template>,
    /// Further environment.
    pub env: Vec<(String, Template)>,
    /// When its processes start.
    pub start: Start,
    /// What later programs wait for.
    pub ready: Option<Ready>,
    /// How long each process runs at most.
    pub lasts: Option<Duration>,
    /// How it is stopped.
    pub stop: Stop,
    /// What it may use.
    pub limits: Limits,
    /// Leaving and coming back.
    pub churn: Option<Churn>,
    /// Patterns of files in the working folder that are results.
    pub collect: Vec<String>,
    /// Whether the run goes on without it.
    pub background: bool,
}

/// When a process is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The sign.
    pub sign: Sign,
    /// How long to wait for it.
    pub within: Duration,
}

/// The sign that a process is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It listens on this TCP port.
    Tcp(u16),
    /// It has this UDP port.
    Udp(u16),
    /// It has run for so long.
    After(Duration),
    /// It has ended without a failure.
    Exited,
}

/// How a program is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// First this signal,
    pub signal: Signal,
    /// and after so long SIGKILL.
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
    /// All, with their names.
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

/// What a process and all that it starts may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Memory; beyond it the kernel kills.
    pub memory_bytes: Option<u64>,
    /// Share of a busy CPU, where others have 100.
    pub cpu_weight: Option<u16>,
}

impl Limits {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Leaving and coming back.
#[derive(Debug, Clone, PartialEq)]
pub struct Churn {
    /// How long a session lasts.
    pub up: Lengths,
    /// How long until the next one; none: it does not come back.
    pub down: Option<Lengths>,
    /// How it leaves.
    pub leave: Leave,
    /// Whether its working folder is still there when it comes back.
    pub keep_state: bool,
}

/// How a vnode leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// It is asked to stop, as at the end of the run.
    Term,
    /// SIGKILL: the kernel still says goodbye, by FIN or RST.
    Kill,
    /// The network goes dark, then SIGKILL: nobody hears of it.
    Dark,
    /// The network goes dark and the program runs on.
    Unplug,
}

impl Leave {
    /// All, with their names.
    pub const ALL: [(&'static str, Leave); 4] = [
        ("term", Leave::Term),
        ("kill", Leave::Kill),
        ("dark", Leave::Dark),
        ("unplug", Leave::Unplug),
    ];

    /// Whether the network of the vnode goes dark.
    pub const fn is_dark(self) -> bool {
        matches!(self, Leave::Dark | Leave::Unplug)
    }
}

impl Experiment {
    /// The program with a name.
    pub fn program(&self, name: &str) -> Option<usize> {
        self.programs.iter().position(|p| p.name == name)
    }

    /// Folder of the experiment's file as a word.
    pub fn here(&self) -> String {
        absolute(&self.folder).display().to_string()
    }
}

/// The path from the root.
fn absolute(path: &Path) -> PathBuf {
    path.canonicalize()
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}
