//! The end of a run: stopping all programs, completing the summary, removing the cgroups.
use std::time::{Duration, Instant};

use emu_kernel::run_cgroup;
use emu_model::experiment::Program;
use tokio::time::timeout_at;

use super::{
    RunError, Summary, life::LifeEvent, network::Events, record::csv_error, shares::Share,
    signals::Signals, supervisor::Supervisor,
};

/// Longest wait for killed programs.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

impl Supervisor<'_> {
    /// Stops all programs: stop signal, grace period, SIGKILL.
    pub(super) async fn stop_all(
        &mut self,
        signals: &mut Signals,
        summary: &mut Summary,
    ) -> Result<(), RunError> {
        self.timers.clear();
        let mut grace = Duration::ZERO;
        for id in 0..self.states.len() {
            if self.states[id].life.running().is_some() {
                grace = grace.max(self.program(id).stop.grace);
                self.on(id, LifeEvent::RunOver, summary)?;
            }
        }
        self.timers.clear();
        let patience = Instant::now() + grace;
        for end in [patience, Instant::now() + grace + KILL_TIMEOUT] {
            while self.states.iter().any(|s| s.life.running().is_some()) {
                let one = tokio::select! {
                    biased;
                    one = timeout_at(end.into(), self.ended.recv()) => one,
                    // A second signal ends the grace period.
                    () = signals.any() => break,
                };
                let Ok(Some(id)) = one else { break };
                self.exited(id, summary)?;
            }
            for id in 0..self.states.len() {
                self.on(id, LifeEvent::RunGraceOver, summary)?;
            }
        }
        self.record.flush()
    }

    /// Completes the summary after the end.
    pub(super) fn conclude(
        &mut self,
        summary: &mut Summary,
        events: Option<Events>,
    ) -> Result<(), RunError> {
        if let Some(events) = events {
            let mut table = self.parts.files.table("events.csv")?;
            for event in events.finish() {
                if !event.ok {
                    summary
                        .warnings
                        .push(format!("event `{}`: {}", event.event, event.error));
                }
                table.serialize(&event).map_err(csv_error)?;
            }
        }
        for state in &self.states {
            let count = if state.life.has_failed() {
                &mut summary.failed
            } else if state.life.is_cut_short() {
                &mut summary.running
            } else if state.life.starts() == 0 {
                &mut summary.not_started
            } else {
                &mut summary.done
            };
            *count += 1;
        }
        summary.lateness(std::mem::take(&mut self.late));
        summary.traffic = self.traffic.1;
        summary.cpu_shares = self.cpu_shares();
        summary.host_health = self.monitor.report();
        summary.warnings.extend(self.broken.take());
        self.collect(summary)
    }

    fn cpu_shares(&self) -> Vec<Share> {
        let programs = self.experiment().programs.iter().enumerate();
        let share = |(index, program): (usize, &Program)| {
            let processes = self.parts.schedule.processes.iter().zip(&self.states);
            let of =
                processes.filter(|(p, state)| p.program_index == index && state.life.starts() > 0);
            let cpu_s = of.map(|(_, state)| state.cpu().as_secs_f64()).collect();
            Share::new(&program.name, cpu_s)
        };
        let shares = programs.map(share);
        shares.filter(|share| share.vnodes > 0).collect()
    }

    /// Removes the cgroups of the run.
    pub fn clear(&mut self) -> Result<(), RunError> {
        for state in &mut self.states {
            state.cgroup = None;
        }
        if let Some(run_cgroup) = self.run_cgroup.take() {
            run_cgroup.remove()?;
        }
        let names = std::mem::take(&mut self.controlled);
        if !names.is_empty() {
            run_cgroup::disable_controllers(&names).map_err(|e| RunError::Identity(Box::new(e)))?;
        }
        Ok(())
    }
}
