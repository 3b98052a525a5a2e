//! The clock of `emu start`: runs the events of a topology on schedule.
use std::{
    collections::BTreeMap,
    rc::Rc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use emu_model::topology::{Event, EventAction};

use super::{
    Changed, Live, LiveError,
    ramp::Ramp,
    trace::{Followed, PlayedTrace},
};
use crate::reload::now_ns;

/// Longest sleep between two polls of `stop`.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time between two polls for a first packet.
const PACKET_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Time after which a repeated trace ends: a hundred years.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// An event that has run.
#[derive(Debug)]
pub struct EventResult {
    /// Due time, since the start of the clock.
    pub at: Duration,
    /// Delay of its start against the due time.
    pub late: Duration,
    /// Time of its completion.
    pub done: SystemTime,
    /// What.
    pub what: EventAction,
    /// The changes, or the error.
    pub outcome: Result<Changed, LiveError>,
}

/// An entry of the timer queue.
#[expect(clippy::large_enum_variant, reason = "there are few of them")]
enum TimerEntry {
    /// The start of the courses of events.
    Courses(Vec<Followed>),
    Event(EventAction),
    /// The next step of a ramp.
    Step(Ramp),
    /// The next row that this process applies of a recording that began at a time.
    Row {
        index: usize,
        began: Duration,
    },
    /// The end of a trace that the kernel programs follow.
    End {
        index: usize,
    },
    /// A poll for a packet beyond these; the first poll counts the packets.
    Await {
        index: usize,
        packets: Option<u64>,
    },
}

/// A clock with its timer queue.
pub struct EventClock {
    live: Live,
    /// By time and order.
    pending: BTreeMap<(Duration, usize), TimerEntry>,
    /// In the order of the topology.
    traces: Vec<Rc<PlayedTrace>>,
    /// Traces that the kernel programs follow already, started with another one.
    started: BTreeMap<usize, Changed>,
    start: Instant,
    from: Duration,
    /// Time by which the clock is started before its zero.
    ahead: Duration,
    next: usize,
}

impl EventClock {
    /// A clock with a given zero, in the past or in the future, for a network whose events
    /// are synchronous on several hosts. Events that are due run at once, in order, except
    /// those completed by `done`; ramps in progress continue.
    ///
    /// # Errors
    /// As for [`EventClock::new`].
    pub fn joining(
        live: Live,
        zero: SystemTime,
        done: Option<Duration>,
    ) -> Result<Self, LiveError> {
        let mut clock = Self::new(live, Duration::ZERO)?;
        match zero.elapsed() {
            Ok(passed) => clock.from = passed,
            Err(early) => clock.ahead = early.duration(),
        }
        clock.pending.retain(|(at, _), act| match act {
            TimerEntry::Event(EventAction::Trace { .. }) => true,
            TimerEntry::Event(what) => done.is_none_or(|done| *at + what.lasts() > done),
            _ => true,
        });
        Ok(clock)
    }

    /// Time since the clock's zero.
    fn now(&self) -> Duration {
        (self.from + self.start.elapsed()).saturating_sub(self.ahead)
    }

    /// A clock for the events of the loaded topology that starts at `from`; earlier events
    /// are skipped, and traces start at their position of that time.
    ///
    /// # Errors
    /// [`LiveError::Trace`] if a recording is invalid.
    pub fn new(live: Live, from: Duration) -> Result<Self, LiveError> {
        let events: Vec<Event> = live.topology().events.clone();
        let mut live = live;
        let (traces, mut courses) = live.played()?;
        // Without the earlier events the rates are others.
        courses.retain(|_| from.is_zero());
        let followed = traces.iter().map(|trace| &trace.followed);
        live.reserve_rows(&followed.chain(&courses).collect::<Vec<_>>())?;
        for trace in &traces {
            trace.reserve(&mut live)?;
        }
        let mut clock = Self {
            live,
            pending: BTreeMap::new(),
            traces,
            started: BTreeMap::new(),
            start: Instant::now(),
            from,
            ahead: Duration::ZERO,
            next: 0,
        };
        if !courses.is_empty() {
            clock.plan(Duration::ZERO, TimerEntry::Courses(courses));
        }
        for index in 0..clock.traces.len() {
            let trace = &clock.traces[index];
            let at = trace.at().max(from);
            let act = if trace.waits() {
                TimerEntry::Await {
                    index,
                    packets: None,
                }
            } else {
                let begins = true;
                TimerEntry::Event(EventAction::Trace { index, begins })
            };
            clock.plan(at, act);
        }
        for event in events.into_iter().filter(|e| e.at >= from) {
            clock.plan(event.at, TimerEntry::Event(event.what));
        }
        Ok(clock)
    }

    /// What is loaded.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Number of events that have not run.
    pub fn events(&self) -> usize {
        let is_event = |entry: &&TimerEntry| !matches!(entry, TimerEntry::Courses(_));
        self.pending.values().filter(is_event).count()
    }

    fn plan(&mut self, at: Duration, act: TimerEntry) {
        self.pending.insert((at, self.next), act);
        self.next += 1;
    }

    /// Runs until the queue is empty or `stop` returns true, and passes each result to `on`.
    /// Changes stay in effect. Returns whether all events have run.
    ///
    /// # Errors
    /// [`LiveError::Replaced`] if another topology was loaded meanwhile.
    pub fn run(
        mut self,
        stop: impl Fn() -> bool,
        mut on: impl FnMut(&EventResult),
    ) -> Result<bool, LiveError> {
        self.start = Instant::now();
        let stopped = self.play(&stop, &mut on)?;
        if stopped {
            // What the kernel programs follow stays as it is now.
            self.live.end_schedules()?;
        }
        Ok(!stopped)
    }

    /// Whether `stop` ended it.
    fn play(
        &mut self,
        stop: &impl Fn() -> bool,
        on: &mut impl FnMut(&EventResult),
    ) -> Result<bool, LiveError> {
        while let Some(((at, _), act)) = self.pending.pop_first() {
            let due = (at + self.ahead).saturating_sub(self.from);
            loop {
                if stop() {
                    return Ok(true);
                }
                let left = due.saturating_sub(self.start.elapsed());
                if left.is_zero() {
                    break;
                }
                thread::sleep(left.min(STOP_POLL_INTERVAL));
            }
            let late = self.now().saturating_sub(at);
            match act {
                TimerEntry::Event(what) => {
                    let outcome = self.happen(at, &what);
                    if matches!(outcome, Err(LiveError::Replaced)) {
                        return Err(LiveError::Replaced);
                    }
                    on(&EventResult {
                        at,
                        late,
                        done: SystemTime::now(),
                        what,
                        outcome,
                    });
                }
                TimerEntry::Courses(courses) => {
                    let start_ns = self.start_ns(Duration::ZERO);
                    self.live.start_courses(courses, start_ns)?;
                }
                TimerEntry::Step(ramp) => self.step(self.now(), ramp)?,
                TimerEntry::Await { index, packets } => {
                    let now = self.now();
                    let counted = self.traces[index].packets(&self.live);
                    if packets.is_none_or(|packets| packets == counted) {
                        let packets = Some(counted);
                        self.plan(
                            now + PACKET_POLL_INTERVAL,
                            TimerEntry::Await { index, packets },
                        );
                    } else {
                        let begins = true;
                        self.plan(now, TimerEntry::Event(EventAction::Trace { index, begins }));
                    }
                }
                TimerEntry::End { index } => on(&EventResult {
                    at,
                    late,
                    done: SystemTime::now(),
                    what: EventAction::Trace {
                        index,
                        begins: false,
                    },
                    outcome: Ok(Changed::default()),
                }),
                TimerEntry::Row { index, began } => {
                    let now = self.now();
                    let outcome = self.row(index, began, now);
                    let ends = matches!(outcome, Ok(None));
                    match outcome {
                        Err(LiveError::Replaced) => return Err(LiveError::Replaced),
                        Ok(Some(_)) => {}
                        // The end of the schedule is that of the trace.
                        Ok(None) if self.traces[index].is_scheduled() => {}
                        Ok(None) | Err(_) => on(&EventResult {
                            at,
                            late,
                            done: SystemTime::now(),
                            what: EventAction::Trace {
                                index,
                                begins: !ends,
                            },
                            outcome: outcome.map(Option::unwrap_or_default),
                        }),
                    }
                }
            }
        }
        Ok(false)
    }

    fn happen(&mut self, at: Duration, what: &EventAction) -> Result<Changed, LiveError> {
        if let EventAction::Trace { index, .. } = what {
            return self.begin(at, *index);
        }
        if let Some(ramp) = Ramp::begin(&self.live, at, what) {
            let changed = ramp.prepare(&mut self.live)?;
            self.plan(ramp.next(at), TimerEntry::Step(ramp));
            return Ok(changed);
        }
        let live = &mut self.live;
        match what {
            EventAction::AccessLink { target, change, .. } => live.set_line(*target, change),
            EventAction::Link {
                ends,
                one_way,
                change,
                ..
            } => live.set_pair(*ends, *one_way, change),
            EventAction::Cut { ends: (a, b), cut } => live.set_cut(*a, *b, *cut),
            EventAction::Down { target, down } => live.set_down(*target, *down),
            EventAction::Trace { .. } => Ok(Changed::default()),
        }
    }

    /// Starts a trace, with all that start at the same time, and applies what this process
    /// applies of its first row.
    fn begin(&mut self, at: Duration, index: usize) -> Result<Changed, LiveError> {
        let trace = Rc::clone(&self.traces[index]);
        let began = if trace.waits() { at } else { trace.at() };
        let mut changed = Changed::default();
        if trace.is_scheduled() {
            if !self.started.contains_key(&index) {
                self.start_schedules(began, index)?;
            }
            changed = self.started.remove(&index).unwrap_or_default();
            // Without an end the clock runs until it is stopped.
            let end = trace.ends().unwrap_or(FOREVER);
            self.plan(began + end, TimerEntry::End { index });
        }
        let row = self.row(index, began, at)?;
        Ok(row.filter(|_| !trace.is_scheduled()).unwrap_or(changed))
    }

    /// Starts the schedules of a trace and of those that begin at the same time.
    fn start_schedules(&mut self, began: Duration, index: usize) -> Result<(), LiveError> {
        let waits = self.traces[index].waits();
        let together: Vec<usize> = (0..self.traces.len())
            .filter(|other| {
                let trace = &self.traces[*other];
                let same = !waits && !trace.waits() && trace.at() == began;
                *other == index || (same && trace.is_scheduled())
            })
            .collect();
        let start_ns = self.start_ns(began);
        let traces = &self.traces;
        let followed: Vec<&Followed> = together.iter().map(|i| &traces[*i].followed).collect();
        self.live.start_followed(&followed, start_ns)?;
        for index in together {
            let pipes = self.traces[index].followed.pipes.len();
            self.started.insert(index, Changed { pipes, pairs: 0 });
        }
        Ok(())
    }

    /// The `CLOCK_MONOTONIC` of a past time of this clock, modulo 2^64.
    fn start_ns(&self, began: Duration) -> u64 {
        let ago = self.now().saturating_sub(began);
        now_ns().wrapping_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Applies the current row of a recording, as far as this process does, and schedules the
    /// next. `None`: it was the last row.
    fn row(
        &mut self,
        index: usize,
        began: Duration,
        now: Duration,
    ) -> Result<Option<Changed>, LiveError> {
        let trace = Rc::clone(&self.traces[index]);
        let (changed, next) = trace.put(&mut self.live, now.saturating_sub(began))?;
        let Some(next) = next else { return Ok(None) };
        self.plan(began + next, TimerEntry::Row { index, began });
        Ok(Some(changed))
    }

    /// Moves a ramp to its current position.
    fn step(&mut self, now: Duration, ramp: Ramp) -> Result<(), LiveError> {
        // Other errors were reported at the start of the ramp, which continues as far as
        // possible.
        if let Err(LiveError::Replaced) = ramp.step(&mut self.live, now) {
            return Err(LiveError::Replaced);
        }
        if !ramp.is_over(now) {
            self.plan(ramp.next(now), TimerEntry::Step(ramp));
        }
        Ok(())
    }
}
