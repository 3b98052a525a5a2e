//! The shared decision, computed from the status of every host. Pure: no file, no clock.
use serde::{Deserialize, Serialize};

use super::{HostStatus, OnLoss, Phase, StopReason};

/// The decisions that hold for all hosts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterState {
    /// Number of hosts that have joined.
    pub joined: usize,
    /// Number of hosts that have loaded their network.
    pub loaded: usize,
    /// Common start, by the first host's clock, in nanoseconds since 1970.
    pub start_unix_ns: Option<u64>,
    /// Programs that are ready on every live host, by their index in the experiment.
    pub ready: Vec<usize>,
    /// Number of processes that have failed, on all hosts.
    pub failed: usize,
    /// Whether the run is over on every live host.
    pub over: bool,
    /// Ranks of the hosts that are lost.
    pub lost: Vec<usize>,
    /// Number of hosts that have written their results.
    pub done: usize,
    /// Why all hosts must stop.
    pub stop: Option<StopReason>,
}

/// Detects a host that has stopped: its heartbeat counter no longer changes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Liveness {
    heartbeat: u64,
    unchanged_polls: u32,
    lost: bool,
}

impl Liveness {
    /// Records the status that one poll found. The host is lost after more than `most` polls
    /// without a change. A host that has not joined yet, or has ended, is not lost.
    pub fn observe(&mut self, status: Option<&HostStatus>, most: u32) -> bool {
        let Some(status) = status else {
            return self.lost;
        };
        if status.heartbeat != self.heartbeat {
            self.heartbeat = status.heartbeat;
            self.unchanged_polls = 0;
        } else if status.phase < Phase::Done {
            self.unchanged_polls = self.unchanged_polls.saturating_add(1);
        }
        // A lost host stays lost: the others have gone on without it.
        self.lost |= self.unchanged_polls > most;
        self.lost
    }
}

impl ClusterState {
    /// Computes the decision from the status of all hosts and the set of lost hosts. A start
    /// time that was set before is kept.
    pub(super) fn new(
        statuses: &[Option<HostStatus>],
        lost: &[bool],
        before: &ClusterState,
        on_loss: OnLoss,
        programs: usize,
    ) -> Self {
        let known = || statuses.iter().flatten();
        let lives = |rank: usize| !lost.get(rank).copied().unwrap_or(false);
        let living = || known().filter(|w| lives(w.rank));
        let at_least = |phase: Phase| known().filter(|s| s.phase >= phase).count();
        let all_are = |phase: Phase| living().all(|s| s.phase >= phase);
        let lost_ranks: Vec<usize> = (0..statuses.len()).filter(|r| !lives(*r)).collect();
        let hosts: Vec<String> = lost_ranks
            .iter()
            .filter_map(|r| statuses[*r].as_ref())
            .map(|s| s.host.clone())
            .collect();
        let ended = (on_loss == OnLoss::End && !hosts.is_empty())
            .then_some(StopReason::HostsLost { hosts });
        let failed = known().find_map(HostStatus::failure);
        let stopped = known().find_map(|s| {
            Some(StopReason::HostStopped {
                host: s.host.clone(),
                cause: s.stop.clone()?,
            })
        });
        Self {
            joined: known().count(),
            loaded: at_least(Phase::Loaded),
            start_unix_ns: before.start_unix_ns,
            ready: (0..programs)
                .filter(|p| living().all(|s| s.ready.contains(p)))
                .collect(),
            failed: known().map(|s| s.failed).sum(),
            over: before.start_unix_ns.is_some() && all_are(Phase::Over),
            lost: lost_ranks,
            done: at_least(Phase::Done),
            stop: before.stop.clone().or(failed).or(stopped).or(ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(rank: usize, heartbeat: u64, phase: Phase) -> HostStatus {
        HostStatus {
            host: format!("h{rank}"),
            rank,
            heartbeat,
            phase,
            ready: if rank == 1 { vec![0, 1] } else { vec![1] },
            failed: rank,
            ..HostStatus::default()
        }
    }

    #[test]
    fn a_host_is_lost_when_its_heartbeat_does_not_change() {
        let mut liveness = Liveness::default();
        // A host that has not joined is never lost.
        assert!((0..100).all(|_| !liveness.observe(None, 3)));
        assert!(
            (1..100)
                .all(|heartbeat| !liveness.observe(Some(&status(0, heartbeat, Phase::Running)), 3))
        );
        let silent = status(0, 99, Phase::Running);
        let looks = (0..9)
            .take_while(|_| !liveness.observe(Some(&silent), 3))
            .count();
        assert_eq!(looks, 3);
        assert!(liveness.observe(Some(&status(0, 100, Phase::Running)), 3));
        // A host that has ended sends no more heartbeats.
        let mut liveness = Liveness::default();
        let done = status(0, 5, Phase::Done);
        assert!((0..100).all(|_| !liveness.observe(Some(&done), 3)));
    }

    #[test]
    fn all_hosts_count_but_the_lost() {
        let started = ClusterState {
            start_unix_ns: Some(7),
            ..ClusterState::default()
        };
        let phases = [Phase::Over, Phase::Running, Phase::Done];
        let statuses: Vec<Option<HostStatus>> =
            (0..3).map(|r| Some(status(r, 1, phases[r]))).collect();
        let cluster =
            |lost: &[bool], on_loss| ClusterState::new(&statuses, lost, &started, on_loss, 3);
        let all = cluster(&[false; 3], OnLoss::End);
        assert_eq!((all.over, all.failed, all.done), (false, 3, 1));
        assert_eq!((all.ready.as_slice(), &all.stop), (&[1][..], &None));
        let mark = cluster(&[false, true, false], OnLoss::Mark);
        assert!(mark.over && mark.stop.is_none());
        assert_eq!(mark.lost, [1]);
        let end = cluster(&[false, true, false], OnLoss::End);
        let lost = StopReason::HostsLost {
            hosts: vec!["h1".to_owned()],
        };
        assert_eq!(end.stop, Some(lost));
        let early = ClusterState::new(
            &statuses,
            &[false; 3],
            &ClusterState::default(),
            OnLoss::End,
            3,
        );
        assert!(!early.over);
    }

    #[test]
    fn a_host_that_gives_up_stops_all() {
        let mut statuses = vec![Some(status(0, 1, Phase::Joined)), None];
        statuses[1] = Some(HostStatus {
            error: Some("no fq".to_owned()),
            ..status(1, 1, Phase::Failed)
        });
        let cluster =
            |before: &ClusterState| ClusterState::new(&statuses, &[], before, OnLoss::Mark, 1);
        let first = cluster(&ClusterState::default());
        let failed = StopReason::HostFailed {
            host: "h1".to_owned(),
            error: "no fq".to_owned(),
        };
        assert_eq!(first.stop, Some(failed));
        assert_eq!(cluster(&first).stop, first.stop);
    }
}
