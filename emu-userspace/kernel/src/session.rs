//! Loading, finding and taking back an emulated network: what the command and
//! other programs call.
use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use emu_common::layout::MAX_VNODES;
use emu_model::{
    plan::{self, Anew, Delta, FqPlan, Plan, PlanError},
    topology::{self, Topology, TopologyErrors},
};
use serde::Serialize;

use crate::{
    apply,
    bpf::{self, BpfError, Maps},
    error::ApplyError,
    identity::{self, IdentityError, Summary},
    missing::{self, DriftError},
    reload::{self, Reload},
    repair,
    state::{Holder, State, StateDir, StateError, WriterLock},
    undo::{self, Processes, UndoError},
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
    /// Comparing the kernel with what was loaded.
    #[error(transparent)]
    Drift(#[from] DriftError),
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
#[derive(Debug)]
pub struct Loaded {
    /// When, from which file, as which host.
    pub state: State,
    /// The topology as it was loaded.
    pub topology: Topology,
    /// This host's part.
    pub plan: Plan,
    /// Place in the maps of each of its vnodes.
    pub slots: Vec<u32>,
}

/// How a topology was, or would be, made real.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// By a load of everything.
    Anew {
        /// Why what was loaded could not be changed; none if nothing was.
        because: Option<String>,
    },
    /// By changing what was loaded.
    InPlace {
        /// Pipes with other settings, those of new vnodes included.
        pipes: usize,
        /// Links between groups with other settings.
        links: usize,
        /// Vnodes that came.
        added: usize,
        /// Vnodes that went.
        removed: usize,
        /// Objects that somebody had taken away and that are in place again.
        repaired: Vec<String>,
    },
}

impl How {
    fn in_place(delta: &Delta) -> Self {
        Self::InPlace {
            pipes: delta.pipes.len() - 2 * delta.removed.len(),
            links: delta.links_changed,
            added: delta.added.len(),
            removed: delta.removed.len(),
            repaired: Vec::new(),
        }
    }
}

/// A change in place that is possible.
struct Change {
    loaded: Loaded,
    maps: Maps,
    plan: Plan,
    delta: Delta,
    fq: FqPlan,
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
        Self::from_state(state, &text)
    }

    fn from_state(state: State, text: &str) -> Result<Self, SessionError> {
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
        let host = self.topology.host_of(vnode);
        Err(SessionError::Elsewhere {
            vnode,
            host: host.map(|host| self.topology.hosts[host].name.to_string()),
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

    /// The state alone, without the topology.
    ///
    /// # Errors
    /// As for [`Loaded::find`].
    pub fn state() -> Result<State, SessionError> {
        match StateDir::here()?.loaded()? {
            Some((state, _)) => Ok(state),
            None => Err(SessionError::NotLoaded),
        }
    }

    /// Whether a change in place was broken off. One that takes longer than ten
    /// seconds is taken for that.
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
    ///
    /// # Errors
    /// [`SessionError::Bpf`].
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
    let plan = Plan::new(&topology, state.host.as_deref())?;
    Ok((topology, plan))
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

    /// As [`Session::open`], for `unload --kill`: if another process keeps the lock, ends
    /// all processes of vnodes and then those that hold it. Returns the latter.
    ///
    /// # Errors
    /// [`StateError::Locked`] when the holder is not to be seen from here.
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

    /// Makes a plan real: changes what is loaded if that is possible, else loads
    /// all anew. If that fails, what was loaded before is loaded again.
    ///
    /// `text` is the topology's source, kept for later commands.
    ///
    /// # Errors
    /// Why the new plan could not be loaded.
    pub fn load(&self, plan: &Plan, file: &Path, text: &str) -> Result<How, SessionError> {
        let put_back = self.repair();
        let because = match compare(&self.dir, plan)? {
            Comparison::Nothing => None,
            Comparison::Anew(because) => Some(because),
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
        self.load_anew(plan, file, text)?;
        Ok(How::Anew { because })
    }

    /// Puts back what somebody took away from the load, as far as single objects can be;
    /// returns what was missing. What cannot be read or put back is left to the comparison
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

    /// Loads a plan in place of whatever is loaded, which is taken back first.
    ///
    /// # Errors
    /// As for [`Session::load`].
    pub fn load_anew(&self, plan: &Plan, file: &Path, text: &str) -> Result<State, SessionError> {
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
            delta,
            fq,
        } = change;
        let how = How::in_place(&delta);
        let settings = delta.added.is_empty() && delta.removed.is_empty();
        let state = State {
            topology: file.to_owned(),
            loaded_at_unix_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_secs()),
            seed: plan.seed,
            size: plan.size,
            slots: delta.slots.clone(),
            fq: Some(fq.clone()),
            ..loaded.state.clone()
        };
        // All that can fail for want of room happens before the first change.
        let before = |error: StateError| Failed::Before(error.into());
        let staged = self.dir.stage(&self.lock, &state, text).map_err(before)?;
        // Once vnodes were half changed, settings alone do not put them in order.
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
            delta: &delta,
        };
        reload.apply(&mut maps).map_err(amid)?;
        let amid = |error: StateError| Failed::Amid(error.into());
        staged.commit().map_err(amid)?;
        self.dir.changed(&self.lock).map_err(amid)?;
        Ok(how)
    }

    /// Stores a state that differs from the one on disk in its settings of fq.
    ///
    /// # Errors
    /// [`StateError::File`].
    pub(crate) fn update(&self, state: &State) -> Result<(), SessionError> {
        Ok(self.dir.update(&self.lock, state)?)
    }

    /// Whether the maps are those of one plan: nobody holds the lock but we, so a
    /// change in place that has a mark was broken off.
    pub(crate) fn check_whole(&self) -> Result<(), SessionError> {
        if self.dir.is_half_changed() {
            return Err(SessionError::BrokenOff);
        }
        Ok(())
    }

    /// Takes everything back; returns whether there was anything.
    ///
    /// # Errors
    /// [`UndoError`]; [`UndoError::Busy`], with nothing changed, when processes of
    /// vnodes still run and are not to be killed.
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
}

/// What a plan means for what is loaded.
enum Comparison {
    Nothing,
    Anew(String),
    InPlace(Box<Change>),
}

/// What [`Session::load`] would do with a plan; nothing is changed.
///
/// # Errors
/// [`SessionError`] when the state or the maps cannot be read.
pub fn preview(plan: &Plan) -> Result<How, SessionError> {
    Ok(match compare(&StateDir::here()?, plan)? {
        Comparison::Nothing => How::Anew { because: None },
        Comparison::Anew(because) => How::Anew {
            because: Some(because),
        },
        Comparison::InPlace(change) => How::in_place(&change.delta),
    })
}

fn compare(dir: &StateDir, plan: &Plan) -> Result<Comparison, SessionError> {
    let anew = |because: &str| Ok(Comparison::Anew(because.to_owned()));
    let found = match dir.loaded() {
        Ok(found) => found,
        Err(error) => return anew(&error.to_string()),
    };
    let Some((state, text)) = found else {
        if dir.exists() {
            return anew("a load was broken off");
        }
        return Ok(Comparison::Nothing);
    };
    if dir.is_half_changed() && !dir.can_change_again() {
        return anew("a change in place was broken off");
    }
    if state.object != bpf::object_mark() {
        return anew("another version of emu loaded the programs");
    }
    let Ok(loaded) = Loaded::from_state(state, &text) else {
        return anew("what is loaded is not understood any more");
    };
    if let Some(path) = dir.damaged_journal()? {
        return anew(&format!(
            "the journal is damaged, and kept as {}",
            path.display()
        ));
    }
    let damage = missing::damage(&loaded.plan, &loaded.state)?;
    if let Some(first) = damage.first() {
        return anew(&format!("{first} was missing"));
    }
    let Ok(maps) = loaded.maps() else {
        return anew("the maps are gone, or the state does not fit them");
    };
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
    match Delta::between(&of_loaded, &maps.current(), &plan) {
        Err(Anew(because)) => Ok(Comparison::Anew(because)),
        Ok(delta) => {
            let fq = loaded.fq().grown(&plan.fq);
            Ok(Comparison::InPlace(Box::new(Change {
                loaded,
                maps,
                plan,
                delta,
                fq,
            })))
        }
    }
}
