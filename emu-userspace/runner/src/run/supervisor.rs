//! The loop that starts, watches and stops the programs of a run.
use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use emu_kernel::{
    health::Monitor, run_cgroup::RunCgroup, session::SessionError, spawn, state::StateDir,
};
use emu_model::experiment::{Experiment, Process, Program, Schedule};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::sleep_until,
};

use super::{
    EndReason, Input, Observer, Progress, RunError, RunOptions, Summary,
    counters::{Counters, Traffic},
    files::Files,
    gate::{Gate, ProcessId},
    guardian::Guardian,
    network::Network,
    process::ProcessState,
    record::ProcessTable,
    signals::Signals,
    timers::TimerQueue,
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

/// Collaborators of a supervisor.
pub(super) struct Parts<'a> {
    pub input: &'a Input,
    pub options: &'a RunOptions,
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
    /// For each program, the time origin of its processes' sessions: its release.
    pub(super) released_at: Vec<Instant>,
    pub(super) timers: TimerQueue,
    pub(super) run_cgroup: Option<RunCgroup>,
    pub(super) record: ProcessTable,
    pub(super) gate: Gate,
    pub(super) start: Instant,
    pub(super) open_files: Option<nix::sys::resource::rlim_t>,
    pub(super) nice: i32,
    /// Controllers to be disabled in the machine's root cgroup at the end.
    pub(super) controlled: Vec<&'static str>,
    pub(super) exits: UnboundedSender<ProcessId>,
    pub(super) ended: UnboundedReceiver<ProcessId>,
    counters: Counters,
    of_vnode: BTreeMap<IpAddr, Vec<ProcessId>>,
    pub(super) monitor: Monitor,
    pub(super) traffic: (Instant, Traffic),
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
            states: processes.iter().map(|_| ProcessState::new()).collect(),
            released_at: vec![Instant::now(); parts.input.experiment.programs.len()],
            record: ProcessTable::new(parts.files.table("processes.csv")?),
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

    pub(super) fn experiment(&self) -> &'a Experiment {
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
            summary
                .warnings
                .extend(stop.map(|reason| reason.to_string()));
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
        self.release(summary)?;
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
                self.look_for_ready(&waits, summary)?;
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
                    self.release(summary)?;
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
        let failed = self.states.iter().filter(|s| s.life.has_failed()).count();
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
        ending.all(|(state, _)| state.life.is_finished())
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
            running: count(|s| s.life.running().is_some()),
            done: count(|s| s.life.is_finished() && !s.life.has_failed()),
            failed: count(|s| s.life.has_failed()),
            waiting: count(|s| s.life.running().is_none() && !s.life.is_finished()),
            drops: self.traffic.1.drops,
            ..self.progress
        };
        self.parts.observer.progress(&self.progress);
    }
}
