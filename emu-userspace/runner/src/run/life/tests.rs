use std::time::{Duration, Instant};

use emu_model::experiment::{Leave, Session};

use super::{Effect::*, LifeEvent, LifePlan, ProcessLife, Running};
use crate::run::{record::Cause, timers::Action};

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Sessions from 0 to 10 s and from 20 to 30 s.
const TWO: [Session; 2] = [
    Session {
        from: s(0),
        to: Some(s(10)),
    },
    Session {
        from: s(20),
        to: Some(s(30)),
    },
];
/// One session without an end.
const ENDLESS: [Session; 1] = [Session {
    from: s(5),
    to: None,
}];

const fn plan(sessions: &[Session], leave: Option<Leave>) -> LifePlan<'_> {
    LifePlan {
        sessions,
        leave,
        end: None,
        is_ready_at_exit: false,
    }
}

const SUCCESS: LifeEvent = LifeEvent::Exited { is_success: true };
const FAILURE: LifeEvent = LifeEvent::Exited { is_success: false };

/// A life with its plan, which is told events one after the other.
struct Told<'a> {
    plan: LifePlan<'a>,
    life: ProcessLife,
    now: Instant,
}

impl<'a> Told<'a> {
    fn released(plan: LifePlan<'a>) -> Self {
        let mut told = Self {
            plan,
            life: ProcessLife::new(),
            now: Instant::now(),
        };
        assert!(!told.life.is_finished() && told.life.running().is_none());
        let first = plan.sessions[0].from;
        assert_eq!(
            told.on(LifeEvent::Released),
            [Schedule(first, Action::Start)]
        );
        told
    }

    /// Released, due, and started once.
    fn started(plan: LifePlan<'a>) -> Self {
        let mut told = Self::released(plan);
        let end = plan.sessions[0].to.map(|to| Schedule(to, Action::End));
        let start = Start(Some(told.now));
        let expected: Vec<_> = end.into_iter().chain([start]).collect();
        assert_eq!(told.on(LifeEvent::StartDue(told.now)), expected);
        told.starts();
        told
    }

    fn on(&mut self, event: LifeEvent) -> Vec<super::Effect> {
        self.life.on(&self.plan, event)
    }

    fn running(&self) -> Running {
        Running {
            pid: 7,
            planned: self.now,
            started: self.now,
        }
    }

    fn starts(&mut self) {
        let running = self.running();
        let before = self.life.starts();
        assert_eq!(self.on(LifeEvent::Started(running)), []);
        assert_eq!(self.life.running(), Some(running));
        assert_eq!(self.life.starts(), before + 1);
    }

    /// Cause and SIGKILL of the running program, if it ended now.
    fn ending(&self) -> Option<(Cause, bool)> {
        let ending = self.life.ending();
        ending.map(|ending| (ending.cause, ending.was_killed))
    }
}

#[test]
fn a_process_without_sessions_is_finished_at_its_release() {
    let mut life = ProcessLife::new();
    assert_eq!(life.on(&plan(&[], None), LifeEvent::Released), []);
    assert!(life.is_finished() && !life.is_cut_short() && !life.has_failed());
    assert_eq!(life.starts(), 0);
}

#[test]
fn a_program_that_exits_in_its_last_session_is_finished() {
    for (exit, failed) in [(SUCCESS, false), (FAILURE, true)] {
        let mut told = Told::started(plan(&ENDLESS, None));
        assert_eq!(told.ending(), Some((Cause::Exited, false)));
        assert_eq!(told.on(exit), [NotReady]);
        assert!(told.life.is_finished() && !told.life.is_cut_short());
        assert_eq!(told.life.has_failed(), failed);
        assert_eq!(told.ending(), None);
        // A second notice of the same end changes nothing.
        let before = told.life.clone();
        assert_eq!(told.on(exit), []);
        assert_eq!(told.life, before);
    }
}

#[test]
fn a_program_that_exits_before_its_last_session_waits_for_the_next() {
    let mut told = Told::started(plan(&TWO, Some(Leave::Term)));
    assert_eq!(told.on(FAILURE), [NotReady]);
    assert!(!told.life.is_finished() && told.life.has_failed());
    assert_eq!(told.on(LifeEvent::EndDue), [Schedule(s(20), Action::Start)]);
    assert_eq!(
        told.on(LifeEvent::StartDue(told.now)),
        [Schedule(s(30), Action::End), Start(Some(told.now))]
    );
    told.starts();
    assert_eq!(told.on(SUCCESS), [NotReady]);
    assert!(told.life.is_finished());
    assert_eq!(told.on(LifeEvent::EndDue), []);
    assert!(told.life.is_finished());
}

#[test]
fn a_program_that_cannot_start_tries_again_in_the_next_session() {
    let mut told = Told::released(plan(&TWO, Some(Leave::Term)));
    let now = told.now;
    told.on(LifeEvent::StartDue(now));
    assert_eq!(told.on(LifeEvent::NotStarted), [NotReady]);
    assert!(told.life.has_failed() && !told.life.is_finished());
    assert_eq!((told.life.starts(), told.life.session_number()), (1, 1));
    told.on(LifeEvent::EndDue);
    told.on(LifeEvent::StartDue(now));
    assert_eq!(told.life.session_number(), 2);
    assert_eq!(told.on(LifeEvent::NotStarted), [NotReady]);
    assert!(told.life.is_finished());
    assert_eq!(told.life.starts(), 2);
}

#[test]
fn the_end_of_the_last_session_stops_the_program() {
    let mut told = Told::started(plan(&TWO[..1], None));
    assert_eq!(told.on(LifeEvent::EndDue), [Signal, ScheduleKill(1)]);
    assert_eq!(told.ending(), Some((Cause::Stopped, false)));
    // No failure, whatever the exit code.
    assert_eq!(told.on(FAILURE), []);
    assert!(told.life.is_finished() && !told.life.has_failed());
}

#[test]
fn a_program_that_ignores_the_stop_signal_is_killed() {
    let mut told = Told::started(plan(&TWO[..1], None));
    told.on(LifeEvent::EndDue);
    assert_eq!(told.on(LifeEvent::KillDue(1)), [Kill]);
    assert_eq!(told.ending(), Some((Cause::Stopped, true)));
    told.on(FAILURE);
    assert!(told.life.is_finished());
    assert_eq!(told.on(LifeEvent::KillDue(1)), []);
}

#[test]
fn the_grace_period_of_an_earlier_start_kills_nothing() {
    let mut told = Told::started(plan(&TWO, Some(Leave::Term)));
    assert_eq!(
        told.on(LifeEvent::EndDue),
        [Schedule(s(20), Action::Start), Signal, ScheduleKill(1)]
    );
    assert_eq!(told.ending(), Some((Cause::Left, false)));
    assert_eq!(told.on(SUCCESS), []);
    assert!(!told.life.is_finished());
    told.on(LifeEvent::StartDue(told.now));
    told.starts();
    assert_eq!(told.on(LifeEvent::KillDue(1)), []);
    assert_eq!(told.ending(), Some((Cause::Exited, false)));
    // Nor does a timer of a program that nobody stopped.
    assert_eq!(told.on(LifeEvent::KillDue(2)), []);
}

#[test]
fn a_session_that_starts_within_a_grace_period_ends_it_and_starts_again() {
    let mut told = Told::started(plan(&TWO, Some(Leave::Term)));
    told.on(LifeEvent::EndDue);
    assert_eq!(
        told.on(LifeEvent::StartDue(told.now)),
        [Schedule(s(30), Action::End), Kill]
    );
    // It was killed for the next session, not at the end of the grace period.
    assert_eq!(told.ending(), Some((Cause::Left, false)));
    assert_eq!(told.on(FAILURE), [Start(None)]);
    assert!(!told.life.has_failed() && !told.life.is_finished());
    told.starts();
    assert_eq!(told.life.starts(), 2);
}

#[test]
fn a_session_that_is_over_before_the_program_ended_is_not_started() {
    let mut told = Told::started(plan(&TWO, Some(Leave::Term)));
    told.on(LifeEvent::EndDue);
    told.on(LifeEvent::StartDue(told.now));
    assert_eq!(told.on(LifeEvent::EndDue), []);
    assert_eq!(told.on(FAILURE), []);
    assert!(told.life.is_finished());
    assert_eq!(told.life.starts(), 1);
}

#[test]
fn programs_leave_in_four_ways() {
    let next = Schedule(s(20), Action::Start);
    for (leave, effects, ending, effects_at_start) in [
        (
            Leave::Term,
            vec![next, Signal, ScheduleKill(1)],
            Cause::Left,
            vec![Kill],
        ),
        (Leave::Kill, vec![next, Kill], Cause::Left, vec![Kill]),
        (
            Leave::Dark,
            vec![next, Disconnect, Kill],
            Cause::Left,
            vec![Connect, Kill],
        ),
        (
            Leave::Unplug,
            vec![next, Disconnect],
            Cause::Exited,
            vec![Connect],
        ),
    ] {
        let mut told = Told::started(plan(&TWO, Some(leave)));
        assert_eq!(told.on(LifeEvent::EndDue), effects, "{leave:?}");
        assert_eq!(told.ending(), Some((ending, false)), "{leave:?}");
        let mut at_start = told.on(LifeEvent::StartDue(told.now));
        at_start.retain(|effect| *effect != Schedule(s(30), Action::End));
        assert_eq!(at_start, effects_at_start, "{leave:?}");
    }
}

#[test]
fn the_end_of_the_program_s_life_is_no_leave() {
    let plan = LifePlan {
        end: Some(s(30)),
        ..plan(&TWO, Some(Leave::Dark))
    };
    let mut told = Told::started(plan);
    told.on(LifeEvent::EndDue);
    told.on(FAILURE);
    assert!(!told.life.is_finished());
    told.on(LifeEvent::StartDue(told.now));
    told.starts();
    assert_eq!(told.on(LifeEvent::EndDue), [Signal, ScheduleKill(2)]);
    assert_eq!(told.ending(), Some((Cause::Stopped, false)));
}

#[test]
fn a_disconnected_process_stays_so_until_its_next_session() {
    let mut told = Told::started(plan(&TWO, Some(Leave::Unplug)));
    told.on(LifeEvent::EndDue);
    assert_eq!(
        told.on(LifeEvent::StartDue(told.now)),
        [Connect, Schedule(s(30), Action::End)]
    );
    assert_eq!(told.on(LifeEvent::EndDue), [Disconnect]);
    // It runs on after its last session, until the end of the run.
    assert!(!told.life.is_finished());
    assert_eq!(told.on(SUCCESS), [NotReady]);
    assert!(told.life.is_finished());
}

#[test]
fn a_process_that_exits_while_it_is_disconnected_has_its_last_session() {
    let mut told = Told::started(plan(&TWO, Some(Leave::Unplug)));
    told.on(LifeEvent::EndDue);
    assert_eq!(told.on(SUCCESS), [NotReady]);
    assert!(!told.life.is_finished());
    assert_eq!(
        told.on(LifeEvent::StartDue(told.now)),
        [Connect, Schedule(s(30), Action::End), Start(Some(told.now))]
    );
}

#[test]
fn a_process_is_ready_when_it_exits_if_the_experiment_says_so() {
    let plan = LifePlan {
        is_ready_at_exit: true,
        ..plan(&ENDLESS, None)
    };
    assert_eq!(Told::started(plan).on(SUCCESS), [Ready]);
    assert_eq!(Told::started(plan).on(FAILURE), [NotReady]);
}

#[test]
fn the_end_of_the_run_stops_what_runs_and_kills_what_stays() {
    let mut told = Told::started(plan(&ENDLESS, None));
    assert_eq!(told.on(LifeEvent::RunOver), [Signal, ScheduleKill(1)]);
    assert_eq!(told.on(LifeEvent::RunGraceOver), [Kill]);
    assert_eq!(told.ending(), Some((Cause::RunOver, true)));
    assert_eq!(told.on(FAILURE), []);
    assert!(told.life.is_finished() && told.life.is_cut_short());
    assert!(!told.life.has_failed());
    assert_eq!(told.on(LifeEvent::RunGraceOver), []);
}

#[test]
fn the_end_of_the_run_starts_nothing_again() {
    let mut told = Told::started(plan(&TWO, Some(Leave::Term)));
    told.on(LifeEvent::EndDue);
    told.on(LifeEvent::StartDue(told.now));
    // It has its stop signal already, and keeps its cause.
    assert_eq!(told.on(LifeEvent::RunOver), []);
    assert_eq!(told.ending(), Some((Cause::Left, false)));
    assert_eq!(told.on(SUCCESS), []);
    assert!(!told.life.is_cut_short() && told.life.running().is_none());
}

#[test]
fn the_end_of_the_run_changes_nothing_without_a_program() {
    let waiting = Told::released(plan(&TWO, None));
    let mut ended = Told::started(plan(&ENDLESS, None));
    ended.on(SUCCESS);
    for mut told in [waiting, ended] {
        let before = told.life.clone();
        assert_eq!(told.on(LifeEvent::RunOver), []);
        assert_eq!(told.on(LifeEvent::RunGraceOver), []);
        assert_eq!(told.life, before);
    }
}
