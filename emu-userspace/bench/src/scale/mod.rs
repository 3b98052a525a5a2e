//! Many peers on one machine: real nodes of the BitTorrent DHT, or BitTorrent clients, each
//! a process of its own behind an access line, and whether the network stays right while
//! they run.
mod bench;
mod meeting;
mod peer;
mod progress;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::BenchError;
use bench::{Bench, available_bytes};
use meeting::Meeting;
pub use meeting::Place;
use peer::Experiment;
pub use peer::Peer;
pub use progress::Curve;

/// What is run.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Their program.
    pub peer: Peer,
    /// Peers.
    pub peers: u32,
    /// Time between the starts of two.
    pub interval: Duration,
    /// How long they go on after the last has started.
    pub settle: Duration,
    /// Size of the file that BitTorrent clients download.
    pub file_bytes: usize,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Their program.
    pub peer: Peer,
    /// Hosts that they were spread over.
    pub hosts: usize,
    /// Peers that were to run.
    pub peers: u32,
    /// Of them those that are judged: the first node of a DHT has nobody to ask.
    pub judged: u32,
    /// Time to load the topology.
    pub load_s: f64,
    /// From the first start to the last, and how it should have been.
    pub start_s: f64,
    /// By the schedule.
    pub start_planned_s: f64,
    /// How long each peer took from its start until others had answered it (DHT), or it had
    /// the whole file (BitTorrent), in seconds, sorted; those that did not are not in it.
    pub ready_s: Vec<f64>,
    /// Peers that found another's value, or whose file has the seeders' SHA-1.
    pub right: usize,
    /// Peers that ended before the run did.
    pub failed: u64,
    /// Sum of the most memory of each peer, shared pages counted each time.
    pub resident_bytes: u64,
    /// What the machines had less of while all ran.
    pub used_bytes: u64,
    /// Processor time of all peers.
    pub cpu_s: f64,
    /// Share of the processors' time that was not idle, on the busiest host.
    pub busy: f64,
    /// What the host did not keep up with, in words.
    pub limits: Vec<String>,
    /// Median error of the round trip, before any peer ran, in milliseconds; with several
    /// hosts the larger one of those inside the first host and to another.
    pub error_idle_ms: f64,
    /// The same while all ran.
    pub error_running_ms: f64,
    /// The round trip itself, by the model.
    pub expected_ms: f64,
    /// Bytes of IP that some of the peers received, against time: every so manieth in the
    /// order of their starts.
    #[serde(skip)]
    pub progress: Vec<Curve>,
}

impl Settings {
    /// What takes about a minute.
    pub fn quick(peer: Peer) -> Self {
        let (peers, interval_ms, settle_s) = match peer {
            Peer::Dht => (40, 250, 20),
            Peer::BitTorrent => (12, 1_000, 60),
        };
        Self {
            peer,
            peers,
            interval: Duration::from_millis(interval_ms),
            settle: Duration::from_secs(settle_s),
            file_bytes: 256 << 10,
        }
    }

    /// Nodes of the DHT: as many as P2PLab's largest experiment had, started as fast.
    /// BitTorrent: as many as one processor of a VM carries.
    pub fn full(peer: Peer) -> Self {
        let (peers, interval_ms, settle_s) = match peer {
            Peer::Dht => (5_760, 250, 60),
            Peer::BitTorrent => (150, 3_000, 120),
        };
        Self {
            peer,
            peers,
            interval: Duration::from_millis(interval_ms),
            settle: Duration::from_secs(settle_s),
            file_bytes: 1 << 20,
        }
    }

    /// Each so manieth peer's progress is kept: P2PLab drew every fiftieth of 5,760.
    pub fn drawn_every(&self) -> u32 {
        (self.peers / 115).max(1)
    }
}

/// Time between two looks at the counters.
const SAMPLE: Duration = Duration::from_secs(5);
/// Files of the measurement.
const TOPOLOGY: &str = "topology.yaml";
const EXPERIMENT: &str = "experiment.yaml";

/// Runs it; files go to `folder`. Needs the programs in the search path: `peers`, or
/// opentracker and Debian's Python with libtorrent. With a `place`, this is one of several
/// hosts that share the folder, the peers are on the machine's own network, and only the
/// first host has an outcome.
///
/// # Errors
/// [`BenchError`].
pub fn run(
    settings: &Settings,
    place: Option<&Place>,
    folder: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<Option<Outcome>, BenchError> {
    fs::create_dir_all(folder).map_err(BenchError::system("make a folder"))?;
    let meeting = Meeting::new(place, folder)?;
    let parts = if meeting.leads() {
        let parts = prepare(settings, place, folder)?;
        meeting.tell("prepared", "")?;
        Some(parts)
    } else {
        meeting.hear_first("prepared")?;
        None
    };
    let bench = Bench::new(settings, place, folder)?;
    let begin = Instant::now();
    bench.load()?;
    let load_s = begin.elapsed().as_secs_f64();
    meeting.tell("loaded", "")?;
    let mut idle = None;
    if meeting.leads() {
        meeting.hear_all("loaded")?;
        say("loaded; measuring the round trip with nobody there");
        idle = Some(bench.error_ms()?);
    }
    let memory = available_bytes();
    let child = bench.start()?;
    let running = bench.watch(child, meeting.leads(), say)?;
    let used = memory.saturating_sub(running.available_bytes);
    meeting.tell("used", &used.to_string())?;
    let (Some(parts), Some((error_idle_ms, expected_ms))) = (parts, idle) else {
        return Ok(None);
    };
    let mut outcome = bench.results(&parts)?;
    outcome.load_s = load_s;
    outcome.error_idle_ms = error_idle_ms;
    outcome.error_running_ms = running.error_ms;
    outcome.expected_ms = expected_ms;
    let used = meeting.hear_all("used")?;
    outcome.used_bytes = used.iter().filter_map(|b| b.parse::<u64>().ok()).sum();
    Ok(Some(outcome))
}

/// Writes the topology, the experiment, and what its programs need.
fn prepare(
    settings: &Settings,
    place: Option<&Place>,
    folder: &Path,
) -> Result<Experiment, BenchError> {
    let parts = settings.peer.experiment(settings, place, folder)?;
    let texts = [(TOPOLOGY, &parts.topology), (EXPERIMENT, &parts.experiment)];
    for (name, text) in texts {
        fs::write(folder.join(name), text).map_err(BenchError::system("write an experiment"))?;
    }
    Ok(parts)
}
