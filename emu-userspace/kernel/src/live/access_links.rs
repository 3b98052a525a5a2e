//! Changes of access links.
use emu_common::{
    layout::{Direction, ImpairmentState, NO_LIMIT_NS, Pipe},
    model::rate,
};
use emu_model::{
    plan::{LIMIT_IN_BYTES, MapWrite, Service, next_generation, put_impairments, serve, stage_at},
    topology::{self, AccessLinkChange, PipeChange, Queue, Rate, Target},
};

use super::{Changed, Live, LiveError, Stores};

/// Number of bytes that a pipe passes in a time: the inverse of
/// [`emu_common::model::queue::bytes_as_ns`].
fn ns_as_bytes(ns_per_byte_q20: u64, ns: u64) -> u64 {
    let scaled = u128::from(ns) << 20;
    let each = u128::from(ns_per_byte_q20.max(1));
    u64::try_from((scaled + each / 2) / each).unwrap_or(u64::MAX)
}

/// Current rate, queue and burst of a pipe; an unlimited pipe takes queue and burst from the
/// file.
pub(super) fn service(pipe: &Pipe, file: &topology::Pipe) -> Service {
    let each = pipe.ns_per_byte_q20;
    Service {
        rate: rate::rate_bits_per_sec(each).map(Rate),
        queue: if pipe.limit_packets > 0 {
            Queue::Packets(pipe.limit_packets)
        } else if pipe.limit_ns == NO_LIMIT_NS || each == 0 {
            file.queue
        } else if pipe.flags & LIMIT_IN_BYTES != 0 {
            Queue::Bytes(ns_as_bytes(each, pipe.limit_ns))
        } else {
            Queue::Time(std::time::Duration::from_nanos(pipe.limit_ns))
        },
        burst_bytes: if each == 0 {
            file.burst_bytes
        } else {
            ns_as_bytes(each, pipe.burst_ns)
        },
    }
}

/// A pipe with a change of its rate, queue, burst and latency; `file` is the pipe in the
/// topology.
pub(super) fn changed(before: &Pipe, file: &topology::Pipe, change: &PipeChange) -> Pipe {
    let mut pipe = *before;
    if change.rate.is_some() || change.queue.is_some() || change.burst_bytes.is_some() {
        let was = service(before, file);
        let service = Service {
            rate: change.rate.unwrap_or(was.rate),
            queue: change.queue.unwrap_or(was.queue),
            burst_bytes: change.burst_bytes.unwrap_or(was.burst_bytes),
        };
        serve(&mut pipe, &service);
    }
    if let Some(latency) = change.latency {
        pipe.latency_ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        if pipe.latency_ns < before.latency_ns {
            pipe.generation = next_generation(before.generation);
        }
    }
    pipe
}

impl Live {
    /// Changes the access links of a vnode or of a group's vnodes.
    ///
    /// # Errors
    /// [`LiveError`]; then nothing was changed.
    pub fn set_line(
        &mut self,
        target: Target,
        change: &AccessLinkChange,
    ) -> Result<Changed, LiveError> {
        self.change_line(target, change, true)
    }

    /// Like [`Live::set_line`]; without `resize`, fq is known to be large enough.
    pub(crate) fn change_line(
        &mut self,
        target: Target,
        change: &AccessLinkChange,
        resize: bool,
    ) -> Result<Changed, LiveError> {
        let session = self.lock()?;
        let stores = self.prepare_line(target, change)?;
        self.store(&session, &stores, resize)
    }

    /// Enlarges fq for a future change.
    pub(crate) fn reserve_line(
        &mut self,
        target: Target,
        change: &AccessLinkChange,
    ) -> Result<(), LiveError> {
        let session = self.lock()?;
        let stores = self.prepare_line(target, change)?;
        self.grow_fq(&session, &stores)
    }

    fn prepare_line(
        &mut self,
        target: Target,
        change: &AccessLinkChange,
    ) -> Result<Stores, LiveError> {
        let vnodes = self.vnodes(target)?;
        let mut stores = Stores::default();
        for vnode in vnodes {
            let group = self.plan().vnodes[vnode].group;
            for (direction, change) in
                [(Direction::Up, &change.up), (Direction::Down, &change.down)]
            {
                if *change != PipeChange::default() {
                    let place = format!("the group {}", self.group_name(group));
                    self.check_features(&change.impairments, &place)?;
                    self.line(&mut stores, vnode, direction, change)?;
                }
            }
        }
        Ok(stores)
    }

    fn line(
        &mut self,
        stores: &mut Stores,
        vnode: usize,
        direction: Direction,
        change: &PipeChange,
    ) -> Result<(), LiveError> {
        let (index, file) = self.line_pipe(vnode, direction);
        let before = self.maps.pipes.get(index as usize).unwrap_or_default();
        let by_hand = self.beside_course(index, &before, change);
        stores.on_course += usize::from(by_hand == PipeChange::default());
        let change = &by_hand;
        let ended = self.before_change(index, &before, &file, change);
        let mut pipe = changed(&ended, &file, change);
        self.give_ring(&before, &mut pipe)?;
        if change.queue.is_some() || change.burst_bytes.is_some() {
            stores.requeued.push((index, file));
        }
        if !change.impairments.is_empty() {
            let before_ns = self.stage(pipe.stage).jitter_ns;
            let seed = self
                .plan()
                .line_seed(self.plan().vnodes[vnode].address, direction);
            let stage = self.own_stage(stores, pipe.stage, seed, |stage| {
                put_impairments(stage, &change.impairments);
            })?;
            pipe.stage = stage.0;
            if stage.1.jitter_ns < before_ns && pipe.generation == before.generation {
                pipe.generation = next_generation(before.generation);
            }
        }
        if pipe != before {
            stores.pipe(index, pipe);
        }
        Ok(())
    }

    /// Allocates a part of the departure log for a pipe with a new limit.
    pub(super) fn give_ring(&mut self, before: &Pipe, pipe: &mut Pipe) -> Result<(), LiveError> {
        if pipe.limit_packets == before.limit_packets {
            return Ok(());
        }
        let wanted = pipe.limit_packets;
        let place = self
            .places()
            .ring(before.ring_base, before.limit_packets, wanted);
        let Some(base) = place else {
            return Err(LiveError::MapCapacity {
                what: "queues of this length",
                file: self.file(),
            });
        };
        pipe.ring_base = base;
        Ok(())
    }

    /// The stage with this index plus one.
    pub(super) fn stage(&self, number: u32) -> ImpairmentState {
        let index = number & !emu_common::layout::PairLink::CUT;
        let stage = |i: u32| self.maps.stages.get(i as usize);
        index.checked_sub(1).and_then(stage).unwrap_or_default()
    }

    /// Changes a stage, or allocates a new one. Returns its index plus one and its settings.
    pub(super) fn own_stage(
        &mut self,
        stores: &mut Stores,
        number: u32,
        seed: u64,
        change: impl Fn(&mut ImpairmentState),
    ) -> Result<(u32, ImpairmentState), LiveError> {
        let is_new = number == 0;
        let (number, mut stage) = if is_new {
            let Some(number) = self.places().stages.pop() else {
                return Err(LiveError::MapCapacity {
                    what: "more impairments",
                    file: self.file(),
                });
            };
            let stage = ImpairmentState {
                seed,
                ..stage_at(&[], 0)
            };
            (number, stage)
        } else {
            (number, self.stage(number))
        };
        change(&mut stage);
        stores.stages.push(MapWrite {
            index: number - 1,
            value: stage,
            is_new,
        });
        Ok((number, stage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use emu_model::topology::Pipe as FilePipe;

    fn line(rate: u64, queue: Queue, burst_bytes: u64) -> Pipe {
        let mut pipe = Pipe::default();
        serve(
            &mut pipe,
            &Service {
                rate: Some(Rate(rate)),
                queue,
                burst_bytes,
            },
        );
        pipe
    }

    #[test]
    fn a_queue_in_bytes_follows_the_rate_and_one_in_time_does_not() {
        let change = PipeChange {
            rate: Some(Some(Rate(3_000_000))),
            ..PipeChange::default()
        };
        for queue in [
            Queue::Bytes(64_000),
            Queue::Packets(70),
            Queue::Time(std::time::Duration::from_millis(20)),
        ] {
            for rate in [1_000, 33_600, 1_000_000, 777_777_777, 10_000_000_000] {
                let after = changed(&line(rate, queue, 3_000), &FilePipe::default(), &change);
                assert_eq!(after, line(3_000_000, queue, 3_000), "{rate} {queue}");
            }
        }
    }

    #[test]
    fn an_unlimited_line_takes_its_queue_from_the_file() {
        let unlimited = Pipe {
            limit_ns: NO_LIMIT_NS,
            ..Pipe::default()
        };
        let change = PipeChange {
            rate: Some(Some(Rate(1_000_000))),
            ..PipeChange::default()
        };
        let file = FilePipe {
            queue: Queue::Packets(9),
            ..FilePipe::default()
        };
        assert_eq!(changed(&unlimited, &file, &change).limit_packets, 9);
        let back = PipeChange {
            rate: Some(None),
            ..PipeChange::default()
        };
        let limited = line(1_000_000, Queue::Packets(9), 0);
        assert_eq!(changed(&limited, &file, &back), unlimited);
    }

    #[test]
    fn a_shorter_latency_begins_new_flows() {
        let before = Pipe {
            latency_ns: 50_000_000,
            generation: 30,
            ..Pipe::default()
        };
        let to = |ms| PipeChange {
            latency: Some(std::time::Duration::from_millis(ms)),
            ..PipeChange::default()
        };
        let after = |ms| changed(&before, &FilePipe::default(), &to(ms)).generation;
        assert_eq!((after(60), after(50), after(40)), (30, 30, 0));
    }
}
