//! The virtualization ratio: the same BitTorrent clients on many hosts and on few.
//!
//! This is P2PLab's folding experiment. The clients, their access links and the order of
//! their starts are the same in all runs; only the number of clients per host differs. If
//! the emulation is right, the curves of the received bytes do not differ.
pub mod curves;
mod report;
mod seconds;
pub mod store;
mod swarm;

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use emu_kernel::health::Health;
use emu_report::{Environment, Report};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    BenchError, Measurement, Observer,
    bittorrent::Client,
    fleet::{INTERFACE, host_address},
};

/// The swarm; runs can be compared only if these settings are equal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The program of the seeders and of the downloading clients.
    pub client: Client,
    /// Number of downloading clients.
    pub clients: u32,
    /// Number of clients that have the file from the start.
    pub seeders: u32,
    /// Size of the shared file.
    pub file_bytes: usize,
    /// Size of the file's pieces.
    pub piece_bytes: usize,
    /// Time between the starts of two clients.
    #[serde(with = "seconds")]
    pub interval: Duration,
    /// Access link of every client, as YAML keys of a topology.
    pub line: String,
    /// Sampling interval of the counters.
    #[serde(with = "seconds")]
    pub sample: Duration,
    /// Timeout after which an unfinished run is aborted.
    #[serde(with = "seconds")]
    pub limit: Duration,
}

/// The runs to make of a swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// Numbers of clients per host, one run for each.
    pub ratios: Vec<u32>,
    /// Number of additional runs at the first ratio, whose differences are due to chance
    /// alone.
    pub repeats: u32,
}

impl Series {
    /// The two extreme ratios: one client per host, and all clients on one host.
    pub fn quick() -> Self {
        Self {
            ratios: vec![1, 16],
            repeats: 1,
        }
    }

    /// P2PLab's ratios: 160, 16, 8, 4 and 2 hosts.
    pub fn full() -> Self {
        Self {
            ratios: vec![1, 10, 20, 40, 80],
            repeats: 0,
        }
    }
}

/// The access link of P2PLab's experiment.
const LINE: &str = "down: 2mbit, up: 128kbit, latency: 30ms";

impl Settings {
    /// A run of some minutes: P2PLab's access links with a small file in small pieces.
    pub fn quick() -> Self {
        Self {
            client: Client::Libtorrent,
            clients: 16,
            seeders: 4,
            file_bytes: 1 << 20,
            piece_bytes: 16 << 10,
            interval: Duration::from_secs(2),
            line: LINE.to_owned(),
            sample: Duration::from_millis(500),
            limit: Duration::from_secs(400),
        }
    }

    /// The sizes of P2PLab's experiment.
    pub fn full() -> Self {
        Self {
            clients: 160,
            file_bytes: 16 << 20,
            piece_bytes: 64 << 10,
            interval: Duration::from_secs(10),
            sample: Duration::from_secs(1),
            limit: Duration::from_secs(7200),
            ..Self::quick()
        }
    }

    /// The topology with `ratio` clients per host. The first host carries the tracker and
    /// the seeders.
    fn topology(&self, ratio: u32) -> String {
        let (clients, seeders) = (self.clients, self.seeders);
        let mut text = format!(
            "version: 1\nname: folding-{ratio}\nseed: 1\naddressing: anyip\nprofiles:\n  line: {{{}}}\n\
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

    /// Number of hosts that carry clients at a ratio.
    pub fn hosts(&self, ratio: u32) -> u32 {
        self.clients.div_ceil(ratio)
    }
}

/// Results of one run of the swarm at one ratio.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// Number of clients per host.
    pub ratio: u32,
    /// Number of this run among those of its ratio; run 0 is compared with the other
    /// ratios.
    pub again: u32,
    /// Number of hosts that carry clients.
    pub hosts: u32,
    /// Time to create and load the hosts, in seconds.
    pub load_s: f64,
    /// Time from the first start to the last completion, in seconds.
    pub run_s: f64,
    /// Completion time of each client in seconds after the first start; `None` if the
    /// client did not complete the file.
    pub done_s: Vec<Option<f64>>,
    /// Number of clients whose file equals the seeders' file byte by byte.
    pub equal_files: usize,
    /// Clients that exited before the end of the run, each with a reason.
    pub failed: Vec<String>,
    /// Programs that crashed and were restarted.
    #[serde(default)]
    pub crashed: Vec<String>,
    /// IP bytes that all clients received against time: the file and the protocol's
    /// overhead.
    #[serde(skip)]
    pub received: curves::Curve,
    /// Packets that the access links of clients and seeders dropped.
    pub drops: u64,
    /// Load of the machine during the run: CPU, steal time, dropped and late packets.
    pub host_health: Health,
}

impl Run {
    /// A run that has not started.
    fn new(settings: &Settings, ratio: u32) -> Self {
        Self {
            ratio,
            again: 0,
            hosts: settings.hosts(ratio),
            load_s: 0.0,
            run_s: 0.0,
            done_s: vec![None; settings.clients as usize],
            equal_files: 0,
            failed: Vec::new(),
            crashed: Vec::new(),
            received: Vec::new(),
            drops: 0,
            host_health: Health::default(),
        }
    }

    /// Label of the run in reports, which names its ratio.
    pub fn name(&self) -> String {
        match self.again {
            0 => format!("{} on a host", self.ratio),
            1 => format!("{} on a host, again", self.ratio),
            n => format!("{} on a host, again ({n})", self.ratio),
        }
    }

    /// Whether every client completed the file.
    pub fn is_complete(&self) -> bool {
        self.done_s.iter().all(Option::is_some)
            && self.equal_files == self.done_s.len()
            && self.failed.is_empty()
    }

    /// Quantile of the completion times, in seconds after the first start.
    pub fn done_quantile(&self, share: f64) -> Option<f64> {
        let mut times: Vec<f64> = self.done_s.iter().flatten().copied().collect();
        times.sort_unstable_by(f64::total_cmp);
        let index = (share * times.len() as f64).ceil() as usize;
        times.get(index.max(1) - 1).copied()
    }
}

/// The measurement.
#[derive(Debug, Clone)]
pub struct Folding {
    /// The swarm.
    pub settings: Settings,
    /// The runs of it.
    pub series: Series,
    /// Largest distance between curves, as a share of all data in per cent.
    pub at_most_percent: f64,
    /// Folder of the runs.
    pub folder: PathBuf,
}

/// Results of all runs of a swarm.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The swarm.
    pub settings: Settings,
    /// Whether every client of every run has the file.
    pub complete: bool,
    /// Distances between the curves of the runs.
    pub distances: Distances,
    /// The runs, ordered by ratio.
    pub runs: Vec<Run>,
}

impl Measurement for Folding {
    type Outcome = Outcome;

    /// A client that does not complete the file is part of the result and not an error.
    fn run(&self, observer: &mut dyn Observer) -> Result<Option<Outcome>, BenchError> {
        let runs = measure(&self.settings, &self.series, &self.folder, observer)?;
        Ok(Some(Outcome {
            settings: self.settings.clone(),
            complete: !runs.is_empty() && runs.iter().all(Run::is_complete),
            distances: distances(&runs),
            runs,
        }))
    }

    fn report(&self, outcome: &Outcome, environment: &Environment) -> Report {
        self.page(outcome, environment)
    }

    fn passes(&self, outcome: &Outcome, _: &Report) -> bool {
        outcome.complete && self.is_near(outcome.distances)
    }

    fn json(&self, outcome: &Outcome, _: &Environment, passes: bool) -> serde_json::Result<Value> {
        let mut value = serde_json::to_value(outcome)?;
        if let Some(object) = value.as_object_mut() {
            object.insert("ok".to_owned(), json!(passes));
            object.insert("at_most".to_owned(), json!(self.at_most_percent / 100.0));
        }
        Ok(value)
    }

    fn remarks(&self, outcome: &Outcome) -> Vec<String> {
        let lines = outcome.runs.iter().flat_map(|run| {
            let failed = run.failed.iter().map(|text| ("FAILED", text));
            let crashed = run.crashed.iter().map(|text| ("started again", text));
            let line = |(what, text)| format!("{what}: {}: {text}", run.name());
            failed.chain(crashed).map(line)
        });
        lines.collect()
    }
}

/// Runs the swarm once per ratio and repeats the first ratio. Returns these runs, and those
/// of the same swarm that the folder has from earlier calls, ordered by ratio.
fn measure(
    settings: &Settings,
    series: &Series,
    folder: &Path,
    observer: &mut dyn Observer,
) -> Result<Vec<Run>, BenchError> {
    // Checked before hours are spent: whether earlier results are of the same swarm.
    store::read(folder, settings)?;
    let once = series.ratios.iter().map(|ratio| (*ratio, 0));
    let first = series.ratios.first();
    let again = first
        .into_iter()
        .flat_map(|ratio| (1..=series.repeats).map(move |n| (*ratio, n)));
    for (ratio, again) in once.chain(again) {
        let own = folder.join(match again {
            0 => format!("ratio-{ratio}"),
            n => format!("ratio-{ratio}-again-{n}"),
        });
        if own.exists() {
            fs::remove_dir_all(&own).map_err(BenchError::system("remove an older run"))?;
        }
        crate::make_folder(&own)?;
        swarm::run(settings, (ratio, again), &own, observer)?;
    }
    store::read(folder, settings)
}

/// Distances between curves, as shares of all data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Distances {
    /// Largest distance of a ratio's curve from that of the smallest ratio; `None` if there
    /// is one ratio only.
    pub ratios: Option<f64>,
    /// Largest distance between two runs at one ratio: the effect of chance on the same
    /// swarm.
    pub chance: Option<f64>,
}

/// Distances of runs in the order of [`store::read`]; interrupted runs have no distance.
pub fn distances(runs: &[Run]) -> Distances {
    let whole = || runs.iter().filter(|run| run.is_complete());
    let firsts: Vec<&Run> = whole().filter(|run| run.again == 0).collect();
    let apart = |a: &Run, b: &Run| curves::distance(&a.received, &b.received).0;
    let others = firsts.iter().skip(1).map(|run| apart(firsts[0], run));
    let same = whole().filter(|run| run.again > 0).filter_map(|again| {
        let first = firsts.iter().find(|first| first.ratio == again.ratio)?;
        Some(apart(first, again))
    });
    Distances {
        ratios: others.reduce(f64::max),
        chance: same.reduce(f64::max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_separated_from_the_effect_of_the_ratio() {
        let run = |ratio, again, half: f64| {
            let mut run = Run::new(&Settings::quick(), ratio);
            run.again = again;
            run.received = vec![(0.0, 0.0), (5.0, half), (10.0, 100.0)];
            run.done_s.fill(Some(9.0));
            run.equal_files = run.done_s.len();
            run
        };
        let runs = [
            run(1, 0, 50.0),
            run(1, 1, 52.0),
            run(8, 0, 49.0),
            run(16, 0, 47.0),
        ];
        let expected = Distances {
            ratios: Some(0.03),
            chance: Some(0.02),
        };
        assert_eq!(distances(&runs), expected);
        let mut broken = runs.clone();
        broken[3].equal_files = 0;
        assert_eq!(distances(&broken).ratios, Some(0.01));
        assert_eq!(distances(&runs[..1]), Distances::default());
        assert_eq!(distances(&[]), Distances::default());
    }
}
