//! Runs an experiment: loads its topology, starts and stops its programs as vnodes according
//! to the schedule, and records what happened.
//!
//! [`emu_model::experiment`] decides what happens and when. All processes are below one
//! cgroup; if this process dies, a guardian kills them.
mod counters;
mod digest;
mod ending;
mod environment;
mod files;
mod gate;
mod guardian;
mod input;
mod life;
mod limits;
mod multi_host;
mod network;
mod outputs;
mod process;
mod record;
mod release;
pub mod shares;
mod signals;
mod start;
mod summary;
mod supervisor;
mod timers;

use std::{
    ffi::OsString,
    io,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use emu_kernel::{
    cgroup::CgroupError,
    clock::Stopwatch,
    identity::IdentityError,
    live::LiveError,
    netlink::NetlinkError,
    session::SessionError,
    user::{self, Person, UserError},
};
use emu_model::{
    ErrorKind,
    experiment::{Clock, Schedule, ScheduleError},
    topology::TopologyErrors,
};

pub use guardian::guard;
pub use input::Input;
pub use multi_host::{HostGroup, RunOutcome, together};
pub use summary::{EndReason, Failure, Summary};

use crate::{
    rendezvous::{self, Membership, RendezvousError},
    results::MergeError,
};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    File(#[from] Box<TopologyErrors>),
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Identity(#[from] Box<IdentityError>),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Live(#[from] Box<LiveError>),
    #[error("{what}: {source}")]
    System { what: String, source: io::Error },
    #[error(transparent)]
    User(#[from] UserError),
    #[error(
        "another topology is loaded ({loaded}) than that of the experiment ({wanted}); \
         `emu unload` it first, or say `topology: loaded`"
    )]
    OtherLoaded { loaded: String, wanted: String },
    /// Nothing is loaded, and the options forbid loading.
    #[error("nothing is loaded in this network namespace, and --no-load forbids to load {0}")]
    NotLoaded(String),
    /// The folder of results is not empty.
    #[error("{} exists and is not empty; choose another folder with --out", .0.display())]
    Exists(PathBuf),
    #[error("{program}: no program `{name}` on this machine; install it, or give its path")]
    NoProgram {
        /// Name in the experiment.
        program: String,
        /// Name or path of the executable.
        name: String,
    },
    /// Without a seed in a file, each host would choose its own.
    #[error(
        "the topology has {0} hosts: give the experiment a `seed`, so that all of them follow one schedule"
    )]
    NoSeed(usize),
    /// The machine does not have the controllers in version 2 of the cgroup tree.
    #[error(
        "`limits` need the controllers {} in the cgroup tree of version 2, which this machine \
         does not have there (`cat /proc/cgroups`); --no-limits runs without them",
        .0.join(" and ")
    )]
    NoController(Vec<&'static str>),
    #[error(transparent)]
    Rendezvous(#[from] RendezvousError),
    #[error(transparent)]
    Merge(#[from] Box<MergeError>),
    #[error(transparent)]
    Netlink(#[from] Box<NetlinkError>),
    #[error(
        "this host has no interface {name:?}, which is to lead to the other hosts; `ip link` lists them"
    )]
    NoInterface { name: String },
    /// Several interfaces, or none, may lead to the other hosts.
    #[error(
        "which interface leads to the other hosts? {}; say --interface NAME, or `hosts` in the topology",
        if names.is_empty() { "none has an address".to_owned() } else { format!("{} have addresses", names.join(", ")) }
    )]
    WhichInterface {
        /// Those with addresses.
        names: Vec<String>,
    },
    /// The clock is not the one that is asked for.
    #[error(
        "{wanted} is asked for, and the clock here is {here}; a VM has both: cargo xtask run \
         --{wanted_flag} -- run EXPERIMENT"
    )]
    Clock {
        /// The clock that is asked for.
        wanted: &'static str,
        /// Its option.
        wanted_flag: &'static str,
        /// The clock that this system has.
        here: &'static str,
    },
    /// The common start is in the past.
    #[error("the start time is {0:?} in the past; give a later --start-at")]
    TooLate(Duration),
}

impl RunError {
    /// Whether the user's files and options or the operation failed.
    pub fn kind(&self) -> ErrorKind {
        match self {
            RunError::File(_)
            | RunError::Schedule(_)
            | RunError::NoSeed(_)
            | RunError::Exists(_) => ErrorKind::Usage,
            RunError::Session(error) => error.kind(),
            RunError::Identity(_)
            | RunError::Cgroup(_)
            | RunError::Live(_)
            | RunError::System { .. }
            | RunError::User(_)
            | RunError::OtherLoaded { .. }
            | RunError::NotLoaded(_)
            | RunError::NoProgram { .. }
            | RunError::NoController(_)
            | RunError::Rendezvous(_)
            | RunError::Merge(_)
            | RunError::Netlink(_)
            | RunError::NoInterface { .. }
            | RunError::WhichInterface { .. }
            | RunError::Clock { .. }
            | RunError::TooLate(_) => ErrorKind::Operation,
        }
    }

    fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| RunError::System { what, source }
    }
}

#[derive(Debug, Clone)]
pub struct RunOptions {
    /// Folder of results.
    pub out: PathBuf,
    /// The host of the topology that this machine is.
    pub host: Option<String>,
    /// Start of the run; `None`: as soon as everything is loaded.
    pub start_at: Option<SystemTime>,
    pub may_load: bool,
    /// Whether limits are enforced.
    pub keep_limits: bool,
    /// Whether the working folders are kept.
    pub keep_work: bool,
    /// User that the programs run as; `None`: the current one.
    pub person: Option<Person>,
    /// The clock that the user asks for; `None`: that of the experiment, or any.
    pub clock: Option<Clock>,
    /// Command that calls [`guard`] with its last argument; `None`: no guardian.
    pub guardian: Option<Vec<OsString>>,
}

/// Progress of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    pub elapsed: Duration,
    /// Number of processes in the schedule.
    pub processes: usize,
    /// Number of processes that have not started yet, or are between two sessions.
    pub waiting: usize,
    pub running: usize,
    /// Number of processes that have ended without failure.
    pub done: usize,
    pub failed: usize,
    pub sent_bits_per_s: f64,
    pub received_bits_per_s: f64,
    /// Packets dropped in pipes since the start.
    pub drops: u64,
}

/// Receives the progress of a run.
pub trait Observer {
    /// Reports an event that is worth a line.
    fn note(&mut self, text: &str);
    /// Reports the progress, a few times per second.
    fn progress(&mut self, progress: &Progress);
}

/// Runs an experiment to completion and writes its results.
///
/// Needs root. Blocks; SIGINT and SIGTERM end the run early and cleanly.
///
/// # Errors
/// Why the run could not start or clean up. A program that fails is not an error; it is in
/// the summary.
pub fn run(
    input: &Input,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<Summary, RunError> {
    run_with(input, options, None, observer)
}

/// Runs the part of this host, as a member of a run on several hosts if there is one.
fn run_with(
    input: &Input,
    options: &RunOptions,
    membership: Option<&Membership>,
    observer: &mut dyn Observer,
) -> Result<Summary, RunError> {
    let schedule = input.schedule(options.host.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::system("set up timers and signals"))?;
    runtime.block_on(run_schedule(
        input, options, &schedule, membership, observer,
    ))
}

/// Fails if the system's clock is not the one that the user asks for.
fn has_clock(wanted: Option<Clock>) -> Result<(), RunError> {
    let is_virtual = emu_kernel::clock::page().is_some();
    let names = |is_virtual| match is_virtual {
        true => ("virtual time", "virtual-time", "an emulated one"),
        false => ("real time", "real-time", "the machine's"),
    };
    match wanted.map(|clock| clock == Clock::Virtual) {
        Some(wants_virtual) if wants_virtual != is_virtual => {
            let (wanted, wanted_flag, _) = names(wants_virtual);
            Err(RunError::Clock {
                wanted,
                wanted_flag,
                here: names(is_virtual).2,
            })
        }
        _ => Ok(()),
    }
}

async fn run_schedule(
    input: &Input,
    options: &RunOptions,
    schedule: &Schedule,
    membership: Option<&Membership>,
    observer: &mut dyn Observer,
) -> Result<Summary, RunError> {
    let begin = SystemTime::now();
    has_clock(options.clock.or(input.experiment.clock))?;
    // From here on signals end the run cleanly; nothing has been changed yet.
    let signals = signals::Signals::new()?;
    let programs = input.programs()?;
    let person = options.person.as_ref();
    let files = match membership {
        Some(membership) => {
            let host = options.host.as_deref().unwrap_or_default();
            let below = rendezvous::results_of(host);
            files::Files::create_in(membership.folder(), &below, person)?
        }
        None => files::Files::create(&options.out, person)?,
    };
    // With the rights of the user who gets the results, since a digest discloses the content
    // of a file.
    let of = || environment::of(input, schedule, &programs);
    let mut environment = user::with_files_of(person, of)?;
    files.inputs(input, schedule, &environment)?;
    let name = std::process::id().to_string();
    let mut guardian = guardian::Guardian::start(options.guardian.as_deref(), &name)?;
    let network = network::Network::ready(input, options, &mut guardian, observer)?;
    let mut summary = Summary::new(input, schedule, begin, &options.out);
    let outcome = {
        let mut supervisor = supervisor::Supervisor::new(supervisor::Parts {
            input,
            options,
            schedule,
            programs: &programs,
            files: &files,
            network: &network,
            membership,
            guardian: &mut guardian,
            observer,
            name: &name,
        })?;
        let stopwatch = Stopwatch::start();
        let outcome = supervisor.run(signals, &mut summary).await;
        summary.virtual_time = stopwatch.map(|watch| watch.elapsed());
        let cleared = supervisor.clear();
        outcome.and(cleared)
    };
    let finished = network.finish();
    if summary.virtual_time.is_some() {
        match files.digest() {
            Ok(digest) => summary.digest = Some(digest),
            Err(error) => summary.warnings.push(format!("no digest: {error}")),
        }
    }
    files.finish(&summary, &mut environment, options.keep_work)?;
    outcome?;
    finished?;
    guardian.dismiss();
    Ok(summary)
}
