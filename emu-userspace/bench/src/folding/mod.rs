//! The virtualization ratio: the same BitTorrent clients on many hosts and on few.
//!
//! P2PLab's experiment. The clients, their lines and their order of starting are the
//! same each time; only how many of them share a host differs. If the emulation is
//! right, the curves of what they received do not.
pub mod curves;
mod seconds;
pub mod store;
mod swarm;

use std::{fmt::Write, fs, path::Path, time::Duration};

use emu_kernel::health::Health;
use serde::{Deserialize, Serialize};

use super::{
    BenchError,
    bittorrent::Client,
    fleet::{INTERFACE, host_address},
};
pub use swarm::Observer;

/// The swarm: what is the same in all runs that can be compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The program of seeders and clients.
    pub client: Client,
    /// Clients that download.
    pub clients: u32,
    /// Clients that have the file from the start.
    pub seeders: u32,
    /// Size of the file.
    pub file_bytes: usize,
    /// Size of its pieces.
    pub piece_bytes: usize,
    /// Time between the starts of two clients.
    #[serde(with = "seconds")]
    pub interval: Duration,
    /// The line of every client, as in a topology.
    pub line: String,
    /// Time between two looks at the counters.
    #[serde(with = "seconds")]
    pub sample: Duration,
    /// When a run that does not end is given up.
    #[serde(with = "seconds")]
    pub limit: Duration,
}

/// The runs of a swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    /// How many clients share a host, one run for each.
    pub ratios: Vec<u32>,
    /// How many more runs the first ratio has: what they differ by is chance.
    pub repeats: u32,
}

impl Series {
    /// All on hosts of their own, and all on one.
    pub fn quick() -> Self {
        Self {
            ratios: vec![1, 16],
            repeats: 1,
        }
    }

    /// P2PLab's: 160, 16, 8, 4 and 2 hosts.
    pub fn full() -> Self {
        Self {
            ratios: vec![1, 10, 20, 40, 80],
            repeats: 0,
        }
    }
}

/// The line of P2PLab's experiment.
const LINE: &str = "down: 2mbit, up: 128kbit, latency: 30ms";

impl Settings {
    /// Some minutes. P2PLab's lines with a small file, in small pieces.
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

    /// P2PLab's.
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

    /// The topology with so many clients on a host. The first host carries the tracker
    /// and the seeders.
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

    /// Hosts of the clients at a ratio.
    pub fn hosts(&self, ratio: u32) -> u32 {
        self.clients.div_ceil(ratio)
    }
}

/// One run: the clients at one ratio.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// Clients on a host.
    pub ratio: u32,
    /// Which run of this ratio it is: 0 is the one that is compared with other ratios.
    pub again: u32,
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
    /// Programs that crashed and were started again.
    #[serde(default)]
    pub crashed: Vec<String>,
    /// Bytes of IP that all clients received, against time: the file, and what it takes
    /// to get it.
    #[serde(skip)]
    pub received: curves::Curve,
    /// Packets that the lines of clients and seeders dropped.
    pub drops: u64,
    /// How the machine kept up.
    pub host_health: Health,
}

impl Run {
    /// One that has not begun.
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

    /// Its ratio in words.
    pub fn name(&self) -> String {
        match self.again {
            0 => format!("{} on a host", self.ratio),
            1 => format!("{} on a host, again", self.ratio),
            n => format!("{} on a host, again ({n})", self.ratio),
        }
    }

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

/// Runs the clients once for each ratio, and the first ratio again; gives these runs and
/// those of the same swarm that the folder has from before, by ratio.
///
/// # Errors
/// [`BenchError`]. A client that does not finish is no error but in the result.
pub fn run(
    settings: &Settings,
    series: &Series,
    folder: &Path,
    observer: &mut dyn Observer,
) -> Result<Vec<Run>, BenchError> {
    // Before hours are spent: whether what is there is of the same swarm.
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
        fs::create_dir_all(&own).map_err(BenchError::system("make a folder"))?;
        swarm::run(settings, (ratio, again), &own, observer)?;
    }
    store::read(folder, settings)
}

/// How far curves are from each other, as shares of all data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Distances {
    /// The largest distance of a ratio's curve from the smallest ratio's; none of one ratio.
    pub ratios: Option<f64>,
    /// The largest between two runs of one ratio: what chance makes of the same swarm.
    pub chance: Option<f64>,
}

/// The distances of runs in the order of [`store::read`]; one that broke off has none.
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
    fn chance_is_told_from_what_the_ratio_does() {
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
