//! A long-running service that converges a host to the state in a file.
//!
//! The `reconciler` loads the file whenever the file or the kernel's state changes, always by
//! difference and through [`emu_kernel::session`]; `events` runs the file's events from a
//! start time that hosts share; `server` reports the state. All results are in the state
//! folder and the kernel, so another agent can take over.
mod events;
mod kernel;
mod metrics;
mod reconciler;
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

use emu_kernel::descriptors::{self, Reserve};
use emu_model::host_selector::HostSelector;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

pub use self::server::Token;
use self::{reconciler::Reconciler, server::MOST_CONNECTIONS, shared::Shared};

/// Time without a heartbeat after which the reconciler counts as hung; loading 65,536 vnodes
/// on a slow machine takes a small part of it.
const HUNG: Duration = Duration::from_secs(120);

/// Descriptors that a load may have open at a time, in addition to those of a waiting agent;
/// the test `agent_limits` loads with no more.
const LOAD_DESCRIPTORS: usize = 96;
/// Descriptors that a scrape, the events and the accepting of a connection may have open at a
/// time, with the maps of the loaded topology.
const OTHER_DESCRIPTORS: usize = 48;

/// What happens to the network when the agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// It stays loaded, for another agent.
    Leave,
    /// It is unloaded, once no process of a vnode is running.
    Unload {
        /// Longest wait for the processes.
        drain: Duration,
    },
}

/// Time origin of the file's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    /// Never.
    Never,
    /// The first load; the next agent continues with the same time.
    FirstLoad,
    /// A time that is equal on all hosts.
    At(SystemTime),
}

#[derive(Debug, Clone)]
pub struct Config {
    /// The topology.
    pub file: PathBuf,
    /// Which of its hosts this machine is.
    pub which: HostSelector,
    /// Address of the HTTP server.
    pub listen: SocketAddr,
    /// What becomes of the network at the end.
    pub on_exit: OnExit,
    /// When events begin.
    pub start_at: StartAt,
    /// Time between two checks for drift.
    pub interval: Duration,
    /// Whether each vnode has metrics of its own.
    pub per_vnode: bool,
    /// What clients of the HTTP server must send; without it everybody may read.
    pub token: Option<Token>,
}

/// Why an agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("{operation}: {source}")]
    System {
        operation: &'static str,
        source: io::Error,
    },
    /// Too few open files are allowed.
    #[error(
        "the limit of open files is {limit}; the agent needs at least {needed} \
         (ulimit -Hn, or LimitNOFILE of its systemd unit)"
    )]
    Descriptors { limit: u64, needed: u64 },
    /// The network could not be unloaded at the end.
    #[error("{0}; the network stays")]
    Unload(String),
}

fn system(operation: &'static str) -> impl FnOnce(io::Error) -> AgentError {
    move |source| AgentError::System { operation, source }
}

/// A message to the reconciler.
enum Message {
    /// The file may have changed.
    Check,
    /// The kernel's network configuration has changed.
    Changed,
    /// To end.
    Stop,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`AgentError`]. An invalid file is not an error: the agent reports it and waits for a
/// valid one.
pub fn run(config: Config) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the runtime"))?;
    runtime.block_on(serve(config))
}

/// Raises the limit of open files, and divides what it allows: most connections of the HTTP
/// server, and the reserve of the reconciler.
fn divide_descriptors() -> Result<(usize, Reserve), AgentError> {
    let limit = descriptors::raise_limit().map_err(system("raise the limit of open files"))?;
    let open = descriptors::open_now().map_err(system("count the open files"))?;
    let needed = open + (LOAD_DESCRIPTORS + OTHER_DESCRIPTORS) as u64;
    let left = usize::try_from(limit.saturating_sub(needed)).unwrap_or(usize::MAX);
    if left == 0 {
        let needed = needed + 1;
        return Err(AgentError::Descriptors { limit, needed });
    }
    let reserve = Reserve::new(LOAD_DESCRIPTORS).map_err(system("reserve descriptors"))?;
    Ok((left.min(MOST_CONNECTIONS), reserve))
}

/// Warns of an address that others than this machine can reach, unless there is a token.
fn warn_of_readers(address: SocketAddr, shared: &Shared, has_token: bool) {
    let is_open = !address.ip().to_canonical().is_loopback() && !has_token;
    shared.change(|facts| facts.is_open_to_all = is_open);
    if is_open {
        tracing::warn!(
            %address,
            "everybody who can reach this address can read the metrics, the topology's name and \
             its problems: use --token-file, or listen on 127.0.0.1"
        );
    }
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
    let (sender, messages) = mpsc::channel();
    watch::start(&config.file, sender.clone()).map_err(system("watch the file"))?;
    if let Err(error) = kernel::start(sender.clone()) {
        tracing::warn!(%error, "no notifications of the kernel: it is asked at each interval");
    }
    let (most_connections, reserve) = divide_descriptors()?;
    tracing::info!(file = %config.file.display(), %address, most_connections, "agent started");
    warn_of_readers(address, &shared, config.token.is_some());
    let server = server::serve(
        listener,
        Arc::clone(&shared),
        config.per_vnode,
        config.token.clone(),
        most_connections,
    );
    let reconciler = Reconciler::new(config, Arc::clone(&shared), reserve);
    let reconciler = thread::Builder::new()
        .name("reconciler".to_owned())
        .spawn(move || reconciler.run(&messages))
        .map_err(system("start the reconciler"))?;
    let server = tokio::spawn(server);
    let mut beat = tokio::time::interval(heartbeat());
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // `systemctl reload` sends it.
            _ = hang_up.recv() => drop(sender.send(Message::Check)),
            _ = beat.tick() => {
                if shared.age() < HUNG {
                    notify(&[NotifyState::Watchdog]);
                }
                if reconciler.is_finished() {
                    break;
                }
            }
        }
    }
    shared.stopping();
    notify(&[NotifyState::Stopping]);
    // The reconciler may have ended already.
    let _ = sender.send(Message::Stop);
    let ended = tokio::task::spawn_blocking(move || reconciler.join()).await;
    server.abort();
    match ended {
        Ok(Ok(outcome)) => outcome,
        _ => Err(AgentError::Unload("the reconciler failed".to_owned())),
    }
}

/// Half of systemd's watchdog interval, or a second.
fn heartbeat() -> Duration {
    let usual = Duration::from_secs(1);
    sd_notify::watchdog_enabled().map_or(usual, |limit| (limit / 2).min(usual))
}

/// Notifies systemd, if it started the agent.
fn notify(state: &[NotifyState<'_>]) {
    // Without systemd there is no socket, which is not an error.
    let _ = sd_notify::notify(state);
}
