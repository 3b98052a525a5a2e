//! Starts and ends the schedules of pipes.
use std::collections::{BTreeSet, HashMap};

use emu_common::{
    layout::{Direction, NO_LIMIT_WORK, Pipe, Row, Schedule, pipe_flag, schedule_flag},
    model::{rate, schedule},
};
use emu_model::{
    plan::{FqPlan, next_generation},
    topology::{self, PipeChange, Queue, Rate},
};

use super::{Changed, Live, LiveError, Stores, access_links, trace::Followed};
use crate::reload::now_ns;

/// A schedule with the queue and the burst of a pipe.
fn with_queue(schedule: &Schedule, pipe: &Pipe, file: &topology::Pipe) -> Schedule {
    let service = access_links::service(pipe, file);
    Schedule {
        limit_work: match service.queue {
            Queue::Bytes(bytes) => schedule::bytes_as_work(bytes),
            _ => NO_LIMIT_WORK,
        },
        burst_work: schedule::bytes_as_work(service.burst_bytes),
        ..*schedule
    }
}

impl Live {
    /// Enlarges fq for all rows that are followed.
    pub(super) fn reserve_rows(&mut self, followed: &[&Followed]) -> Result<(), LiveError> {
        let scheduled = || followed.iter().filter(|f| f.is_scheduled());
        if scheduled().next().is_none() {
            return Ok(());
        }
        let session = self.lock()?;
        let mut need = self.loaded.fq().clone();
        let mut longest = HashMap::new();
        for extreme in [0, 1] {
            let mut current = self.maps.current();
            let mut latencies: HashMap<u32, u64> = HashMap::new();
            for trace in scheduled() {
                let change = trace.extremes[extreme];
                for (index, file) in &trace.pipes {
                    let Some(pipe) = current.pipes.get_mut(*index as usize) else {
                        continue;
                    };
                    *pipe = access_links::changed(pipe, file, &change);
                    if extreme == 0 {
                        self.stretch(pipe, file, &trace.schedule, &mut longest);
                    }
                    latencies.insert(*index, pipe.latency_ns);
                }
            }
            for link in current.links.iter_mut().filter(|link| link.pipe != 0) {
                let latency_ns = latencies.get(&link.pipe).copied().unwrap_or(0);
                link.latency_ns = link.latency_ns.max(latency_ns);
            }
            let loaded = &self.loaded;
            let (topology, plan) = (&loaded.topology, &loaded.plan);
            need = need.grown(&FqPlan::for_current(
                topology,
                plan,
                &loaded.slots,
                &current,
            )?);
        }
        self.set_fq(&session, need)
    }

    /// Makes a pipe so slow that a full queue takes as long as it takes at the worst time of
    /// a schedule. `longest` keeps these times, by schedule and queue.
    fn stretch(
        &self,
        pipe: &mut Pipe,
        file: &topology::Pipe,
        schedule: &Schedule,
        longest: &mut HashMap<(u32, u32, u64), u64>,
    ) {
        let mtu_bytes = rate::charged_bytes(self.plan().mtu_bytes, pipe.overhead_bytes);
        let bytes = match access_links::service(pipe, file).queue {
            Queue::Packets(packets) => u64::from(packets) * u64::from(mtu_bytes),
            Queue::Bytes(bytes) => bytes,
            Queue::Time(_) => return,
        };
        if schedule.flags & schedule_flag::RATES == 0 || bytes == 0 {
            return;
        }
        let key = (schedule.first_row, schedule.rows, bytes);
        let longest_ns = *longest.entry(key).or_insert_with(|| {
            let work = schedule::bytes_as_work(bytes);
            schedule::longest_ns(&self.rows(schedule), schedule, work)
        });
        let slowest = (u128::from(longest_ns) << 20) / u128::from(bytes);
        let slowest = u64::try_from(slowest).unwrap_or(u64::MAX);
        let bits = rate::rate_bits_per_sec(slowest).unwrap_or(0);
        let change = PipeChange {
            rate: Some(Some(Rate(bits.max(rate::MIN_RATE_BITS_PER_SEC)))),
            ..PipeChange::default()
        };
        *pipe = access_links::changed(pipe, file, &change);
    }

    /// The rows of a schedule.
    fn rows(&self, schedule: &Schedule) -> Vec<Row> {
        let first = schedule.first_row as usize;
        (first..first + schedule.rows as usize)
            .filter_map(|index| self.maps.rows.get(index))
            .collect()
    }

    /// Lets pipes follow their schedules, which began at `start_ns` (`CLOCK_MONOTONIC`, modulo
    /// 2^64).
    ///
    /// # Errors
    /// [`LiveError`]; then nothing was changed.
    pub(super) fn start_followed(
        &mut self,
        followed: &[&Followed],
        start_ns: u64,
    ) -> Result<Changed, LiveError> {
        let session = self.lock()?;
        let mut stores = Stores::default();
        let mut schedules = Vec::new();
        let mut shortened = BTreeSet::new();
        for trace in followed {
            let flags = trace.schedule.flags;
            let first = PipeChange {
                rate: trace
                    .first
                    .rate
                    .filter(|_| flags & schedule_flag::RATES != 0),
                latency: trace
                    .first
                    .latency
                    .filter(|_| flags & schedule_flag::LATENCIES != 0),
                ..PipeChange::default()
            };
            for (index, file) in &trace.pipes {
                let before = self.maps.pipes.get(*index as usize).unwrap_or_default();
                let mut pipe = access_links::changed(&before, file, &first);
                self.give_ring(&before, &mut pipe)?;
                pipe.flags |= pipe_flag::SCHEDULED;
                let mut schedule = with_queue(&trace.schedule, &pipe, file);
                // 0 means that it has not started.
                schedule.start_ns = start_ns.max(1);
                schedules.push((*index, schedule));
                stores.pipe(*index, pipe);
            }
            if let (Some(((a, b), one_way)), Some(latency)) = (trace.link, first.latency) {
                let groups = self.plan().groups.len();
                for pair in self.topology().pairs_between(a, b, one_way) {
                    let link = self.maps.pairs.get(pair).unwrap_or_default();
                    if latency.as_nanos() < u128::from(link.latency_ns) {
                        shortened.insert(pair / groups);
                    }
                }
            }
        }
        self.begin_flows_of(&mut stores, &shortened);
        for (index, schedule) in &schedules {
            self.maps.schedules.start(*index as usize, schedule);
        }
        self.store(&session, &stores, false)
    }

    /// Lets pipes follow the courses of events, which began at `start_ns`, except those whose
    /// rate was set by hand before.
    ///
    /// # Errors
    /// [`LiveError`]; then nothing was changed.
    pub(super) fn start_courses(
        &mut self,
        courses: Vec<Followed>,
        start_ns: u64,
    ) -> Result<(), LiveError> {
        let as_in_the_file = |(index, file): &(u32, topology::Pipe), first: &PipeChange| {
            let pipe = self.maps.pipes.get(*index as usize).unwrap_or_default();
            let rate = PipeChange {
                rate: first.rate,
                ..PipeChange::default()
            };
            access_links::changed(&pipe, file, &rate).ns_per_byte_q20 == pipe.ns_per_byte_q20
        };
        let mut courses = courses;
        for course in &mut courses {
            let first = course.first;
            course.pipes.retain(|pipe| as_in_the_file(pipe, &first));
        }
        self.start_followed(&courses.iter().collect::<Vec<_>>(), start_ns)?;
        let pipes = courses.iter().flat_map(|course| &course.pipes);
        self.on_course.extend(pipes.map(|(index, _)| *index));
        Ok(())
    }

    /// A change without the rate, if the pipe follows a course that has this rate at this time.
    pub(super) fn beside_course(&self, index: u32, pipe: &Pipe, change: &PipeChange) -> PipeChange {
        let follows = pipe.flags & pipe_flag::SCHEDULED != 0 && self.on_course.contains(&index);
        PipeChange {
            rate: change.rate.filter(|_| !follows),
            ..*change
        }
    }

    /// Ends all schedules that have started: the pipes keep the settings of their current rows.
    pub(super) fn end_schedules(&mut self) -> Result<(), LiveError> {
        if self.topology().traces.is_empty() && self.on_course.is_empty() {
            return Ok(());
        }
        let session = self.lock()?;
        let mut stores = Stores::default();
        let mut latencies: HashMap<u32, u64> = HashMap::new();
        let files = self.files();
        for index in 0..self.maps.pipes.len() as u32 {
            let pipe = self.maps.pipes.get(index as usize).unwrap_or_default();
            if pipe.flags & pipe_flag::SCHEDULED == 0 {
                continue;
            }
            let file = files.get(&index).copied().unwrap_or_default();
            let ended = self.without_schedule(index, &pipe, &file);
            latencies.insert(index, ended.latency_ns);
            stores.pipe(index, ended);
        }
        for pair in 0..self.maps.pairs.len() {
            let mut link = self.maps.pairs.get(pair).unwrap_or_default();
            let given = self.maps.schedules.get(link.pipe as usize);
            let gives = given.is_some_and(|s| s.flags & schedule_flag::LATENCIES != 0);
            if link.pipe != 0
                && gives
                && let Some(latency_ns) = latencies.get(&link.pipe)
            {
                link.latency_ns = *latency_ns;
                stores.link(pair as u32, link);
            }
        }
        self.store(&session, &stores, false)?;
        Ok(())
    }

    /// The settings in the file of all pipes of vnodes.
    fn files(&self) -> HashMap<u32, topology::Pipe> {
        let mut files = HashMap::new();
        for (vnode, planned) in self.plan().vnodes.iter().enumerate() {
            let group = &self.topology().groups[planned.group];
            files.insert(self.index(vnode, Direction::Up), group.up);
            files.insert(self.index(vnode, Direction::Down), group.down);
        }
        files
    }

    /// New generations for the up pipes of groups, on top of the changes so far.
    fn begin_flows_of(&self, stores: &mut Stores, groups: &BTreeSet<topology::GroupId>) {
        for (vnode, planned) in self.plan().vnodes.iter().enumerate() {
            if !groups.contains(&planned.group) {
                continue;
            }
            let index = self.index(vnode, Direction::Up);
            match stores.pipes.iter_mut().find(|write| write.index == index) {
                Some(write) => write.value.generation = next_generation(write.value.generation),
                None => {
                    let mut pipe = self.maps.pipes.get(index as usize).unwrap_or_default();
                    pipe.generation = next_generation(pipe.generation);
                    stores.pipe(index, pipe);
                }
            }
        }
    }

    /// The pipe with the settings of the row that its schedule is at, and without the
    /// schedule; an outage becomes the slowest rate.
    pub(super) fn without_schedule(&self, index: u32, pipe: &Pipe, file: &topology::Pipe) -> Pipe {
        let mut frozen = *pipe;
        frozen.flags &= !pipe_flag::SCHEDULED;
        let schedule = self.maps.schedules.get(index as usize).unwrap_or_default();
        let now_ns = now_ns();
        if pipe.flags & pipe_flag::SCHEDULED == 0 || !schedule::has_begun(&schedule, now_ns) {
            return frozen;
        }
        let rows = self.rows(&schedule);
        let row = schedule::row_at(&&rows[..], &schedule, now_ns);
        if schedule.flags & schedule_flag::RATES != 0 {
            let bits = rate::rate_bits_per_sec(row.ns_per_byte_q20).unwrap_or(0);
            let change = PipeChange {
                rate: Some(Some(Rate(bits.max(rate::MIN_RATE_BITS_PER_SEC)))),
                ..PipeChange::default()
            };
            frozen = access_links::changed(&frozen, file, &change);
        }
        if let Some((latency_ns, later)) = schedule::latency(&&rows[..], &schedule, now_ns) {
            frozen.latency_ns = latency_ns;
            frozen.generation = schedule::generation(frozen.generation, later);
        }
        frozen
    }

    /// A pipe before a change: one that follows a schedule leaves it if the schedule gives
    /// what is changed.
    pub(super) fn before_change(
        &self,
        index: u32,
        pipe: &Pipe,
        file: &topology::Pipe,
        change: &PipeChange,
    ) -> Pipe {
        let schedule = self.maps.schedules.get(index as usize).unwrap_or_default();
        let gives = |flag| schedule.flags & flag != 0;
        let ends = (gives(schedule_flag::RATES) && change.rate.is_some())
            || (gives(schedule_flag::LATENCIES) && change.latency.is_some());
        if pipe.flags & pipe_flag::SCHEDULED != 0 && ends {
            self.without_schedule(index, pipe, file)
        } else {
            *pipe
        }
    }

    /// Whether a latency of the links with this capacity comes from a schedule.
    pub(super) fn has_scheduled_latency(&self, index: u32) -> bool {
        let pipe = self.maps.pipes.get(index as usize).unwrap_or_default();
        let schedule = self.maps.schedules.get(index as usize).unwrap_or_default();
        index != 0
            && pipe.flags & pipe_flag::SCHEDULED != 0
            && schedule.flags & schedule_flag::LATENCIES != 0
    }

    /// Stores the queue and the burst of a pipe in its schedule, if it follows one.
    pub(super) fn requeue(&mut self, index: u32, pipe: &Pipe, file: &topology::Pipe) {
        if pipe.flags & pipe_flag::SCHEDULED == 0 {
            return;
        }
        if let Some(schedule) = self.maps.schedules.get(index as usize) {
            let schedule = with_queue(&schedule, pipe, file);
            self.maps.schedules.store(index as usize, &schedule);
        }
    }
}
