//! The state of a process: passes its events to the state machine of its life, and performs
//! what the machine asks for.
use std::time::{Duration, Instant};

use emu_kernel::{
    run_cgroup::ProcessCgroup,
    spawn::{self, Ended},
};
use emu_model::experiment::Signal;

use super::{
    RunError,
    gate::ProcessId,
    life::{Effect, LifeEvent, LifePlan, ProcessLife},
    record::{self, Cause, ProcessRow, seconds},
    summary::{Failure, Summary},
    supervisor::Supervisor,
    timers::{Action, Timer},
};

/// What the supervisor holds of one process of the schedule.
#[derive(Debug)]
pub(super) struct ProcessState {
    pub life: ProcessLife,
    /// The cgroup of the running program.
    pub cgroup: Option<ProcessCgroup>,
    /// CPU time of past sessions.
    pub cpu_past: Duration,
    /// Number of collected files, for each pattern.
    pub collected: Vec<usize>,
}

impl ProcessState {
    pub const fn new() -> Self {
        Self {
            life: ProcessLife::new(),
            cgroup: None,
            cpu_past: Duration::ZERO,
            collected: Vec::new(),
        }
    }

    /// Adds to the number of collected files, for each pattern.
    pub fn has_collected(&mut self, counts: &[usize]) {
        self.collected.resize(counts.len(), 0);
        for (sum, count) in self.collected.iter_mut().zip(counts) {
            *sum += count;
        }
    }

    /// CPU time of all sessions.
    pub fn cpu(&self) -> Duration {
        let now = self.cgroup.as_ref().and_then(ProcessCgroup::cpu);
        self.cpu_past + now.unwrap_or_default()
    }
}

fn number(signal: Signal) -> i32 {
    match signal {
        Signal::Hup => libc::SIGHUP,
        Signal::Int => libc::SIGINT,
        Signal::Quit => libc::SIGQUIT,
        Signal::Term => libc::SIGTERM,
        Signal::Kill => libc::SIGKILL,
        Signal::Usr1 => libc::SIGUSR1,
        Signal::Usr2 => libc::SIGUSR2,
    }
}

impl Supervisor<'_> {
    /// Runs a timer's action.
    pub(super) fn act(&mut self, due: Timer, summary: &mut Summary) -> Result<(), RunError> {
        let event = match due.action {
            Action::Start => LifeEvent::StartDue(due.at),
            Action::End => LifeEvent::EndDue,
            Action::Kill(start) => LifeEvent::KillDue(start),
        };
        self.on(due.process, event, summary)
    }

    /// Handles an event of a process.
    pub(super) fn on(
        &mut self,
        id: ProcessId,
        event: LifeEvent,
        summary: &mut Summary,
    ) -> Result<(), RunError> {
        let plan = LifePlan::new(self.program(id), self.process(id));
        for effect in self.states[id].life.on(&plan, event) {
            self.perform(id, effect, summary)?;
        }
        Ok(())
    }

    fn perform(
        &mut self,
        id: ProcessId,
        effect: Effect,
        summary: &mut Summary,
    ) -> Result<(), RunError> {
        let (process, stop) = (self.process(id), self.program(id).stop);
        let (network, cgroup) = (self.parts.network, self.states[id].cgroup.as_ref());
        match effect {
            Effect::Schedule(offset, action) => {
                let at = self.released_at[process.program_index] + offset;
                self.timers.schedule(at, id, action);
            }
            Effect::ScheduleKill(start) => {
                let at = Instant::now() + stop.grace;
                self.timers.schedule(at, id, Action::Kill(start));
            }
            Effect::Start(planned) => {
                return self.start_program(id, planned.unwrap_or_else(Instant::now), summary);
            }
            Effect::Signal => {
                if let Some(cgroup) = cgroup {
                    cgroup.signal(number(stop.signal));
                }
            }
            Effect::Kill => {
                if let Some(cgroup) = cgroup {
                    cgroup.kill();
                }
            }
            Effect::Disconnect => network.set_dark(process.vnode, true, self.parts.guardian)?,
            Effect::Connect => network.set_dark(process.vnode, false, self.parts.guardian)?,
            Effect::Ready => self.ready(id, summary)?,
            Effect::NotReady => self.not_ready(id),
        }
        Ok(())
    }

    /// Records the end of a program.
    pub(super) fn exited(&mut self, id: ProcessId, summary: &mut Summary) -> Result<(), RunError> {
        let process = self.process(id);
        let state = &mut self.states[id];
        let Some(ending) = state.life.ending() else {
            return Ok(());
        };
        let (running, cause) = (ending.running, ending.cause);
        let ended = spawn::wait(running.pid, true).ok().flatten();
        let mut cpu = ended.map(|e| e.cpu).unwrap_or_default();
        let mut out_of_memory = false;
        if let Some(cgroup) = state.cgroup.take() {
            out_of_memory = cgroup.was_out_of_memory();
            // Child processes that it left behind end with it.
            if !cgroup.processes().is_empty() {
                cgroup.kill();
            }
            // The cgroup also counts children that no process has waited for.
            cpu = cpu.max(cgroup.cpu().unwrap_or_default());
            state.cpu_past += cpu;
            if let Some(run_cgroup) = &mut self.run_cgroup {
                run_cgroup.remove_process(cgroup);
            }
        }
        tracing::debug!(
            program = process.program,
            vnode = process.name,
            ?cause,
            "ended"
        );
        let (exit_code, signal) = record::status(ended.as_ref());
        let session = state.life.starts();
        let now = Instant::now();
        summary.cpu_s += cpu.as_secs_f64();
        summary.killed += usize::from(ending.was_killed);
        self.record.add(&ProcessRow {
            vnode: process.vnode,
            name: &process.name,
            program: &process.program,
            number: process.number,
            session,
            pid: Some(running.pid),
            planned_s: seconds(running.planned.saturating_duration_since(self.start)),
            start_s: seconds(running.started.saturating_duration_since(self.start)),
            stop_s: seconds(now - self.start),
            end: cause,
            exit_code,
            signal,
            killed: ending.was_killed,
            cpu_s: seconds(cpu),
            max_memory_bytes: ended.map_or(0, |e| e.max_memory_bytes),
        })?;
        let is_success = exit_code == Some(0);
        if cause == Cause::Exited && !is_success {
            self.report_failure(id, ended.as_ref(), out_of_memory, summary);
        }
        self.on(id, LifeEvent::Exited { is_success }, summary)
    }

    fn report_failure(
        &mut self,
        id: ProcessId,
        ended: Option<&Ended>,
        out_of_memory: bool,
        summary: &mut Summary,
    ) {
        let process = self.process(id);
        let mut what = ended.map_or_else(|| "is gone".to_owned(), |e| e.status.to_string());
        if out_of_memory {
            what += ", beyond its limit of memory";
        }
        summary.failure(Failure {
            program: process.program.clone(),
            vnode: process.name.clone(),
            what,
            last_words: self.parts.files.last_words(process),
        });
    }
}
