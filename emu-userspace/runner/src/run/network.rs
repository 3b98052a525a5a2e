//! The emulated network of a run: finding or loading it, its timed events, and disconnected
//! vnodes.
use std::{
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use emu_kernel::{
    bpf::Maps,
    live::{self, EventClock, Live, LiveError},
    session::{Loaded, Session, SessionError},
    undo::Processes,
};
use emu_model::{plan::Plan, topology::Target};

use super::{Input, Observer, RunError, RunOptions, guardian::Guardian};

pub(super) struct Network {
    pub loaded: Loaded,
    pub maps: Maps,
    /// Whether the run loaded the topology, and so unloads it.
    ours: bool,
    live: RefCell<Live>,
    /// Number of programs that keep a vnode disconnected.
    dark: RefCell<HashMap<IpAddr, usize>>,
}

fn live_error(error: LiveError) -> RunError {
    RunError::Live(Box::new(error))
}

impl Network {
    /// Finds the experiment's topology loaded, or loads it.
    pub fn ready(
        input: &Input,
        options: &RunOptions,
        guardian: &mut Guardian,
        observer: &mut dyn Observer,
    ) -> Result<Self, RunError> {
        let mut host = options.host.clone();
        let found = match Loaded::find() {
            Ok(loaded) => Some(loaded),
            Err(SessionError::NotLoaded) => None,
            Err(other) => return Err(other.into()),
        };
        let ours = found.is_none();
        match &found {
            Some(loaded) => {
                host = host.or_else(|| loaded.state.host.clone());
                same(input, loaded, host.as_deref())?;
                if input
                    .experiment
                    .seed
                    .is_some_and(|seed| seed != loaded.state.seed)
                {
                    observer.note(&format!(
                        "the network was loaded with the seed {}, the experiment has {}",
                        loaded.state.seed, input.seed
                    ));
                }
            }
            None => {
                let wanted = input.topology_file.display().to_string();
                if !options.may_load {
                    return Err(RunError::NotLoaded(wanted));
                }
                let plan = input.plan(host.as_deref())?;
                live::check_traces(&input.experiment.topology).map_err(|e| live_error(e.into()))?;
                guardian.loads();
                load(input, &plan)?;
                observer.note(&format!("loaded {wanted}: {} vnodes", plan.vnodes.len()));
            }
        }
        let loaded = Loaded::find()?;
        let maps = loaded.maps()?;
        Ok(Self {
            live: RefCell::new(Live::open().map_err(live_error)?),
            loaded,
            maps,
            ours,
            dark: RefCell::default(),
        })
    }

    /// Starts the clock of the topology's timed events.
    ///
    /// # Errors
    /// [`RunError::System`] if its thread cannot be started.
    pub fn start_clock(&self) -> Result<Option<Events>, RunError> {
        let topology = &self.loaded.topology;
        if topology.events.is_empty() && topology.traces.is_empty() {
            return Ok(None);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let happened = Arc::new(Mutex::new(Vec::new()));
        let thread = {
            let (stop, happened) = (Arc::clone(&stop), Arc::clone(&happened));
            // A thread inherits the network namespace.
            let started = thread::Builder::new().spawn(move || follow(&stop, &happened));
            started.map_err(RunError::system("start a thread for the events"))?
        };
        Ok(Some(Events {
            stop,
            happened,
            thread: Some(thread),
        }))
    }

    /// Disconnects a vnode for one more program, or for one fewer.
    pub fn set_dark(
        &self,
        vnode: IpAddr,
        dark: bool,
        guardian: &mut Guardian,
    ) -> Result<(), RunError> {
        let mut counts = self.dark.borrow_mut();
        let count = counts.entry(vnode).or_default();
        let before = *count;
        *count = if dark {
            before + 1
        } else {
            before.saturating_sub(1)
        };
        if (before > 0) == (*count > 0) {
            return Ok(());
        }
        if dark {
            guardian.dark(vnode, true);
        }
        let mut live = self.live.borrow_mut();
        live.set_down(Target::Vnode(vnode), dark)
            .map_err(live_error)?;
        if !dark {
            guardian.dark(vnode, false);
        }
        Ok(())
    }

    /// Connects all disconnected vnodes again, and unloads what the run loaded.
    pub fn finish(self) -> Result<(), RunError> {
        if self.ours {
            drop(self.maps);
            drop(self.live);
            Session::open()?.unload(Processes::Refuse)?;
            return Ok(());
        }
        let mut live = self.live.into_inner();
        for (vnode, count) in self.dark.into_inner() {
            if count > 0 {
                live.set_down(Target::Vnode(vnode), false)
                    .map_err(live_error)?;
            }
        }
        Ok(())
    }
}

/// Fails unless the loaded topology is that of the experiment, on this host.
fn same(input: &Input, loaded: &Loaded, host: Option<&str>) -> Result<(), RunError> {
    let name = |host: Option<&str>| host.map(|h| format!(" as {h}")).unwrap_or_default();
    let other_host = host.is_some() && loaded.state.host.as_deref() != host;
    if !other_host && (input.is_loaded || loaded.topology == input.experiment.topology) {
        return Ok(());
    }
    let loaded_host = loaded.state.host.as_deref();
    Err(RunError::OtherLoaded {
        loaded: format!("{}{}", loaded.state.topology.display(), name(loaded_host)),
        wanted: format!("{}{}", input.topology_file.display(), name(host)),
    })
}

fn load(input: &Input, plan: &Plan) -> Result<(), RunError> {
    let session = Session::open()?;
    session.load(plan, &input.topology_file, &input.topology_text)?;
    Ok(())
}

/// A timed event that has run.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct PlayedEvent {
    /// Due time, since the start.
    pub at_s: f64,
    /// Delay between the due time and the event.
    pub late_ms: f64,
    /// Description of the event.
    pub event: String,
    pub ok: bool,
    /// The error, or empty.
    pub error: String,
}

/// The thread that runs the topology's events.
pub(super) struct Events {
    stop: Arc<AtomicBool>,
    happened: Arc<Mutex<Vec<PlayedEvent>>>,
    thread: Option<JoinHandle<()>>,
}

impl Events {
    /// Stops the clock, and returns the events that have run.
    pub fn finish(mut self) -> Vec<PlayedEvent> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.happened
            .lock()
            .map(|list| list.clone())
            .unwrap_or_default()
    }
}

fn follow(stop: &AtomicBool, happened: &Mutex<Vec<PlayedEvent>>) {
    let add = |event| {
        if let Ok(mut list) = happened.lock() {
            list.push(event);
        }
    };
    let followed = Live::open().and_then(|live| {
        let topology = live.topology().clone();
        let clock = EventClock::new(live, Duration::ZERO)?;
        clock.run(
            || stop.load(Ordering::Relaxed),
            |one| {
                add(PlayedEvent {
                    at_s: one.at.as_secs_f64(),
                    late_ms: one.late.as_secs_f64() * 1e3,
                    event: one.what.to_text(&topology),
                    ok: one.outcome.is_ok(),
                    error: one
                        .outcome
                        .as_ref()
                        .err()
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                });
            },
        )
    });
    if let Err(error) = followed {
        add(PlayedEvent {
            at_s: 0.0,
            late_ms: 0.0,
            event: "the clock".to_owned(),
            ok: false,
            error: error.to_string(),
        });
    }
}
