//! A long-running service that keeps a host at the state that a file asks for.
//!
//! The `keeper` loads the file whenever it or the kernel's state changed, always by
//! difference and through [`emu_kernel::session`]; `events` makes the file's events happen
//! on a start time that hosts share; `server` tells how it goes. Whatever the agent
//! does is in the state folder and the kernel, so that another one finds it: a crash
//! touches no traffic.
mod events;
mod keeper;
mod kernel;
mod metrics;
mod record;
mod server;
mod shared;
mod watch;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, SystemTime},
};

use emu_model::slice::Which;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use self::{keeper::Keeper, shared::Shared};

/// How long the keeper may be busy before it is taken for hung: loading 65,536
/// vnodes on a slow machine takes a small part of it.
const HUNG: Duration = Duration::from_secs(120);

/// What becomes of the network when the agent is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// It stays, for another agent to find.
    Leave,
    /// It is taken back, once no process runs as a vnode any more.
    Unload {
        /// How long to wait for them.
        drain: Duration,
    },
}

/// When the events of the file begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// Never.
    Never,
    /// With the first load; another agent goes on with that time.
    FirstLoad,
    /// At a time that other hosts have been told too.
    At(SystemTime),
}

/// What an agent is to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// The topology.
    pub file: PathBuf,
    /// Which of its hosts this machine is.
    pub which: Which,
    /// Where to answer HTTP.
    pub listen: SocketAddr,
    /// What becomes of the network at the end.
    pub on_exit: OnExit,
    /// When events begin.
    pub start_at: StartAt,
    /// Time between two looks at whether all is still in place.
    pub interval: Duration,
    /// Whether each vnode has metrics of its own.
    pub per_vnode: bool,
}

/// What kept an agent from running.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The address could not be bound.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Signals, threads or the runtime.
    #[error("{operation}: {source}")]
    System {
        /// What was done.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The network was to be taken back at the end, and was not.
    #[error("{0}; the network stays")]
    Unload(String),
}

fn system(operation: &'static str) -> impl FnOnce(io::Error) -> AgentError {
    move |source| AgentError::System { operation, source }
}

/// What the keeper is told.
enum Word {
    /// The file may have changed.
    Look,
    /// The kernel's network configuration has changed.
    Changed,
    /// To end.
    Stop,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`AgentError`]. What is wrong with the file is none: the agent reports it and
/// waits for a better one.
pub fn run(config: Config) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the runtime"))?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), AgentError> {
    let listener = tokio::net::TcpListener::bind(config.listen).await;
    let listener = listener.map_err(|source| AgentError::Listen {
        address: config.listen,
        source,
    })?;
    let address = listener.local_addr().map_err(system("read the address"))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(system("wait for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("wait for SIGINT"))?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(system("wait for SIGHUP"))?;
    let shared = Arc::new(Shared::default());
    let (tell, told) = mpsc::channel();
    watch::start(&config.file, tell.clone()).map_err(system("watch the file"))?;
    if let Err(error) = kernel::start(tell.clone()) {
        tracing::warn!(%error, "no notifications of the kernel: it is asked at each interval");
    }
    tracing::info!(file = %config.file.display(), %address, "agent started");
    let router = server::router(Arc::clone(&shared), config.per_vnode);
    let keeper = Keeper::new(config, Arc::clone(&shared));
    let keeper = thread::Builder::new()
        .name("keeper".to_owned())
        .spawn(move || keeper.run(&told))
        .map_err(system("start the keeper"))?;
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let mut beat = tokio::time::interval(heartbeat());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // What `systemctl reload` sends.
            _ = hang_up.recv() => drop(tell.send(Word::Look)),
            _ = beat.tick() => {
                if shared.age() < HUNG {
                    notify(&[NotifyState::Watchdog]);
                }
                if keeper.is_finished() {
                    break;
                }
            }
        }
    }
    shared.stopping();
    notify(&[NotifyState::Stopping]);
    // The keeper may be gone already; then there is nobody to tell.
    let _ = tell.send(Word::Stop);
    let ended = tokio::task::spawn_blocking(move || keeper.join()).await;
    server.abort();
    match ended {
        Ok(Ok(outcome)) => outcome,
        _ => Err(AgentError::Unload("the keeper failed".to_owned())),
    }
}

/// Half of what systemd waits for, or a second.
fn heartbeat() -> Duration {
    let usual = Duration::from_secs(1);
    sd_notify::watchdog_enabled().map_or(usual, |limit| (limit / 2).min(usual))
}

/// Tells systemd, where it started us.
fn notify(state: &[NotifyState<'_>]) {
    // Elsewhere there is no socket, which is no error.
    let _ = sd_notify::notify(state);
}
