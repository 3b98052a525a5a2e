//! The virtualization ratio: the same BitTorrent clients on many hosts and on few.
//!
//! P2PLab's experiment. The clients, their lines and their order of starting are the
//! same each time; only how many of them share a host differs. If the emulation is
//! right, the curves of what they received do not.
pub mod curves;
mod swarm;

use std::{fmt::Write, fs, path::Path, time::Duration};

use serde::Serialize;

use super::{
    BenchError,
    fleet::{INTERFACE, host_address},
};
use crate::run::health::Health;
pub use swarm::Observer;

/// What is run.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    /// Clients that download.
    pub clients: u32,
    /// Clients that have the file from the start.
    pub seeders: u32,
    /// Size of the file.
    pub file_bytes: usize,
    /// Size of its pieces.
    pub piece_bytes: usize,
    /// Time between the starts of two clients.
    #[serde(serialize_with = "seconds")]
    pub interval: Duration,
    /// How many clients share a host, one run for each.
    pub ratios: Vec<u32>,
    /// The line of every client, as in a topology.
    pub line: String,
    /// Time between two looks at the counters.
    #[serde(serialize_with = "seconds")]
    pub sample: Duration,
    /// When a run that does not end is given up.
    #[serde(serialize_with = "seconds")]
    pub limit: Duration,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// The line of P2PLab's experiment.
const LINE: &str = "down: 2mbit, up: 128kbit, latency: 30ms";

impl Settings {
    /// What takes a minute or two. Lines go up faster than down here, so that each
    /// client gets what its line takes: in a swarm of ten, who serves whom is chance,
    /// and it would move the curves more than the emulation could.
    pub fn quick() -> Self {
        Self {
            clients: 8,
            seeders: 4,
            file_bytes: 1 << 20,
            piece_bytes: 16 << 10,
            interval: Duration::from_secs(2),
            ratios: vec![1, 4, 8],
            line: "down: 256kbit, up: 512kbit, latency: 30ms".to_owned(),
            sample: Duration::from_millis(500),
            limit: Duration::from_secs(120),
        }
    }

    /// P2PLab's.
    pub fn full() -> Self {
        Self {
            clients: 160,
            file_bytes: 16 << 20,
            piece_bytes: 256 << 10,
            interval: Duration::from_secs(10),
            line: LINE.to_owned(),
            ratios: vec![1, 10, 20, 40, 80],
            sample: Duration::from_secs(1),
            limit: Duration::from_secs(7200),
            ..Self::quick()
        }
    }

    /// The topology with so many clients on a host. The first host carries the tracker
    /// and the seeders.
    fn topology(&self, ratio: u32) -> String {
        let (clients, seeders) = (self.clients, self.seeders);
        let mut text = format!(
            "version: 1\nname: folding-{ratio}\nseed: 1\nprofiles:\n  line: {{{}}}\n\
             groups:\n  servers: {{prefix: 10.9.0.0/24, nodes: {}, profile: line}}\n  \
             clients: {{prefix: 10.8.0.0/16, nodes: {clients}, profile: line}}\nhosts:\n  \
             - {{name: servers, interface: {INTERFACE}, address: {}, groups: [servers]}}\n",
            self.line,
            seeders + 1,
            host_address(0)
        );
        for host in 0..self.hosts(ratio) {
            let first = host * ratio;
            let last = (first + ratio).min(clients) - 1;
            let _ = writeln!(
                text,
                "  - {{name: h{host}, interface: {INTERFACE}, address: {}, nodes: [{}-{}]}}",
                host_address(host as usize + 1),
                swarm::client_address(first),
                swarm::client_address(last)
            );
        }
        text
    }

    /// Hosts of the clients at a ratio.
    pub fn hosts(&self, ratio: u32) -> u32 {
        self.clients.div_ceil(ratio)
    }
}

/// One run: the clients at one ratio.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// Clients on a host.
    pub ratio: u32,
    /// Hosts that carry clients.
    pub hosts: u32,
    /// Time to make and load the hosts.
    pub load_s: f64,
    /// From the first start to the last completion.
    pub run_s: f64,
    /// When each client had the file, after the first start; none: it never had.
    pub done_s: Vec<Option<f64>>,
    /// Clients whose file is the same as the seeders', byte by byte.
    pub equal_files: usize,
    /// Clients that ended before the run did.
    pub failed: Vec<String>,
    /// Bytes of IP that all clients received, against time: the file, and what it takes
    /// to get it.
    #[serde(skip)]
    pub received: curves::Curve,
    /// The same for each client.
    #[serde(skip)]
    pub each: Vec<curves::Curve>,
    /// Packets that the lines of clients and seeders dropped.
    pub drops: u64,
    /// How the machine kept up.
    pub host_health: Health,
}

impl Run {
    /// Whether every client has the whole file.
    pub fn is_complete(&self) -> bool {
        self.done_s.iter().all(Option::is_some)
            && self.equal_files == self.done_s.len()
            && self.failed.is_empty()
    }

    /// A quantile of the times of completion, counted from the first start.
    pub fn done_quantile(&self, share: f64) -> Option<f64> {
        let mut times: Vec<f64> = self.done_s.iter().flatten().copied().collect();
        times.sort_unstable_by(f64::total_cmp);
        let index = (share * times.len() as f64).ceil() as usize;
        times.get(index.max(1) - 1).copied()
    }
}

/// Runs the clients once for each ratio; files go below `folder`.
///
/// # Errors
/// [`BenchError`]. A client that does not finish is no error but in the result.
pub fn run(
    settings: &Settings,
    folder: &Path,
    observer: &mut dyn Observer,
) -> Result<Vec<Run>, BenchError> {
    let mut runs = Vec::new();
    for ratio in &settings.ratios {
        let own = folder.join(format!("ratio-{ratio}"));
        fs::create_dir_all(&own).map_err(BenchError::system("make a folder"))?;
        let run = swarm::run(settings, *ratio, &own, observer)?;
        write_json(&own, &run).map_err(BenchError::system("write the results"))?;
        runs.push(run);
    }
    Ok(runs)
}

/// The largest distance of a run's curve from the first run's, as a share of all data.
pub fn largest_distance(runs: &[Run]) -> Option<f64> {
    let (first, rest) = runs.split_first()?;
    rest.iter()
        .map(|run| curves::distance(&first.received, &run.received).0)
        .reduce(f64::max)
}

/// `run.json`, so that nothing is lost if a later run breaks off.
fn write_json(folder: &Path, run: &Run) -> std::io::Result<()> {
    let json = serde_json::to_string_pretty(run)?;
    fs::write(folder.join("run.json"), json)
}
