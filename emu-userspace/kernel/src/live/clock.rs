//! The clock of `emu start`: makes the events of a topology happen in time.
use std::{
    collections::BTreeMap,
    rc::Rc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use emu_model::topology::{Event, EventAction};

use super::{Changed, Live, LiveError, ramp::Ramp, trace::Recording};

/// Longest sleep before another look at whether to stop.
const NAP: Duration = Duration::from_millis(50);
/// Time between two looks for a first packet.
const GLANCE: Duration = Duration::from_millis(5);

/// Something that happened.
#[derive(Debug)]
pub struct EventResult {
    /// When it was due, since the start of the clock.
    pub at: Duration,
    /// How much later it was begun.
    pub late: Duration,
    /// When it was done.
    pub done: SystemTime,
    /// What.
    pub what: EventAction,
    /// What was changed, or why not.
    pub outcome: Result<Changed, LiveError>,
}

/// What is still to come.
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
    /// A look whether a packet has passed since there were so many; the first look
    /// counts them.
    Await {
        index: usize,
        packets: Option<u64>,
    },
}

/// A clock with all that is still to come.
pub struct Clock {
    live: Live,
    /// By time and order.
    pending: BTreeMap<(Duration, usize), TimerEntry>,
    /// In the order of the topology.
    recordings: Vec<Rc<Recording>>,
    from: Duration,
    /// How long before its zero the clock is started.
    ahead: Duration,
    next: usize,
}

impl Clock {
    /// A clock whose zero is at another time than now, for a network whose events
    /// happen at the same moment on several hosts: in the future, or in the past.
    /// What was to happen until now does so at once, in order; but nothing that had
    /// happened by `done`, ramps that were still under way excepted.
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

    /// Time since the clock's zero, when it runs since `start`.
    fn now(&self, start: Instant) -> Duration {
        (self.from + start.elapsed()).saturating_sub(self.ahead)
    }

    /// A clock for the events of what is loaded that begins at `from`; what was to
    /// happen before is passed over, and traces stand where they would by then.
    ///
    /// # Errors
    /// [`LiveError::Trace`] for a recording that cannot be followed.
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

    /// Events that are still to come.
    pub fn events(&self) -> usize {
        self.pending.len()
    }

    fn plan(&mut self, at: Duration, act: TimerEntry) {
        self.pending.insert((at, self.next), act);
        self.next += 1;
    }

    /// Runs until nothing is left or `stop` says so, and tells `on` what happened.
    /// What happened stays as it is. Returns whether all happened.
    ///
    /// # Errors
    /// [`LiveError::Replaced`] when another topology was loaded meanwhile.
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
                thread::sleep(left.min(NAP));
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
                        self.plan(now + GLANCE, TimerEntry::Await { index, packets });
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

    /// Prepares for a recording and puts its first row in place.
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

    /// Puts the row of a recording that holds now in place, and plans the next.
    /// None: that was the last one.
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

    /// Brings a ramp to where it should be now.
    fn step(&mut self, now: Duration, ramp: Ramp) -> Result<(), LiveError> {
        // Of other errors the beginning of the ramp told; it goes on as well as it
        // can.
        if let Err(LiveError::Replaced) = ramp.step(&mut self.live, now) {
            return Err(LiveError::Replaced);
        }
        if !ramp.is_over(now) {
            self.plan(ramp.next(now), TimerEntry::Step(ramp));
        }
        Ok(())
    }
}
