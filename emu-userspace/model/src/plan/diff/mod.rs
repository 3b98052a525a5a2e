//! The difference between the maps of a loaded plan and those of another, applied while
//! packets pass.
//!
//! Only settings are compared and changed; state and counters belong to the kernel. A pipe
//! that is not in a [`PlanDiff`] keeps its queue and its clock.
mod compatible;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use emu_common::{
    layout::{Direction, ImpairmentState, MAX_VNODES, PairLink, Pipe, VnodeRef, pipe_flag},
    model::flow,
};

use self::compatible::compatible;
use super::{Plan, capacity::SlotAllocator};

/// Why a plan needs a full reload instead of a change in place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ReloadReason(pub String);

/// The loaded state, in addition to the contents of the maps.
pub struct Loaded<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Slot of each of its vnodes in the maps.
    pub slots: &'a [u32],
    /// Features that the programs were loaded with.
    pub features: u32,
    /// Whether checksum offloads are off, as corrupted packets need.
    pub corrupts: bool,
}

/// The current contents of the maps.
pub struct Current {
    /// Pipes, two for each slot.
    pub pipes: Vec<Pipe>,
    /// Stages.
    pub stages: Vec<ImpairmentState>,
    /// Links between groups, row by row.
    pub links: Vec<PairLink>,
    /// Slots of the departure ring.
    pub ring_slots: u32,
}

/// A write to one entry of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapWrite<T> {
    /// Index of the entry.
    pub index: u32,
    /// The new settings.
    pub value: T,
    /// Whether the entry was unused, so that its state starts from zero.
    pub is_new: bool,
}

/// All changes, in the order in which they are made.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PlanDiff {
    /// Slot of each vnode of the new plan.
    pub slots: Vec<u32>,
    /// Stages.
    pub stages: Vec<MapWrite<ImpairmentState>>,
    /// Pipes.
    pub pipes: Vec<MapWrite<Pipe>>,
    /// Entries of the pair table.
    pub links: Vec<MapWrite<PairLink>>,
    /// Vnodes to add.
    pub added: Vec<(IpAddr, VnodeRef)>,
    /// Vnodes to remove.
    pub removed: Vec<IpAddr>,
    /// Number of links of the file that differ.
    pub links_changed: usize,
}

impl PlanDiff {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
            && self.pipes.is_empty()
            && self.links.is_empty()
            && self.added.is_empty()
            && self.removed.is_empty()
    }

    /// The difference between the loaded plan and `new`.
    ///
    /// # Errors
    /// [`ReloadReason`] if other maps, programs or interfaces are needed.
    pub fn between(
        loaded: &Loaded<'_>,
        current: &Current,
        new: &Plan,
    ) -> Result<Self, ReloadReason> {
        compatible(loaded, new)?;
        let mut work = DiffWork::new(loaded, current, new);
        work.place_vnodes()?;
        let shortened = work.links()?;
        work.pipes(&shortened)?;
        Ok(work.diff)
    }
}

fn full_reload<T>(why: impl Into<String>) -> Result<T, ReloadReason> {
    Err(ReloadReason(why.into()))
}

/// A pipe's settings without its state.
pub(crate) fn pipe_settings(pipe: &Pipe) -> Pipe {
    Pipe {
        next_free_ns: 0,
        sequence: 0,
        packets: 0,
        bytes: 0,
        drops_packets: 0,
        drops_bytes: 0,
        dropped_bytes: 0,
        drops_closed: 0,
        ..*pipe
    }
}

/// A stage's settings without its state.
pub fn stage_settings(stage: &ImpairmentState) -> ImpairmentState {
    ImpairmentState {
        seed: stage.seed,
        jitter_ns: stage.jitter_ns,
        jitter_table: stage.jitter_table,
        flags: stage.flags,
        rho: stage.rho,
        loss_kind: stage.loss_kind,
        loss: stage.loss,
        duplicate: stage.duplicate,
        corrupt: stage.corrupt,
        reorder: stage.reorder,
        reorder_gap: stage.reorder_gap,
        aqm_kind: stage.aqm_kind,
        aqm_low_ns: stage.aqm_low_ns,
        aqm_high_ns: stage.aqm_high_ns,
        red_probability: stage.red_probability,
        red_weight_bits: stage.red_weight_bits,
        reserved: stage.reserved,
        ..ImpairmentState::default()
    }
}

/// The generation after this one.
pub const fn next_generation(generation: u32) -> u32 {
    (generation + 1) % flow::GENERATIONS
}

/// The stage that a number plus one means.
pub fn stage_at(stages: &[ImpairmentState], number: u32) -> ImpairmentState {
    let index = (number & !PairLink::CUT) as usize;
    index
        .checked_sub(1)
        .and_then(|i| stages.get(i).copied())
        .unwrap_or_default()
}

/// A comparison in progress.
struct DiffWork<'a> {
    loaded: &'a Loaded<'a>,
    current: &'a Current,
    new: &'a Plan,
    free: SlotAllocator,
    /// Stages that an entry of the new plan keeps.
    kept_stages: BTreeSet<u32>,
    diff: PlanDiff,
}

impl<'a> DiffWork<'a> {
    fn new(loaded: &'a Loaded<'a>, current: &'a Current, new: &'a Plan) -> Self {
        Self {
            free: SlotAllocator::free(loaded.slots, current),
            kept_stages: BTreeSet::new(),
            loaded,
            current,
            new,
            diff: PlanDiff::default(),
        }
    }

    /// Vnodes keep their slots; new vnodes get free ones.
    fn place_vnodes(&mut self) -> Result<(), ReloadReason> {
        let old: HashMap<IpAddr, u32> = self
            .loaded
            .plan
            .vnodes
            .iter()
            .zip(self.loaded.slots)
            .map(|(vnode, slot)| (vnode.address, *slot))
            .collect();
        let stay: BTreeSet<IpAddr> = self.new.vnodes.iter().map(|v| v.address).collect();
        let gone = self.loaded.plan.vnodes.iter().zip(self.loaded.slots);
        for (vnode, slot) in gone.filter(|(v, _)| !stay.contains(&v.address)) {
            self.diff.removed.push(vnode.address);
            for index in [slot * 2, slot * 2 + 1] {
                // Its part of the departure log and its stage become free with the next
                // change.
                self.diff.pipes.push(MapWrite {
                    index,
                    value: Pipe::default(),
                    is_new: true,
                });
            }
        }
        let groups = self.new.groups.len() as u32;
        for vnode in &self.new.vnodes {
            let slot = match old.get(&vnode.address) {
                Some(slot) => *slot,
                None => {
                    let Some(slot) = self.free.slots.pop().filter(|s| *s < MAX_VNODES) else {
                        return full_reload("the vnodes exceed the capacity of the maps");
                    };
                    let place = VnodeRef {
                        index: slot,
                        pair_row: vnode.group as u32 * groups,
                    };
                    self.diff.added.push((vnode.address, place));
                    slot
                }
            };
            self.diff.slots.push(slot);
        }
        Ok(())
    }

    /// Compares links, their stages and capacities. Returns the groups from which a path
    /// became shorter.
    fn links(&mut self) -> Result<BTreeSet<usize>, ReloadReason> {
        let ways: Vec<Option<usize>> = self.new.pair_ways().collect();
        let mut first: HashMap<usize, usize> = HashMap::new();
        for (pair, way) in ways.iter().enumerate() {
            if let Some(way) = way {
                first.entry(*way).or_insert(pair);
            }
        }
        let mut places: HashMap<usize, PairLink> = HashMap::new();
        let mut seen: BTreeSet<u32> = BTreeSet::new();
        for number in 0..self.new.ways() {
            let Some(pair) = first.get(&number) else {
                continue;
            };
            let way = self.new.way(number);
            let before = self.current.links[*pair];
            let stage = self.stage(before.stage & !PairLink::CUT, way.stage.as_ref())?;
            let pipe = match way.pipe {
                None => 0,
                Some(pipe) => {
                    let kept = Some(before.pipe).filter(|p| *p != 0 && seen.insert(*p));
                    let (index, is_new) = match kept {
                        Some(index) => (index, false),
                        None => match self.free.slots.pop() {
                            // Pipe 0 means none; the second pipe of a slot serves.
                            Some(slot) => (slot * 2 + 1, true),
                            None => {
                                return full_reload(
                                    "the link capacities exceed the capacity of the maps",
                                );
                            }
                        },
                    };
                    self.pipe(index, pipe, stage, is_new, false)?;
                    index
                }
            };
            places.insert(
                number,
                PairLink {
                    latency_ns: way.latency_ns,
                    stage,
                    pipe,
                },
            );
        }
        let groups = self.new.groups.len().max(1);
        let mut shortened = BTreeSet::new();
        let mut changed = BTreeSet::new();
        for (pair, way) in ways.iter().enumerate() {
            let before = self.current.links[pair];
            let mut link = way.map_or_else(PairLink::default, |way| places[&way]);
            if self.is_shorter(&before, &link, way.and_then(|w| self.new.way(w).stage)) {
                shortened.insert(pair / groups);
            }
            link.stage |= before.stage & PairLink::CUT;
            if link != before {
                changed.insert(way.map(|w| w / 2));
                self.diff.links.push(MapWrite {
                    index: pair as u32,
                    value: link,
                    is_new: false,
                });
            }
        }
        self.diff.links_changed = changed.len();
        Ok(shortened)
    }

    /// Whether packets on a link may be due before packets that were sent earlier.
    fn is_shorter(
        &self,
        before: &PairLink,
        after: &PairLink,
        stage: Option<ImpairmentState>,
    ) -> bool {
        let jitter_ns = stage_at(&self.current.stages, before.stage).jitter_ns;
        after.latency_ns < before.latency_ns || stage.map_or(0, |s| s.jitter_ns) < jitter_ns
    }

    /// Compares the pipes of all vnodes.
    fn pipes(&mut self, shortened: &BTreeSet<usize>) -> Result<(), ReloadReason> {
        let is_new: BTreeSet<u32> = self.diff.added.iter().map(|(_, v)| v.index).collect();
        for vnode in 0..self.new.vnodes.len() {
            let slot = self.diff.slots[vnode];
            let is_fresh = is_new.contains(&slot);
            for direction in [Direction::Up, Direction::Down] {
                let index = slot * 2 + direction as u32;
                let before = self.current.pipes[index as usize];
                let (pipe, stage) = self.new.line(vnode, direction);
                let had = if is_fresh { 0 } else { before.stage };
                let lower = pipe.latency_ns < before.latency_ns
                    || stage.map_or(0, |s| s.jitter_ns)
                        < stage_at(&self.current.stages, had).jitter_ns
                    || (direction == Direction::Up
                        && shortened.contains(&self.new.vnodes[vnode].group));
                let number = self.stage(had, stage.as_ref())?;
                self.pipe(index, pipe, number, is_fresh, lower)?;
            }
        }
        Ok(())
    }

    /// Index plus one of the stage for these settings; reuses the one before.
    fn stage(
        &mut self,
        before: u32,
        wanted: Option<&ImpairmentState>,
    ) -> Result<u32, ReloadReason> {
        let Some(wanted) = wanted else { return Ok(0) };
        if before != 0 && self.kept_stages.insert(before) {
            let now = stage_at(&self.current.stages, before);
            if stage_settings(&now) != *wanted {
                self.diff.stages.push(MapWrite {
                    index: before - 1,
                    value: *wanted,
                    is_new: false,
                });
            }
            return Ok(before);
        }
        let Some(number) = self.free.stages.pop() else {
            return full_reload("the impairments exceed the capacity of the maps");
        };
        self.diff.stages.push(MapWrite {
            index: number - 1,
            value: *wanted,
            is_new: true,
        });
        Ok(number)
    }

    fn pipe(
        &mut self,
        index: u32,
        wanted: Pipe,
        stage: u32,
        is_new: bool,
        lower: bool,
    ) -> Result<(), ReloadReason> {
        let before = self.current.pipes[index as usize];
        let mut pipe = Pipe { stage, ..wanted };
        pipe.generation = before.generation;
        if lower || is_new {
            pipe.generation = next_generation(before.generation);
        }
        if is_new {
            pipe.ring_base = self.room(0, 0, pipe.limit_packets)?;
        } else {
            pipe.flags |= before.flags & pipe_flag::DOWN;
            pipe.ring_base = before.ring_base;
            if pipe.limit_packets != before.limit_packets {
                pipe.ring_base =
                    self.room(before.ring_base, before.limit_packets, pipe.limit_packets)?;
            }
        }
        if is_new || pipe_settings(&before) != pipe {
            self.diff.pipes.push(MapWrite {
                index,
                value: pipe,
                is_new,
            });
        }
        Ok(())
    }

    fn room(&mut self, base: u32, before: u32, packets: u32) -> Result<u32, ReloadReason> {
        match self.free.ring(base, before, packets) {
            Some(base) => Ok(base),
            None => full_reload("the queues exceed the capacity of the departure log"),
        }
    }
}

#[cfg(test)]
mod tests;
