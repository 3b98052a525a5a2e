//! Loading, finding and taking back an emulated network: what the command and
//! other programs call.
use std::path::Path;

use crate::{
    kernel::{
        apply,
        bpf::{BpfError, Maps},
        error::ApplyError,
        state::{State, StateDir, StateError, WriterLock},
        undo::{self, UndoError},
    },
    plan::{Plan, PlanError},
    topology::{self, Topology, TopologyErrors},
};

/// What kept a session from its work.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The topology file.
    #[error(transparent)]
    Topology(#[from] Box<TopologyErrors>),
    /// The topology does not fit this host.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The kernel.
    #[error(transparent)]
    Apply(#[from] Box<ApplyError>),
    /// Taking back.
    #[error(transparent)]
    Undo(#[from] UndoError),
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The maps.
    #[error(transparent)]
    Bpf(#[from] Box<BpfError>),
    /// Nothing is loaded in this network namespace.
    #[error("nothing is loaded in this network namespace (emu load FILE)")]
    NotLoaded,
    /// A load was broken off.
    #[error("a load was broken off; `emu unload` restores what it changed, `emu load` starts anew")]
    BrokenOff,
}

/// A topology that is loaded, as another process finds it.
pub struct Loaded {
    /// When, from which file, as which host.
    pub state: State,
    /// The topology as it was loaded.
    pub topology: Topology,
    /// This host's part.
    pub plan: Plan,
}

impl Loaded {
    /// Finds what is loaded in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`SessionError::NotLoaded`], [`SessionError::BrokenOff`], or what is
    /// wrong with the state.
    pub fn find() -> Result<Self, SessionError> {
        let dir = StateDir::here()?;
        let Some((state, text)) = dir.loaded()? else {
            return Err(if dir.exists() {
                SessionError::BrokenOff
            } else {
                SessionError::NotLoaded
            });
        };
        let (topology, mut plan) = plan_text(&text, &state.topology, state.host.as_deref())?;
        plan.seed = state.seed;
        Ok(Self {
            state,
            topology,
            plan,
        })
    }

    /// The maps of the running programs.
    ///
    /// # Errors
    /// [`SessionError::Bpf`].
    pub fn maps(&self) -> Result<Maps, SessionError> {
        apply::open_maps(&self.state).map_err(|e| SessionError::Bpf(Box::new(e)))
    }
}

fn plan_text(
    text: &str,
    file: &Path,
    host: Option<&str>,
) -> Result<(Topology, Plan), SessionError> {
    let topology = topology::parse(text, &file.display().to_string()).map_err(Box::new)?;
    let plan = Plan::new(&topology, host)?;
    Ok((topology, plan))
}

/// The only writer of a network namespace.
pub struct Session {
    dir: StateDir,
    lock: WriterLock,
}

impl Session {
    /// Takes the lock of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`StateError::Locked`] when another process is changing it.
    pub fn open() -> Result<Self, SessionError> {
        let dir = StateDir::here()?;
        let lock = dir.lock()?;
        Ok(Self { dir, lock })
    }

    /// Loads a plan in place of whatever is loaded. If that fails, what was
    /// loaded before is loaded again.
    ///
    /// `text` is the topology's source, kept for later commands.
    ///
    /// # Errors
    /// Why the new plan could not be loaded.
    pub fn load(&self, plan: &Plan, file: &Path, text: &str) -> Result<State, SessionError> {
        let before = self.dir.loaded().ok().flatten();
        apply::load(plan, file, text, &self.dir, &self.lock).map_err(|error| {
            let undone = !self.dir.exists();
            if let Some((state, text)) = before.filter(|_| undone)
                && let Ok((_, plan)) = plan_text(&text, &state.topology, state.host.as_deref())
            {
                // The error to report is the first one.
                let _ = apply::load(&plan, &state.topology, &text, &self.dir, &self.lock);
            }
            SessionError::Apply(Box::new(error))
        })
    }

    /// Takes everything back; returns whether there was anything.
    ///
    /// # Errors
    /// [`UndoError`].
    pub fn unload(&self) -> Result<bool, SessionError> {
        Ok(undo::unload(&self.dir, &self.lock)? > 0)
    }
}
