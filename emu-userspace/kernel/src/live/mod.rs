//! Changes a loaded network on command or on a schedule: access links, links between groups,
//! partitions, vnodes that go down.
//!
//! Settings are stored in the maps while packets pass; nothing is reloaded. Additional
//! resources (a stage, a longer queue, a larger fq) come from the headroom of the load; if
//! that does not suffice, the whole change is rejected.
mod access_links;
mod clock;
mod pairs;
mod ramp;
mod schedules;
mod trace;

use std::{
    collections::HashSet,
    thread,
    time::{Duration, Instant},
};

use emu_common::layout::{Direction, ImpairmentState, PairLink, Pipe, feature, pipe_flag};
use emu_model::{
    plan::{Current, FqPlan, MapWrite, Plan, SlotAllocator, TooLate},
    topology::{GroupId, Impairments, Target, Topology},
};
use serde::Serialize;

use crate::{
    bpf::Maps,
    reload,
    session::{Loaded, Session, SessionError},
    state::{State, StateError},
};

pub use clock::{EventClock, EventResult};
pub use trace::{TraceError, check as check_traces};

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The state, the maps or the lock.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// No vnode of this host has that address.
    #[error("{0} is not a vnode of this host")]
    NoVnode(std::net::IpAddr),
    /// A group without vnodes on this host.
    #[error("the group {0} has no vnodes on this host")]
    NoVnodes(String),
    /// The programs were loaded without a needed feature.
    #[error(
        "the programs were loaded without {what}, because nothing in {file} uses it; add `{add}` to {place} there (or any other group or link) and load it again"
    )]
    Feature {
        /// The feature.
        what: &'static str,
        file: String,
        add: &'static str,
        place: String,
    },
    /// The link has no capacity of its own.
    #[error(
        "the link between {a} and {b} has no capacity; add `rate: …` to it in {file} and load it again"
    )]
    NoCapacity { a: String, b: String, file: String },
    /// The capacity also belongs to other groups.
    #[error(
        "the capacity between {a} and {b} belongs to a link between groups that contain them; change it there, or give them a link of their own in {file}"
    )]
    SharedCapacity { a: String, b: String, file: String },
    /// The maps are full.
    #[error("the maps have no space for {what}; change {file} and load it again")]
    MapCapacity { what: &'static str, file: String },
    #[error("{0}")]
    Target(&'static str),
    /// Packets would wait longer than fq holds them.
    #[error(transparent)]
    TooLate(#[from] TooLate),
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// Another topology was loaded meanwhile.
    #[error("another topology was loaded meanwhile")]
    Replaced,
}

/// Longest wait for another process that changes something.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Number of changed entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Pipes whose settings were stored.
    pub pipes: usize,
    /// Pairs of groups, counted per direction.
    pub pairs: usize,
}

#[derive(Default)]
struct Stores {
    stages: Vec<MapWrite<ImpairmentState>>,
    pipes: Vec<MapWrite<Pipe>>,
    links: Vec<MapWrite<PairLink>>,
    /// Pipes with another queue or burst, and their settings in the file.
    requeued: Vec<(u32, emu_model::topology::Pipe)>,
    /// Pipes that have their new rate by their course.
    on_course: usize,
}

impl Stores {
    fn pipe(&mut self, index: u32, value: Pipe) {
        self.pipes.push(MapWrite {
            index,
            value,
            is_new: false,
        });
    }

    fn link(&mut self, index: u32, value: PairLink) {
        self.links.push(MapWrite {
            index,
            value,
            is_new: false,
        });
    }

    /// Makes the changes to a copy.
    fn put(&self, current: &mut Current) {
        for stage in &self.stages {
            current.stages[stage.index as usize] = stage.value;
        }
        for pipe in &self.pipes {
            current.pipes[pipe.index as usize] = pipe.value;
        }
        for link in &self.links {
            current.links[link.index as usize] = link.value;
        }
    }
}

/// A loaded network, open for changes.
pub struct Live {
    loaded: Loaded,
    maps: Maps,
    /// Computed on first use, since reading all maps takes a while.
    places: Option<SlotAllocator>,
    /// Pipes that follow the rates of the events that this process plays.
    on_course: HashSet<u32>,
}

impl Live {
    /// Opens what is loaded in the calling thread's network namespace.
    pub fn open() -> Result<Self, LiveError> {
        let loaded = Loaded::find()?;
        let maps = loaded.maps()?;
        Ok(Self {
            loaded,
            maps,
            places: None,
            on_course: HashSet::new(),
        })
    }

    /// What is loaded.
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The topology that is loaded.
    pub fn topology(&self) -> &Topology {
        &self.loaded.topology
    }

    fn plan(&self) -> &Plan {
        &self.loaded.plan
    }

    fn file(&self) -> String {
        self.loaded.state.topology.display().to_string()
    }

    fn group_name(&self, group: GroupId) -> String {
        self.plan().groups[group].name.clone()
    }

    /// Takes the lock; waits for another process that holds it.
    fn lock(&mut self) -> Result<Session, LiveError> {
        let begin = Instant::now();
        let session = loop {
            match Session::open() {
                Err(SessionError::State(StateError::Locked { .. }))
                    if begin.elapsed() < LOCK_TIMEOUT =>
                {
                    thread::sleep(Duration::from_millis(5));
                }
                opened => break opened?,
            }
        };
        session.check_whole()?;
        // Another process may have allocated slots since.
        self.places = None;
        let now = Loaded::state()?;
        let same = |a: &State, b: &State| {
            (a.loaded_at_unix_s, &a.map_ids, &a.slots, &a.copy)
                == (b.loaded_at_unix_s, &b.map_ids, &b.slots, &b.copy)
        };
        if !same(&now, &self.loaded.state) {
            return Err(LiveError::Replaced);
        }
        self.loaded.state = now;
        Ok(session)
    }

    /// Indexes of the target's vnodes.
    fn vnodes(&self, target: Target) -> Result<Vec<usize>, LiveError> {
        let vnodes = &self.plan().vnodes;
        match target {
            Target::Vnode(address) => vnodes
                .iter()
                .position(|v| v.address == address)
                .map(|index| vec![index])
                .ok_or(LiveError::NoVnode(address)),
            Target::Group(group) => {
                let mut inside = vec![false; self.plan().groups.len()];
                for group in self.topology().tree(group) {
                    inside[group] = true;
                }
                let found: Vec<usize> = (0..vnodes.len())
                    .filter(|i| inside[vnodes[*i].group])
                    .collect();
                if found.is_empty() {
                    return Err(LiveError::NoVnodes(self.group_name(group)));
                }
                Ok(found)
            }
            Target::Pair(..) => Err(LiveError::Target(
                "a pair of groups has no vnodes; name a group or a vnode",
            )),
        }
    }

    /// The index of a vnode's pipe.
    fn index(&self, vnode: usize, direction: Direction) -> u32 {
        self.loaded.slots[vnode] * 2 + direction as u32
    }

    fn places(&mut self) -> &mut SlotAllocator {
        let (slots, maps) = (&self.loaded.slots, &self.maps);
        self.places
            .get_or_insert_with(|| SlotAllocator::free(slots, &maps.current()))
    }

    /// Checks that the loaded programs support these impairments.
    fn check_features(&self, wanted: &Impairments, place: &str) -> Result<(), LiveError> {
        let state = &self.loaded.state;
        let copies = wanted.duplicate.is_some() || wanted.corrupt.is_some();
        let needs = [
            (
                feature::IMPAIRMENTS,
                !wanted.is_empty(),
                "impairments",
                "loss: 0%",
            ),
            (
                feature::COPIES,
                copies,
                "copies and corruption",
                "duplicate: 0%, corrupt: 0%",
            ),
            (
                feature::AQM,
                wanted.aqm.is_some(),
                "queue management",
                "aqm: codel",
            ),
        ];
        for (bit, needed, what, add) in needs {
            if needed && state.features & bit == 0 {
                return Err(LiveError::Feature {
                    what,
                    file: self.file(),
                    add,
                    place: place.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Writes the prepared entries. With `resize`, enlarges fq first.
    fn store(
        &mut self,
        session: &Session,
        stores: &Stores,
        resize: bool,
    ) -> Result<Changed, LiveError> {
        if resize {
            self.grow_fq(session, stores)?;
        }
        let (pipes, links) = (stores.pipes.len(), stores.links.len());
        tracing::info!(pipes, links, resize, "writing settings to the maps");
        self.maps
            .store(&stores.stages, &stores.pipes, &stores.links);
        for (index, file) in &stores.requeued {
            if let Some(pipe) = self.maps.pipes.get(*index as usize) {
                self.requeue(*index, &pipe, file);
            }
        }
        Ok(Changed {
            pipes: stores.pipes.len() + stores.on_course,
            pairs: stores.links.len(),
        })
    }

    /// Enlarges fq for the pipes after the change.
    fn grow_fq(&mut self, session: &Session, stores: &Stores) -> Result<(), LiveError> {
        let mut current = self.maps.current();
        stores.put(&mut current);
        let Loaded {
            topology,
            plan,
            slots,
            ..
        } = &self.loaded;
        let need = FqPlan::for_current(topology, plan, slots, &current)?;
        self.set_fq(session, need)
    }

    /// Enlarges fq to these sizes, where they are larger.
    fn set_fq(&mut self, session: &Session, need: FqPlan) -> Result<(), LiveError> {
        let grown = self.loaded.fq().grown(&need);
        if &grown != self.loaded.fq() {
            reload::resize_fq(&self.loaded.plan, &grown)
                .map_err(|e| SessionError::Apply(Box::new(e)))?;
            self.loaded.state.fq = Some(grown);
            session.update(&self.loaded.state)?;
        }
        Ok(())
    }

    /// Takes vnodes down or up; a vnode that is down neither sends nor receives.
    pub fn set_down(&mut self, target: Target, down: bool) -> Result<Changed, LiveError> {
        let session = self.lock()?;
        let mut stores = Stores::default();
        for vnode in self.vnodes(target)? {
            for direction in [Direction::Up, Direction::Down] {
                let index = self.index(vnode, direction);
                let mut pipe = self.maps.pipes.get(index as usize).unwrap_or_default();
                pipe.flags &= !pipe_flag::DOWN;
                if down {
                    pipe.flags |= pipe_flag::DOWN;
                }
                stores.pipe(index, pipe);
            }
        }
        self.store(&session, &stores, false)
    }
}
