//! Starting the program of a process in a cgroup of its own.
use std::{
    fs::File,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    time::Instant,
};

use emu_kernel::spawn::{self, Spawned, Spec};

use super::{
    RunError,
    gate::ProcessId,
    life::{LifeEvent, Running},
    record::{Cause, ProcessRow, seconds},
    summary::{Failure, Summary},
    supervisor::Supervisor,
};

/// Environment variable with the vnode's address, as in `emu exec`.
const VNODE_VARIABLE: &str = "EMU_VNODE";

impl Supervisor<'_> {
    /// Starts the program of a process, or records that it could not be started.
    pub(super) fn start_program(
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
                summary.started += 1;
                self.late.push(begin.saturating_duration_since(planned));
                let running = Running {
                    pid: spawned.pid,
                    planned,
                    started: begin,
                };
                self.watch(id, spawned)?;
                self.on(id, LifeEvent::Started(running), summary)
            }
            Err(error) => {
                let program = process.program.clone();
                summary.failure(Failure {
                    program: program.clone(),
                    vnode: process.name.clone(),
                    what: format!("could not be started: {error}"),
                    last_words: None,
                });
                let at = seconds(begin - self.start);
                let session = self.states[id].life.session_number();
                self.record.add(&ProcessRow {
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
                self.on(id, LifeEvent::NotStarted, summary)
            }
        }
    }

    /// Starts the program; the inner error is the reason for the summary.
    fn spawn(&mut self, id: ProcessId) -> Result<Result<Spawned, String>, RunError> {
        let (process, program) = (self.process(id), self.program(id));
        let files = self.parts.files;
        let lose = program.churn.as_ref().is_some_and(|c| !c.keep_state);
        let state = &mut self.states[id];
        let fresh = lose && state.life.starts() > 0;
        if fresh && !program.collect.is_empty() {
            let session = Some(state.life.starts());
            state.has_collected(&files.collect(process, &program.collect, session)?);
        }
        let work = files.make_work(process, fresh)?;
        let [output, errors] = files.logs(process)?;
        if let Some(run_cgroup) = &mut self.run_cgroup {
            // A new cgroup each time, see `kernel::spawn`.
            let name = format!("{}.{}", process.program, state.life.starts() + 1);
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
}

/// The environment of a program, as `execve` takes it.
fn environment(
    options: &super::RunOptions,
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
