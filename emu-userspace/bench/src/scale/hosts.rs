//! This host among those of a measurement over several hosts, which each run it. The hosts
//! share the results folder, through which they meet; the first host measures and judges.
use std::{net::Ipv4Addr, path::Path, time::Duration};

use emu_runner::rendezvous::{JoinInfo, Membership, OnLoss, RendezvousConfig};

use super::Settings;
use crate::BenchError;

/// Time limit for the other hosts to start, and to load.
const STEP_TIMEOUT: Duration = Duration::from_secs(120);
/// A host is lost if its heartbeat does not change for this time. It may share its processor
/// with thousands of peers.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// The position of this host among those of a measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPlace {
    /// Rank of the host, from 0.
    pub rank: usize,
    /// Number of hosts.
    pub size: usize,
    /// Interface of each host towards the other hosts.
    pub interface: String,
    /// Address of the first host on that interface; each following host has the next
    /// address.
    pub address: Ipv4Addr,
}

impl HostPlace {
    /// The `hosts` section of the topology. Peers start in the order of their addresses,
    /// and are distributed round-robin, so that the hosts always run equal numbers of
    /// peers.
    pub(super) fn section(&self) -> String {
        format!(
            "placement: round-robin\nhosts: {{count: {}, interface: {}, address: {}}}\n",
            self.size, self.interface, self.address
        )
    }

    /// Options with which the emu commands select this host.
    pub(super) fn options(&self) -> String {
        format!(" --rank {} --size {}", self.rank, self.size)
    }
}

/// The hosts of a measurement, of which there may be one.
pub(super) struct Hosts(Option<Membership>);

impl Hosts {
    /// Joins the other hosts, which must measure the same, and waits until all have joined.
    pub fn join(
        settings: &Settings,
        place: Option<&HostPlace>,
        results: &Path,
    ) -> Result<Self, BenchError> {
        let Some(place) = place.filter(|place| place.size > 1) else {
            return Ok(Self(None));
        };
        let config = RendezvousConfig {
            folder: results.to_owned(),
            rank: place.rank,
            names: (0..place.size).map(|rank| format!("h{rank}")).collect(),
            digest: format!("{settings:?} {}", place.section()),
            on_loss: OnLoss::End,
            within: STEP_TIMEOUT,
            lost_after: LOST_AFTER,
        };
        let info = JoinInfo {
            interface: place.interface.clone(),
            ..JoinInfo::default()
        };
        let membership = Membership::join(config, info)?;
        membership.wait_for_all(&|| false)?;
        Ok(Self(Some(membership)))
    }

    /// Publishes that this host has reached a step.
    pub fn publish(&self, step: &str) {
        if let Some(membership) = &self.0 {
            membership.publish_step(step, "");
        }
    }

    /// Waits until the first host has reached a step.
    pub fn wait_for_first(&self, step: &'static str) -> Result<(), BenchError> {
        let Some(membership) = &self.0 else {
            return Ok(());
        };
        Ok(membership.wait_for_first(step)?)
    }

    /// Waits until every host has reached a step.
    pub fn wait_for_all(&self, step: &'static str) -> Result<(), BenchError> {
        let Some(membership) = &self.0 else {
            return Ok(());
        };
        Ok(membership.collect(step).map(drop)?)
    }

    /// Publishes that this host has reached a step with a number, waits for the numbers of all
    /// hosts, and returns their sum.
    pub fn sum(&self, step: &'static str, number: u64) -> Result<u64, BenchError> {
        let Some(membership) = &self.0 else {
            return Ok(number);
        };
        membership.publish_step(step, &number.to_string());
        let texts = membership.collect(step)?;
        Ok(texts.iter().filter_map(|n| n.parse::<u64>().ok()).sum())
    }

    /// Publishes the end of this host's part, or why it failed.
    pub fn finish(self, error: Option<&BenchError>) {
        if let Some(membership) = self.0 {
            membership.finish(error.map(ToString::to_string), Duration::ZERO);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::scale::Peer;

    fn place(rank: usize, size: usize) -> HostPlace {
        HostPlace {
            rank,
            size,
            interface: "eth0".to_owned(),
            address: Ipv4Addr::new(192, 0, 2, 1),
        }
    }

    #[test]
    fn hosts_measure_the_same_and_add_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::quick(Peer::Dht);
        let part = |rank, settings: Settings| {
            let path = folder.path().to_owned();
            thread::spawn(move || {
                let hosts = Hosts::join(&settings, Some(&place(rank, 2)), &path)?;
                hosts.publish("prepared");
                hosts.wait_for_first("prepared")?;
                hosts.wait_for_all("prepared")?;
                let sum = hosts.sum("measured", 5 + rank as u64)?;
                hosts.finish(None);
                Ok::<u64, BenchError>(sum)
            })
        };
        let parts = [part(0, settings), part(1, settings)];
        for part in parts {
            assert_eq!(part.join().unwrap().unwrap(), 11);
        }
        // The files of an earlier measurement are not those of a new one.
        let again = part(0, settings).join().unwrap().unwrap_err();
        assert!(again.to_string().contains("an earlier run"), "{again}");
    }

    #[test]
    fn a_host_with_other_settings_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let join = |rank, peers| {
            let settings = Settings {
                peers,
                ..Settings::quick(Peer::Dht)
            };
            let path = folder.path().to_owned();
            thread::spawn(move || Hosts::join(&settings, Some(&place(rank, 2)), &path).map(drop))
        };
        let errors = [join(0, 40), join(1, 41)].map(|host| host.join().unwrap().err());
        let texts: Vec<String> = errors.iter().flatten().map(ToString::to_string).collect();
        let named = |text: &String| text.contains("another experiment or topology");
        assert!(texts.iter().any(named), "{texts:?}");
    }

    #[test]
    fn one_host_waits_for_nobody() {
        let folder = tempfile::tempdir().unwrap();
        for place in [None, Some(place(0, 1))] {
            let settings = Settings::quick(Peer::Dht);
            let hosts = Hosts::join(&settings, place.as_ref(), folder.path()).unwrap();
            hosts.wait_for_all("prepared").unwrap();
            assert_eq!(hosts.sum("measured", 9).unwrap(), 9);
            hosts.finish(None);
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}
