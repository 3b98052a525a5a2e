//! Loading, finding and taking back an emulated network: what the command and
//! other programs call.
use std::{net::IpAddr, path::Path};

use crate::{
    kernel::{
        apply,
        bpf::{BpfError, Maps},
        error::ApplyError,
        identity::{self, IdentityError, Summary},
        state::{State, StateDir, StateError, WriterLock},
        undo::{self, Processes, UndoError},
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
    /// Making a process a vnode's.
    #[error(transparent)]
    Identity(#[from] Box<IdentityError>),
    /// No vnode has that name.
    #[error("no vnode {name:?}; name one by its address, or as group/index, the first being {}", example.as_deref().unwrap_or("GROUP/0"))]
    UnknownVnode {
        /// What was asked for.
        name: String,
        /// A good name.
        example: Option<String>,
    },
    /// The vnode is another host's.
    #[error("{vnode} is no vnode of this host{}", host.as_ref().map(|h| format!(" but of {h}")).unwrap_or_default())]
    Elsewhere {
        /// Its address.
        vnode: IpAddr,
        /// The host that carries it, if any.
        host: Option<String>,
    },
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

    /// The local vnode with a name: an address, or `group/index`.
    ///
    /// # Errors
    /// [`SessionError::UnknownVnode`], [`SessionError::Elsewhere`].
    pub fn vnode(&self, name: &str) -> Result<IpAddr, SessionError> {
        let Some(vnode) = self.topology.vnode_named(name) else {
            let first = self.plan.groups.iter().find(|g| g.local_vnodes > 0);
            return Err(SessionError::UnknownVnode {
                name: name.to_owned(),
                example: first.map(|g| format!("{}/0", g.name)),
            });
        };
        if self.plan.vnodes.iter().any(|v| v.address == vnode) {
            return Ok(vnode);
        }
        let carries = |name: &&str| self.topology.host_vnodes(name).contains(&vnode);
        let mut hosts = self.topology.hosts.iter().map(|h| h.name.as_str());
        Err(SessionError::Elsewhere {
            vnode,
            host: hosts.find(carries).map(str::to_owned),
        })
    }

    /// Makes the calling process a local vnode's, with all that it starts: their
    /// sockets get the vnode's address, and no other. Sockets that are open
    /// already stay as they are.
    ///
    /// # Errors
    /// [`SessionError::Identity`].
    pub fn enter(&self, vnode: IpAddr) -> Result<(), SessionError> {
        let dir = StateDir::here()?;
        let vnodes = u32::try_from(self.plan.vnodes.len()).unwrap_or(u32::MAX);
        identity::enter(&dir, vnode, vnodes).map_err(|e| SessionError::Identity(Box::new(e)))
    }

    /// What runs as vnodes; none if nothing ever did.
    ///
    /// # Errors
    /// [`SessionError::Identity`].
    pub fn processes(&self) -> Result<Option<Summary>, SessionError> {
        let dir = StateDir::here()?;
        identity::summary(&dir).map_err(|e| SessionError::Identity(Box::new(e)))
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
    /// [`UndoError`]; [`UndoError::Busy`], with nothing changed, when processes of
    /// vnodes still run and are not to be killed.
    pub fn unload(&self, processes: Processes) -> Result<bool, SessionError> {
        Ok(undo::unload(&self.dir, &self.lock, processes)? > 0)
    }
}
