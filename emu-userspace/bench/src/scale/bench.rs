//! The part of one host: it loads, starts and measures the peers, and reads the results.
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::Value;

use super::{
    EXPERIMENT, HostPlace, Outcome, Settings, TOPOLOGY,
    peer::{Experiment, PEERS, PROBES},
    progress,
};
use crate::{BenchError, Observer, namespace::Namespace};

/// Samples per round-trip time.
const SAMPLES: u32 = 11;
/// File with the summary and the warnings of `emu run`.
const SUMMARY: &str = "summary.json";
const ERRORS: &str = "errors";

/// Columns of `emu run`'s process table that are read here.
#[derive(Deserialize)]
struct PeerProcess {
    program: String,
    start_s: f64,
    max_memory_bytes: u64,
}

/// Measurements while all peers were running.
pub(super) struct Running {
    /// Error of the round-trip time in milliseconds; only on the host that measures it.
    pub error_ms: f64,
    /// Available memory, which programs could still get.
    pub available_bytes: u64,
}

/// A loaded part of the topology; unloaded on drop.
pub(super) struct Bench<'a> {
    settings: &'a Settings,
    place: Option<&'a HostPlace>,
    namespace: Namespace,
    emu: PathBuf,
    folder: &'a Path,
}

impl<'a> Bench<'a> {
    /// In a namespace of its own, or, as one of several hosts, on the machine's network.
    pub fn new(
        settings: &'a Settings,
        place: Option<&'a HostPlace>,
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
        self.place.map_or(String::new(), HostPlace::options)
    }

    /// Path of this host's file with a given name.
    fn own(&self, name: &str) -> String {
        match self.place {
            Some(place) if place.rank > 0 => format!("{name}-{}", place.rank),
            _ => name.to_owned(),
        }
    }

    /// Loads this host's part of the topology.
    pub fn load(&self) -> Result<(), BenchError> {
        let file = self.folder.join(TOPOLOGY);
        let arguments = format!("load --no-verify{} {}", self.options(), file.display());
        self.emu(&arguments).map(drop)
    }

    fn emu(&self, arguments: &str) -> Result<String, BenchError> {
        self.namespace
            .run(&format!("{} {arguments}", self.emu.display()))
    }

    /// Median error of the round-trip time, and the expected round-trip time, in
    /// milliseconds.
    pub fn error_ms(&self) -> Result<(f64, f64), BenchError> {
        let arguments = format!("verify --json --samples {SAMPLES}");
        // An error above the bound of `emu verify` is a result here, not a failure.
        let output = self.namespace.enter(|| {
            Command::new(&self.emu)
                .args(arguments.split(' '))
                .output()
                .map_err(BenchError::system("start `emu verify`"))
        })?;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let pairs = report["pairs"].as_array().map_or(&[][..], Vec::as_slice);
        let idle = |pair: &&Value| pair["from"] == PROBES && pair["to"] == PROBES;
        let named = pairs.iter().any(|pair| idle(&pair));
        // With several hosts, the same pair to another host counts too.
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
            line: format!("emu {arguments}"),
            message: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts `emu run` in the background.
    pub fn start(&self) -> Result<Child, BenchError> {
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

    /// Waits until the programs end; measures some time after the last start.
    pub fn watch(
        &self,
        mut child: Child,
        leads: bool,
        observer: &mut dyn Observer,
    ) -> Result<Running, BenchError> {
        let settings = self.settings;
        let all_run = settings.interval * settings.peers + settings.settle / 3;
        let begin = Instant::now();
        let mut measured = None;
        while child.try_wait().ok().flatten().is_none() {
            thread::sleep(Duration::from_millis(500));
            observer.text(&format!("{:.0} s", begin.elapsed().as_secs_f64()));
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
            message: self.why_it_ended(),
        })
    }

    /// Why `emu run` ended before all peers were running: the first program that failed, or
    /// the error message of `emu run` itself.
    fn why_it_ended(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.join(self.own(name))).unwrap_or_default();
        let summary: Value = serde_json::from_str(&read(SUMMARY)).unwrap_or_default();
        let failure = &summary["failures"][0];
        let parts = ["program", "vnode", "what", "last_words"].map(|key| failure[key].as_str());
        match parts {
            [Some(program), Some(vnode), Some(what), last_line] => {
                format!(
                    "{program} on {vnode}: {what}: {}",
                    last_line.unwrap_or_default()
                )
            }
            _ => read(ERRORS).trim().to_owned(),
        }
    }

    /// Reads the results of `emu run`.
    pub fn results(&self, parts: &Experiment) -> Result<Outcome, BenchError> {
        let read = |name: &str| {
            fs::read_to_string(self.folder.join(name))
                .map_err(BenchError::system(format!("read {name}")))
        };
        let summary: Value = serde_json::from_str(&read(SUMMARY)?).unwrap_or_default();
        let (mut starts, mut resident_bytes) = (Vec::new(), 0);
        for row in csv::Reader::from_reader(read("run/processes.csv")?.as_bytes()).deserialize() {
            let process: PeerProcess = row
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

/// CPU load of the busiest host, and the resource limits that hosts reached.
fn health(summary: &Value) -> (f64, Vec<String>) {
    let several = summary["hosts"].as_array().into_iter().flatten();
    let several = several.map(|host| (host["host"].as_str(), &host["summary"]));
    let (mut busy, mut reached) = (0.0_f64, Vec::new());
    for (name, summary) in [(None, summary)].into_iter().chain(several) {
        let health = &summary["host_health"];
        busy = busy.max(health["busy"].as_f64().unwrap_or(0.0));
        let limits = health["limits"].as_array().into_iter().flatten();
        reached.extend(limits.filter_map(Value::as_str).map(|limit| match name {
            Some(name) => format!("{name}: {limit}"),
            None => limit.to_owned(),
        }));
    }
    (busy, reached)
}

/// Available memory (`MemAvailable`, proc_meminfo(5)).
pub(super) fn available_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
