//! Counters of the pipes, for `emu status` and the agent's metrics.
use emu_common::layout::{Direction, ImpairmentState, Pipe, QueueDelayHistogram};
use serde::Serialize;

use crate::{
    bpf::{BpfError, Maps},
    reload::now_ns,
    session::Loaded,
};

/// Counters of one or more pipes and of their stages.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Counters {
    /// Packets accepted.
    pub packets: u64,
    /// Bytes charged for them.
    pub bytes: u64,
    /// Packets dropped at a queue limit in packets.
    pub drops_packets: u64,
    /// Packets dropped at a queue limit in bytes or time.
    pub drops_bytes: u64,
    /// Packets dropped by AQM.
    pub drops_aqm: u64,
    /// Packets dropped because a vnode was down, its group partitioned, or its filter closed.
    pub drops_closed: u64,
    /// Packets lost at random.
    pub losses: u64,
    /// Bytes of dropped packets.
    pub dropped_bytes: u64,
    /// Packets marked instead of dropped.
    pub marks: u64,
    /// Packets sent twice.
    pub duplicates: u64,
    /// Packets with a bit changed.
    pub corruptions: u64,
    /// Packets that skipped the latency.
    pub overtakes: u64,
}

impl Counters {
    /// Adds the counters of a pipe and its stage.
    pub fn add(&mut self, (pipe, stage): &(Pipe, ImpairmentState)) {
        self.packets += pipe.packets;
        self.bytes += pipe.bytes;
        self.drops_packets += pipe.drops_packets;
        self.drops_bytes += pipe.drops_bytes;
        self.drops_aqm += stage.aqm_drops;
        self.drops_closed += pipe.drops_closed;
        self.losses += stage.losses;
        self.dropped_bytes += pipe.dropped_bytes;
        self.marks += stage.marks;
        self.duplicates += stage.duplicates;
        self.corruptions += stage.corruptions;
        self.overtakes += stage.overtakes;
    }

    /// All packets that were dropped or lost, for any reason.
    pub fn drops(&self) -> u64 {
        let queue = self.drops_packets + self.drops_bytes + self.drops_aqm;
        queue + self.drops_closed + self.losses
    }
}

/// A pipe of a vnode with its current rate and latency, and its stage.
pub fn pipe(
    loaded: &Loaded,
    maps: &Maps,
    vnode: usize,
    direction: Direction,
) -> (Pipe, ImpairmentState) {
    let index = loaded.slots[vnode] as usize * 2 + direction as usize;
    let pipe = maps.pipe_at(index, now_ns()).unwrap_or_default();
    (pipe, stage(maps, &pipe))
}

/// The stage of a pipe; an empty one if the pipe has none.
pub fn stage(maps: &Maps, pipe: &Pipe) -> ImpairmentState {
    (pipe.stage as usize)
        .checked_sub(1)
        .and_then(|index| maps.stages.get(index))
        .unwrap_or_default()
}

/// The counters of every group's pipes, up and down, in the order of the plan.
pub fn by_group(loaded: &Loaded, maps: &Maps) -> Vec<[Counters; 2]> {
    let mut totals = vec![[Counters::default(); 2]; loaded.plan.groups.len()];
    for (index, vnode) in loaded.plan.vnodes.iter().enumerate() {
        for direction in [Direction::Up, Direction::Down] {
            totals[vnode.group][direction as usize].add(&pipe(loaded, maps, index, direction));
        }
    }
    totals
}

/// The queue-delay histograms of every group's pipes, up and down, in the order of the plan.
pub fn waits_by_group(
    loaded: &Loaded,
    maps: &Maps,
) -> Result<Vec<[QueueDelayHistogram; 2]>, BpfError> {
    (0..loaded.plan.groups.len())
        .map(|group| {
            let of = |direction| maps.waits(group, direction);
            Ok([of(Direction::Up)?, of(Direction::Down)?])
        })
        .collect()
}
