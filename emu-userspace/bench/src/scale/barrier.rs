//! Coordination of a measurement over several hosts that each run it. The hosts share the
//! results folder, through which they synchronise at barriers; the first host measures and
//! judges.
use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use emu_kernel::beneath::Folder;

use crate::BenchError;

/// Timeout for the other hosts to start and to load.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(120);
/// Poll interval of the status files.
const BARRIER_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Folder of the status files, below the results folder.
const FOLDER: &str = "words";

/// The position of this host among those of a measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
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

impl Place {
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

/// A barrier between hosts, with one status file per host and step.
pub(super) struct Barrier {
    folder: PathBuf,
    rank: usize,
    size: usize,
}

impl Barrier {
    /// Opens the barrier. With several hosts it refuses a folder with the files of an
    /// earlier measurement, which it would take for those of this one.
    pub fn new(place: Option<&Place>, results: &Path) -> Result<Self, BenchError> {
        let (rank, size) = place.map_or((0, 1), |place| (place.rank, place.size));
        let folder = results.join(FOLDER);
        if size == 1 {
            let _ = fs::remove_dir_all(&folder);
        } else if rank == 0 && folder.join(file("prepared", 0)).exists() {
            let folder = results.to_owned();
            return Err(BenchError::Earlier { folder });
        }
        crate::make_folder(&folder)?;
        Ok(Self { folder, rank, size })
    }

    /// Whether this is the first host, which measures and judges.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// Publishes that this host has reached a step.
    pub fn publish(&self, what: &str, text: &str) -> Result<(), BenchError> {
        // Atomically, because a waiting host reads the file as soon as it appears.
        Folder::open(&self.folder)
            .and_then(|folder| folder.replace(file(what, self.rank), text.as_bytes()))
            .map(drop)
            .map_err(BenchError::system("publish the step"))
    }

    /// Waits until the first host has reached a step.
    pub fn wait_for_first(&self, what: &'static str) -> Result<(), BenchError> {
        self.wait_for(what, 0, Instant::now()).map(drop)
    }

    /// Waits until every host has reached a step; returns their texts, ordered by rank.
    pub fn wait_for_all(&self, what: &'static str) -> Result<Vec<String>, BenchError> {
        let start = Instant::now();
        let ranks = 0..self.size;
        ranks.map(|rank| self.wait_for(what, rank, start)).collect()
    }

    fn wait_for(
        &self,
        what: &'static str,
        rank: usize,
        since: Instant,
    ) -> Result<String, BenchError> {
        let path = self.folder.join(file(what, rank));
        loop {
            if let Ok(text) = fs::read_to_string(&path) {
                return Ok(text);
            }
            if since.elapsed() > BARRIER_TIMEOUT {
                return Err(BenchError::Silent {
                    rank,
                    what,
                    within: BARRIER_TIMEOUT,
                    folder: self.folder.clone(),
                });
            }
            thread::sleep(BARRIER_POLL_INTERVAL);
        }
    }
}

fn file(what: &str, rank: usize) -> String {
    format!("{what}-{rank}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(rank: usize, size: usize) -> Place {
        Place {
            rank,
            size,
            interface: "eth0".to_owned(),
            address: Ipv4Addr::new(192, 0, 2, 1),
        }
    }

    #[test]
    fn hosts_pass_barriers_and_refuse_an_earlier_run() {
        let folder = tempfile::tempdir().unwrap();
        let of = |rank| Barrier::new(Some(&place(rank, 2)), folder.path());
        let (first, second) = (of(0).unwrap(), of(1).unwrap());
        assert!(first.is_first() && !second.is_first());
        first.publish("prepared", "").unwrap();
        second.wait_for_first("prepared").unwrap();
        second.publish("used", "7").unwrap();
        first.publish("used", "5").unwrap();
        assert_eq!(first.wait_for_all("used").unwrap(), ["5", "7"]);
        assert!(matches!(of(0), Err(BenchError::Earlier { .. })));
        // A single host may overwrite its earlier results.
        let alone = Barrier::new(None, folder.path()).unwrap();
        alone.publish("used", "9").unwrap();
        assert_eq!(alone.wait_for_all("used").unwrap(), ["9"]);
    }
}
