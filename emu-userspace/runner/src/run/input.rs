//! The inputs of a run: the experiment, its topology, and the programs.
use std::path::{Path, PathBuf};

use emu_kernel::{
    machine,
    session::{Loaded, SessionError},
    spawn,
    state::{State, StateDir},
    user,
};
use emu_model::{
    experiment::{self, Experiment, Reference, Schedule, Slice},
    input,
    plan::{Plan, PlanError},
    topology::{self, Topology},
};

use super::RunError;

/// A checked experiment with the texts of its files.
#[derive(Debug)]
pub struct Input {
    pub experiment: Experiment,
    /// Text of the experiment.
    pub text: String,
    pub topology_file: PathBuf,
    pub topology_text: String,
    /// Whether the experiment uses the topology that is loaded.
    pub is_loaded: bool,
    /// The host as which a topology is loaded here, if one is.
    pub loaded_host: Option<String>,
    pub seed: u64,
    /// Whether a file or the loaded topology sets the seed.
    pub has_seed: bool,
}

struct Found {
    file: PathBuf,
    text: String,
    topology: Topology,
    state: Option<State>,
}

impl Input {
    /// Reads and checks an experiment's file and its topology.
    ///
    /// # Errors
    /// [`RunError::File`] with all errors of one of the files, or [`RunError::Session`] if
    /// the experiment wants the loaded topology and nothing is loaded.
    pub fn read(file: &Path) -> Result<Self, RunError> {
        let read = || input::text_of_any(file, topology::MOST_BYTES);
        let text =
            user::as_caller(read)?.map_err(RunError::system(format!("read {}", file.display())))?;
        Self::new(file, text)
    }

    /// Checks the text of an experiment's file, and its topology.
    ///
    /// # Errors
    /// As for [`Input::read`].
    pub fn new(file: &Path, text: String) -> Result<Self, RunError> {
        let mut outcome = None;
        let parsed = experiment::parse(&text, &file.display().to_string(), &mut |reference| {
            let found = outcome.insert(find(reference));
            found.as_ref().ok().map(|f| f.topology.clone())
        });
        let found = match outcome {
            Some(Err(error)) => return Err(error),
            Some(Ok(found)) => found,
            // The experiment has errors before its topology is known.
            None => {
                return Err(parsed
                    .err()
                    .map(Box::new)
                    .map_or_else(|| SessionError::NotLoaded.into(), RunError::File));
            }
        };
        let mut experiment = parsed.map_err(Box::new)?;
        give_host_latency(&mut experiment.topology)?;
        let state = found.state.as_ref();
        let seed = experiment
            .seed
            .or(found.topology.seed)
            .or(state.map(|s| s.seed));
        Ok(Self {
            seed: seed.unwrap_or_else(emu_model::plan::fresh_seed),
            has_seed: seed.is_some(),
            is_loaded: state.is_some(),
            loaded_host: Loaded::state().ok().and_then(|s| s.host),
            experiment,
            text,
            topology_file: found.file,
            topology_text: found.text,
        })
    }

    /// The schedule, or a host's part of it.
    ///
    /// # Errors
    /// [`RunError::Schedule`], or [`RunError::Session`] if the topology has hosts and `host`
    /// is `None`.
    pub fn schedule(&self, host: Option<&str>) -> Result<Schedule, RunError> {
        let hosts = &self.experiment.topology.hosts;
        let slice = match (host, &hosts[..]) {
            (Some(host), _) => Slice::Host(host),
            (None, []) => Slice::Whole,
            (None, [only]) => Slice::Host(&only.name),
            (None, _) => {
                let names = hosts.iter().map(|h| h.name.to_string()).collect();
                return Err(SessionError::Plan(PlanError::WhichHost { names }).into());
            }
        };
        Ok(Schedule::new(&self.experiment, self.seed, slice)?)
    }

    /// The plan of the host, with the seed of the experiment.
    pub(super) fn plan(&self, host: Option<&str>) -> Result<Plan, RunError> {
        let mut plan = Plan::new(&self.experiment.topology, host).map_err(SessionError::Plan)?;
        if !plan.has_seed || self.experiment.seed.is_some() {
            plan.seed = self.seed;
            plan.has_seed = true;
        }
        Ok(plan)
    }

    /// The executable file of each program, in the order of the experiment.
    pub(super) fn programs(&self) -> Result<Vec<PathBuf>, RunError> {
        let search = std::env::var_os("PATH").unwrap_or_default();
        let here = PathBuf::from(self.experiment.here());
        let schedule = Schedule::new(&self.experiment, self.seed, Slice::Whole)?;
        let mut files = Vec::new();
        for (index, program) in self.experiment.programs.iter().enumerate() {
            let first = schedule
                .processes
                .iter()
                .find(|p| p.program_index == index)
                .and_then(|p| p.command.first());
            let name = first.cloned().unwrap_or_default();
            let file = spawn::find_program(&name, &here, &search);
            files.push(file.ok_or(RunError::NoProgram {
                program: program.name.to_string(),
                name,
            })?);
        }
        Ok(files)
    }
}

fn find(reference: &Reference) -> Result<Found, RunError> {
    match reference {
        Reference::File(file) => {
            // The same form of the path as in `emu load`, so that both can be compared.
            let file = file.canonicalize().unwrap_or_else(|_| file.clone());
            let read = || input::text(&file, topology::MOST_BYTES);
            let text = user::as_caller(read)?
                .map_err(RunError::system(format!("read {}", file.display())))?;
            let name = file.display().to_string();
            let topology = topology::parse(&text, &name).map_err(Box::new)?;
            Ok(Found {
                file,
                text,
                topology,
                state: None,
            })
        }
        Reference::Loaded => {
            let dir = StateDir::here().map_err(SessionError::from)?;
            let found = dir.loaded().map_err(SessionError::from)?;
            let (_, text) = found.ok_or(SessionError::NotLoaded)?;
            let loaded = Loaded::find()?;
            Ok(Found {
                file: loaded.state.topology.clone(),
                text,
                topology: loaded.topology,
                state: Some(loaded.state),
            })
        }
    }
}

/// Applies the latency between the hosts that this machine's environment gives.
pub(super) fn give_host_latency(topology: &mut Topology) -> Result<(), RunError> {
    let given = machine::host_hints().give_host_latency(topology);
    Ok(given.map_err(SessionError::Plan)?)
}
