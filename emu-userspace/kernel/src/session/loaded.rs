//! The topology that is loaded, as another process finds it.
use std::{collections::BTreeSet, net::IpAddr, path::PathBuf, time::Duration};

use emu_common::layout::MAX_VNODES;
use emu_model::{
    plan::{FqPlan, Plan, PlanError, Recordings},
    topology::{self, Loopback, Topology},
};

use super::SessionError;
use crate::{
    apply,
    bpf::Maps,
    identity::{self, Summary},
    machines::Machines,
    state::{State, StateDir, StateError},
    user,
};

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
pub(super) fn plan_text(text: &str, state: &State) -> Result<(Topology, Plan), SessionError> {
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
    let read = user::as_caller(|| Recordings::read(&plan.traces, &plan.courses));
    matches!(read, Ok(Ok(recordings)) if maps.has_rows(recordings.rows()))
}
