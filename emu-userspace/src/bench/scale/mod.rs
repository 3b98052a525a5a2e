//! Many peers on one machine: real nodes of the BitTorrent DHT, or BitTorrent clients, each
//! a process of its own behind an access line, and whether the network stays right while
//! they run.
mod hosts;
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
use hosts::Meeting;
pub use hosts::Place;
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
/// Samples of a round trip.
const SAMPLES: u32 = 11;

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
        Some(prepare(settings, place, folder)?)
    } else {
        meeting.hear_first("prepared")?;
        None
    };
    meeting.tell("prepared", "")?;
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

/// Measured while all ran.
struct Running {
    /// Error of the round trip; only where it was asked for.
    error_ms: f64,
    /// What programs could still get.
    available_bytes: u64,
}

const TOPOLOGY: &str = "topology.yaml";
const EXPERIMENT: &str = "experiment.yaml";
/// What `emu run` prints, and what it complains of.
const SUMMARY: &str = "summary.json";
const ERRORS: &str = "errors";

struct Bench<'a> {
    settings: &'a Settings,
    place: Option<&'a Place>,
    namespace: Namespace,
    emu: PathBuf,
    folder: &'a Path,
}

impl<'a> Bench<'a> {
    fn new(
        settings: &'a Settings,
        place: Option<&'a Place>,
        folder: &'a Path,
    ) -> Result<Self, BenchError> {
        let namespace = match place {
            Some(_) => Namespace::current()?,
            None => Namespace::new()?,
        };
        Ok(Self {
            settings,
            place,
            namespace,
            emu: std::env::current_exe()
                .map_err(BenchError::system("find the program of `emu`"))?,
            folder,
        })
    }

    fn options(&self) -> String {
        self.place.map_or(String::new(), Place::options)
    }

    /// This host's file of a name.
    fn own(&self, name: &str) -> String {
        match self.place {
            Some(place) if place.rank > 0 => format!("{name}-{}", place.rank),
            _ => name.to_owned(),
        }
    }

    fn load(&self) -> Result<(), BenchError> {
        let file = self.folder.join(TOPOLOGY);
        let words = format!("load --no-verify{} {}", self.options(), file.display());
        self.emu(&words).map(drop)
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
        let named = pairs.iter().any(|pair| idle(&pair));
        // With several hosts, also the same pair to another host.
        let errors = pairs.iter().filter(|pair| !named || idle(pair));
        let error = errors
            .map(|pair| {
                let error = pair["error_ms"].as_f64();
                error.zip(pair["expected_rtt_ms"].as_f64())
            })
            .collect::<Option<Vec<(f64, f64)>>>()
            .and_then(|all| {
                all.into_iter()
                    .max_by(|a, b| a.0.abs().total_cmp(&b.0.abs()))
            });
        error.ok_or_else(|| BenchError::Program {
            line: format!("emu {words}"),
            words: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    fn start(&self) -> Result<Child, BenchError> {
        let file = |name: &str| {
            fs::File::create(self.folder.join(name)).map_err(BenchError::system("make a file"))
        };
        let (output, errors) = (file(&self.own(SUMMARY))?, file(&self.own(ERRORS))?);
        self.namespace.enter(|| {
            Command::new(&self.emu)
                .args(["run", "--json", "--user", "root", "--out"])
                .arg(self.folder.join("run"))
                .arg(self.folder.join(EXPERIMENT))
                .args(self.options().split_whitespace())
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(errors)
                .spawn()
                .map_err(BenchError::system("start `emu run`"))
        })
    }

    /// Waits for the end of the programs; measures when the last has started a while ago.
    fn watch(
        &self,
        mut child: Child,
        leads: bool,
        say: &mut dyn FnMut(&str),
    ) -> Result<Running, BenchError> {
        let settings = self.settings;
        let all_run = settings.interval * settings.peers + settings.settle / 3;
        let begin = Instant::now();
        let mut measured = None;
        while child.try_wait().ok().flatten().is_none() {
            thread::sleep(Duration::from_millis(500));
            say(&format!("{:.0} s", begin.elapsed().as_secs_f64()));
            if measured.is_none() && begin.elapsed() > all_run {
                let available_bytes = available_bytes();
                let error_ms = if leads { self.error_ms()?.0 } else { 0.0 };
                measured = Some(Running {
                    error_ms,
                    available_bytes,
                });
            }
        }
        measured.ok_or_else(|| BenchError::Program {
            line: "emu run".to_owned(),
            words: self.why_it_ended(),
        })
    }

    /// Why `emu run` was over before all peers ran: the first program that failed, or what it
    /// said of itself.
    fn why_it_ended(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.join(self.own(name))).unwrap_or_default();
        let summary: Value = serde_json::from_str(&read(SUMMARY)).unwrap_or_default();
        let failure = &summary["failures"][0];
        let parts = ["program", "vnode", "what", "last_words"].map(|key| failure[key].as_str());
        match parts {
            [Some(program), Some(vnode), Some(what), words] => {
                format!(
                    "{program} on {vnode}: {what}: {}",
                    words.unwrap_or_default()
                )
            }
            _ => read(ERRORS).trim().to_owned(),
        }
    }

    fn results(&self, parts: &Experiment) -> Result<Outcome, BenchError> {
        let read = |name: &str| {
            fs::read_to_string(self.folder.join(name))
                .map_err(BenchError::system(format!("read {name}")))
        };
        let summary: Value = serde_json::from_str(&read(SUMMARY)?).unwrap_or_default();
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
            let seconds = said.lines().find_map(|l| l.strip_prefix(&parts.ready));
            ready_s.extend(seconds.and_then(|s| s.parse::<f64>().ok()));
            right += usize::from(said.lines().any(|line| line.starts_with(&parts.right)));
        }
        ready_s.sort_unstable_by(f64::total_cmp);
        let judged = self.settings.peer.judged(self.settings.peers);
        let (busy, limits) = health(&summary);
        let last = starts.iter().copied().fold(0.0, f64::max);
        Ok(Outcome {
            peer: self.settings.peer,
            hosts: self.place.map_or(1, |place| place.size),
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
            busy,
            limits,
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

/// How busy the busiest host was, and what hosts did not keep up with.
fn health(summary: &Value) -> (f64, Vec<String>) {
    let several = summary["hosts"].as_array().into_iter().flatten();
    let several = several.map(|host| (host["host"].as_str(), &host["summary"]));
    let (mut busy, mut words) = (0.0_f64, Vec::new());
    for (name, summary) in [(None, summary)].into_iter().chain(several) {
        let health = &summary["host_health"];
        busy = busy.max(health["busy"].as_f64().unwrap_or(0.0));
        let limits = health["limits"].as_array().into_iter().flatten();
        words.extend(limits.filter_map(Value::as_str).map(|limit| match name {
            Some(name) => format!("{name}: {limit}"),
            None => limit.to_owned(),
        }));
    }
    (busy, words)
}

/// What programs could still get, proc_meminfo(5).
fn available_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
