//! The start order of programs: which processes are ready, and which programs that releases.
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Instant,
};

use emu_model::experiment::Sign;

use super::{
    RunError, Summary,
    gate::{ProcessId, listens},
    life::LifeEvent,
    supervisor::Supervisor,
};

impl Supervisor<'_> {
    /// Schedules the first sessions of the programs that may start now.
    pub(super) fn release(&mut self, summary: &mut Summary) -> Result<(), RunError> {
        let programs = self.gate.release();
        self.released_at[programs.clone()].fill(Instant::now());
        for (id, process) in self.parts.schedule.processes.iter().enumerate() {
            if programs.contains(&process.program_index) {
                self.on(id, LifeEvent::Released, summary)?;
            }
        }
        Ok(())
    }

    /// Addresses at which a socket hears what is sent to a vnode. Every address of a machine is
    /// its own, so a socket of any address is.
    fn own_addresses(&self, vnode: IpAddr) -> Vec<IpAddr> {
        let is_machine = (self.run_cgroup.as_ref()).is_some_and(|cgroup| cgroup.is_machine(vnode));
        let any = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let any = any.into_iter().filter(|_| is_machine);
        [vnode].into_iter().chain(any).collect()
    }

    /// Polls processes that do not report that they are ready.
    pub(super) fn look_for_ready(
        &mut self,
        waits: &[ProcessId],
        summary: &mut Summary,
    ) -> Result<(), RunError> {
        for id in waits.iter().copied() {
            let (state, process) = (&self.states[id], self.process(id));
            let Some(ready) = &self.program(id).ready else {
                continue;
            };
            let Some(running) = state.life.running() else {
                continue;
            };
            let age = running.started.elapsed();
            let is_ready = match ready.sign {
                Sign::After(time) => age >= time,
                Sign::Exited => false,
                sign => listens(running.pid, &self.own_addresses(process.vnode), sign),
            };
            if is_ready {
                self.ready(id, summary)?;
            } else if age > ready.within {
                let (program, name) = (&process.program, &process.name);
                self.broken = Some(format!(
                    "{program} on {name} was not ready within {:?}",
                    ready.within
                ));
            }
        }
        Ok(())
    }

    /// Records that a process is ready, which may release other programs.
    pub(super) fn ready(&mut self, id: ProcessId, summary: &mut Summary) -> Result<(), RunError> {
        self.gate.ready(id);
        self.release(summary)
    }

    /// Aborts the run if other programs wait for this process.
    pub(super) fn not_ready(&mut self, id: ProcessId) {
        if self.gate.waited_for().contains(&id) {
            let process = self.process(id);
            let (program, name) = (&process.program, &process.name);
            self.broken = Some(format!("{program} on {name} ended before it was ready"));
        }
    }
}
