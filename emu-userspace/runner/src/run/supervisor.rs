//! The loop that starts, watches and stops the programs of a run.
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use emu_kernel::{
    health::Monitor,
    run_cgroup::{self, RunCgroup},
    session::SessionError,
    spawn,
    state::StateDir,
};
use emu_model::experiment::{Experiment, Process, Program, Schedule, Sign};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{sleep_until, timeout_at},
};

use super::{
    EndReason, Input, Observer, Options, Progress, RunError, Summary,
    counters::{Counters, Traffic},
    files::Files,
    gate::{Gate, ProcessId, listens},
    guardian::Guardian,
    network::{Events, Network},
    record::{Cause, Record, csv_error},
    shares::Share,
    timers::{Action, ProcessState, TimerQueue},
};
use crate::rendezvous::{ClusterView, Membership};

/// Time between two polls for programs that become ready.
const READY_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Time between two progress reports.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two samples of the host's health.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// Largest number of programs that are started before the loop does other work.
const MAX_STARTS_PER_TURN: usize = 4;
/// Longest wait for killed programs.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// SIGINT, SIGTERM and SIGHUP, which end a run.
pub(super) struct Signals([Signal; 3]);

impl Signals {
    pub fn new() -> Result<Self, RunError> {
        let listen = |kind| signal(kind).map_err(RunError::system("listen to signals"));
        Ok(Self([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    pub(super) async fn any(&mut self) {
        let [a, b, c] = &mut self.0;
        tokio::select! {
            _ = a.recv() => {}
            _ = b.recv() => {}
            _ = c.recv() => {}
        }
    }
}

/// Collaborators of a supervisor.
pub(super) struct Parts<'a> {
    pub input: &'a Input,
    pub options: &'a Options,
    pub schedule: &'a Schedule,
    pub programs: &'a [PathBuf],
    pub files: &'a Files,
    pub network: &'a Network,
    pub membership: Option<&'a Membership>,
    pub guardian: &'a mut Guardian,
    pub observer: &'a mut dyn Observer,
    pub name: &'a str,
}

pub(super) struct Supervisor<'a> {
    pub(super) parts: Parts<'a>,
    pub(super) states: Vec<ProcessState>,
    pub(super) timers: TimerQueue,
    pub(super) run_cgroup: Option<RunCgroup>,
    pub(super) record: Record,
    pub(super) gate: Gate,
    pub(super) start: Instant,
    pub(super) open_files: Option<nix::sys::resource::rlim_t>,
    pub(super) nice: i32,
    /// Controllers to be disabled in the machine's root cgroup at the end.
    controlled: Vec<&'static str>,
    pub(super) exits: UnboundedSender<ProcessId>,
    ended: UnboundedReceiver<ProcessId>,
    counters: Counters,
    of_vnode: BTreeMap<IpAddr, Vec<ProcessId>>,
    monitor: Monitor,
    traffic: (Instant, Traffic),
    progress: Progress,
    pub(super) late: Vec<Duration>,
    /// Why the run must be aborted.
    pub(super) broken: Option<String>,
    /// The state of the run on all hosts.
    pub(super) cluster: ClusterView,
}

impl<'a> Supervisor<'a> {
    pub fn new(parts: Parts<'a>) -> Result<Self, RunError> {
        let processes = &parts.schedule.processes;
        let dir = StateDir::here().map_err(SessionError::from)?;
        let counted = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let loaded = &parts.network.loaded;
        let mut run_cgroup = RunCgroup::new(&dir, parts.name, loaded, counted(processes.len()))
            .map_err(|e| RunError::Identity(Box::new(e)))?;
        let sample = parts.input.experiment.sample;
        let controlled = super::limits::control(
            (parts.input, parts.schedule),
            parts.options,
            parts.guardian,
            &mut run_cgroup,
        )?;
        let table = sample
            .map(|_| parts.files.table("counters.csv"))
            .transpose()?;
        let counters = Counters::new(
            loaded,
            &parts.network.maps,
            processes.iter().map(|p| p.vnode),
            table,
            sample.unwrap_or(HEALTH_INTERVAL),
        );
        let mut of_vnode: BTreeMap<IpAddr, Vec<ProcessId>> = BTreeMap::new();
        for (id, process) in processes.iter().enumerate() {
            of_vnode.entry(process.vnode).or_default().push(id);
        }
        let gate = Gate::new(
            &parts.input.experiment,
            processes.iter().map(|p| p.program_index),
            parts.membership.is_some(),
        );
        let (exits, ended) = unbounded_channel();
        Ok(Self {
            states: processes.iter().map(|_| ProcessState::default()).collect(),
            record: Record::new(parts.files.table("processes.csv")?),
            timers: TimerQueue::default(),
            run_cgroup: Some(run_cgroup),
            open_files: spawn::raise_open_files(),
            nice: spawn::raise_priority(),
            controlled,
            start: Instant::now(),
            monitor: Monitor::new(),
            traffic: (Instant::now(), Traffic::default()),
            progress: Progress::default(),
            late: Vec::new(),
            broken: None,
            cluster: ClusterView::default(),
            gate,
            exits,
            ended,
            counters,
            of_vnode,
            parts,
        })
    }

    pub(super) fn process(&self, id: ProcessId) -> &'a Process {
        &self.parts.schedule.processes[id]
    }

    pub(super) fn program(&self, id: ProcessId) -> &'a Program {
        &self.experiment().programs[self.process(id).program_index]
    }

    fn experiment(&self) -> &'a Experiment {
        &self.parts.input.experiment
    }

    /// Runs the schedule until its end or a signal, then stops all programs.
    pub async fn run(
        &mut self,
        mut signals: Signals,
        summary: &mut Summary,
    ) -> Result<(), RunError> {
        let interrupted = self.wait_for_start(&mut signals).await?;
        summary.start();
        self.start = Instant::now();
        self.monitor = Monitor::new();
        let (events, why) = match self.parts.network.start_clock() {
            Err(error) => (None, Err(error)),
            Ok(events) if interrupted => (events, Ok(EndReason::Interrupted)),
            Ok(events) => (events, self.follow(&mut signals, summary).await),
        };
        summary.run_s = self.start.elapsed().as_secs_f64();
        if let (Some(membership), Ok(why)) = (self.parts.membership, &why) {
            self.exchange(membership, Some(*why));
            let stop = self
                .cluster
                .stop
                .take()
                .filter(|_| *why == EndReason::Elsewhere);
            summary.warnings.extend(stop);
        }
        self.sample(true)?;
        let stopping = Instant::now();
        let stopped = self.stop_all(&mut signals, summary).await;
        summary.stop_s = stopping.elapsed().as_secs_f64();
        summary.ended = why?;
        stopped?;
        self.conclude(summary, events)
    }

    /// Waits for the common start; returns whether a signal came first.
    async fn wait_for_start(&mut self, signals: &mut Signals) -> Result<bool, RunError> {
        if let Some(membership) = self.parts.membership {
            return self.start_together(membership, signals).await;
        }
        let Some(at) = self.parts.options.start_at else {
            return Ok(false);
        };
        let wait = at
            .duration_since(SystemTime::now())
            .map_err(|late| RunError::TooLate(late.duration()))?;
        self.parts
            .observer
            .note(&format!("ready; starts in {:.1} s", wait.as_secs_f64()));
        Ok(tokio::select! {
            () = tokio::time::sleep(wait) => false,
            () = signals.any() => true,
        })
    }

    async fn follow(
        &mut self,
        signals: &mut Signals,
        summary: &mut Summary,
    ) -> Result<EndReason, RunError> {
        let end = self.experiment().duration.map(|d| self.start + d);
        let (mut tick, mut glance, mut health) =
            (self.start, self.start, self.start + HEALTH_INTERVAL);
        self.release();
        loop {
            let now = Instant::now();
            for _ in 0..MAX_STARTS_PER_TURN {
                let Some(due) = self.timers.pop(now) else {
                    break;
                };
                self.act(due, summary)?;
            }
            while let Ok(id) = self.ended.try_recv() {
                self.exited(id, summary)?;
            }
            let waits = self.gate.waited_for();
            if !waits.is_empty() && now >= glance {
                self.look_for_ready(&waits);
                glance = now + READY_POLL_INTERVAL;
            }
            if now >= self.counters.next() {
                self.sample(false)?;
            }
            if now >= health {
                self.monitor.sample();
                health = now + HEALTH_INTERVAL;
            }
            if now >= tick {
                self.tell();
                if let Some(membership) = self.parts.membership {
                    self.exchange(membership, None);
                    self.release();
                }
                tick = now + PROGRESS_INTERVAL;
            }
            if let Some(why) = self.over(end) {
                self.tell();
                return Ok(why);
            }
            let times = [
                Some(tick),
                Some(self.counters.next()),
                Some(health),
                end,
                self.timers.next(),
                (!waits.is_empty()).then_some(glance),
            ];
            let next = times.into_iter().flatten().min().unwrap_or(tick);
            // The tasks that watch programs run while this task waits.
            tokio::task::yield_now().await;
            tokio::select! {
                biased;
                () = signals.any() => return Ok(EndReason::Interrupted),
                Some(id) = self.ended.recv() => self.exited(id, summary)?,
                () = sleep_until(next.into()) => {}
            }
        }
    }

    /// Whether the run is over, and why.
    fn over(&self, end: Option<Instant>) -> Option<EndReason> {
        if self.broken.is_some() {
            return Some(EndReason::Broken);
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Some(EndReason::Duration);
        }
        let experiment = self.experiment();
        let failed = self.states.iter().filter(|s| s.failed).count();
        let failed = failed.max(self.cluster.failed);
        if experiment.until_failed.is_some_and(|most| failed >= most) {
            return Some(EndReason::Failures);
        }
        if self.parts.membership.is_some() {
            return self.over_together();
        }
        // A host without any of the programs that end the run waits for the duration.
        let mut ending = self
            .parts
            .schedule
            .processes
            .iter()
            .map(|p| p.program_index);
        let any = ending.any(|program| experiment.until.contains(&program));
        ((any || self.states.is_empty()) && self.all_ended()).then_some(EndReason::Complete)
    }

    /// Whether all local processes that the run waits for have ended.
    pub(super) fn all_ended(&self) -> bool {
        let processes = self.states.iter().zip(&self.parts.schedule.processes);
        let until = &self.experiment().until;
        let mut ending = processes.filter(|(_, p)| until.contains(&p.program_index));
        ending.all(|(state, _)| state.finished)
    }

    /// Schedules the first sessions of the programs that may start now.
    fn release(&mut self) {
        let programs = self.gate.release();
        let base = Instant::now();
        for (id, process) in self.parts.schedule.processes.iter().enumerate() {
            if !programs.contains(&process.program_index) {
                continue;
            }
            self.states[id].base = Some(base);
            match process.sessions.first() {
                Some(first) => self.timers.schedule(base + first.from, id, Action::Start),
                None => self.states[id].finished = true,
            }
        }
    }

    /// Addresses at which a socket hears what is sent to a vnode. Every address of a machine is
    /// its own, so a socket of any address is.
    fn own_addresses(&self, vnode: IpAddr) -> Vec<IpAddr> {
        let is_machine = (self.run_cgroup.as_ref()).is_some_and(|cgroup| cgroup.is_machine(vnode));
        let any = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let any = any.into_iter().filter(|_| is_machine);
        [vnode].into_iter().chain(any).collect()
    }

    fn look_for_ready(&mut self, waits: &[ProcessId]) {
        for id in waits.iter().copied() {
            let (state, process) = (&self.states[id], self.process(id));
            let Some(ready) = &self.program(id).ready else {
                continue;
            };
            let Some(running) = &state.running else {
                continue;
            };
            let age = running.started.elapsed();
            let is_ready = match ready.sign {
                Sign::After(time) => age >= time,
                Sign::Exited => false,
                sign => listens(running.pid, &self.own_addresses(process.vnode), sign),
            };
            if is_ready {
                self.ready(id);
            } else if age > ready.within {
                let (program, name) = (&process.program, &process.name);
                self.broken = Some(format!(
                    "{program} on {name} was not ready within {:?}",
                    ready.within
                ));
            }
        }
    }

    /// Records that a process is ready, which may release other programs.
    pub(super) fn ready(&mut self, id: ProcessId) {
        self.gate.ready(id);
        self.release();
    }

    fn sample(&mut self, last: bool) -> Result<(), RunError> {
        let (states, of_vnode) = (&self.states, &self.of_vnode);
        let cpu = |vnode: IpAddr| {
            let ids = of_vnode.get(&vnode)?;
            Some(ids.iter().map(|id| states[*id].cpu()).sum())
        };
        let now = Instant::now();
        let time = now - self.start;
        let traffic = self.counters.sample(&self.parts.network.maps, time, &cpu)?;
        let (then, before) = self.traffic;
        let seconds = (now - then).as_secs_f64();
        if seconds > 0.0 {
            let rate = |to: u64, from: u64| to.saturating_sub(from) as f64 * 8.0 / seconds;
            self.progress.sent_bits_per_s = rate(traffic.sent_bytes, before.sent_bytes);
            self.progress.received_bits_per_s = rate(traffic.received_bytes, before.received_bytes);
        }
        self.traffic = (now, traffic);
        if last {
            self.monitor.sample();
            self.counters.flush()?;
        }
        self.record.flush()
    }

    fn tell(&mut self) {
        let count =
            |which: fn(&ProcessState) -> bool| self.states.iter().filter(|s| which(s)).count();
        self.progress = Progress {
            elapsed: self.start.elapsed(),
            processes: self.states.len(),
            running: count(|s| s.running.is_some()),
            done: count(|s| s.finished && !s.failed),
            failed: count(|s| s.failed),
            waiting: count(|s| s.running.is_none() && !s.finished),
            drops: self.traffic.1.drops,
            ..self.progress
        };
        self.parts.observer.progress(&self.progress);
    }

    /// Stops all programs: stop signal, grace period, SIGKILL.
    async fn stop_all(
        &mut self,
        signals: &mut Signals,
        summary: &mut Summary,
    ) -> Result<(), RunError> {
        self.timers.clear();
        let mut grace = Duration::ZERO;
        for id in 0..self.states.len() {
            self.states[id].again = false;
            if self.states[id].running.is_some() {
                grace = grace.max(self.program(id).stop.grace);
                self.stop(id, Cause::RunOver);
            }
        }
        self.timers.clear();
        let patience = Instant::now() + grace;
        for end in [patience, Instant::now() + grace + KILL_TIMEOUT] {
            while self.states.iter().any(|s| s.running.is_some()) {
                let one = tokio::select! {
                    biased;
                    one = timeout_at(end.into(), self.ended.recv()) => one,
                    // A second signal ends the grace period.
                    () = signals.any() => break,
                };
                let Ok(Some(id)) = one else { break };
                self.exited(id, summary)?;
            }
            for state in &mut self.states {
                if let (Some(running), Some(cgroup)) = (&mut state.running, &state.cgroup) {
                    running.killed = true;
                    cgroup.kill();
                }
            }
        }
        self.record.flush()
    }

    /// Completes the summary after the end.
    fn conclude(&mut self, summary: &mut Summary, events: Option<Events>) -> Result<(), RunError> {
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
            let count = if state.failed {
                &mut summary.failed
            } else if state.cut_short {
                &mut summary.running
            } else if state.starts == 0 {
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
            let of = processes.filter(|(p, state)| p.program_index == index && state.starts > 0);
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
