//! The loop that starts, watches and stops the programs of a run.
use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use emu_kernel::{
    cohort::{self, Cohort},
    health::Monitor,
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
    Input, Observer, Options, Progress, RunError, Summary, Why,
    counters::{Counters, Traffic},
    files::Files,
    gate::{Gate, ProcessId, listens},
    guardian::Guardian,
    network::{Events, Network},
    record::{Cause, Record, csv_error},
    shares::Share,
    slot::{Action, Agenda, Slot},
};
use crate::rendezvous::{Fleet, There};

/// Time between two looks for ready programs.
const GLANCE: Duration = Duration::from_millis(20);
/// Time between two looks of the observer.
const TICK: Duration = Duration::from_millis(250);
/// Time between two looks at the host.
const HEALTH: Duration = Duration::from_secs(1);
/// Programs started before other things are looked at.
const BATCH: usize = 4;
/// Longest wait for killed programs.
const KILL_TIME: Duration = Duration::from_secs(10);

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

/// What a supervisor works with.
pub(super) struct Parts<'a> {
    pub input: &'a Input,
    pub options: &'a Options,
    pub schedule: &'a Schedule,
    pub programs: &'a [PathBuf],
    pub files: &'a Files,
    pub network: &'a Network,
    pub fleet: Option<&'a Fleet>,
    pub guardian: &'a mut Guardian,
    pub observer: &'a mut dyn Observer,
    pub name: &'a str,
}

/// The processes of a run.
pub(super) struct Supervisor<'a> {
    pub(super) parts: Parts<'a>,
    pub(super) slots: Vec<Slot>,
    pub(super) agenda: Agenda,
    pub(super) cohort: Option<Cohort>,
    pub(super) record: Record,
    pub(super) gate: Gate,
    pub(super) start: Instant,
    pub(super) open_files: Option<nix::sys::resource::rlim_t>,
    pub(super) nice: i32,
    /// Controllers to be taken back from the machine's own root.
    controlled: Vec<&'static str>,
    pub(super) exits: UnboundedSender<ProcessId>,
    ended: UnboundedReceiver<ProcessId>,
    counters: Counters,
    of_vnode: BTreeMap<IpAddr, Vec<ProcessId>>,
    monitor: Monitor,
    traffic: (Instant, Traffic),
    progress: Progress,
    pub(super) late: Vec<Duration>,
    /// Why the run cannot go on.
    pub(super) broken: Option<String>,
    /// How the other hosts stand.
    pub(super) there: There,
}

impl<'a> Supervisor<'a> {
    pub fn new(parts: Parts<'a>) -> Result<Self, RunError> {
        let processes = &parts.schedule.processes;
        let dir = StateDir::here().map_err(SessionError::from)?;
        let counted = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let loaded = &parts.network.loaded;
        let (vnodes, count) = (counted(loaded.plan.vnodes.len()), counted(processes.len()));
        let mut cohort = Cohort::new(&dir, parts.name, vnodes, count)
            .map_err(|e| RunError::Identity(Box::new(e)))?;
        let sample = parts.input.experiment.sample;
        let controlled = super::limits::control(
            (parts.input, parts.schedule),
            parts.options,
            parts.guardian,
            &mut cohort,
        )?;
        let table = sample
            .map(|_| parts.files.table("counters.csv"))
            .transpose()?;
        let counters = Counters::new(
            loaded,
            &parts.network.maps,
            processes.iter().map(|p| p.vnode),
            table,
            sample.unwrap_or(HEALTH),
        );
        let mut of_vnode: BTreeMap<IpAddr, Vec<ProcessId>> = BTreeMap::new();
        for (id, process) in processes.iter().enumerate() {
            of_vnode.entry(process.vnode).or_default().push(id);
        }
        let gate = Gate::new(
            &parts.input.experiment,
            processes.iter().map(|p| p.program_index),
            parts.fleet.is_some(),
        );
        let (exits, ended) = unbounded_channel();
        Ok(Self {
            slots: processes.iter().map(|_| Slot::default()).collect(),
            record: Record::new(parts.files.table("processes.csv")?),
            agenda: Agenda::default(),
            cohort: Some(cohort),
            open_files: spawn::raise_open_files(),
            nice: spawn::raise_priority(),
            controlled,
            start: Instant::now(),
            monitor: Monitor::new(),
            traffic: (Instant::now(), Traffic::default()),
            progress: Progress::default(),
            late: Vec::new(),
            broken: None,
            there: There::default(),
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

    /// Runs the schedule until something ends it, then stops everything.
    pub async fn run(
        &mut self,
        mut signals: Signals,
        summary: &mut Summary,
    ) -> Result<(), RunError> {
        let interrupted = self.wait_for_start(&mut signals).await?;
        summary.start();
        self.start = Instant::now();
        self.monitor = Monitor::new();
        let events = self.parts.network.start_clock();
        let why = if interrupted {
            Ok(Why::Interrupted)
        } else {
            self.follow(&mut signals, summary).await
        };
        summary.run_s = self.start.elapsed().as_secs_f64();
        if let (Some(fleet), Ok(why)) = (self.parts.fleet, &why) {
            self.exchange(fleet, Some(*why));
            let stop = self.there.stop.take().filter(|_| *why == Why::Elsewhere);
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
        if let Some(fleet) = self.parts.fleet {
            return self.start_together(fleet, signals).await;
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
    ) -> Result<Why, RunError> {
        let end = self.experiment().duration.map(|d| self.start + d);
        let (mut tick, mut glance, mut health) = (self.start, self.start, self.start + HEALTH);
        self.release();
        loop {
            let now = Instant::now();
            for _ in 0..BATCH {
                let Some(due) = self.agenda.pop(now) else {
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
                glance = now + GLANCE;
            }
            if now >= self.counters.next() {
                self.sample(false)?;
            }
            if now >= health {
                self.monitor.sample();
                health = now + HEALTH;
            }
            if now >= tick {
                self.tell();
                if let Some(fleet) = self.parts.fleet {
                    self.exchange(fleet, None);
                    self.release();
                }
                tick = now + TICK;
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
                self.agenda.next(),
                (!waits.is_empty()).then_some(glance),
            ];
            let next = times.into_iter().flatten().min().unwrap_or(tick);
            // Watchers of programs run while this task waits.
            tokio::task::yield_now().await;
            tokio::select! {
                biased;
                () = signals.any() => return Ok(Why::Interrupted),
                Some(id) = self.ended.recv() => self.exited(id, summary)?,
                () = sleep_until(next.into()) => {}
            }
        }
    }

    /// Whether the run is over, and why.
    fn over(&self, end: Option<Instant>) -> Option<Why> {
        if self.broken.is_some() {
            return Some(Why::Broken);
        }
        if end.is_some_and(|end| Instant::now() >= end) {
            return Some(Why::Duration);
        }
        let experiment = self.experiment();
        let failed = self.slots.iter().filter(|s| s.failed).count();
        let failed = failed.max(self.there.failed);
        if experiment.until_failed.is_some_and(|most| failed >= most) {
            return Some(Why::Failures);
        }
        if self.parts.fleet.is_some() {
            return self.over_together();
        }
        // A host that has none of the programs that end the run waits for its time.
        let mut ending = self
            .parts
            .schedule
            .processes
            .iter()
            .map(|p| p.program_index);
        let any = ending.any(|program| experiment.until.contains(&program));
        ((any || self.slots.is_empty()) && self.all_ended()).then_some(Why::Complete)
    }

    /// Whether all local processes that the run waits for have ended.
    pub(super) fn all_ended(&self) -> bool {
        let processes = self.slots.iter().zip(&self.parts.schedule.processes);
        let until = &self.experiment().until;
        let mut ending = processes.filter(|(_, p)| until.contains(&p.program_index));
        ending.all(|(slot, _)| slot.finished)
    }

    /// Plans the first sessions of programs that need not wait any more.
    fn release(&mut self) {
        let programs = self.gate.release();
        let base = Instant::now();
        for (id, process) in self.parts.schedule.processes.iter().enumerate() {
            if !programs.contains(&process.program_index) {
                continue;
            }
            self.slots[id].base = Some(base);
            match process.sessions.first() {
                Some(first) => self.agenda.plan(base + first.from, id, Action::Start),
                None => self.slots[id].finished = true,
            }
        }
    }

    fn look_for_ready(&mut self, waits: &[ProcessId]) {
        for id in waits.iter().copied() {
            let (slot, process) = (&self.slots[id], self.process(id));
            let Some(ready) = &self.program(id).ready else {
                continue;
            };
            let Some(running) = &slot.running else {
                continue;
            };
            let age = running.started.elapsed();
            let is_ready = match ready.sign {
                Sign::After(time) => age >= time,
                Sign::Exited => false,
                sign => listens(process.vnode, sign),
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

    /// A process is ready; others may start.
    pub(super) fn ready(&mut self, id: ProcessId) {
        self.gate.ready(id);
        self.release();
    }

    /// Reads the counters of all vnodes.
    fn sample(&mut self, last: bool) -> Result<(), RunError> {
        let (slots, of_vnode) = (&self.slots, &self.of_vnode);
        let cpu = |vnode: IpAddr| {
            let ids = of_vnode.get(&vnode)?;
            Some(ids.iter().map(|id| slots[*id].cpu()).sum())
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
        let count = |which: fn(&Slot) -> bool| self.slots.iter().filter(|s| which(s)).count();
        self.progress = Progress {
            elapsed: self.start.elapsed(),
            processes: self.slots.len(),
            running: count(|s| s.running.is_some()),
            done: count(|s| s.finished && !s.failed),
            failed: count(|s| s.failed),
            waiting: count(|s| s.running.is_none() && !s.finished),
            drops: self.traffic.1.drops,
            ..self.progress
        };
        self.parts.observer.progress(&self.progress);
    }

    /// Stops all programs: their signals, their grace, then SIGKILL.
    async fn stop_all(
        &mut self,
        signals: &mut Signals,
        summary: &mut Summary,
    ) -> Result<(), RunError> {
        self.agenda.clear();
        let mut grace = Duration::ZERO;
        for id in 0..self.slots.len() {
            self.slots[id].again = false;
            if self.slots[id].running.is_some() {
                grace = grace.max(self.program(id).stop.grace);
                self.stop(id, Cause::RunOver);
            }
        }
        self.agenda.clear();
        let patience = Instant::now() + grace;
        for end in [patience, Instant::now() + grace + KILL_TIME] {
            while self.slots.iter().any(|s| s.running.is_some()) {
                let one = tokio::select! {
                    biased;
                    one = timeout_at(end.into(), self.ended.recv()) => one,
                    // A second signal: no more grace.
                    () = signals.any() => break,
                };
                let Ok(Some(id)) = one else { break };
                self.exited(id, summary)?;
            }
            for slot in &mut self.slots {
                if let (Some(running), Some(place)) = (&mut slot.running, &slot.place) {
                    running.killed = true;
                    place.kill();
                }
            }
        }
        self.record.flush()
    }

    /// What is known when all is over.
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
        for slot in &self.slots {
            let count = if slot.failed {
                &mut summary.failed
            } else if slot.cut_short {
                &mut summary.running
            } else if slot.starts == 0 {
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
            let processes = self.parts.schedule.processes.iter().zip(&self.slots);
            let of = processes.filter(|(p, slot)| p.program_index == index && slot.starts > 0);
            let cpu_s = of.map(|(_, slot)| slot.cpu().as_secs_f64()).collect();
            Share::new(&program.name, cpu_s)
        };
        let shares = programs.map(share);
        shares.filter(|share| share.vnodes > 0).collect()
    }

    /// Removes the cgroups of the run.
    pub fn clear(&mut self) -> Result<(), RunError> {
        for slot in &mut self.slots {
            slot.place = None;
        }
        if let Some(cohort) = self.cohort.take() {
            cohort.remove()?;
        }
        let names = std::mem::take(&mut self.controlled);
        if !names.is_empty() {
            cohort::take_back(&names).map_err(|e| RunError::Identity(Box::new(e)))?;
        }
        Ok(())
    }
}
