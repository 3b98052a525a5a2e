//! Starts and ends one process on behalf of the supervisor.
use std::{
    fs::File,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    time::Instant,
};

use emu_kernel::spawn::{self, Ended, Spawned, Spec};
use emu_model::experiment::{Leave, Sign, Signal};

use super::{
    RunError,
    gate::ProcessId,
    record::{self, Cause, Row, seconds},
    summary::{Failure, Summary},
    supervisor::Supervisor,
    timers::{Action, Running, Timer},
};

/// Environment variable with the vnode's address, as in `emu exec`.
const VNODE_VARIABLE: &str = "EMU_VNODE";

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
        let id = due.process;
        match due.action {
            Action::Start => self.start_session(id, due.at, summary),
            Action::End => self.end_session(id),
            Action::Kill(starts) => {
                let state = &mut self.states[id];
                if let (Some(running), Some(cgroup)) = (&mut state.running, &state.cgroup)
                    && state.starts == starts
                {
                    running.killed = true;
                    cgroup.kill();
                }
                Ok(())
            }
        }
    }

    fn start_session(
        &mut self,
        id: ProcessId,
        planned: Instant,
        summary: &mut Summary,
    ) -> Result<(), RunError> {
        let process = self.process(id);
        if self.states[id].dark {
            self.states[id].dark = false;
            let (network, vnode) = (self.parts.network, process.vnode);
            network.set_dark(vnode, false, self.parts.guardian)?;
        }
        let state = &mut self.states[id];
        if let Some(base) = state.base
            && let Some(to) = process.sessions[state.session].to
        {
            self.timers.schedule(base + to, id, Action::End);
        }
        match &state.running {
            // The process was only disconnected, and is still running.
            Some(running) if running.cause.is_none() => return Ok(()),
            Some(_) => {
                // The process is still in its grace period, which ends now.
                state.again = true;
                if let Some(cgroup) = &state.cgroup {
                    cgroup.kill();
                }
                return Ok(());
            }
            None => {}
        }
        self.start_program(id, planned, summary)
    }

    fn start_program(
        &mut self,
        id: ProcessId,
        planned: Instant,
        summary: &mut Summary,
    ) -> Result<(), RunError> {
        let process = self.process(id);
        let begin = Instant::now();
        match self.spawn(id)? {
            Ok(spawned) => {
                tracing::debug!(
                    program = process.program,
                    vnode = process.name,
                    pid = spawned.pid,
                    "started"
                );
                let state = &mut self.states[id];
                state.running = Some(Running {
                    pid: spawned.pid,
                    planned,
                    started: begin,
                    cause: None,
                    killed: false,
                });
                state.starts += 1;
                summary.started += 1;
                self.late.push(begin.saturating_duration_since(planned));
                self.watch(id, spawned)
            }
            Err(error) => {
                let program = process.program.clone();
                summary.failure(Failure {
                    program: program.clone(),
                    vnode: process.name.clone(),
                    what: format!("could not be started: {error}"),
                    last_words: None,
                });
                let state = &mut self.states[id];
                state.failed = true;
                // The next session is another attempt.
                state.finished = state.session + 1 >= process.sessions.len();
                state.starts += 1;
                let at = seconds(begin - self.start);
                let session = state.session + 1;
                self.record.add(&Row {
                    vnode: process.vnode,
                    name: &process.name,
                    program: &process.program,
                    number: process.number,
                    session,
                    pid: None,
                    planned_s: seconds(planned.saturating_duration_since(self.start)),
                    start_s: at,
                    stop_s: at,
                    end: Cause::NotStarted,
                    exit_code: None,
                    signal: None,
                    killed: false,
                    cpu_s: 0.0,
                    max_memory_bytes: 0,
                })?;
                self.not_ready(id);
                Ok(())
            }
        }
    }

    /// Starts the program; the inner error is the reason for the summary.
    fn spawn(&mut self, id: ProcessId) -> Result<Result<Spawned, String>, RunError> {
        let (process, program) = (self.process(id), self.program(id));
        let files = self.parts.files;
        let lose = program.churn.as_ref().is_some_and(|c| !c.keep_state);
        let state = &mut self.states[id];
        let fresh = lose && state.starts > 0;
        if fresh && !program.collect.is_empty() {
            let session = Some(state.starts);
            state.has_collected(&files.collect(process, &program.collect, session)?);
        }
        let work = files.make_work(process, fresh)?;
        let [output, errors] = files.logs(process)?;
        if let Some(run_cgroup) = &mut self.run_cgroup {
            // A new cgroup each time, see `kernel::spawn`.
            let name = format!("{}.{}", process.program, state.starts + 1);
            let cgroup = run_cgroup
                .process_cgroup(process.vnode, &name)
                .map_err(|e| RunError::Identity(Box::new(e)))?;
            if self.parts.options.keep_limits {
                super::limits::limit(&cgroup, &program.limits)?;
            }
            state.cgroup = Some(cgroup);
        }
        let Some(cgroup) = &state.cgroup else {
            return Ok(Err("the run is over".to_owned()));
        };
        let null = File::open("/dev/null").map_err(RunError::system("open /dev/null"))?;
        let folder = work.path().display().to_string();
        let person = self.parts.options.person.as_ref();
        let user = person.map(emu_kernel::user::Person::credentials);
        let env = environment(self.parts.options, &process.env_in(&folder), process.vnode);
        let spawned = spawn::spawn(&Spec {
            program: &self.parts.programs[process.program_index],
            argv: &process.command_in(&folder),
            env: &env,
            folder: work.as_fd(),
            streams: [null.as_fd(), output.as_fd(), errors.as_fd()],
            cgroup: cgroup.folder().as_fd(),
            machine: cgroup.machine(),
            user: user.as_ref(),
            open_files: self.open_files,
            nice: Some(self.nice),
        });
        Ok(spawned.map_err(|e| e.to_string()))
    }

    /// Notifies the loop when a program has ended.
    fn watch(&mut self, id: ProcessId, spawned: Spawned) -> Result<(), RunError> {
        let watch = spawn::Watch::new(spawned.fd).map_err(RunError::system("watch a process"))?;
        let exits = self.exits.clone();
        tokio::spawn(async move {
            watch.ended().await;
            let _ = exits.send(id);
        });
        Ok(())
    }

    /// Runs the end of a session.
    fn end_session(&mut self, id: ProcessId) -> Result<(), RunError> {
        let (process, program) = (self.process(id), self.program(id));
        let state = &mut self.states[id];
        let session = process.sessions[state.session];
        let life = program.lasts.map(|l| process.sessions[0].from + l);
        let leaves = program.churn.as_ref().filter(|_| session.to != life);
        state.session += 1;
        state.again = false;
        let next = process.sessions.get(state.session);
        if let (Some(next), Some(base)) = (next, state.base) {
            self.timers.schedule(base + next.from, id, Action::Start);
        } else if state.running.is_none() {
            state.finished = true;
        }
        let Some(churn) = leaves else {
            self.stop(id, Cause::Stopped);
            return Ok(());
        };
        if churn.leave.is_dark() && !state.dark {
            state.dark = true;
            let network = self.parts.network;
            network.set_dark(process.vnode, true, self.parts.guardian)?;
        }
        match churn.leave {
            Leave::Term => self.stop(id, Cause::Left),
            Leave::Unplug => {}
            Leave::Kill | Leave::Dark => {
                let state = &mut self.states[id];
                if let (Some(running), Some(cgroup)) = (&mut state.running, &state.cgroup) {
                    running.cause = Some(Cause::Left);
                    cgroup.kill();
                }
            }
        }
        Ok(())
    }

    /// Sends the stop signal, and plans SIGKILL after the grace period.
    pub(super) fn stop(&mut self, id: ProcessId, cause: Cause) {
        let stop = self.program(id).stop;
        let state = &mut self.states[id];
        if let (Some(running), Some(cgroup)) = (&mut state.running, &state.cgroup)
            && running.cause.is_none()
        {
            running.cause = Some(cause);
            cgroup.signal(number(stop.signal));
            let kill = Action::Kill(state.starts);
            self.timers.schedule(Instant::now() + stop.grace, id, kill);
        }
    }

    /// Records the end of a program.
    pub(super) fn exited(&mut self, id: ProcessId, summary: &mut Summary) -> Result<(), RunError> {
        let process = self.process(id);
        let state = &mut self.states[id];
        let Some(running) = state.running.take() else {
            return Ok(());
        };
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
        let cause = running.cause.unwrap_or(Cause::Exited);
        tracing::debug!(
            program = process.program,
            vnode = process.name,
            ?cause,
            "ended"
        );
        let (exit_code, signal) = record::status(ended.as_ref());
        let session = state.starts;
        let now = Instant::now();
        state.cut_short |= cause == Cause::RunOver;
        summary.cpu_s += cpu.as_secs_f64();
        summary.killed += usize::from(running.killed);
        self.record.add(&Row {
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
            killed: running.killed,
            cpu_s: seconds(cpu),
            max_memory_bytes: ended.map_or(0, |e| e.max_memory_bytes),
        })?;
        let well = exit_code == Some(0);
        if cause == Cause::Exited && !well {
            self.fail(id, ended.as_ref(), out_of_memory, summary);
        }
        self.after_exit(id, cause, well, summary)
    }

    fn fail(
        &mut self,
        id: ProcessId,
        ended: Option<&Ended>,
        out_of_memory: bool,
        summary: &mut Summary,
    ) {
        let process = self.process(id);
        self.states[id].failed = true;
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

    fn after_exit(
        &mut self,
        id: ProcessId,
        cause: Cause,
        well: bool,
        summary: &mut Summary,
    ) -> Result<(), RunError> {
        let (process, program) = (self.process(id), self.program(id));
        let state = &mut self.states[id];
        let left = process.sessions.len().saturating_sub(state.session);
        // A process that ended by itself still has the timer of its session's end ahead,
        // except in the last session.
        let over = match cause {
            Cause::Exited => left <= 1,
            _ => left == 0,
        };
        state.finished |= over || cause == Cause::RunOver;
        let again = std::mem::take(&mut state.again);
        if program
            .ready
            .as_ref()
            .is_some_and(|r| r.sign == Sign::Exited)
            && well
        {
            self.ready(id);
        } else if cause == Cause::Exited {
            self.not_ready(id);
        }
        if again && cause != Cause::RunOver {
            return self.start_program(id, Instant::now(), summary);
        }
        Ok(())
    }

    /// Aborts the run if other programs wait for this process.
    fn not_ready(&mut self, id: ProcessId) {
        if self.gate.waited_for().contains(&id) {
            let process = self.process(id);
            let (program, name) = (&process.program, &process.name);
            self.broken = Some(format!("{program} on {name} ended before it was ready"));
        }
    }
}

/// The environment of a program, as `execve` takes it.
fn environment(
    options: &super::Options,
    further: &[(String, String)],
    vnode: std::net::IpAddr,
) -> Vec<Vec<u8>> {
    let mut all: std::collections::BTreeMap<Vec<u8>, Vec<u8>> = std::env::vars_os()
        .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect();
    for (name, value) in options.person.iter().flat_map(|p| p.environment()) {
        all.insert(name.into(), value.as_bytes().to_vec());
    }
    all.insert(VNODE_VARIABLE.into(), vnode.to_string().into());
    for (name, value) in further {
        all.insert(name.clone().into(), value.clone().into());
    }
    all.into_iter()
        .map(|(name, value)| [name, value].join(&b'='))
        .collect()
}
