//! Many peers on one machine: real nodes of the BitTorrent DHT, or BitTorrent clients, each
//! a process of its own behind an access link. The measurement tells whether the emulated
//! network keeps its latencies while all peers run.
mod bench;
mod hosts;
mod peer;
mod progress;
mod report;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use emu_report::{Environment, Report};
use serde::Serialize;
use serde_json::{Value, json};

use super::{BenchError, Measurement, Observer};
use bench::{Bench, available_bytes};
pub use hosts::HostPlace;
use hosts::Hosts;
use peer::Experiment;
pub use peer::Peer;
pub use progress::Curve;

/// Parameters of a scale run.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The program that each peer runs.
    pub peer: Peer,
    /// Number of peers.
    pub peers: u32,
    /// Time between the starts of two peers.
    pub interval: Duration,
    /// Time for which all peers run together after the last start.
    pub settle: Duration,
    /// Size of the file that BitTorrent clients download.
    pub file_bytes: usize,
}

/// Results of a scale run.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The program that each peer ran.
    pub peer: Peer,
    /// Number of hosts that carried the peers.
    pub hosts: usize,
    /// Number of peers in the experiment.
    pub peers: u32,
    /// Number of peers that are judged: the first node of a DHT has no other node to query.
    pub judged: u32,
    /// Time to load the topology, in seconds.
    pub load_s: f64,
    /// Time from the first start to the last, in seconds.
    pub start_s: f64,
    /// The same time by the schedule.
    pub start_planned_s: f64,
    /// Time in seconds from each peer's start until other nodes had answered it (DHT), or
    /// until it had the whole file (BitTorrent), sorted; peers that did not get so far are
    /// left out.
    pub ready_s: Vec<f64>,
    /// Number of peers that found another node's value, or whose file has the seeders'
    /// SHA-1.
    pub right: usize,
    /// Number of peers that ended before the run did.
    pub failed: u64,
    /// Sum of the peak memory of all peers; shared pages count once per peer.
    pub resident_bytes: u64,
    /// Decrease of the machines' available memory while all peers ran.
    pub used_bytes: u64,
    /// CPU time of all peers, in seconds.
    pub cpu_s: f64,
    /// Share of the CPU time that was not idle, on the busiest host.
    pub busy: f64,
    /// Resource limits that the host reached, as text for the report.
    pub limits: Vec<String>,
    /// Median error of the round-trip time before any peer ran, in milliseconds; with
    /// several hosts, the larger one of the errors within the first host and to another
    /// host.
    pub error_idle_ms: f64,
    /// The same error while all peers ran.
    pub error_running_ms: f64,
    /// The round-trip time by the model, in milliseconds.
    pub expected_ms: f64,
    /// IP bytes that some of the peers received, against time: of every N-th peer in the
    /// order of the starts.
    #[serde(skip)]
    pub progress: Vec<Curve>,
}

impl Settings {
    /// Sizes that take about a minute.
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

    /// DHT: as many nodes as P2PLab's largest experiment, at the same starting rate.
    /// BitTorrent: as many clients as one CPU of a VM carries.
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

    /// N, where the progress of every N-th peer is kept: P2PLab drew every 50th of 5,760.
    pub fn drawn_every(&self) -> u32 {
        (self.peers / 115).max(1)
    }
}

/// Sampling interval of the counters.
const SAMPLE: Duration = Duration::from_secs(5);
/// Files that the measurement writes into its folder.
const TOPOLOGY: &str = "topology.yaml";
const EXPERIMENT: &str = "experiment.yaml";

/// The measurement. The programs must be in the search path: `peers`, or opentracker and
/// Debian's Python with libtorrent.
#[derive(Debug, Clone)]
pub struct Scale {
    /// The peers.
    pub settings: Settings,
    /// The position of this host, if it is one of several that share the folder. Then the
    /// peers are on the machine's own network, and only the first host returns results.
    pub place: Option<HostPlace>,
    /// Folder of the experiment's files.
    pub folder: PathBuf,
}

impl Outcome {
    /// Whether all judged peers took part in the network and have the right data.
    fn is_complete(&self) -> bool {
        let judged = self.judged as usize;
        self.ready_s.len() == judged && self.right == judged
    }
}

impl Measurement for Scale {
    type Outcome = Outcome;

    fn run(&self, observer: &mut dyn Observer) -> Result<Option<Outcome>, BenchError> {
        crate::make_folder(&self.folder)?;
        let (place, folder) = (self.place.as_ref(), &self.folder);
        let hosts = Hosts::join(&self.settings, place, folder)?;
        let outcome = measure(&self.settings, place, folder, &hosts, observer);
        hosts.finish(outcome.as_ref().err());
        outcome
    }

    fn report(&self, outcome: &Outcome, environment: &Environment) -> Report {
        report::report(&self.settings, outcome, environment)
    }

    /// The peers decide. The accuracy depends on the machine, too.
    fn passes(&self, outcome: &Outcome, _: &Report) -> bool {
        outcome.is_complete()
    }

    fn json(&self, outcome: &Outcome, _: &Environment, passes: bool) -> serde_json::Result<Value> {
        Ok(json!({"ok": passes, "outcome": outcome}))
    }
}

/// The part of this host, which has joined the others.
fn measure(
    settings: &Settings,
    place: Option<&HostPlace>,
    folder: &Path,
    hosts: &Hosts,
    observer: &mut dyn Observer,
) -> Result<Option<Outcome>, BenchError> {
    let is_first = place.is_none_or(|place| place.rank == 0);
    let parts = if is_first {
        let parts = prepare(settings, place, folder)?;
        hosts.publish("prepared");
        Some(parts)
    } else {
        hosts.wait_for_first("prepared")?;
        None
    };
    let bench = Bench::new(settings, place, folder)?;
    let begin = Instant::now();
    bench.load()?;
    let load_s = begin.elapsed().as_secs_f64();
    hosts.publish("loaded");
    let mut idle = None;
    if is_first {
        hosts.wait_for_all("loaded")?;
        observer.text("loaded; measuring the round trip with nobody there");
        idle = Some(bench.error_ms()?);
    }
    let memory = available_bytes();
    let child = bench.start()?;
    let running = bench.watch(child, is_first, observer)?;
    let used = memory.saturating_sub(running.available_bytes);
    let used_bytes = hosts.sum("measured", used)?;
    let (Some(parts), Some((error_idle_ms, expected_ms))) = (parts, idle) else {
        return Ok(None);
    };
    let mut outcome = bench.results(&parts)?;
    outcome.load_s = load_s;
    outcome.error_idle_ms = error_idle_ms;
    outcome.error_running_ms = running.error_ms;
    outcome.expected_ms = expected_ms;
    outcome.used_bytes = used_bytes;
    Ok(Some(outcome))
}

/// Writes the topology, the experiment and the files of its programs.
fn prepare(
    settings: &Settings,
    place: Option<&HostPlace>,
    folder: &Path,
) -> Result<Experiment, BenchError> {
    let parts = settings.peer.experiment(settings, place, folder)?;
    let texts = [(TOPOLOGY, &parts.topology), (EXPERIMENT, &parts.experiment)];
    for (name, text) in texts {
        fs::write(folder.join(name), text).map_err(BenchError::system("write an experiment"))?;
    }
    Ok(parts)
}
