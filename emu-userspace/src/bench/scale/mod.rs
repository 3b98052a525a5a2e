//! Many peers on one machine: real nodes of the BitTorrent DHT, or BitTorrent clients, each
//! a process of its own behind an access line, and whether the network stays right while
//! they run.
mod peer;
mod progress;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{BenchError, namespace::Namespace};
pub use peer::Peer;
use peer::{Experiment, PEERS, PROBES};
pub use progress::Curve;

/// What is read of `emu run`'s table of processes.
#[derive(Deserialize)]
struct Process {
    program: String,
    start_s: f64,
    max_memory_bytes: u64,
}

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
    /// What the machine had less of while all ran.
    pub used_bytes: u64,
    /// Processor time of all peers.
    pub cpu_s: f64,
    /// Share of the processors' time that was not idle.
    pub busy: f64,
    /// What the host did not keep up with, in words.
    pub limits: Vec<String>,
    /// Median error of the round trip, before any peer ran, in milliseconds.
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
/// Samples of a round trip.
const SAMPLES: u32 = 11;

/// Runs it; files go to `folder`. Needs the programs in the search path: `peers`, or
/// opentracker and Debian's Python with libtorrent.
///
/// # Errors
/// [`BenchError`].
pub fn run(
    settings: &Settings,
    folder: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<Outcome, BenchError> {
    fs::create_dir_all(folder).map_err(BenchError::system("make a folder"))?;
    let bench = Bench::new(settings, folder)?;
    let begin = Instant::now();
    bench.emu(&format!("load --no-verify {}", bench.topology.display()))?;
    let load_s = begin.elapsed().as_secs_f64();
    say("loaded; measuring the round trip with nobody there");
    let (error_idle_ms, expected_ms) = bench.error_ms()?;
    let memory = available_bytes();
    let mut child = bench.start()?;
    let starting = settings.interval * settings.peers;
    let begin = Instant::now();
    let mut measured = None;
    while child.try_wait().ok().flatten().is_none() {
        thread::sleep(Duration::from_millis(500));
        say(&format!("{:.0} s", begin.elapsed().as_secs_f64()));
        if measured.is_none() && begin.elapsed() > starting + settings.settle / 3 {
            let used = memory.saturating_sub(available_bytes());
            measured = Some((bench.error_ms()?.0, used));
        }
    }
    let (error_running_ms, used_bytes) = measured.ok_or_else(|| BenchError::Program {
        line: "emu run".to_owned(),
        words: why_it_ended(folder),
    })?;
    let mut outcome = bench.results()?;
    outcome.load_s = load_s;
    outcome.error_idle_ms = error_idle_ms;
    outcome.error_running_ms = error_running_ms;
    outcome.expected_ms = expected_ms;
    outcome.used_bytes = used_bytes;
    Ok(outcome)
}

struct Bench<'a> {
    settings: &'a Settings,
    namespace: Namespace,
    emu: PathBuf,
    folder: &'a Path,
    topology: PathBuf,
    parts: Experiment,
}

impl<'a> Bench<'a> {
    fn new(settings: &'a Settings, folder: &'a Path) -> Result<Self, BenchError> {
        let parts = settings.peer.experiment(settings, folder)?;
        let file = |name: &str| folder.join(name);
        let texts = [
            ("topology.yaml", &parts.topology),
            ("experiment.yaml", &parts.experiment),
        ];
        for (name, text) in texts {
            fs::write(file(name), text).map_err(BenchError::system("write an experiment"))?;
        }
        Ok(Self {
            settings,
            namespace: Namespace::new()?,
            emu: std::env::current_exe()
                .map_err(BenchError::system("find the program of `emu`"))?,
            folder,
            topology: file("topology.yaml"),
            parts,
        })
    }

    fn emu(&self, words: &str) -> Result<String, BenchError> {
        self.namespace
            .run(&format!("{} {words}", self.emu.display()))
    }

    /// Median error of the round trip, and what the model says it is.
    fn error_ms(&self) -> Result<(f64, f64), BenchError> {
        let words = format!("verify --json --samples {SAMPLES}");
        // An error beyond its bound is a result here.
        let output = self.namespace.enter(|| {
            Command::new(&self.emu)
                .args(words.split(' '))
                .output()
                .map_err(BenchError::system("start `emu verify`"))
        })?;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let pairs = report["pairs"].as_array().map_or(&[][..], Vec::as_slice);
        let idle = |pair: &&Value| pair["from"] == PROBES && pair["to"] == PROBES;
        let pair = pairs.iter().find(idle).or(pairs.first());
        let pair = pair.unwrap_or(&Value::Null);
        let error = pair["error_ms"]
            .as_f64()
            .zip(pair["expected_rtt_ms"].as_f64());
        error.ok_or_else(|| BenchError::Program {
            line: format!("emu {words}"),
            words: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn start(&self) -> Result<Child, BenchError> {
        let file = |name: &str| {
            fs::File::create(self.folder.join(name)).map_err(BenchError::system("make a file"))
        };
        let (output, errors) = (file("summary.json")?, file("errors")?);
        self.namespace.enter(|| {
            Command::new(&self.emu)
                .args(["run", "--json", "--user", "root", "--out"])
                .arg(self.folder.join("run"))
                .arg(self.folder.join("experiment.yaml"))
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(errors)
                .spawn()
                .map_err(BenchError::system("start `emu run`"))
        })
    }

    fn results(&self) -> Result<Outcome, BenchError> {
        let read = |name: &str| {
            fs::read_to_string(self.folder.join(name))
                .map_err(BenchError::system(format!("read {name}")))
        };
        let summary: Value = serde_json::from_str(&read("summary.json")?).unwrap_or_default();
        let (mut starts, mut resident_bytes) = (Vec::new(), 0);
        for row in csv::Reader::from_reader(read("run/processes.csv")?.as_bytes()).deserialize() {
            let process: Process = row
                .map_err(|e| BenchError::system("read processes.csv")(std::io::Error::other(e)))?;
            resident_bytes += process.max_memory_bytes;
            if process.program == PEERS {
                starts.push(process.start_s);
            }
        }
        let (mut ready_s, mut right) = (Vec::new(), 0);
        let vnodes = fs::read_dir(self.folder.join("run/vnodes"))
            .map_err(BenchError::system("read the results"))?;
        for vnode in vnodes.flatten() {
            let said =
                fs::read_to_string(vnode.path().join(PEERS).join("stdout")).unwrap_or_default();
            let seconds = said.lines().find_map(|l| l.strip_prefix(&self.parts.ready));
            ready_s.extend(seconds.and_then(|s| s.parse::<f64>().ok()));
            right += usize::from(said.lines().any(|line| line.starts_with(&self.parts.right)));
        }
        ready_s.sort_unstable_by(f64::total_cmp);
        let judged = self.settings.peer.judged(self.settings.peers);
        let health = &summary["host_health"];
        let limits = health["limits"].as_array().into_iter().flatten();
        let last = starts.iter().copied().fold(0.0, f64::max);
        Ok(Outcome {
            peer: self.settings.peer,
            peers: self.settings.peers,
            load_s: 0.0,
            start_s: last - starts.iter().copied().fold(f64::INFINITY, f64::min),
            start_planned_s: (self.settings.interval * judged.saturating_sub(1)).as_secs_f64(),
            judged,
            ready_s,
            right,
            failed: summary["failed"].as_u64().unwrap_or(0),
            resident_bytes,
            used_bytes: 0,
            cpu_s: summary["cpu_s"].as_f64().unwrap_or(0.0),
            busy: health["busy"].as_f64().unwrap_or(0.0),
            limits: limits
                .filter_map(|w| w.as_str().map(str::to_owned))
                .collect(),
            error_idle_ms: 0.0,
            error_running_ms: 0.0,
            expected_ms: 0.0,
            progress: progress::curves(&read("run/counters.csv")?, self.settings.drawn_every()),
        })
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        let _ = self.emu("unload --kill");
    }
}

/// Why `emu run` was over before all peers ran: the first program that failed, or what it
/// said of itself.
fn why_it_ended(folder: &Path) -> String {
    let read = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let summary: Value = serde_json::from_str(&read("summary.json")).unwrap_or_default();
    let failure = &summary["failures"][0];
    let parts = ["program", "vnode", "what", "last_words"].map(|key| failure[key].as_str());
    match parts {
        [Some(program), Some(vnode), Some(what), words] => {
            format!(
                "{program} on {vnode}: {what}: {}",
                words.unwrap_or_default()
            )
        }
        _ => read("errors").trim().to_owned(),
    }
}

/// What programs could still get, proc_meminfo(5).
fn available_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
