//! The clock of `emu start`: runs the events of a topology on schedule.
use std::{
    collections::BTreeMap,
    rc::Rc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use emu_model::topology::{Event, EventAction};

use super::{Changed, Live, LiveError, ramp::Ramp, trace::Recording};

/// Longest sleep between two polls of `stop`.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time between two polls for a first packet.
const PACKET_POLL_INTERVAL: Duration = Duration::from_millis(5);

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
    Event(EventAction),
    /// The next step of a ramp.
    Step(Ramp),
    /// The next row of a recording that began at a time.
    Row {
        index: usize,
        began: Duration,
    },
    /// A poll for a packet beyond these; the first poll counts the packets.
    Await {
        index: usize,
        packets: Option<u64>,
    },
}

/// A clock with its timer queue.
pub struct Clock {
    live: Live,
    /// By time and order.
    pending: BTreeMap<(Duration, usize), TimerEntry>,
    /// In the order of the topology.
    recordings: Vec<Rc<Recording>>,
    from: Duration,
    /// Time by which the clock is started before its zero.
    ahead: Duration,
    next: usize,
}

impl Clock {
    /// A clock with a given zero, in the past or in the future, for a network whose events
    /// are synchronous on several hosts. Events that are due run at once, in order, except
    /// those completed by `done`; ramps in progress continue.
    ///
    /// # Errors
    /// As for [`Clock::new`].
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

    /// Time since the clock's zero, for a clock started at `start`.
    fn now(&self, start: Instant) -> Duration {
        (self.from + start.elapsed()).saturating_sub(self.ahead)
    }

    /// A clock for the events of the loaded topology that starts at `from`; earlier events
    /// are skipped, and traces start at their position of that time.
    ///
    /// # Errors
    /// [`LiveError::Trace`] if a recording is invalid.
    pub fn new(live: Live, from: Duration) -> Result<Self, LiveError> {
        let events: Vec<Event> = live.topology().events.clone();
        let traces = live.topology().traces.iter();
        let recordings = traces
            .map(|trace| Recording::read(trace).map(Rc::new))
            .collect::<Result<Vec<_>, _>>()?;
        let mut clock = Self {
            live,
            pending: BTreeMap::new(),
            recordings,
            from,
            ahead: Duration::ZERO,
            next: 0,
        };
        for index in 0..clock.recordings.len() {
            let recording = &clock.recordings[index];
            let at = recording.at().max(from);
            let act = if recording.waits() {
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
        self.pending.len()
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
        let start = Instant::now();
        while let Some(((at, _), act)) = self.pending.pop_first() {
            let due = (at + self.ahead).saturating_sub(self.from);
            loop {
                if stop() {
                    return Ok(false);
                }
                let left = due.saturating_sub(start.elapsed());
                if left.is_zero() {
                    break;
                }
                thread::sleep(left.min(STOP_POLL_INTERVAL));
            }
            let late = self.now(start).saturating_sub(at);
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
                TimerEntry::Step(ramp) => self.step(self.now(start), ramp)?,
                TimerEntry::Await { index, packets } => {
                    let now = self.now(start);
                    let counted = self.recordings[index].packets(&self.live);
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
                TimerEntry::Row { index, began } => {
                    let now = self.now(start);
                    let outcome = self.row(index, began, now);
                    let ends = matches!(outcome, Ok(None));
                    match outcome {
                        Err(LiveError::Replaced) => return Err(LiveError::Replaced),
                        Ok(Some(_)) => {}
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
        Ok(true)
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

    /// Prepares fq for a recording and applies its first row.
    fn begin(&mut self, at: Duration, index: usize) -> Result<Changed, LiveError> {
        let recording = Rc::clone(&self.recordings[index]);
        recording.reserve(&mut self.live)?;
        let began = if recording.waits() {
            at
        } else {
            recording.at()
        };
        Ok(self.row(index, began, at)?.unwrap_or_default())
    }

    /// Applies the current row of a recording, and schedules the next. `None`: it was the
    /// last row.
    fn row(
        &mut self,
        index: usize,
        began: Duration,
        now: Duration,
    ) -> Result<Option<Changed>, LiveError> {
        let recording = Rc::clone(&self.recordings[index]);
        let (row, next) = recording.row(now.saturating_sub(began));
        let changed = recording.put(&mut self.live, row)?;
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
