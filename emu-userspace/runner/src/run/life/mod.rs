//! The life of one process of the schedule, as a state machine without input and output.
//!
//! [`ProcessLife::on`] takes an event and returns what the supervisor must do. Times are
//! offsets from the release of the process's program, so that the machine needs no clock.
use std::time::{Duration, Instant};

use emu_model::experiment::{Leave, Process, Program, Session, Sign};

use super::{record::Cause, timers::Action};

/// What the experiment says about the life of a process.
#[derive(Debug, Clone, Copy)]
pub(super) struct LifePlan<'a> {
    /// The sessions, in the order of time.
    sessions: &'a [Session],
    /// How a session ends, if the program has sessions.
    leave: Option<Leave>,
    /// When the life of the program ends, whatever its sessions.
    end: Option<Duration>,
    /// Whether the process is ready once it has ended with exit code 0.
    is_ready_at_exit: bool,
}

impl<'a> LifePlan<'a> {
    pub fn new(program: &Program, process: &'a Process) -> Self {
        let ready = program.ready.as_ref();
        Self {
            sessions: &process.sessions,
            leave: program.churn.as_ref().map(|churn| churn.leave),
            end: (program.lasts).and_then(|lasts| process.sessions.first().map(|s| s.from + lasts)),
            is_ready_at_exit: ready.is_some_and(|ready| ready.sign == Sign::Exited),
        }
    }
}

/// A program that has been started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Running {
    pub pid: i32,
    pub planned: Instant,
    pub started: Instant,
}

/// The state of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// Its program waits for programs that are not ready.
    Unreleased,
    /// No program runs, and another session follows.
    Waiting,
    /// The program runs.
    Running(Running),
    /// The program runs, and has been told to end.
    Ending {
        running: Running,
        cause: Cause,
        /// Whether it got SIGKILL at the end of its grace period.
        was_killed: bool,
        /// Whether to start again as soon as it has ended.
        restarts: bool,
    },
    /// No program runs, and no session follows.
    Finished,
    /// The end of the run ended the program.
    CutShort,
}

/// What happens to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LifeEvent {
    /// Its program may start.
    Released,
    /// A session starts, which was planned for this time.
    StartDue(Instant),
    /// A session ends.
    EndDue,
    /// The grace period of a start is over; starts count from 1.
    KillDue(usize),
    /// The program was started.
    Started(Running),
    /// The program could not be started.
    NotStarted,
    /// The program has ended; whether with exit code 0.
    Exited { is_success: bool },
    /// The run is over.
    RunOver,
    /// The grace period at the end of the run is over.
    RunGraceOver,
}

/// What the supervisor must do, in the order of the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Set a timer, this time after the release.
    Schedule(Duration, Action),
    /// Set a timer for [`LifeEvent::KillDue`], the grace period from now.
    ScheduleKill(usize),
    /// Start the program; the time that was planned, or `None` for now.
    Start(Option<Instant>),
    /// Send the stop signal.
    Signal,
    /// Send SIGKILL to all processes of the program.
    Kill,
    /// Disconnect the vnode.
    Disconnect,
    /// Connect the vnode again.
    Connect,
    /// The process is ready.
    Ready,
    /// The process will not be ready.
    NotReady,
}

/// The life of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcessLife {
    life: Life,
    /// Index of the current session, or of the next one between two sessions.
    session: usize,
    /// Whether the time is within a session.
    is_in_session: bool,
    /// Number of times that the program was started, or could not be started.
    starts: usize,
    /// Whether the process keeps its vnode disconnected.
    is_dark: bool,
    /// Whether a program failed.
    has_failed: bool,
}

/// How a program ends, for its row in the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ending {
    pub running: Running,
    pub cause: Cause,
    /// Whether it needed SIGKILL after the grace period.
    pub was_killed: bool,
}

impl ProcessLife {
    pub const fn new() -> Self {
        Self {
            life: Life::Unreleased,
            session: 0,
            is_in_session: false,
            starts: 0,
            is_dark: false,
            has_failed: false,
        }
    }

    /// Number of times that the program was started, or could not be started.
    pub const fn starts(&self) -> usize {
        self.starts
    }

    /// Number of the current or next session, from 1.
    pub const fn session_number(&self) -> usize {
        self.session + 1
    }

    /// Whether a program failed, or could not be started.
    pub const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether no program runs and none will.
    pub const fn is_finished(&self) -> bool {
        matches!(self.life, Life::Finished | Life::CutShort)
    }

    /// Whether the end of the run ended the program.
    pub const fn is_cut_short(&self) -> bool {
        matches!(self.life, Life::CutShort)
    }

    /// The program that runs, if one does.
    pub const fn running(&self) -> Option<Running> {
        match self.life {
            Life::Running(running) | Life::Ending { running, .. } => Some(running),
            Life::Unreleased | Life::Waiting | Life::Finished | Life::CutShort => None,
        }
    }

    /// How the running program ends if it ends now.
    pub const fn ending(&self) -> Option<Ending> {
        match self.life {
            Life::Running(running) => Some(Ending {
                running,
                cause: Cause::Exited,
                was_killed: false,
            }),
            Life::Ending {
                running,
                cause,
                was_killed,
                ..
            } => Some(Ending {
                running,
                cause,
                was_killed,
            }),
            Life::Unreleased | Life::Waiting | Life::Finished | Life::CutShort => None,
        }
    }

    /// Changes the state by an event, and returns what to do.
    pub fn on(&mut self, plan: &LifePlan<'_>, event: LifeEvent) -> Vec<Effect> {
        match event {
            LifeEvent::Released => self.released(plan),
            LifeEvent::StartDue(planned) => self.start_due(plan, planned),
            LifeEvent::EndDue => self.end_due(plan),
            LifeEvent::KillDue(start) if start == self.starts => self.kill(),
            LifeEvent::KillDue(_) => Vec::new(),
            LifeEvent::Started(running) => {
                self.life = Life::Running(running);
                self.starts += 1;
                Vec::new()
            }
            LifeEvent::NotStarted => {
                self.starts += 1;
                self.has_failed = true;
                self.wait_or_finish(plan);
                vec![Effect::NotReady]
            }
            LifeEvent::Exited { is_success } => self.exited(plan, is_success),
            LifeEvent::RunOver => {
                if let Life::Ending { restarts, .. } = &mut self.life {
                    *restarts = false;
                }
                self.stop(Cause::RunOver)
            }
            LifeEvent::RunGraceOver => self.kill(),
        }
    }

    fn released(&mut self, plan: &LifePlan<'_>) -> Vec<Effect> {
        match plan.sessions.first() {
            Some(first) => {
                self.life = Life::Waiting;
                vec![Effect::Schedule(first.from, Action::Start)]
            }
            None => {
                self.life = Life::Finished;
                Vec::new()
            }
        }
    }

    fn start_due(&mut self, plan: &LifePlan<'_>, planned: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.is_in_session = true;
        if std::mem::take(&mut self.is_dark) {
            effects.push(Effect::Connect);
        }
        if let Some(to) = plan.sessions.get(self.session).and_then(|s| s.to) {
            effects.push(Effect::Schedule(to, Action::End));
        }
        match &mut self.life {
            Life::Waiting => effects.push(Effect::Start(Some(planned))),
            // The process is still in its grace period, which ends now.
            Life::Ending { restarts, .. } => {
                *restarts = true;
                effects.push(Effect::Kill);
            }
            // The process was only disconnected, and is still running.
            Life::Running(_) | Life::Unreleased | Life::Finished | Life::CutShort => {}
        }
        effects
    }

    fn end_due(&mut self, plan: &LifePlan<'_>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let end = plan.sessions.get(self.session).and_then(|s| s.to);
        let leave = plan.leave.filter(|_| end != plan.end);
        self.session += 1;
        self.is_in_session = false;
        if let Life::Ending { restarts, .. } = &mut self.life {
            *restarts = false;
        }
        match plan.sessions.get(self.session) {
            Some(next) => effects.push(Effect::Schedule(next.from, Action::Start)),
            None if self.life == Life::Waiting => self.life = Life::Finished,
            None => {}
        }
        let Some(leave) = leave else {
            effects.extend(self.stop(Cause::Stopped));
            return effects;
        };
        if leave.is_dark() && !self.is_dark {
            self.is_dark = true;
            effects.push(Effect::Disconnect);
        }
        match leave {
            Leave::Term => effects.extend(self.stop(Cause::Left)),
            Leave::Unplug => {}
            Leave::Kill | Leave::Dark => {
                if let Some(Ending {
                    running,
                    was_killed,
                    ..
                }) = self.ending()
                {
                    self.life = Life::Ending {
                        running,
                        cause: Cause::Left,
                        was_killed,
                        restarts: false,
                    };
                    effects.push(Effect::Kill);
                }
            }
        }
        effects
    }

    /// Tells a running program to end.
    fn stop(&mut self, cause: Cause) -> Vec<Effect> {
        let Life::Running(running) = self.life else {
            return Vec::new();
        };
        self.life = Life::Ending {
            running,
            cause,
            was_killed: false,
            restarts: false,
        };
        vec![Effect::Signal, Effect::ScheduleKill(self.starts)]
    }

    /// Kills a program after its grace period.
    fn kill(&mut self) -> Vec<Effect> {
        match &mut self.life {
            Life::Ending { was_killed, .. } => {
                *was_killed = true;
                vec![Effect::Kill]
            }
            _ => Vec::new(),
        }
    }

    fn exited(&mut self, plan: &LifePlan<'_>, is_success: bool) -> Vec<Effect> {
        let Some(Ending { cause, .. }) = self.ending() else {
            return Vec::new();
        };
        let mut effects = Vec::new();
        let by_itself = cause == Cause::Exited;
        self.has_failed |= by_itself && !is_success;
        if plan.is_ready_at_exit && is_success {
            effects.push(Effect::Ready);
        } else if by_itself {
            effects.push(Effect::NotReady);
        }
        if cause == Cause::RunOver {
            self.life = Life::CutShort;
        } else if matches!(self.life, Life::Ending { restarts: true, .. }) {
            self.life = Life::Waiting;
            effects.push(Effect::Start(None));
        } else {
            self.wait_or_finish(plan);
        }
        effects
    }

    /// Without a program: waits for the next session, if one follows.
    fn wait_or_finish(&mut self, plan: &LifePlan<'_>) {
        let next = self.session + usize::from(self.is_in_session);
        self.life = if next < plan.sessions.len() {
            Life::Waiting
        } else {
            Life::Finished
        };
    }
}

#[cfg(test)]
mod tests;
