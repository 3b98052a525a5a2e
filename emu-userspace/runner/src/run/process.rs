//! Starting and ending one process, as the supervisor does it.
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
    slot::{Action, Due, Running},
    summary::{Failure, Summary},
    supervisor::Supervisor,
};

/// Names the vnode for the program, as `emu exec` does.
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
    /// Does what is due.
    pub(super) fn act(&mut self, due: Due, summary: &mut Summary) -> Result<(), RunError> {
        let id = due.process;
        match due.action {
            Action::Start => self.start_session(id, due.at, summary),
            Action::End => self.end_session(id),
            Action::Kill(starts) => {
                let slot = &mut self.slots[id];
                if let (Some(running), Some(place)) = (&mut slot.running, &slot.place)
                    && slot.starts == starts
                {
                    running.killed = true;
                    place.kill();
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
        if self.slots[id].dark {
            self.slots[id].dark = false;
            let (network, vnode) = (self.parts.network, process.vnode);
            network.set_dark(vnode, false, self.parts.guardian)?;
        }
        let slot = &mut self.slots[id];
        if let Some(base) = slot.base
            && let Some(to) = process.sessions[slot.session].to
        {
            self.agenda.plan(base + to, id, Action::End);
        }
        match &slot.running {
            // It was unplugged, and runs on.
            Some(running) if running.cause.is_none() => return Ok(()),
            Some(_) => {
                // It has not made use of its grace.
                slot.again = true;
                if let Some(place) = &slot.place {
                    place.kill();
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
                let slot = &mut self.slots[id];
                slot.running = Some(Running {
                    pid: spawned.pid,
                    planned,
                    started: begin,
                    cause: None,
                    killed: false,
                });
                slot.starts += 1;
                summary.started += 1;
                self.late.push(begin.saturating_duration_since(planned));
                self.watch(id, spawned)
            }
            Err(words) => {
                let program = process.program.clone();
                summary.failure(Failure {
                    program: program.clone(),
                    vnode: process.name.clone(),
                    what: format!("could not be started: {words}"),
                    last_words: None,
                });
                let slot = &mut self.slots[id];
                slot.failed = true;
                // Its next session is another try.
                slot.finished = slot.session + 1 >= process.sessions.len();
                slot.starts += 1;
                let at = seconds(begin - self.start);
                let session = slot.session + 1;
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

    /// Starts the program; the inner error is in words for people.
    fn spawn(&mut self, id: ProcessId) -> Result<Result<Spawned, String>, RunError> {
        let (process, program) = (self.process(id), self.program(id));
        let files = self.parts.files;
        let lose = program.churn.as_ref().is_some_and(|c| !c.keep_state);
        let slot = &mut self.slots[id];
        let fresh = lose && slot.starts > 0;
        if fresh && !program.collect.is_empty() {
            let session = Some(slot.starts);
            slot.has_collected(&files.collect(process, &program.collect, session)?);
        }
        let work = files.make_work(process, fresh)?;
        let [output, errors] = files.logs(process)?;
        if let Some(cohort) = &mut self.cohort {
            // A fresh one each time, see `kernel::spawn`.
            let name = format!("{}.{}", process.program, slot.starts + 1);
            let place = cohort
                .place(process.vnode, &name)
                .map_err(|e| RunError::Identity(Box::new(e)))?;
            if self.parts.options.keep_limits {
                super::limits::limit(&place, &program.limits)?;
            }
            slot.place = Some(place);
        }
        let Some(place) = &slot.place else {
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
            cgroup: place.folder().as_fd(),
            user: user.as_ref(),
            open_files: self.open_files,
            nice: Some(self.nice),
        });
        Ok(spawned.map_err(|e| e.to_string()))
    }

    /// Tells the loop when a program has ended.
    fn watch(&mut self, id: ProcessId, spawned: Spawned) -> Result<(), RunError> {
        let watch = spawn::Watch::new(spawned.fd).map_err(RunError::system("watch a process"))?;
        let exits = self.exits.clone();
        tokio::spawn(async move {
            watch.ended().await;
            let _ = exits.send(id);
        });
        Ok(())
    }

    /// A session's time is over.
    fn end_session(&mut self, id: ProcessId) -> Result<(), RunError> {
        let (process, program) = (self.process(id), self.program(id));
        let slot = &mut self.slots[id];
        let session = process.sessions[slot.session];
        let life = program.lasts.map(|l| process.sessions[0].from + l);
        let leaves = program.churn.as_ref().filter(|_| session.to != life);
        slot.session += 1;
        slot.again = false;
        let next = process.sessions.get(slot.session);
        if let (Some(next), Some(base)) = (next, slot.base) {
            self.agenda.plan(base + next.from, id, Action::Start);
        } else if slot.running.is_none() {
            slot.finished = true;
        }
        let Some(churn) = leaves else {
            self.stop(id, Cause::Stopped);
            return Ok(());
        };
        if churn.leave.is_dark() && !slot.dark {
            slot.dark = true;
            let network = self.parts.network;
            network.set_dark(process.vnode, true, self.parts.guardian)?;
        }
        match churn.leave {
            Leave::Term => self.stop(id, Cause::Left),
            Leave::Unplug => {}
            Leave::Kill | Leave::Dark => {
                let slot = &mut self.slots[id];
                if let (Some(running), Some(place)) = (&mut slot.running, &slot.place) {
                    running.cause = Some(Cause::Left);
                    place.kill();
                }
            }
        }
        Ok(())
    }

    /// Asks a program to stop, and plans what follows if it does not.
    pub(super) fn stop(&mut self, id: ProcessId, cause: Cause) {
        let stop = self.program(id).stop;
        let slot = &mut self.slots[id];
        if let (Some(running), Some(place)) = (&mut slot.running, &slot.place)
            && running.cause.is_none()
        {
            running.cause = Some(cause);
            place.signal(number(stop.signal));
            let kill = Action::Kill(slot.starts);
            self.agenda.plan(Instant::now() + stop.grace, id, kill);
        }
    }

    /// A program has ended.
    pub(super) fn exited(&mut self, id: ProcessId, summary: &mut Summary) -> Result<(), RunError> {
        let process = self.process(id);
        let slot = &mut self.slots[id];
        let Some(running) = slot.running.take() else {
            return Ok(());
        };
        let ended = spawn::wait(running.pid, true).ok().flatten();
        let mut cpu = ended.map(|e| e.cpu).unwrap_or_default();
        let mut out_of_memory = false;
        if let Some(place) = slot.place.take() {
            out_of_memory = place.was_out_of_memory();
            // What it started and left behind ends with it.
            if !place.processes().is_empty() {
                place.kill();
            }
            // All that ran there, also what nobody waited for.
            cpu = cpu.max(place.cpu().unwrap_or_default());
            slot.cpu_past += cpu;
            if let Some(cohort) = &mut self.cohort {
                cohort.leave(place);
            }
        }
        let cause = running.cause.unwrap_or(Cause::Exited);
        let (exit_code, signal) = record::status(ended.as_ref());
        let session = slot.starts;
        let now = Instant::now();
        slot.cut_short |= cause == Cause::RunOver;
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
        self.slots[id].failed = true;
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
        let slot = &mut self.slots[id];
        let left = process.sessions.len().saturating_sub(slot.session);
        // One that ended by itself still has its session's end before it, but for
        // the last.
        let over = match cause {
            Cause::Exited => left <= 1,
            _ => left == 0,
        };
        slot.finished |= over || cause == Cause::RunOver;
        let again = std::mem::take(&mut slot.again);
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

    /// A program has ended that others wait for.
    fn not_ready(&mut self, id: ProcessId) {
        if self.gate.waited_for().contains(&id) {
            let process = self.process(id);
            let (program, name) = (&process.program, &process.name);
            self.broken = Some(format!("{program} on {name} ended before it was ready"));
        }
    }
}

/// The environment of a program, as the system wants it.
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
