//! Stores changed settings in the maps, while packets pass.
use emu_common::{
    layout::{ImpairmentState, PairLink, Pipe, pipe_flag},
    model::rate,
};
use emu_model::plan::MapWrite;

use super::Maps;
use crate::reload::now_ns;

impl Maps {
    /// Stores settings that belong together. A pipe's new generation begins new fq flows, so
    /// it is stored after the links: otherwise a packet of the longer path, between two
    /// writes, would be the first of its flow, and all later ones would wait behind it.
    pub fn store(
        &mut self,
        stages: &[MapWrite<ImpairmentState>],
        pipes: &[MapWrite<Pipe>],
        links: &[MapWrite<PairLink>],
    ) {
        for stage in stages {
            self.store_stage(stage);
        }
        // Links may refer to new pipes.
        for pipe in pipes.iter().filter(|pipe| pipe.is_new) {
            self.store_pipe(pipe);
        }
        for link in links {
            self.store_link(link);
        }
        for pipe in pipes.iter().filter(|pipe| !pipe.is_new) {
            self.store_pipe(pipe);
        }
    }

    /// Stores a pipe; a new one starts with an empty queue.
    fn store_pipe(&mut self, change: &MapWrite<Pipe>) {
        let (index, pipe) = (change.index as usize, &change.value);
        let Some(before) = self.pipes.get(index) else {
            return;
        };
        if change.is_new {
            self.carry_over(0, 0, 0, pipe);
            self.pipes.set(index, *pipe);
            return;
        }
        let moves =
            (before.ring_base, before.limit_packets) != (pipe.ring_base, pipe.limit_packets);
        if moves && pipe.ring_base != before.ring_base {
            self.carry_over(
                before.ring_base,
                before.limit_packets,
                before.sequence,
                pipe,
            );
        }
        self.pipes.store_settings(index, pipe);
        if before.flags & pipe_flag::SCHEDULED == 0 {
            let now_ns = now_ns();
            let (old, new) = (before.ns_per_byte_q20, pipe.ns_per_byte_q20);
            self.pipes.update_next_free(index, |free_ns| {
                rate::rescaled_free_ns(now_ns, free_ns, old, new)
            });
        }
        if moves && pipe.ring_base == before.ring_base {
            // There is no other part of the log, so queued packets are not counted.
            self.carry_over(0, 0, 0, pipe);
        }
    }

    /// Copies the departure times of queued packets to a pipe's new part of the departure
    /// log, so that a queue of another length holds the right number of packets.
    fn carry_over(&mut self, base: u32, packets: u32, sequence: u64, pipe: &Pipe) {
        let (to, room) = (u64::from(pipe.ring_base), u64::from(pipe.limit_packets));
        for slot in 0..room {
            self.ring.set((to + slot) as usize, 0);
        }
        let kept = room.min(u64::from(packets)).min(sequence);
        for number in sequence - kept..sequence {
            let from = u64::from(base) + number % u64::from(packets);
            if let Some(departure) = self.ring.get(from as usize) {
                self.ring.set((to + number % room) as usize, departure);
            }
        }
    }

    /// Stores a stage; a new one starts with an empty state.
    fn store_stage(&mut self, change: &MapWrite<ImpairmentState>) {
        let index = change.index as usize;
        if change.is_new {
            self.stages.set(index, change.value);
        } else {
            self.stages.store_settings(index, &change.value);
        }
    }

    /// Stores a link.
    fn store_link(&mut self, change: &MapWrite<PairLink>) {
        self.pairs.store(change.index as usize, &change.value);
    }
}
