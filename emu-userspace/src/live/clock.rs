//! The clock of `emu start`: makes the events of a topology happen in time.
use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use super::{Changed, Live, LiveError, ramp::Ramp};
use crate::{
    session::SessionError,
    topology::{Event, Happening},
};

/// Longest sleep before another look at whether to stop.
const NAP: Duration = Duration::from_millis(50);
/// Attempts to get the lock, [`NAP`] apart, while another process changes
/// something.
const ATTEMPTS: u32 = 100;

/// Something that happened.
#[derive(Debug)]
pub struct Happened {
    /// When it was due, since the start of the clock.
    pub at: Duration,
    /// How much later it was done.
    pub late: Duration,
    /// What.
    pub what: Happening,
    /// What was changed, or why not.
    pub outcome: Result<Changed, LiveError>,
}

/// What is still to come.
enum Act {
    Event(Happening),
    /// The next step of a ramp.
    Step(Ramp),
}

/// A clock with all that is still to come.
pub struct Clock {
    live: Live,
    /// By time and order.
    pending: BTreeMap<(Duration, usize), Act>,
    from: Duration,
    next: usize,
}

impl Clock {
    /// A clock for the events of what is loaded that begins at `from`; what was to
    /// happen before is passed over.
    pub fn new(live: Live, from: Duration) -> Self {
        let events: Vec<Event> = live.topology().events.clone();
        let mut clock = Self {
            live,
            pending: BTreeMap::new(),
            from,
            next: 0,
        };
        for event in events.into_iter().filter(|e| e.at >= from) {
            clock.plan(event.at, Act::Event(event.what));
        }
        clock
    }

    /// What is loaded.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Events that are still to come.
    pub fn events(&self) -> usize {
        self.pending.len()
    }

    fn plan(&mut self, at: Duration, act: Act) {
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
        mut on: impl FnMut(&Happened),
    ) -> Result<bool, LiveError> {
        let start = Instant::now();
        while let Some(((at, _), act)) = self.pending.pop_first() {
            let due = at - self.from;
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
            let late = start.elapsed() - due;
            match act {
                Act::Event(what) => {
                    let outcome = self.happen(at, &what);
                    if matches!(outcome, Err(LiveError::Replaced)) {
                        return Err(LiveError::Replaced);
                    }
                    on(&Happened {
                        at,
                        late,
                        what,
                        outcome,
                    });
                }
                Act::Step(ramp) => self.step(start.elapsed() + self.from, ramp)?,
            }
        }
        Ok(true)
    }

    fn happen(&mut self, at: Duration, what: &Happening) -> Result<Changed, LiveError> {
        if let Some(ramp) = Ramp::begin(&self.live, at, what) {
            let changed = self.patiently(|live| ramp.prepare(live))?;
            self.plan(ramp.next(at), Act::Step(ramp));
            return Ok(changed);
        }
        self.patiently(|live| match what {
            Happening::Line { target, change, .. } => live.set_line(*target, change),
            Happening::Link {
                ends,
                one_way,
                change,
                ..
            } => live.set_pair(*ends, *one_way, change),
            Happening::Cut { ends: (a, b), cut } => live.set_cut(*a, *b, *cut),
            Happening::Down { target, down } => live.set_down(*target, *down),
        })
    }

    /// Brings a ramp to where it should be now.
    fn step(&mut self, now: Duration, ramp: Ramp) -> Result<(), LiveError> {
        match self.patiently(|live| ramp.step(live, now)) {
            Err(LiveError::Replaced) => return Err(LiveError::Replaced),
            // The beginning of the ramp was told; it goes on as well as it can.
            Ok(_) | Err(_) => {}
        }
        if !ramp.is_over(now) {
            self.plan(ramp.next(now), Act::Step(ramp));
        }
        Ok(())
    }

    /// Tries again while another process holds the lock.
    fn patiently(
        &mut self,
        change: impl Fn(&mut Live) -> Result<Changed, LiveError>,
    ) -> Result<Changed, LiveError> {
        let mut attempt = 0;
        loop {
            match change(&mut self.live) {
                Err(LiveError::Session(SessionError::State(
                    crate::kernel::state::StateError::Locked { .. },
                ))) if attempt < ATTEMPTS => {
                    attempt += 1;
                    thread::sleep(NAP);
                }
                outcome => return outcome,
            }
        }
    }
}
