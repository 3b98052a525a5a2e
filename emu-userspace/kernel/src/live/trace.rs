//! Traces: recordings whose rates and latencies the kernel programs follow, row by row, and
//! whose losses this process applies.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use emu_common::layout::{Direction, Schedule, schedule_flag};
use emu_model::{
    plan::{Course, Followers, Recordings},
    recording::{Recording, RecordingError, RecordingRow},
    topology::{self, AccessLinkChange, EventTarget, PipeChange, Side, Trace},
};

use super::{Changed, Live, LiveError};
use crate::user::{self, UserError};

/// Why a trace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// Reading it with the caller's rights.
    #[error(transparent)]
    User(#[from] Box<UserError>),
    /// The recording has rates, and the link has no capacity.
    #[error(
        "the trace {} has rates, and the link between {a} and {b} has no capacity of its own; \
         give it one in `latencies`, as in `rate: 10gbit`: the initial capacity",
        path.display()
    )]
    Capacity {
        path: PathBuf,
        /// One end of the link.
        a: String,
        b: String,
    },
    /// The rows in the kernel are those of other files.
    #[error("a trace of the topology changed since it was loaded; load {file} again")]
    Changed { file: String },
}

/// Reads the recordings of traces with the caller's rights.
fn read(traces: &[Trace], courses: &[Course]) -> Result<Recordings, TraceError> {
    let recordings = user::as_caller(|| Recordings::read(traces, courses)).map_err(Box::new)?;
    Ok(recordings?)
}

/// Reads all recordings of a topology, to report errors early.
///
/// # Errors
/// [`TraceError`] of the first invalid one.
pub fn check(topology: &topology::Topology) -> Result<(), TraceError> {
    if topology.traces.is_empty() {
        return Ok(());
    }
    let recordings = read(&topology.traces, &[])?;
    let ways = topology.pair_links();
    for (index, trace) in topology.traces.iter().enumerate() {
        if let EventTarget::Link((a, b), one_way) = trace.target
            && recordings.recording(index).has_rates()
            && topology.capacity_fault(&ways, (a, b), one_way).is_some()
        {
            let name = |group: topology::GroupId| topology.groups[group].name.clone();
            return Err(TraceError::Capacity {
                path: trace.file.clone(),
                a: name(a).into(),
                b: name(b).into(),
            });
        }
    }
    Ok(())
}

/// What the kernel programs follow.
pub(super) struct Followed {
    /// Not started; without flags if they follow nothing.
    pub schedule: Schedule,
    /// The pipes that follow it, and their settings in the file.
    pub pipes: Vec<(u32, topology::Pipe)>,
    /// The groups if the pipes are capacities, and whether one direction is meant.
    pub link: Option<((topology::GroupId, topology::GroupId), bool)>,
    /// First row of the recording.
    pub first: PipeChange,
    /// Slowest rate, fastest rate and longest latency.
    pub extremes: [PipeChange; 2],
}

impl Followed {
    /// Whether there is something to follow.
    pub fn is_scheduled(&self) -> bool {
        self.schedule.flags != 0
    }
}

/// A trace of the loaded topology, and who applies which of its columns.
pub(super) struct PlayedTrace {
    pub trace: Trace,
    pub followed: Followed,
    /// The rows that this process applies.
    rest: Option<Recording>,
    end: Duration,
}

impl Live {
    /// The traces of the loaded topology, in its order, and the courses of its events. A trace
    /// is followed by the kernel programs unless an earlier one has its pipes already; the
    /// latency of a link only if the link has a capacity. A course is followed if nothing else
    /// has its pipes.
    pub(super) fn played(&self) -> Result<(Vec<Rc<PlayedTrace>>, Vec<Followed>), LiveError> {
        let (traces, courses) = (&self.topology().traces, &self.plan().courses);
        if traces.is_empty() && courses.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let recordings = read(traces, courses)?;
        if !self.maps.has_rows(recordings.rows()) {
            return Err(TraceError::Changed { file: self.file() }.into());
        }
        let mut uses: HashMap<u32, usize> = HashMap::new();
        for link in (0..self.maps.pairs.len()).filter_map(|i| self.maps.pairs.get(i)) {
            *uses.entry(link.pipe).or_default() += 1;
        }
        let mut taken: BTreeSet<u32> = BTreeSet::new();
        // Of an event and a trace the later one applies, which only the process knows.
        let mut traced: BTreeSet<u32> = BTreeSet::new();
        let mut played = Vec::with_capacity(traces.len());
        for (index, trace) in traces.iter().enumerate() {
            let (pipes, gives_latency) = self.pipes_of(trace, &uses);
            let mut schedule = recordings.schedule(index);
            if !gives_latency {
                schedule.flags &= !schedule_flag::LATENCIES;
            }
            if pipes.is_empty() || pipes.iter().any(|(pipe, _)| taken.contains(pipe)) {
                schedule.flags = 0;
            }
            let recording = recordings.recording(index);
            if schedule.flags != 0 {
                taken.extend(pipes.iter().map(|(pipe, _)| *pipe));
            }
            if schedule.flags != 0 || recording.has_rates() {
                traced.extend(pipes.iter().map(|(pipe, _)| *pipe));
            }
            let link = match trace.target {
                EventTarget::Link(ends, one_way) => Some((ends, one_way)),
                EventTarget::AccessLink(_) => None,
            };
            played.push(Rc::new(PlayedTrace {
                trace: trace.clone(),
                followed: Followed {
                    schedule,
                    pipes,
                    link,
                    first: first(recording),
                    extremes: extremes(recording),
                },
                rest: rest(recording, schedule.flags),
                end: recording.end,
            }));
        }
        let mut followed: Vec<Followed> = courses
            .iter()
            .enumerate()
            .map(|(index, course)| self.followed(course, recordings.course(index), &uses))
            .collect();
        let mut wanted: HashMap<u32, usize> = HashMap::new();
        for (pipe, _) in followed.iter().flat_map(|f| &f.pipes) {
            *wanted.entry(*pipe).or_default() += 1;
        }
        for course in &mut followed {
            let is_free = |pipe: &u32| !traced.contains(pipe) && wanted.get(pipe) == Some(&1);
            if !course.pipes.iter().all(|(pipe, _)| is_free(pipe)) {
                course.schedule.flags = 0;
            }
        }
        followed.retain(|course| course.is_scheduled() && !course.pipes.is_empty());
        Ok((played, followed))
    }

    /// A course and its pipes.
    fn followed(
        &self,
        course: &Course,
        schedule: Schedule,
        uses: &HashMap<u32, usize>,
    ) -> Followed {
        let (pipes, link) = match &course.followers {
            Followers::Vnodes(vnodes, direction) => {
                let pipe = |vnode: &usize| self.line_pipe(*vnode, *direction);
                (vnodes.iter().map(pipe).collect(), None)
            }
            Followers::Link(ends, one_way) => {
                let link = Some((*ends, *one_way));
                (self.capacity_pipes(*ends, *one_way, uses).0, link)
            }
        };
        Followed {
            schedule,
            pipes,
            link,
            first: first(&course.recording),
            extremes: extremes(&course.recording),
        }
    }

    /// A pipe of a vnode, with its settings in the file.
    pub(super) fn line_pipe(&self, vnode: usize, direction: Direction) -> (u32, topology::Pipe) {
        let group = &self.topology().groups[self.plan().vnodes[vnode].group];
        let file = match direction {
            Direction::Up => group.up,
            Direction::Down => group.down,
        };
        (self.index(vnode, direction), file)
    }

    /// The pipes of a trace's target, with their settings in the file, and whether the latency
    /// of each packet that follows the trace can be theirs. None if a pipe also serves others.
    fn pipes_of(
        &self,
        trace: &Trace,
        uses: &HashMap<u32, usize>,
    ) -> (Vec<(u32, topology::Pipe)>, bool) {
        match trace.target {
            EventTarget::AccessLink(target) => {
                let mut pipes = Vec::new();
                for vnode in self.vnodes(target).unwrap_or_default() {
                    if trace.side != Side::Down {
                        pipes.push(self.line_pipe(vnode, Direction::Up));
                    }
                    if trace.side != Side::Up {
                        pipes.push(self.line_pipe(vnode, Direction::Down));
                    }
                }
                (pipes, true)
            }
            EventTarget::Link(ends, one_way) => self.capacity_pipes(ends, one_way, uses),
        }
    }

    /// The capacities between two groups, and whether each pair of their groups has one. None
    /// if a capacity also serves others.
    fn capacity_pipes(
        &self,
        (a, b): (topology::GroupId, topology::GroupId),
        one_way: bool,
        uses: &HashMap<u32, usize>,
    ) -> (Vec<(u32, topology::Pipe)>, bool) {
        let mut inside: BTreeMap<u32, usize> = BTreeMap::new();
        for pair in self.topology().pairs_between(a, b, one_way) {
            let link = self.maps.pairs.get(pair).unwrap_or_default();
            *inside.entry(link.pipe).or_default() += 1;
        }
        let is_everywhere = inside.remove(&0).is_none();
        if inside
            .iter()
            .any(|(pipe, count)| uses.get(pipe) != Some(count))
        {
            return (Vec::new(), false);
        }
        let pipes = inside
            .into_keys()
            .map(|pipe| (pipe, topology::Pipe::default()));
        (pipes.collect(), is_everywhere)
    }
}

/// The settings of a recording's first row, an outage being the slowest rate.
fn first(recording: &Recording) -> PipeChange {
    let change = recording.rows.first().map(|row| row.change);
    slow(change.unwrap_or_default())
}

/// A change without outages, which a pipe without a schedule does not have.
fn slow(mut change: PipeChange) -> PipeChange {
    if let Some(Some(rate)) = &mut change.rate {
        rate.0 = rate.0.max(emu_common::model::rate::MIN_RATE_BITS_PER_SEC);
    }
    change
}

/// The longest latency with the slowest rate, and with the fastest.
fn extremes(recording: &Recording) -> [PipeChange; 2] {
    let changes = || recording.rows.iter().map(|row| row.change);
    let rates = || {
        changes()
            .filter_map(|c| c.rate.flatten())
            .filter(|r| r.0 > 0)
    };
    let latency = changes().filter_map(|c| c.latency).max();
    let with = |rate: Option<topology::Rate>| PipeChange {
        rate: rate.map(Some),
        latency,
        ..PipeChange::default()
    };
    [
        with(rates().min_by_key(|r| r.0)),
        with(rates().max_by_key(|r| r.0)),
    ]
}

/// What is left of a recording without what the kernel programs follow, with the rows that
/// change it.
fn rest(recording: &Recording, flags: u32) -> Option<Recording> {
    let mut rows: Vec<RecordingRow> = Vec::new();
    for row in &recording.rows {
        let mut change = slow(row.change);
        if flags & schedule_flag::RATES != 0 {
            change.rate = None;
        }
        if flags & schedule_flag::LATENCIES != 0 {
            change.latency = None;
        }
        if rows.last().is_none_or(|before| before.change != change) {
            rows.push(RecordingRow { at: row.at, change });
        }
    }
    rows.iter()
        .any(|row| row.change != PipeChange::default())
        .then_some(Recording {
            rows,
            end: recording.end,
        })
}

impl PlayedTrace {
    /// Earliest start, since the start of the clock.
    pub fn at(&self) -> Duration {
        self.trace.at
    }

    /// Whether it waits for the first packet of its target.
    pub fn waits(&self) -> bool {
        self.trace.waits
    }

    /// Whether the kernel programs follow it.
    pub fn is_scheduled(&self) -> bool {
        self.followed.is_scheduled()
    }

    /// Time between its start and its end; none if it repeats.
    pub fn ends(&self) -> Option<Duration> {
        (!self.trace.loops).then_some(self.end)
    }

    /// Packets that its target's pipes have accepted.
    pub fn packets(&self, live: &Live) -> u64 {
        self.followed
            .pipes
            .iter()
            .filter_map(|(index, _)| live.maps.pipes.get(*index as usize))
            .map(|pipe| pipe.packets)
            .sum()
    }

    /// Enlarges fq for what this process applies.
    pub fn reserve(&self, live: &mut Live) -> Result<(), LiveError> {
        let Some(rest) = &self.rest else {
            return Ok(());
        };
        let [slowest, _] = extremes(rest);
        if slowest == PipeChange::default() {
            return Ok(());
        }
        let reserved = match self.trace.target {
            EventTarget::AccessLink(target) => live.reserve_line(target, &self.line(slowest)),
            EventTarget::Link(ends, one_way) => live.reserve_pair(ends, one_way, &slowest),
        };
        match reserved {
            // An outage that this process plays is the slowest rate; fq counts what it sends at
            // its horizon.
            Err(LiveError::TooLate(_)) => Ok(()),
            reserved => reserved,
        }
    }

    /// Applies what this process applies at a time since the start. Returns the time of the
    /// next change, if there is one.
    pub fn put(
        &self,
        live: &mut Live,
        now: Duration,
    ) -> Result<(Changed, Option<Duration>), LiveError> {
        let Some(rest) = &self.rest else {
            return Ok((Changed::default(), None));
        };
        let (row, next) = rest.row(now, self.trace.loops);
        let change = rest.rows[row].change;
        let changed = match self.trace.target {
            EventTarget::AccessLink(target) => live.change_line(target, &self.line(change), false),
            EventTarget::Link(ends, one_way) => live.change_pair(ends, one_way, &change, false),
        }?;
        Ok((changed, next.filter(|_| rest.rows.len() > 1)))
    }

    fn line(&self, change: PipeChange) -> AccessLinkChange {
        let none = PipeChange::default();
        let (up, down) = match self.trace.side {
            Side::Both => (change, change),
            Side::Up => (change, none),
            Side::Down => (none, change),
        };
        AccessLinkChange { up, down }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use emu_model::topology::{Chance, Loss, Probability, Rate};

    fn row(at_s: u64, rate: u64, loss: f64) -> RecordingRow {
        let mut change = PipeChange {
            rate: Some(Some(Rate(rate))),
            ..PipeChange::default()
        };
        change.impairments.loss = Some(Loss::Random(Chance {
            chance: Probability::new(loss),
            correlation: Probability::default(),
        }));
        RecordingRow {
            at: Duration::from_secs(at_s),
            change,
        }
    }

    #[test]
    fn only_rows_with_other_losses_are_left_to_this_process() {
        let recording = Recording {
            rows: vec![
                row(0, 1_000, 0.0),
                row(1, 0, 0.0),
                row(2, 5_000, 0.5),
                row(3, 9_000, 0.5),
            ],
            end: Duration::from_secs(3),
        };
        let left = rest(&recording, schedule_flag::RATES).unwrap();
        let times: Vec<u64> = left.rows.iter().map(|row| row.at.as_secs()).collect();
        assert_eq!(times, [0, 2]);
        assert!(left.rows.iter().all(|row| row.change.rate.is_none()));
        // Without a schedule all rows are, and an outage is the slowest rate.
        let all = rest(&recording, 0).unwrap();
        assert_eq!(all.rows.len(), 4);
        assert_eq!(all.rows[1].change.rate, Some(Some(Rate(100))));
        let [slowest, fastest] = extremes(&recording);
        assert_eq!(slowest.rate, Some(Some(Rate(1_000))));
        assert_eq!(fastest.rate, Some(Some(Rate(9_000))));
    }

    #[test]
    fn a_recording_of_rates_alone_leaves_nothing() {
        let mut recording = Recording {
            rows: vec![row(0, 1_000, 0.0), row(1, 2_000, 0.0)],
            end: Duration::from_secs(1),
        };
        for row in &mut recording.rows {
            row.change.impairments.loss = None;
        }
        assert_eq!(rest(&recording, schedule_flag::RATES), None);
    }
}
