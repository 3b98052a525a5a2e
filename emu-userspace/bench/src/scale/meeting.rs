//! Peers that are spread over several hosts, each of which runs the measurement. The hosts
//! share the folder of the results, where they meet; the first one measures and judges.
use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::BenchError;

/// How long the others may take until they have come, and have loaded.
const WITHIN: Duration = Duration::from_secs(120);
/// Time between two looks for their words.
const LOOK: Duration = Duration::from_millis(100);
/// Folder of the words, below that of the results.
const FOLDER: &str = "words";

/// One host among those of a measurement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 0.
    pub rank: usize,
    /// Number of hosts.
    pub size: usize,
    /// Interface of each host towards the others.
    pub interface: String,
    /// Address of the first host there; each following host has the next one.
    pub address: Ipv4Addr,
}

impl Place {
    /// What a topology says of the hosts. Peers start in the order of their addresses, and
    /// are dealt out in turns, so that all hosts always have as many.
    pub(super) fn section(&self) -> String {
        format!(
            "placement: round-robin\nhosts: {{count: {}, interface: {}, address: {}}}\n",
            self.size, self.interface, self.address
        )
    }

    /// Options of emu's commands.
    pub(super) fn options(&self) -> String {
        format!(" --rank {} --size {}", self.rank, self.size)
    }
}

/// What hosts tell each other, a file for each word.
pub(super) struct Meeting {
    folder: PathBuf,
    rank: usize,
    size: usize,
}

impl Meeting {
    /// Opens it. Nothing of an earlier measurement may be taken for a word of this one.
    pub fn new(place: Option<&Place>, results: &Path) -> Result<Self, BenchError> {
        let (rank, size) = place.map_or((0, 1), |place| (place.rank, place.size));
        let folder = results.join(FOLDER);
        if size == 1 {
            let _ = fs::remove_dir_all(&folder);
        } else if rank == 0 && folder.join(file("prepared", 0)).exists() {
            let folder = results.to_owned();
            return Err(BenchError::Earlier { folder });
        }
        fs::create_dir_all(&folder).map_err(BenchError::system("make a folder"))?;
        Ok(Self { folder, rank, size })
    }

    /// Whether this is the first host.
    pub fn leads(&self) -> bool {
        self.rank == 0
    }

    /// Tells the others.
    pub fn tell(&self, what: &str, words: &str) -> Result<(), BenchError> {
        let path = self.folder.join(file(what, self.rank));
        // As a whole: who waits for the file reads it at once.
        let new = path.with_extension("new");
        fs::write(&new, words)
            .and_then(|()| fs::rename(&new, &path))
            .map_err(BenchError::system("tell the other hosts"))
    }

    /// Waits for the word of the first host.
    pub fn hear_first(&self, what: &'static str) -> Result<(), BenchError> {
        self.hear(what, 0, Instant::now()).map(drop)
    }

    /// Waits for the word of every host, and gives them in the order of their numbers.
    pub fn hear_all(&self, what: &'static str) -> Result<Vec<String>, BenchError> {
        let start = Instant::now();
        let ranks = 0..self.size;
        ranks.map(|rank| self.hear(what, rank, start)).collect()
    }

    fn hear(&self, what: &'static str, rank: usize, since: Instant) -> Result<String, BenchError> {
        let path = self.folder.join(file(what, rank));
        loop {
            if let Ok(words) = fs::read_to_string(&path) {
                return Ok(words);
            }
            if since.elapsed() > WITHIN {
                return Err(BenchError::Silent {
                    rank,
                    what,
                    within: WITHIN,
                    folder: self.folder.clone(),
                });
            }
            thread::sleep(LOOK);
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
    fn hosts_hear_each_other_and_no_earlier_run() {
        let folder = tempfile::tempdir().unwrap();
        let of = |rank| Meeting::new(Some(&place(rank, 2)), folder.path());
        let (first, second) = (of(0).unwrap(), of(1).unwrap());
        assert!(first.leads() && !second.leads());
        first.tell("prepared", "").unwrap();
        second.hear_first("prepared").unwrap();
        second.tell("used", "7").unwrap();
        first.tell("used", "5").unwrap();
        assert_eq!(first.hear_all("used").unwrap(), ["5", "7"]);
        assert!(matches!(of(0), Err(BenchError::Earlier { .. })));
        // One host alone begins anew.
        let alone = Meeting::new(None, folder.path()).unwrap();
        alone.tell("used", "9").unwrap();
        assert_eq!(alone.hear_all("used").unwrap(), ["9"]);
    }
}
