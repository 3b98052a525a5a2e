//! Waiting for the other hosts: until they have joined, and until they have reached a step.
use std::{collections::BTreeSet, ops::Range, thread, time::Instant};

use super::{Membership, STATUS_POLL_INTERVAL};
use crate::rendezvous::{HostStatus, RendezvousError};

impl Membership {
    /// Waits until all hosts have joined and returns their status; returns `None` if
    /// `interrupted` says so first.
    ///
    /// # Errors
    /// [`RendezvousError::Missing`] with the hosts that have not joined in time,
    /// [`RendezvousError::Different`] or [`RendezvousError::Failed`] of a host that has.
    pub fn wait_for_all(
        &self,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Option<Vec<HostStatus>>, RendezvousError> {
        let deadline = Instant::now() + self.shared.config.within;
        let size = self.shared.config.names.len();
        loop {
            // Every host reads all files once, even one that later follows the first host
            // alone.
            let statuses: Vec<Option<HostStatus>> = (0..size)
                .map(|rank| HostStatus::read(&self.shared.status_folder, rank))
                .collect();
            self.compare(&statuses)?;
            let found: Vec<HostStatus> = statuses.into_iter().flatten().collect();
            if found.len() == size {
                return Ok(Some(found));
            }
            if interrupted() {
                return Ok(None);
            }
            self.check_stop()?;
            if Instant::now() >= deadline {
                let here: BTreeSet<usize> = found.iter().map(|s| s.rank).collect();
                return Err(self.missing("there", |rank| here.contains(&rank)));
            }
            thread::sleep(STATUS_POLL_INTERVAL);
        }
    }

    /// Publishes that this host has reached a step, and a text for the hosts that collect it.
    pub fn publish_step(&self, step: &str, text: &str) {
        self.change(|status| {
            status.steps.insert(step.to_owned(), text.to_owned());
        });
    }

    /// Waits until the first host has reached a step. `step` is a past participle, for the
    /// error.
    ///
    /// # Errors
    /// As [`Membership::collect`].
    pub fn wait_for_first(&self, step: &'static str) -> Result<(), RendezvousError> {
        self.collect_from(step, 0..1).map(drop)
    }

    /// Waits until every host has reached a step, and returns their texts by rank. `step` is a
    /// past participle, for the error.
    ///
    /// # Errors
    /// [`RendezvousError::Missing`] with the hosts that have not reached the step in time, or
    /// why all hosts must stop.
    pub fn collect(&self, step: &'static str) -> Result<Vec<String>, RendezvousError> {
        self.collect_from(step, 0..self.shared.config.names.len())
    }

    fn collect_from(
        &self,
        step: &'static str,
        ranks: Range<usize>,
    ) -> Result<Vec<String>, RendezvousError> {
        let deadline = Instant::now() + self.shared.config.within;
        let text = |rank| {
            // The file of this host may be older than its status.
            let status = match rank == self.shared.config.rank {
                true => Some(self.shared.state().own.clone()),
                false => HostStatus::read(&self.shared.status_folder, rank),
            };
            status?.steps.remove(step)
        };
        loop {
            let texts: Vec<Option<String>> = ranks.clone().map(text).collect();
            if texts.iter().all(Option::is_some) {
                return Ok(texts.into_iter().flatten().collect());
            }
            self.check_stop()?;
            if Instant::now() >= deadline {
                return Err(self.missing(step, |rank| texts.get(rank).is_none_or(Option::is_some)));
            }
            thread::sleep(STATUS_POLL_INTERVAL);
        }
    }

    /// Checks that all hosts have the same inputs and none has failed.
    fn compare(&self, statuses: &[Option<HostStatus>]) -> Result<(), RendezvousError> {
        let own = self.shared.state().own.clone();
        let differs = |what: &'static str, other: &HostStatus| RendezvousError::Different {
            host: own.host.clone(),
            what,
            other: other.host.clone(),
        };
        for status in statuses.iter().flatten() {
            if status.size != own.size {
                return Err(differs("with another number of hosts", status));
            }
            if status.digest != own.digest {
                return Err(differs("another experiment or topology", status));
            }
            if let Some(failed) = status.failure() {
                return Err(failed.into());
            }
        }
        Ok(())
    }

    pub(super) fn missing(
        &self,
        state: &'static str,
        is_well: impl Fn(usize) -> bool,
    ) -> RendezvousError {
        let names = self.shared.config.names.iter().enumerate();
        RendezvousError::Missing {
            missing: names
                .filter(|(rank, _)| !is_well(*rank))
                .map(|(_, name)| name.clone())
                .collect(),
            state,
            within: self.shared.config.within,
            folder: self.shared.config.folder.clone(),
        }
    }
}
