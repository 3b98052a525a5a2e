//! Map capacities with headroom for changes in place, and the allocator of slots in the maps.
use std::collections::{BTreeMap, BTreeSet};

use emu_common::{
    layout::{MAX_VNODES, PairLink, feature},
    model::order,
};

use super::{Current, Entries, Plan, PlanVnode};
use crate::topology::{EventAction, EventTarget, GroupId, PipeChange, Queue, Target, Topology};

/// Largest number of stages reserved for events: two for each vnode of a host.
const MOST_EVENT_STAGES: u32 = 2 * MAX_VNODES;
/// Largest number of departure log slots reserved for events, 64 MB.
const MOST_EVENT_RING: u32 = 8_000_000;

/// Capacities of the maps that changes in place may fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapCapacity {
    /// Pairs of pipes: one for each vnode, one for each capacity between groups.
    pub slots: u32,
    /// Number of stages.
    pub stages: u32,
    /// Slots of the departure log.
    pub ring: u32,
    /// Filter entries: 64 peers for each vnode, if there are filters.
    pub filters: u32,
    /// Slots for the flows of paths with jitter, a power of two: 64 peers for each vnode.
    pub latest: u32,
    /// Ports of machines.
    pub ports: u32,
    /// Schedules, if any pipe may have one.
    pub schedules: u32,
}

impl MapCapacity {
    /// The needs of a plan, plus headroom: a quarter more vnodes, queues twice as long up to
    /// 8 MB, and up to 2 MB for impairments if there are none yet.
    pub fn of(plan: &Plan, entries: &Entries) -> Self {
        let vnodes = plan.vnodes.len() as u32;
        let slots = entries.pipes.len() as u32 / 2;
        let more = (vnodes / 4).clamp(16, 4_096).min(MAX_VNODES - vnodes);
        let stages = entries.stages.len() as u32;
        let more_stages = match plan.features() & feature::IMPAIRMENTS {
            0 => 0,
            _ => (slots.saturating_mul(2) + plan.ways() as u32).clamp(64, 8_192),
        };
        let ring = plan.ring_slots();
        let more_ring = ring.max(vnodes.saturating_mul(100)).clamp(1_000, 1_000_000);
        let slots = (slots + more).max(1);
        let has = |feature: u32| plan.features() & feature != 0;
        let peers = vnodes.saturating_mul(64);
        Self {
            slots,
            filters: match has(feature::FILTERS) {
                true => peers.clamp(4_096, 4 << 20),
                false => 1,
            },
            latest: match has(feature::IMPAIRMENTS) {
                true => peers.next_power_of_two(),
                false => order::MIN_SLOTS,
            }
            .clamp(order::MIN_SLOTS, order::MAX_SLOTS),
            ports: plan.machines().last().map_or(1, |(index, _)| index + 1),
            schedules: match has(feature::SCHEDULES) {
                true => slots * 2,
                false => 1,
            },
            stages: (stages + more_stages + plan.reserve.stages).max(1),
            ring: ring
                .saturating_add(more_ring)
                .saturating_add(plan.reserve.ring),
        }
    }
}

/// What the events of a topology need in addition to its initial state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Headroom {
    /// [`feature`] bits.
    pub features: u32,
    /// Whether an event corrupts packets.
    pub corrupts: bool,
    stages: u32,
    ring: u32,
}

impl Headroom {
    pub fn of(topology: &Topology, vnodes: &[PlanVnode]) -> Self {
        let mut reserve = Self::default();
        let count = |group: GroupId| {
            let tree = topology.tree(group);
            vnodes.iter().filter(|v| tree.contains(&v.group)).count() as u32
        };
        for event in &topology.events {
            match &event.what {
                EventAction::AccessLink { target, change, .. } => {
                    let count = match target {
                        Target::Group(group) => count(*group),
                        _ => 1,
                    };
                    reserve.add(&change.up, count);
                    reserve.add(&change.down, count);
                }
                EventAction::Link { change, .. } => reserve.add(change, 4),
                EventAction::Cut { .. } | EventAction::Down { .. } | EventAction::Trace { .. } => {}
            }
        }
        for trace in &topology.traces {
            // A recording is read later; it may contain losses, and rates or latencies.
            reserve.features |= feature::IMPAIRMENTS | feature::SCHEDULES;
            let count = match trace.target {
                EventTarget::AccessLink(Target::Group(group)) => 2 * count(group),
                _ => 4,
            };
            reserve.stages = reserve.stages.saturating_add(count);
        }
        reserve.stages = reserve.stages.min(MOST_EVENT_STAGES);
        reserve.ring = reserve.ring.min(MOST_EVENT_RING);
        reserve
    }

    /// Adds a change of `count` pipes or links.
    fn add(&mut self, change: &PipeChange, count: u32) {
        let wanted = &change.impairments;
        if change.rate.is_some() {
            self.features |= feature::SCHEDULES;
        }
        if !wanted.is_empty() {
            self.features |= feature::IMPAIRMENTS;
            self.stages = self.stages.saturating_add(count);
        }
        if wanted.duplicate.is_some() || wanted.corrupt.is_some() {
            self.features |= feature::COPIES;
        }
        if wanted.aqm.is_some() {
            self.features |= feature::AQM;
        }
        self.corrupts |= wanted.corrupt.is_some();
        if let Some(Queue::Packets(packets)) = change.queue {
            self.ring = self.ring.saturating_add(packets.saturating_mul(count));
        }
    }
}

/// Allocates unused entries of the maps.
pub struct SlotAllocator {
    ring: FreeRing,
    /// Unused stage numbers (index plus one), in descending order.
    pub stages: Vec<u32>,
    /// Unused slots, in descending order.
    pub slots: Vec<u32>,
}

impl SlotAllocator {
    /// Entries that neither these vnodes nor any link use.
    pub fn free(vnode_slots: &[u32], current: &Current) -> Self {
        let capacities = current.links.iter().map(|l| l.pipe).filter(|p| *p != 0);
        let used: BTreeSet<u32> = vnode_slots
            .iter()
            .copied()
            .chain(capacities.map(|p| p / 2))
            .collect();
        let pipes = || {
            let of_slot = |slot: &u32| [slot * 2, slot * 2 + 1];
            let all = used.iter().flat_map(of_slot);
            all.filter_map(|i| current.pipes.get(i as usize))
        };
        let stages: BTreeSet<u32> = pipes()
            .map(|p| p.stage)
            .chain(current.links.iter().map(|l| l.stage & !PairLink::CUT))
            .collect();
        let slots = current.pipes.len() as u32 / 2;
        Self {
            ring: FreeRing::new(
                current.ring_slots,
                pipes().map(|p| (p.ring_base, p.limit_packets)),
            ),
            stages: (1..=current.stages.len() as u32)
                .rev()
                .filter(|s| !stages.contains(s))
                .collect(),
            slots: (0..slots).rev().filter(|s| !used.contains(s)).collect(),
        }
    }

    /// Allocates `packets` slots of the departure log, at another place than `before` if
    /// possible, so that the times of queued packets can be copied.
    pub fn ring(&mut self, base: u32, before: u32, packets: u32) -> Option<u32> {
        if packets == 0 {
            self.ring.give(base, before);
            return Some(0);
        }
        let taken = self.ring.take(packets);
        self.ring.give(base, before);
        taken.or_else(|| self.ring.take(packets))
    }
}

/// Free intervals of the departure log: first slot and length.
#[derive(Debug, Default)]
struct FreeRing {
    free: BTreeMap<u32, u32>,
}

impl FreeRing {
    /// A log of `slots`, of which the intervals `taken` are in use.
    pub fn new(slots: u32, taken: impl Iterator<Item = (u32, u32)>) -> Self {
        let mut taken: Vec<(u32, u32)> = taken.filter(|(_, length)| *length > 0).collect();
        taken.sort_unstable();
        let mut ring = Self::default();
        let mut next = 0;
        for (base, length) in taken {
            if base > next {
                ring.free.insert(next, base - next);
            }
            next = next.max(base.saturating_add(length));
        }
        if slots > next {
            ring.free.insert(next, slots - next);
        }
        ring
    }

    /// Allocates from the first interval that is long enough.
    pub fn take(&mut self, length: u32) -> Option<u32> {
        let (&base, &room) = self.free.iter().find(|(_, room)| **room >= length)?;
        self.free.remove(&base);
        if room > length {
            self.free.insert(base + length, room - length);
        }
        Some(base)
    }

    /// Frees an interval.
    pub fn give(&mut self, base: u32, length: u32) {
        if length == 0 {
            return;
        }
        let (mut base, mut length) = (base, length);
        if let Some((&before, &room)) = self.free.range(..base).next_back()
            && before + room == base
        {
            self.free.remove(&before);
            (base, length) = (before, room + length);
        }
        if let Some(room) = self.free.remove(&(base + length)) {
            length += room;
        }
        self.free.insert(base, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_taken_and_joined_again() {
        let mut ring = FreeRing::new(100, [(10, 10), (50, 50), (30, 10)].into_iter());
        assert_eq!(ring.take(11), None);
        assert_eq!(ring.take(10), Some(0));
        assert_eq!(ring.take(4), Some(20));
        ring.give(10, 10);
        ring.give(20, 4);
        assert_eq!(ring.take(20), Some(10));
        assert_eq!(ring.take(11), None);
        ring.give(30, 10);
        assert_eq!(ring.take(20), Some(30));
        assert_eq!(ring.take(1), None);
    }
}
