//! This host as a member of the run: its status, which a thread keeps current, and the
//! decisions for all hosts.
mod barrier;
mod heartbeat;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use emu_kernel::beneath::Folder;

use super::{
    ClusterState, ClusterView, FOLDER, HostStatus, JoinInfo, LocalStatus, Phase, RendezvousConfig,
    RendezvousError, StopReason,
    clock::{self, Server},
    cluster::Liveness,
};

/// Time between two polls of the others' status.
const STATUS_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// This host as a member of the run. If it is dropped without [`Membership::finish`], the
/// host publishes that it has failed.
#[derive(Debug)]
pub struct Membership {
    shared: Arc<SharedState>,
    thread: Option<JoinHandle<()>>,
    _clock: Option<Server>,
}

#[derive(Debug)]
struct SharedState {
    config: RendezvousConfig,
    /// The shared folder.
    folder: Folder,
    /// The folder of the status files in it.
    status_folder: Folder,
    programs: usize,
    state: Mutex<MembershipState>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct MembershipState {
    own: HostStatus,
    /// Whether the status has changed since it was last published.
    dirty: bool,
    /// The status of each host, as far as this host polls them.
    statuses: Vec<Option<HostStatus>>,
    liveness: Vec<Liveness>,
    /// The current decision for all hosts.
    cluster: ClusterState,
    /// Why the last status could not be written.
    write_error: Option<String>,
}

impl SharedState {
    fn state(&self) -> MutexGuard<'_, MembershipState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Membership {
    /// Creates this host's status file in the shared folder and starts the heartbeat.
    pub fn join(config: RendezvousConfig, info: JoinInfo) -> Result<Self, RendezvousError> {
        // Without a server the offsets are unknown, and nothing else depends on it.
        let clock = (config.rank == 0).then(|| Server::start().ok()).flatten();
        let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let own = HostStatus {
            host: config.names.get(config.rank).cloned().unwrap_or_default(),
            rank: config.rank,
            size: config.names.len(),
            digest: config.digest.clone(),
            machine: machine.trim().to_owned(),
            clock: clock
                .iter()
                .flat_map(|c| clock_addresses(&info.addresses, c.port()))
                .collect(),
            seed: info.seed,
            interface: info.interface,
            addresses: info.addresses,
            heartbeat: 1,
            ..HostStatus::default()
        };
        let make = || RendezvousError::system(format!("make {}", config.folder.display()));
        let (folder, _) = Folder::make(&config.folder).map_err(make())?;
        let status_folder = folder.make_folder(FOLDER).map_err(make())?;
        own.claim(&status_folder)?;
        let size = config.names.len();
        let shared = Arc::new(SharedState {
            state: Mutex::new(MembershipState {
                own,
                statuses: vec![None; size],
                liveness: vec![Liveness::default(); size],
                ..MembershipState::default()
            }),
            config,
            folder,
            status_folder,
            programs: info.programs,
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("membership".to_owned())
            .spawn(move || heartbeat::run(&for_thread))
            .map_err(RendezvousError::system("start the heartbeat thread"))?;
        Ok(Self {
            shared,
            thread: Some(thread),
            _clock: clock,
        })
    }

    pub fn folder(&self) -> &Folder {
        &self.shared.folder
    }

    /// Measures the offset to the first host's clock, and publishes it.
    pub fn compare_clocks(&self, first: &HostStatus) {
        if self.shared.config.rank > 0 {
            let offset = clock::measure(&first.clock);
            self.change(|status| status.offset = offset);
        }
    }

    /// Publishes that this host could start; [`Membership::start`] then returns the common
    /// start.
    pub fn set_loaded(&self) {
        self.change(|status| status.phase = Phase::Loaded);
    }

    /// The common start by this host's clock; `None` until it is known. `waited` is the time
    /// since this host has loaded.
    ///
    /// # Errors
    /// Why the other hosts cannot start.
    pub fn start(&self, waited: Duration) -> Result<Option<SystemTime>, RendezvousError> {
        self.check_stop()?;
        let state = self.shared.state();
        let lost: Vec<String> = self.lost(&state.cluster);
        if !lost.is_empty() {
            return Err(RendezvousError::Lost { lost });
        }
        if let Some(start_ns) = state.cluster.start_unix_ns {
            let ahead = state.own.offset.map_or(0, |o| o.ahead_ns);
            let start = SystemTime::UNIX_EPOCH
                + Duration::from_nanos(start_ns.saturating_add_signed(ahead));
            return Ok(Some(start));
        }
        drop(state);
        if waited < self.shared.config.within {
            return Ok(None);
        }
        let statuses = (0..self.shared.config.names.len())
            .map(|rank| HostStatus::read(&self.shared.status_folder, rank));
        let loaded: Vec<bool> = statuses
            .map(|s| s.is_some_and(|s| s.phase >= Phase::Loaded))
            .collect();
        Err(self.missing("loaded", |rank| loaded[rank]))
    }

    fn check_stop(&self) -> Result<(), RendezvousError> {
        match self.view().stop {
            Some(reason) => Err(reason.into()),
            None => Ok(()),
        }
    }

    /// Publishes the status of the run on this host. Never blocks on the shared folder.
    pub fn publish(&self, here: &LocalStatus) {
        self.change(|status| {
            let phase = if here.over {
                Phase::Over
            } else {
                Phase::Running
            };
            status.phase = status.phase.max(phase);
            status.ready.clone_from(&here.ready);
            status.failed = here.failed;
            status.stop.clone_from(&here.stop);
        });
    }

    /// The state of the whole run. Never blocks on the shared folder.
    pub fn view(&self) -> ClusterView {
        let state = self.shared.state();
        let cluster = &state.cluster;
        let given_up = cluster.lost.contains(&self.shared.config.rank);
        ClusterView {
            ready: cluster.ready.clone(),
            failed: cluster.failed,
            over: cluster.over,
            lost: self.lost(cluster),
            stop: (cluster.stop.clone())
                .or_else(|| given_up.then_some(StopReason::GivenUp))
                .or_else(|| {
                    let error = state.write_error.clone()?;
                    Some(StopReason::NotWritten { error })
                }),
        }
    }

    fn lost(&self, cluster: &ClusterState) -> Vec<String> {
        let names = &self.shared.config.names;
        let names = cluster.lost.iter().filter_map(|rank| names.get(*rank));
        names.cloned().collect()
    }

    /// Whether this is the first live host, which merges the results.
    pub fn leads(&self) -> bool {
        let cluster = &self.shared.state().cluster;
        (0..self.shared.config.rank).all(|rank| cluster.lost.contains(&rank))
    }

    /// Publishes that this host's results are written, or why it failed, and ends the
    /// membership. The first live host then waits until the others have finished, for
    /// `timeout` at most. Returns the last status of every host.
    pub fn finish(mut self, error: Option<String>, timeout: Duration) -> Vec<HostStatus> {
        let gave_up = error.is_some();
        self.change(|status| {
            status.phase = if gave_up { Phase::Failed } else { Phase::Done };
            status.error = error;
        });
        let shared = Arc::clone(&self.shared);
        let deadline = Instant::now() + timeout;
        if self.leads() && !gave_up {
            let mut state = shared.state();
            let through = |state: &MembershipState| {
                state.statuses.iter().enumerate().all(|(rank, status)| {
                    state.cluster.lost.contains(&rank)
                        || status.as_ref().is_some_and(|s| s.phase >= Phase::Done)
                })
            };
            while !through(&state) && Instant::now() < deadline {
                let waited = shared.changed.wait_timeout(state, STATUS_POLL_INTERVAL);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        self.end();
        let size = shared.config.names.len();
        (0..size)
            .filter_map(|r| HostStatus::read(&shared.status_folder, r))
            .collect()
    }

    fn change(&self, change: impl FnOnce(&mut HostStatus)) {
        let mut state = self.shared.state();
        let before = state.own.clone();
        change(&mut state.own);
        state.dirty |= state.own != before;
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.change(|status| {
                status.phase = Phase::Failed;
                status.error.get_or_insert_with(|| "gave up".to_owned());
            });
            self.end();
        }
    }
}

/// Addresses at which this host answers time requests: its own, and loopback.
fn clock_addresses(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let own = addresses.iter().map(|a| SocketAddr::new(*a, port));
    own.chain([SocketAddr::from(([127, 0, 0, 1], port))])
        .collect()
}

#[cfg(test)]
mod tests;
