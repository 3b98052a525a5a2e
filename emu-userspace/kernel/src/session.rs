//! Loads, finds and unloads an emulated network: the interface for the command and other
//! programs.
use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use emu_common::layout::MAX_VNODES;
use emu_model::{
    ErrorKind,
    plan::{self, FqPlan, Plan, PlanDiff, PlanError, Recordings, ReloadReason},
    topology::{self, Loopback, Topology, TopologyErrors},
};
use serde::Serialize;

use crate::{
    apply,
    bpf::{self, BpfError, Maps},
    drift::{self, DriftError},
    error::ApplyError,
    identity::{self, IdentityError, Summary},
    machines::Machines,
    netns::{Netns, NetnsError},
    reload::{self, Reload},
    repair,
    sockets::{self, BoundSocket},
    state::{Holder, State, StateDir, StateError, WriterLock},
    undo::{self, Processes, UndoError},
    user,
};

/// Why an operation on a session failed.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Topology(#[from] Box<TopologyErrors>),
    /// The topology does not fit this host.
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Apply(#[from] Box<ApplyError>),
    #[error(transparent)]
    Undo(#[from] UndoError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    State(#[from] StateError),
    /// Comparing the kernel with what was loaded.
    #[error(transparent)]
    Drift(#[from] DriftError),
    #[error(transparent)]
    Bpf(#[from] Box<BpfError>),
    /// Making a process a vnode's.
    #[error(transparent)]
    Identity(#[from] Box<IdentityError>),
    #[error("no vnode {name:?}; name one by its address, or as group/index, the first being {}", example.as_deref().unwrap_or("GROUP/0"))]
    UnknownVnode {
        /// What was asked for.
        name: String,
        /// A good name.
        example: Option<String>,
    },
    /// The vnode is on another host.
    #[error("{vnode} is not a vnode of this host{}", host.as_ref().map(|h| format!(" but of {h}")).unwrap_or_default())]
    Elsewhere {
        vnode: IpAddr,
        /// The host that carries it, if any.
        host: Option<String>,
    },
    /// Only the line of a machine can lead elsewhere.
    #[error(
        "{vnode} is a vnode of processes; a container needs a vnode that is a machine (`kind: machine` \
         in the topology)"
    )]
    NotMachine { vnode: IpAddr },
    /// The network namespace of a container, or of a process.
    #[error("open the network namespace {}: {source}", path.display())]
    Namespace { path: PathBuf, source: io::Error },
    #[error("read the kernel's tables of sockets: {0}")]
    Sockets(#[source] io::Error),
    /// Nothing is loaded in this network namespace.
    #[error("nothing is loaded in this network namespace (emu load FILE)")]
    NotLoaded,
    /// A load was interrupted.
    #[error(
        "a load was interrupted; `emu unload` undoes its changes, `emu load` does a full reload"
    )]
    Interrupted,
}

impl SessionError {
    /// Whether the user's files or the operation failed.
    pub fn kind(&self) -> ErrorKind {
        match self {
            SessionError::Topology(_) | SessionError::Plan(_) => ErrorKind::Usage,
            SessionError::Apply(_)
            | SessionError::Undo(_)
            | SessionError::Netns(_)
            | SessionError::State(_)
            | SessionError::Drift(_)
            | SessionError::Bpf(_)
            | SessionError::Identity(_)
            | SessionError::UnknownVnode { .. }
            | SessionError::Elsewhere { .. }
            | SessionError::NotMachine { .. }
            | SessionError::Namespace { .. }
            | SessionError::Sockets(_)
            | SessionError::NotLoaded
            | SessionError::Interrupted => ErrorKind::Operation,
        }
    }
}

/// A topology that is loaded, as another process finds it.
#[derive(Debug)]
pub struct Loaded {
    pub state: State,
    /// The topology as it was loaded.
    pub topology: Topology,
    /// This host's part.
    pub plan: Plan,
    /// Place in the maps of each of its vnodes.
    pub slots: Vec<u32>,
}

/// How a topology was, or would be, loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// As a full reload.
    #[serde(rename = "anew")]
    FullReload {
        /// Why a change in place was not possible; `None` if nothing was loaded.
        because: Option<String>,
    },
    /// By a change in place.
    InPlace {
        /// Pipes with other settings, including those of new vnodes.
        pipes: usize,
        /// Links between groups with other settings.
        links: usize,
        /// Vnodes that were added.
        added: usize,
        /// Vnodes that were removed.
        removed: usize,
        /// Objects that somebody had taken away and that are in place again.
        repaired: Vec<String>,
    },
}

impl How {
    fn in_place(diff: &PlanDiff) -> Self {
        Self::InPlace {
            pipes: diff.pipes.len() - 2 * diff.removed.len(),
            links: diff.links_changed,
            added: diff.added.len(),
            removed: diff.removed.len(),
            repaired: Vec::new(),
        }
    }
}

/// A change in place that is possible.
struct Change {
    loaded: Loaded,
    maps: Maps,
    plan: Plan,
    diff: PlanDiff,
    fq: FqPlan,
}

impl Loaded {
    /// Whether a topology is loaded in the calling thread's network namespace, whole or not.
    pub fn is_here() -> bool {
        StateDir::here().is_ok_and(|dir| dir.exists())
    }

    /// Finds the topology that is loaded in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`SessionError::NotLoaded`], [`SessionError::Interrupted`], or the error of the state.
    pub fn find() -> Result<Self, SessionError> {
        let dir = StateDir::here()?;
        let Some((state, text)) = dir.loaded()? else {
            return Err(if dir.exists() {
                SessionError::Interrupted
            } else {
                SessionError::NotLoaded
            });
        };
        Self::from_state(state, &text)
    }

    /// As [`Loaded::find`], from a state and the text of its topology.
    ///
    /// # Errors
    /// [`SessionError`] if they do not fit each other.
    pub fn from_state(state: State, text: &str) -> Result<Self, SessionError> {
        let (topology, mut plan) = plan_text(text, &state)?;
        plan.seed = state.seed;
        let slots = slots(&state, &plan)?;
        Ok(Self {
            state,
            topology,
            plan,
            slots,
        })
    }

    /// The local vnode with a name: an address, or `group/index`.
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
        let host = self.topology.host_of(vnode);
        Err(SessionError::Elsewhere {
            vnode,
            host: host.map(|host| self.topology.hosts[host].name.to_string()),
        })
    }

    /// Moves the calling process, with its future children, into a local vnode: their sockets
    /// get the vnode's address, and no other. Sockets that are open already do not change.
    pub fn enter(&self, vnode: IpAddr) -> Result<(), SessionError> {
        let dir = StateDir::here()?;
        let vnodes = u32::try_from(self.plan.vnodes.len()).unwrap_or(u32::MAX);
        let machines = Machines::of(&dir, &self.plan);
        let place = self.loopback_place(vnode);
        identity::enter(&dir, &machines, vnode, place, vnodes)
            .map_err(|e| SessionError::Identity(Box::new(e)))
    }

    /// The place whose loopback a local vnode has; `None` if it has the machine's.
    pub(crate) fn loopback_place(&self, vnode: IpAddr) -> Option<u32> {
        if self.plan.loopback == Loopback::Shared {
            return None;
        }
        let index = self.plan.vnodes.iter().position(|v| v.address == vnode)?;
        self.slots.get(index).copied()
    }

    /// Processes of vnodes; `None` if there never was one.
    pub fn processes(&self) -> Result<Option<Summary>, SessionError> {
        let dir = StateDir::here()?;
        identity::summary(&dir).map_err(|e| SessionError::Identity(Box::new(e)))
    }

    /// The state alone, without the topology.
    pub fn state() -> Result<State, SessionError> {
        match StateDir::here()?.loaded()? {
            Some((state, _)) => Ok(state),
            None => Err(SessionError::NotLoaded),
        }
    }

    /// Whether a change in place was interrupted. One that takes longer than ten seconds
    /// counts as interrupted.
    pub fn is_half_changed(&self) -> bool {
        StateDir::here().is_ok_and(|dir| {
            dir.changing_since()
                .is_some_and(|age| age > Duration::from_secs(10))
        })
    }

    /// Settings of fq as they are.
    pub fn fq(&self) -> &FqPlan {
        self.state.fq.as_ref().unwrap_or(&self.plan.fq)
    }

    /// The maps of the running programs.
    pub fn maps(&self) -> Result<Maps, SessionError> {
        let maps = apply::open_maps(&self.state).map_err(|e| SessionError::Bpf(Box::new(e)))?;
        // Two pipes for each place.
        let places = maps.pipes.len() / 2;
        match self.slots.iter().find(|slot| **slot as usize >= places) {
            Some(slot) => Err(damaged(format!(
                "the maps have {places} places and none {slot}"
            ))),
            None => Ok(maps),
        }
    }
}

fn damaged(detail: String) -> SessionError {
    let path = StateDir::here().map_or_else(|_| PathBuf::new(), |dir| dir.state_path());
    StateError::Damaged { path, detail }.into()
}

/// Places in the maps of the plan's vnodes: different ones, and within every map.
fn slots(state: &State, plan: &Plan) -> Result<Vec<u32>, SessionError> {
    let vnodes = plan.vnodes.len();
    // A full load fills the places in the order of the plan.
    if state.slots.is_empty() {
        return Ok((0..vnodes as u32).collect());
    }
    if state.slots.len() != vnodes {
        let detail = format!(
            "it has places of {} vnodes, and there are {vnodes}",
            state.slots.len()
        );
        return Err(damaged(detail));
    }
    let mut seen = BTreeSet::new();
    for slot in &state.slots {
        if *slot >= MAX_VNODES || !seen.insert(*slot) {
            return Err(damaged(format!("{slot} cannot be the place of a vnode")));
        }
    }
    Ok(state.slots.clone())
}

/// The topology of a state, and this host's part of it.
fn plan_text(text: &str, state: &State) -> Result<(Topology, Plan), SessionError> {
    let file = state.topology.display().to_string();
    let mut topology = topology::parse(text, &file).map_err(Box::new)?;
    if let Some(size) = state.size {
        topology.resize(size).map_err(PlanError::from)?;
    }
    if state.host_latency_ns > 0 {
        topology.host_latency = Some(Duration::from_nanos(state.host_latency_ns));
    }
    let plan = Plan::new(&topology, state.host.as_deref())?;
    Ok((topology, plan))
}

/// Whether the maps have the rows of a plan's traces.
pub(crate) fn has_rows(maps: &Maps, plan: &Plan) -> bool {
    let read = user::as_caller(|| Recordings::read(&plan.traces));
    let Ok(Ok(recordings)) = read else {
        return false;
    };
    let rows = recordings.rows();
    maps.rows.len() == rows.len().max(1)
        && (rows.iter().enumerate()).all(|(index, row)| maps.rows.get(index) == Some(*row))
}

/// How far a change in place came before it failed.
enum Failed {
    /// Nothing was changed.
    Before(SessionError),
    /// Some settings are the new ones, and others are not.
    Amid(SessionError),
}

/// The only writer of a network namespace.
pub struct Session {
    pub(crate) dir: StateDir,
    pub(crate) lock: WriterLock,
}

impl Session {
    /// Takes the lock of the calling thread's network namespace.
    ///
    /// # Errors
    /// [`StateError::Locked`] if another process is changing it.
    pub fn open() -> Result<Self, SessionError> {
        let dir = StateDir::here()?;
        let lock = dir.lock()?;
        Ok(Self { dir, lock })
    }

    /// Like [`Session::open`], for `unload --kill`: if another process keeps the lock, ends
    /// all processes of vnodes and then those that hold it. Returns the latter.
    ///
    /// # Errors
    /// [`StateError::Locked`] if the holder is not visible from here.
    pub fn seize() -> Result<(Self, Vec<Holder>), SessionError> {
        let dir = StateDir::here()?;
        let (lock, killed) = match dir.lock() {
            Err(StateError::Locked { .. }) => {
                undo::kill_processes(&dir)?;
                dir.seize()?
            }
            other => (other?, Vec::new()),
        };
        Ok((Self { dir, lock }, killed))
    }

    /// Loads a plan: in place if that is possible, otherwise as a full reload. If that fails,
    /// the previous plan is loaded again.
    ///
    /// `text` is the topology's source, kept for later commands.
    ///
    /// # Errors
    /// Why the new plan could not be loaded.
    pub fn load(&self, plan: &Plan, file: &Path, text: &str) -> Result<How, SessionError> {
        tracing::info!(topology = %file.display(), vnodes = plan.vnodes.len(), "loading");
        let put_back = self.repair();
        let because = match compare(&self.dir, plan)? {
            Comparison::Nothing => None,
            Comparison::FullReload(because) => Some(because),
            Comparison::InPlace(change) => match self.change(*change, file, text) {
                Ok(mut how) => {
                    if let How::InPlace { repaired, .. } = &mut how {
                        *repaired = put_back;
                    }
                    return Ok(how);
                }
                // Nothing was changed, so there is nothing that a full reload would mend.
                Err(Failed::Before(error)) => return Err(error),
                Err(Failed::Amid(error)) => Some(format!("the change in place failed ({error})")),
            },
        };
        tracing::info!(
            reason = because.as_deref().unwrap_or("nothing is loaded"),
            "full reload"
        );
        self.load_full(plan, file, text)?;
        Ok(How::FullReload { because })
    }

    /// Restores what somebody took away from the load, as far as single objects can be;
    /// returns what was missing. What cannot be read or restored is left to the comparison
    /// that follows.
    fn repair(&self) -> Vec<String> {
        let Ok(Some((state, text))) = self.dir.loaded() else {
            return Vec::new();
        };
        if state.object != bpf::object_mark() {
            return Vec::new();
        }
        let Ok(loaded) = Loaded::from_state(state, &text) else {
            return Vec::new();
        };
        repair::repair(&loaded.plan, &loaded.state, &self.dir, &self.lock).unwrap_or_default()
    }

    /// Unloads whatever is loaded, then loads a plan.
    pub fn load_full(&self, plan: &Plan, file: &Path, text: &str) -> Result<State, SessionError> {
        let before = self.dir.loaded().ok().flatten();
        apply::load(plan, file, text, &self.dir, &self.lock).map_err(|error| {
            let undone = !self.dir.exists();
            if let Some((state, text)) = before.filter(|_| undone)
                && let Ok((_, plan)) = plan_text(&text, &state)
            {
                // The error to report is the first one.
                let _ = apply::load(&plan, &state.topology, &text, &self.dir, &self.lock);
            }
            SessionError::Apply(Box::new(error))
        })
    }

    fn change(&self, change: Change, file: &Path, text: &str) -> Result<How, Failed> {
        let Change {
            loaded,
            mut maps,
            plan,
            diff,
            fq,
        } = change;
        let how = How::in_place(&diff);
        tracing::info!(?how, "changing in place");
        let settings = diff.added.is_empty() && diff.removed.is_empty();
        let state = State {
            topology: file.to_owned(),
            loaded_at_unix_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_secs()),
            seed: plan.seed,
            size: plan.size,
            slots: diff.slots.clone(),
            fq: Some(fq.clone()),
            ..loaded.state.clone()
        };
        // All that can fail for want of room happens before the first change.
        let before = |error: StateError| Failed::Before(error.into());
        let staged = self.dir.stage(&self.lock, &state, text).map_err(before)?;
        // After an interrupted change of vnodes, writing the settings again is not enough.
        self.dir.changing(&self.lock, settings).map_err(before)?;
        let amid = |error: ApplyError| Failed::Amid(Box::new(error).into());
        if &fq != loaded.fq() {
            reload::resize_fq(&plan, &fq).map_err(amid)?;
        }
        let reload = Reload {
            dir: &self.dir,
            lock: &self.lock,
            old: &loaded.plan,
            new: &plan,
            diff: &diff,
        };
        reload.apply(&mut maps).map_err(amid)?;
        let amid = |error: StateError| Failed::Amid(error.into());
        staged.commit().map_err(amid)?;
        self.dir.changed(&self.lock).map_err(amid)?;
        Ok(how)
    }

    /// Stores a state that differs from the one on disk in its settings of fq.
    pub(crate) fn update(&self, state: &State) -> Result<(), SessionError> {
        Ok(self.dir.update(&self.lock, state)?)
    }

    /// Checks that the maps match one plan: this process holds the lock, so a change in place
    /// with a marker was interrupted.
    pub(crate) fn check_whole(&self) -> Result<(), SessionError> {
        if self.dir.is_half_changed() {
            return Err(SessionError::Interrupted);
        }
        Ok(())
    }

    /// Sockets that are bound to addresses that would go away: with an unload, or with a load of
    /// `next`. With an unload those of vnodes' processes do not count, see [`Processes`].
    ///
    /// # Errors
    /// [`SessionError`] if the journal or the kernel's tables cannot be read.
    pub fn sockets_in_the_way(
        &self,
        next: Option<&Plan>,
    ) -> Result<Vec<BoundSocket>, SessionError> {
        let journal = self.dir.journal()?;
        let stay: BTreeSet<IpAddr> = next.map_or_else(BTreeSet::new, |plan| {
            plan.vnodes.iter().map(|v| v.address).collect()
        });
        let goes = |address| !stay.contains(&address) && undo::takes_away(&journal, address);
        let mut sockets = sockets::bound(goes).map_err(SessionError::Sockets)?;
        if next.is_none() {
            let processes = undo::processes(&journal);
            let is_vnodes = |(id, _): &(i32, String)| processes.contains(id);
            sockets.retain(|s| s.owners.is_empty() || !s.owners.iter().all(is_vnodes));
        }
        Ok(sockets)
    }

    /// Undoes everything; returns whether there was anything.
    ///
    /// # Errors
    /// [`UndoError`]; [`UndoError::Busy`], with nothing changed, if processes of vnodes are
    /// running and are not to be killed.
    pub fn unload(&self, processes: Processes) -> Result<bool, SessionError> {
        Ok(undo::unload(&self.dir, &self.lock, processes)? > 0)
    }

    /// Removes the objects of emu in this namespace that no journal tells of, as far as they
    /// can be recognised; returns what was removed.
    ///
    /// # Errors
    /// [`UndoError`].
    pub fn sweep(&self) -> Result<Vec<String>, SessionError> {
        Ok(undo::sweep_unknown(&self.dir, &self.lock)?)
    }

    /// Removes the namespace if a load made it under this name and nothing is loaded in it.
    /// Returns whether it did.
    pub fn remove_netns(self, netns: &Netns) -> Result<bool, SessionError> {
        if self.dir.exists() || !netns.remove_if_made(&self.dir, &self.lock)? {
            return Ok(false);
        }
        self.dir.remove_agent_record();
        self.dir.remove_lock(self.lock);
        Ok(true)
    }
}

/// Consequence of a plan for the loaded state.
enum Comparison {
    Nothing,
    FullReload(String),
    InPlace(Box<Change>),
}

/// What [`Session::load`] would do with a plan; changes nothing.
///
/// # Errors
/// [`SessionError`] if the state or the maps cannot be read.
pub fn preview(plan: &Plan) -> Result<How, SessionError> {
    Ok(match compare(&StateDir::here()?, plan)? {
        Comparison::Nothing => How::FullReload { because: None },
        Comparison::FullReload(because) => How::FullReload {
            because: Some(because),
        },
        Comparison::InPlace(change) => How::in_place(&change.diff),
    })
}

fn compare(dir: &StateDir, plan: &Plan) -> Result<Comparison, SessionError> {
    let full_reload = |because: &str| Ok(Comparison::FullReload(because.to_owned()));
    let found = match dir.loaded() {
        Ok(found) => found,
        Err(error) => return full_reload(&error.to_string()),
    };
    let Some((state, text)) = found else {
        if dir.exists() {
            return full_reload("a load was interrupted");
        }
        return Ok(Comparison::Nothing);
    };
    if dir.is_half_changed() && !dir.can_change_again() {
        return full_reload("a change in place was interrupted");
    }
    if state.object != bpf::object_mark() {
        return full_reload("another version of emu loaded the programs");
    }
    let Ok(loaded) = Loaded::from_state(state, &text) else {
        return full_reload("the loaded state is of an incompatible version");
    };
    if let Some(path) = dir.damaged_journal()? {
        return full_reload(&format!(
            "the journal is damaged, and kept as {}",
            path.display()
        ));
    }
    let damage = drift::find(&loaded.plan, &loaded.state)?;
    if let Some(first) = damage.first() {
        return full_reload(&format!("{first} was missing"));
    }
    let Ok(maps) = loaded.maps() else {
        return full_reload("the maps are gone, or the state does not fit them");
    };
    if !plan.traces.is_empty() && plan.traces == loaded.plan.traces && !has_rows(&maps, plan) {
        return full_reload("the rows of a trace changed");
    }
    let mut plan = plan.clone();
    if !plan.has_seed {
        plan.seed = loaded.state.seed;
    }
    let of_loaded = plan::Loaded {
        plan: &loaded.plan,
        slots: &loaded.slots,
        features: loaded.state.features,
        corrupts: loaded.state.corrupts,
    };
    match PlanDiff::between(&of_loaded, &maps.current(), &plan) {
        Err(ReloadReason(because)) => Ok(Comparison::FullReload(because)),
        Ok(diff) => {
            let fq = loaded.fq().grown(&plan.fq);
            Ok(Comparison::InPlace(Box::new(Change {
                loaded,
                maps,
                plan,
                diff,
                fq,
            })))
        }
    }
}
