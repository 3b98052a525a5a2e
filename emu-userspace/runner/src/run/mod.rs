//! Running an experiment: loads its topology, starts its programs as vnodes when the
//! schedule says so, stops them, and writes down what happened.
//!
//! What is to happen is decided in [`emu_model::experiment`]; here it is done. All
//! processes are below one cgroup, which a guardian empties should this process die.
mod counters;
mod digest;
mod environment;
mod files;
mod gate;
mod guardian;
mod input;
mod limits;
mod network;
mod outputs;
mod process;
mod record;
pub mod shares;
mod slot;
mod summary;
mod supervisor;
mod together;

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
    experiment::{Clock, Schedule, ScheduleError},
    topology::TopologyErrors,
};

pub use guardian::guard;
pub use input::Input;
pub use summary::{Failure, Summary, Why};
pub use together::{Company, Ending, together};

use crate::{
    rendezvous::{self, Fleet, FleetError},
    results::MergeError,
};

/// What kept a run from its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The experiment's or the topology's file.
    #[error(transparent)]
    File(#[from] Box<TopologyErrors>),
    /// The schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// Loading, finding or unloading.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Cgroups and hooks.
    #[error(transparent)]
    Identity(#[from] Box<IdentityError>),
    /// Cgroups of the run.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Changes of the network while it runs.
    #[error(transparent)]
    Live(#[from] Box<LiveError>),
    /// A file or another thing of the system.
    #[error("{what}: {source}")]
    System {
        /// Operation and object.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Taking on the rights of a user.
    #[error(transparent)]
    User(#[from] UserError),
    /// Something else is loaded.
    #[error(
        "another topology is loaded ({loaded}) than that of the experiment ({wanted}); \
         `emu unload` it first, or say `topology: loaded`"
    )]
    OtherLoaded {
        /// What is loaded.
        loaded: String,
        /// What was to be.
        wanted: String,
    },
    /// Nothing is loaded and nothing may be.
    #[error("nothing is loaded in this network namespace, and --no-load forbids to load {0}")]
    NotLoaded(String),
    /// The results have a place where others are.
    #[error("{} is there already and not empty; name another folder with --out", .0.display())]
    Exists(PathBuf),
    /// A program is not on this machine.
    #[error("{program}: there is no program `{name}` here; install it, or give its path")]
    NoProgram {
        /// Name in the experiment.
        program: String,
        /// What was looked for.
        name: String,
    },
    /// Hosts that would each choose a seed.
    #[error(
        "the topology has {0} hosts: give the experiment a `seed`, so that all of them follow one schedule"
    )]
    NoSeed(usize),
    /// The machine cannot keep limits.
    #[error(
        "`limits` need the controllers {} in the cgroup tree of version 2, which this machine \
         does not have there (`cat /proc/cgroups`); --no-limits runs without them",
        .0.join(" and ")
    )]
    NoController(Vec<&'static str>),
    /// The other hosts of the run.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// Their results.
    #[error(transparent)]
    Merge(#[from] Box<MergeError>),
    /// Looking at interfaces and addresses.
    #[error(transparent)]
    Netlink(#[from] Box<NetlinkError>),
    /// The interface towards the other hosts is not there.
    #[error("there is no interface {name:?} here towards the other hosts; `ip link` lists them")]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// The interface towards the other hosts is not clear.
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
    /// The common start is over.
    #[error("the start is {0:?} ago")]
    TooLate(Duration),
}

impl RunError {
    fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        |source| RunError::System { what, source }
    }
}

/// How to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder of the results.
    pub out: PathBuf,
    /// Which of the topology's hosts this is.
    pub host: Option<String>,
    /// When the run starts; none: as soon as everything is there.
    pub start_at: Option<SystemTime>,
    /// Whether the topology may be loaded.
    pub may_load: bool,
    /// Whether limits are kept, or passed over.
    pub keep_limits: bool,
    /// Whether working folders stay.
    pub keep_work: bool,
    /// Who the programs run as; none: as we are.
    pub person: Option<Person>,
    /// The clock that is asked for, if the experiment does not say; none: any.
    pub clock: Option<Clock>,
    /// Command that calls [`guard`] with its last argument; none: no guardian.
    pub guardian: Option<Vec<OsString>>,
}

/// How a run stands.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Time since the start.
    pub elapsed: Duration,
    /// Processes of the schedule.
    pub processes: usize,
    /// That have not started yet, or are between two sessions.
    pub waiting: usize,
    /// That run.
    pub running: usize,
    /// That have ended well.
    pub done: usize,
    /// That have failed.
    pub failed: usize,
    /// What vnodes send, in bits per second.
    pub sent_bits_per_s: f64,
    /// What they receive, in bits per second.
    pub received_bits_per_s: f64,
    /// Packets that were dropped on their lines since the start.
    pub drops: u64,
}

/// Who watches a run.
pub trait Observer {
    /// Something worth a line.
    fn note(&mut self, words: &str);
    /// How it stands, a few times each second.
    fn progress(&mut self, progress: &Progress);
}

/// Runs an experiment to its end and writes its results.
///
/// Needs root. Blocks; SIGINT and SIGTERM end it early, and cleanly.
///
/// # Errors
/// [`RunError`]: what kept it from starting, or from cleaning up. Programs that fail
/// are no errors; they are in the summary.
pub fn run(
    input: &Input,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Summary, RunError> {
    run_with(input, options, None, observer)
}

/// The same, together with other hosts.
fn run_with(
    input: &Input,
    options: &Options,
    fleet: Option<&Fleet>,
    observer: &mut dyn Observer,
) -> Result<Summary, RunError> {
    let schedule = input.schedule(options.host.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::system("set up timers and signals"))?;
    runtime.block_on(whole(input, options, &schedule, fleet, observer))
}

/// Fails where the clock is not the one that is asked for.
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

async fn whole(
    input: &Input,
    options: &Options,
    schedule: &Schedule,
    fleet: Option<&Fleet>,
    observer: &mut dyn Observer,
) -> Result<Summary, RunError> {
    let begin = SystemTime::now();
    has_clock(options.clock.or(input.experiment.clock))?;
    // Signals are ours from here on: nothing has been changed yet.
    let signals = supervisor::Signals::new()?;
    let programs = input.programs()?;
    let person = options.person.as_ref();
    let files = match fleet {
        Some(fleet) => {
            let host = options.host.as_deref().unwrap_or_default();
            let below = rendezvous::results_of(host);
            files::Files::create_in(fleet.folder(), &below, person)?
        }
        None => files::Files::create(&options.out, person)?,
    };
    // With the rights of whoever gets the results: the digest of a file tells of it.
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
            fleet,
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
