//! Background thread: publishes this host's status, polls the others', computes the shared
//! decision.
use std::{
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{MembershipState, STATUS_POLL_INTERVAL, SharedState};
use crate::rendezvous::{ClusterState, HostStatus, OnLoss, RendezvousConfig, StopReason, unix_ns};

/// Longest time between two writes of the status.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Time between the decision on the start and the start itself, in which every host must have
/// read the decision.
pub(super) const START_DELAY: Duration = Duration::from_secs(2);

/// Runs until the membership ends, and then publishes a last status.
pub(super) fn run(shared: &SharedState) {
    let mut said = Instant::now();
    loop {
        let last = shared.stop.load(Ordering::Relaxed);
        poll(shared);
        let status = {
            let mut state = shared.state();
            let due = state.dirty || last || said.elapsed() >= HEARTBEAT_INTERVAL;
            due.then(|| {
                state.dirty = false;
                state.own.heartbeat += 1;
                state.own.written_unix_ns = unix_ns(SystemTime::now());
                state.own.clone()
            })
        };
        // The write happens without the lock, since a file server may be slow.
        if let Some(status) = status {
            let write_error = status.publish(&shared.status_folder).err();
            let path = shared
                .status_folder
                .path()
                .join(HostStatus::file(status.rank));
            let write_error = write_error.map(|e| format!("write {}: {e}", path.display()));
            shared.state().write_error = write_error;
            said = Instant::now();
        }
        shared.changed.notify_all();
        if last {
            return;
        }
        thread::park_timeout(STATUS_POLL_INTERVAL);
    }
}

/// Reads the status of the hosts that this host follows, and updates the decision.
fn poll(shared: &SharedState) {
    let config = &shared.config;
    let (first_lost, own) = {
        let state = shared.state();
        (state.cluster.lost.contains(&0), state.own.clone())
    };
    // The first host polls all and decides. Once it is lost, every host does so.
    let decides = config.rank == 0 || first_lost;
    let ranks = if decides { 0..config.names.len() } else { 0..1 };
    let found: Vec<(usize, Option<HostStatus>)> = ranks
        .map(|rank| match rank == config.rank {
            true => (rank, Some(own.clone())),
            false => (rank, HostStatus::read(&shared.status_folder, rank)),
        })
        .collect();
    let looks = config.lost_after.as_millis() / STATUS_POLL_INTERVAL.as_millis();
    let most = u32::try_from(looks).unwrap_or(u32::MAX).max(2);
    let mut state = shared.state();
    let mut lost = vec![false; config.names.len()];
    for (rank, status) in found {
        // A status that cannot be read now changes nothing.
        if status.is_some() {
            state.statuses[rank] = status;
        }
        let status = state.statuses[rank].clone().filter(|_| rank != config.rank);
        lost[rank] = state.liveness[rank].observe(status.as_ref(), most);
    }
    let cluster = if decides {
        decide(&state, config, &lost, shared.programs)
    } else {
        follow_first(&state, lost[0], config.on_loss)
    };
    state.cluster = cluster;
    if decides && state.own.cluster.as_ref() != Some(&state.cluster) {
        state.own.cluster = Some(state.cluster.clone());
        state.dirty = true;
    }
}

fn decide(
    state: &MembershipState,
    config: &RendezvousConfig,
    lost: &[bool],
    programs: usize,
) -> ClusterState {
    let mut cluster = ClusterState::new(
        &state.statuses,
        lost,
        &state.cluster,
        config.on_loss,
        programs,
    );
    if cluster.start_unix_ns.is_none() && cluster.loaded == config.names.len() {
        cluster.start_unix_ns = Some(unix_ns(SystemTime::now() + START_DELAY));
    }
    cluster
}

/// The first host's decision, or the consequence of its loss.
fn follow_first(state: &MembershipState, lost: bool, on_loss: OnLoss) -> ClusterState {
    let first = state.statuses[0].as_ref();
    let mut cluster = first
        .and_then(|status| status.cluster.clone())
        .unwrap_or_else(|| state.cluster.clone());
    if let Some(failed) = first.and_then(HostStatus::failure) {
        cluster.stop.get_or_insert(failed);
    }
    if lost {
        cluster.lost.push(0);
        let host = first.map_or("the first host", |status| status.host.as_str());
        if on_loss == OnLoss::End {
            let hosts = vec![host.to_owned()];
            cluster.stop.get_or_insert(StopReason::HostsLost { hosts });
        }
    }
    cluster
}
