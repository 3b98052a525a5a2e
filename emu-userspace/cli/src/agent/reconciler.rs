//! Reconcile loop: converges the loaded state to the file.
use std::{
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use emu_kernel::{
    descriptors::Reserve,
    drift, live, machine,
    session::{How, Loaded, Session, SessionError},
    sockets,
    state::{StateDir, StateError},
    undo::{Processes, UndoError},
};
use emu_model::{host_selector, plan::Plan, topology};
use sd_notify::NotifyState;

use super::{
    AgentError, Config, Message, OnExit, StartAt,
    events::Events,
    notify,
    record::{AgentRecord, LoadMark},
    shared::{Outcome, Shared},
    watch::{Print, print},
};

/// Longest time between two heartbeats while waiting.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Pauses before another attempt, if the kernel rejected the load or another process holds
/// the lock.
const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Content of the file when it was last valid.
struct Wanted {
    text: String,
    plan: Plan,
}

pub(super) struct Reconciler {
    config: Config,
    /// Absolute path of the file.
    file: PathBuf,
    shared: Arc<Shared>,
    wanted: Option<Wanted>,
    /// Version of the file when it was last read.
    print: Option<Print>,
    /// The last error of the file, to report it once.
    complaint: Option<String>,
    pause: Duration,
    reserve: Reserve,
    /// The load whose events are running.
    running: Option<(LoadMark, Option<Events>)>,
}

impl Reconciler {
    pub fn new(config: Config, shared: Arc<Shared>, reserve: Reserve) -> Self {
        let file = std::path::absolute(&config.file).unwrap_or_else(|_| config.file.clone());
        Self {
            config,
            file,
            shared,
            wanted: None,
            print: None,
            complaint: None,
            pause: SHORTEST_PAUSE,
            reserve,
            running: None,
        }
    }

    /// Converges the host to the file until it receives [`Message::Stop`].
    pub fn run(mut self, messages: &Receiver<Message>) -> Result<(), AgentError> {
        let mut ready = false;
        loop {
            self.shared.heartbeat();
            self.reserve.release();
            let next = self.check();
            if let Err(error) = self.reserve.restore() {
                tracing::warn!(%error, "keep descriptors for the next load");
            }
            if !ready {
                notify(&[NotifyState::Ready]);
                ready = true;
            }
            notify(&[NotifyState::Status(&self.status())]);
            if !self.wait(messages, next) {
                break;
            }
        }
        // Stops the clock first, since an unload would make its next event fail.
        self.running = None;
        self.reserve.release();
        match self.config.on_exit {
            OnExit::Leave => {
                tracing::info!("the network stays loaded");
                Ok(())
            }
            OnExit::Unload { drain } => self.unload(drain),
        }
    }

    /// Waits for a message or until `next`; returns whether to continue.
    fn wait(&self, messages: &Receiver<Message>, next: Duration) -> bool {
        let until = Instant::now() + next;
        loop {
            self.shared.heartbeat();
            let left = until.saturating_duration_since(Instant::now());
            match messages.recv_timeout(left.min(HEARTBEAT_INTERVAL)) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
                Ok(Message::Check) => return true,
                // After a failed load the pause grows: its own changes must not end it.
                Ok(Message::Changed) if self.pause > SHORTEST_PAUSE => {}
                Ok(Message::Changed) => return true,
                Err(RecvTimeoutError::Timeout) if left <= HEARTBEAT_INTERVAL => return true,
                // Network file systems do not notify of changes.
                Err(RecvTimeoutError::Timeout) if print(&self.file) != self.print => return true,
                Err(RecvTimeoutError::Timeout) if self.lost_quietly() => return true,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Whether an object is missing of which the kernel sends no notification.
    fn lost_quietly(&self) -> bool {
        let loaded = self
            .shared
            .loaded()
            .filter(|_| self.pause == SHORTEST_PAUSE);
        loaded.is_some_and(|l| drift::quiet_damage(&l.plan, &l.state).unwrap_or(false))
    }

    fn status(&self) -> String {
        let readiness = self.shared.readiness();
        let name = readiness
            .topology
            .unwrap_or_else(|| "nothing loaded".to_owned());
        let problem = readiness
            .problem
            .map_or(String::new(), |p| format!("; {p}"));
        // systemd shows one line.
        let problem = problem.lines().next().unwrap_or_default().to_owned();
        format!("{name}: {} vnodes{problem}", readiness.vnodes)
    }

    /// Checks the file and the kernel once; returns the time until the next check.
    fn check(&mut self) -> Duration {
        let bad = self.read().err();
        if let Some(text) = &bad
            && self.complaint.as_ref() != Some(text)
        {
            tracing::error!("the file is invalid, the loaded topology stays: {text}");
            self.count(Outcome::BadFile);
        }
        self.complaint = bad;
        let done = match &self.wanted {
            None => self.adopt_whatever_is_there(),
            Some(_) => self.converge(),
        };
        match done {
            Ok(()) => {
                self.pause = SHORTEST_PAUSE;
                let complaint = self.complaint.clone();
                let recovered = complaint.is_none()
                    && self.shared.facts().last.is_some_and(|last| !last.is_good());
                if recovered {
                    tracing::info!("the file matches the loaded topology again");
                    self.count(Outcome::Adopted);
                }
                self.shared.change(|facts| {
                    if complaint.is_none() && facts.loaded.is_some() {
                        facts.good_at = Some(SystemTime::now());
                    }
                    facts.problem = complaint;
                });
                self.config.interval
            }
            Err(error) => {
                tracing::error!(%error, again_in_s = self.pause.as_secs_f64(), "load");
                self.count(Outcome::Failed);
                let text = error.to_string();
                self.shared.change(|facts| facts.problem = Some(text));
                let pause = self.pause;
                self.pause = (pause * 2).min(LONGEST_PAUSE);
                pause
            }
        }
    }

    /// Reads the file again if it has changed.
    fn read(&mut self) -> Result<(), String> {
        self.print = print(&self.file);
        let text = topology::read_text(&self.file).map_err(|e| e.to_string())?;
        if self
            .wanted
            .as_ref()
            .is_some_and(|wanted| wanted.text == text)
        {
            return Ok(());
        }
        let name = self.file.display().to_string();
        let mut topology = topology::parse(&text, &name).map_err(|e| e.to_string())?;
        live::check_traces(&topology).map_err(|e| e.to_string())?;
        let host = host_selector::pick(&mut topology, &self.config.which, &machine::host_hints());
        let plan = host.and_then(|host| Plan::new(&topology, host.as_deref()));
        let plan = plan.map_err(|e| e.to_string())?;
        self.wanted = Some(Wanted { text, plan });
        Ok(())
    }

    /// With a file that was never valid: what an earlier agent loaded stays.
    fn adopt_whatever_is_there(&mut self) -> Result<(), SessionError> {
        match Loaded::find() {
            Ok(loaded) => {
                self.loaded(loaded, None);
                Ok(())
            }
            Err(SessionError::NotLoaded | SessionError::Interrupted) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Converges the loaded state to the file.
    fn converge(&mut self) -> Result<(), SessionError> {
        let Some(wanted) = &self.wanted else {
            return Ok(());
        };
        let (same, missing) = is_as(wanted)?;
        if !missing.is_empty() {
            tracing::warn!(missing = %missing.join(", "), "somebody took away parts of the load");
            self.shared.change(|facts| {
                facts.losses += missing.len() as u64;
                facts.missing = missing;
            });
        }
        if same {
            self.shared.change(|facts| facts.missing.clear());
            let mark = LoadMark::of(&Loaded::state()?);
            if self
                .running
                .as_ref()
                .is_none_or(|(running, _)| *running != mark)
            {
                self.loaded(Loaded::find()?, Some(Outcome::Adopted));
            }
            return Ok(());
        }
        let session = match Session::open() {
            Err(SessionError::State(error @ StateError::Locked { .. }))
                if self.pause < LONGEST_PAUSE =>
            {
                // Another process needs seconds; if it takes longer, the agent reports it.
                tracing::info!("{error}");
                return Err(error.into());
            }
            opened => opened?,
        };
        // The clock of the loaded topology must not run during the change.
        self.running = None;
        // The file decides, and a program that is left without its address is told of.
        let cut_off = session.sockets_in_the_way(Some(&wanted.plan))?;
        if !cut_off.is_empty() {
            tracing::warn!(
                "the addresses of these sockets go away: {}",
                sockets::some(&cut_off)
            );
        }
        let begin = Instant::now();
        let how = session.load(&wanted.plan, &self.file, &wanted.text)?;
        drop(session);
        self.shared.change(|facts| facts.missing.clear());
        let outcome = match &how {
            How::InPlace { repaired, .. } if !repaired.is_empty() => Outcome::Repaired,
            How::InPlace { .. } => Outcome::InPlace,
            How::FullReload { .. } => Outcome::FullReload,
        };
        let took = begin.elapsed();
        tracing::info!(
            took_s = took.as_secs_f64(),
            how = %serde_json::to_string(&how).unwrap_or_default(),
            "loaded"
        );
        self.shared.change(|facts| facts.took = Some(took));
        self.loaded(Loaded::find()?, Some(outcome));
        Ok(())
    }

    fn count(&self, outcome: Outcome) {
        self.shared.change(|facts| {
            facts.reloads[outcome as usize] += 1;
            facts.last = Some(outcome);
        });
    }

    /// Records what is loaded, and starts its events.
    fn loaded(&mut self, loaded: Loaded, outcome: Option<Outcome>) {
        let mark = LoadMark::of(&loaded.state);
        if self
            .running
            .as_ref()
            .is_some_and(|(running, _)| *running == mark)
        {
            return;
        }
        let (name, vnodes) = (&loaded.topology.name, loaded.plan.vnodes.len());
        let host = loaded.state.host.as_deref().unwrap_or("");
        let how = outcome.map_or("found", Outcome::name);
        tracing::info!(topology = %name, host, vnodes, how, "the topology is loaded");
        if let Some(outcome) = outcome {
            self.count(outcome);
        }
        let has_events = !loaded.topology.events.is_empty() || !loaded.topology.traces.is_empty();
        let mut record = AgentRecord::read();
        let zero = self.zero(&mut record);
        let loaded = Arc::new(loaded);
        self.shared.change(|facts| {
            facts.loaded = Some(loaded);
            facts.zero = zero;
        });
        self.running = None;
        let events = match zero {
            Some(zero) if has_events => Some(Events::start(Arc::clone(&self.shared), zero, record)),
            None if has_events => {
                tracing::info!("the events of the file do not run without --start-at");
                None
            }
            _ => None,
        };
        self.running = Some((mark, events));
    }

    /// Time origin of the events, from the command line or an earlier agent's record.
    fn zero(&self, record: &mut AgentRecord) -> Option<SystemTime> {
        let zero = match self.config.start_at {
            StartAt::Never => return None,
            StartAt::At(time) => time,
            StartAt::FirstLoad => match record.zero_unix_ns {
                Some(ns) => UNIX_EPOCH + Duration::from_nanos(ns),
                None => SystemTime::now(),
            },
        };
        let since = zero.duration_since(UNIX_EPOCH).unwrap_or_default();
        let zero_ns = u64::try_from(since.as_nanos()).ok();
        if record.zero_unix_ns != zero_ns {
            *record = AgentRecord {
                zero_unix_ns: zero_ns,
                ..AgentRecord::default()
            };
            if let Err(error) = record.write() {
                tracing::warn!(%error, "store the start of the events");
            }
        }
        Some(zero)
    }

    /// Unloads, once the processes of vnodes have ended.
    fn unload(&self, drain: Duration) -> Result<(), AgentError> {
        let begin = Instant::now();
        loop {
            self.shared.heartbeat();
            let unloaded = Session::open().and_then(|s| s.unload(Processes::Refuse));
            match unloaded {
                Ok(_) => {
                    AgentRecord::remove();
                    tracing::info!("the network is unloaded");
                    return Ok(());
                }
                Err(
                    SessionError::Undo(UndoError::Busy { .. })
                    | SessionError::State(StateError::Locked { .. }),
                ) if begin.elapsed() < drain => thread::sleep(SHORTEST_PAUSE / 2),
                Err(error) => return Err(AgentError::Unload(error.to_string())),
            }
        }
    }
}

/// Whether the loaded state is complete and matches the file; and what is missing of it.
fn is_as(wanted: &Wanted) -> Result<(bool, Vec<String>), SessionError> {
    let dir = StateDir::here()?;
    // A damaged state is not an error here, since a load repairs it.
    let Ok(Some((state, text))) = dir.loaded() else {
        return Ok((false, Vec::new()));
    };
    let plan = &wanted.plan;
    if dir.is_half_changed()
        || text != wanted.text
        || (&state.host, state.size) != (&plan.host, plan.size)
    {
        return Ok((false, Vec::new()));
    }
    let missing = drift::find(plan, &state)?;
    Ok((missing.is_empty(), missing))
}
