//! What came of a run over several hosts.
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::{MergeError, Part, read_json};
use crate::rendezvous::{Offset, Phase, Word};

/// Most failures that are told of; all are in `processes.csv`.
const MOST_FAILURES: usize = 20;

/// How a host ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its results are whole.
    Done,
    /// It gave up, and said why.
    Failed,
    /// It fell silent in mid-run, or left no summary: what it has is up to then.
    Lost,
}

/// One host's share.
#[derive(Debug, Clone, Serialize)]
pub struct HostPart {
    /// Its name in the topology.
    pub host: String,
    /// Name of the machine, if known.
    pub machine: Option<String>,
    /// How it ended.
    pub state: State,
    /// Why it gave up.
    pub error: Option<String>,
    /// Its last word, in seconds after the start, if it is lost.
    pub last_heard_s: Option<f64>,
    /// How far its clock is ahead of the first host's, if measured.
    pub clock: Option<Offset>,
    /// When it started, by the first host's clock, in seconds since 1970.
    pub started_unix_s: Option<f64>,
    /// Processes of its schedule.
    pub processes: u64,
    /// Its own summary.
    pub summary: Option<Value>,
}

/// What came of all.
#[derive(Debug, Clone, Serialize)]
pub struct Merged {
    /// Name of the experiment.
    pub name: String,
    /// Folder of the results.
    pub folder: PathBuf,
    /// Name of the topology.
    pub topology: String,
    /// Seed of the schedule.
    pub seed: u64,
    /// Why it ended: of the host that ended worst.
    pub ended: String,
    /// Hosts that are lost.
    pub lost: Vec<String>,
    /// When the first host started, by the clock of the first one.
    pub started_unix_s: f64,
    /// How much later than the first the last host started, by clocks made equal.
    pub starts_apart_ms: f64,
    /// The longest time from start to first stop.
    pub run_s: f64,
    /// Processes of the schedule, on all hosts.
    pub processes: u64,
    /// That ended by themselves without a failure, or were stopped in time.
    pub done: u64,
    /// That failed.
    pub failed: u64,
    /// That still ran when the run was over.
    pub running: u64,
    /// That never started.
    pub not_started: u64,
    /// Of which it is not known, because their host is lost.
    pub unknown: u64,
    /// Programs started, each session counted.
    pub started: u64,
    /// That needed SIGKILL after their grace.
    pub killed: u64,
    /// How much later than planned programs started: the latest.
    pub late_max_ms: f64,
    /// Processor time of all programs.
    pub cpu_s: f64,
    /// What vnodes sent and received, summed.
    pub traffic: serde_json::Map<String, Value>,
    /// The hosts.
    pub hosts: Vec<HostPart>,
    /// Failures, the first ones.
    pub failures: Vec<Value>,
    /// What a reader of the results should know.
    pub warnings: Vec<String>,
}

/// Why a run ended, the best first.
const ENDS: [&str; 6] = [
    "complete",
    "duration",
    "elsewhere",
    "failures",
    "interrupted",
    "broken",
];

impl HostPart {
    fn new(
        part: Option<&Part>,
        word: Option<&Word>,
        start_s: Option<f64>,
    ) -> Result<Self, MergeError> {
        let read = |name: &str| match part {
            Some(part) => read_json(&part.folder, name),
            None => Ok(None),
        };
        let (plan, summary) = (read("plan.json")?, read("summary.json")?);
        let state = match (word.map(|w| w.phase), &summary) {
            (Some(Phase::Failed), _) => State::Failed,
            (Some(Phase::Done) | None, Some(_)) => State::Done,
            _ => State::Lost,
        };
        let ahead_s = |w: &Word| w.offset.map_or(0.0, |o| o.ahead_ns as f64 / 1e9);
        let behind = word.map_or(0.0, ahead_s);
        let heard = word.map(|w| w.said_unix_ns as f64 / 1e9 - behind);
        let processes = plan.as_ref().and_then(|p| p["processes"].as_array());
        let started = summary.as_ref().and_then(|s| s["started_unix_s"].as_f64());
        Ok(Self {
            host: part
                .map(|p| p.host.clone())
                .or(word.map(|w| w.host.clone()))
                .unwrap_or_default(),
            machine: word.map(|w| w.machine.clone()),
            state,
            error: word.and_then(|w| w.error.clone()),
            last_heard_s: heard
                .zip(start_s)
                .filter(|_| state == State::Lost)
                .map(|(heard, start)| heard - start),
            clock: word.and_then(|w| w.offset),
            started_unix_s: started.filter(|s| *s > 0.0).map(|s| s - behind),
            processes: processes.map_or(0, |list| list.len() as u64),
            summary,
        })
    }

    fn number(&self, name: &str) -> f64 {
        let value = self.summary.as_ref().and_then(|s| s[name].as_f64());
        value.unwrap_or(0.0)
    }

    fn count(&self, name: &str) -> u64 {
        let value = self.summary.as_ref().and_then(|s| s[name].as_u64());
        value.unwrap_or(0)
    }

    fn list(&self, name: &str) -> &[Value] {
        let list = self.summary.as_ref().and_then(|s| s[name].as_array());
        list.map_or(&[], Vec::as_slice)
    }

    /// What a reader should know of it.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        match self.state {
            State::Done => {}
            State::Failed => warnings.push(format!(
                "{}: {}",
                self.host,
                self.error.as_deref().unwrap_or("gave up")
            )),
            State::Lost => {
                let heard = match self.last_heard_s {
                    Some(s) => {
                        let side = if s < 0.0 { "before" } else { "after" };
                        format!("; last heard of {:.1} s {side} the start", s.abs())
                    }
                    None => String::new(),
                };
                let count = self.processes;
                warnings.push(format!(
                    "{} was lost{heard}; what became of its {count} processes is not known",
                    self.host
                ));
            }
        }
        let own = self.list("warnings").iter().filter_map(Value::as_str);
        warnings.extend(own.map(|w| format!("{}: {w}", self.host)));
        let health = self.summary.as_ref().map(|s| &s["host_health"]["limits"]);
        let limits = health.and_then(Value::as_array).into_iter().flatten();
        warnings.extend(limits.map(|l| {
            let limit = l.as_str().map_or_else(|| l.to_string(), str::to_owned);
            format!("{}: the host was the limit: {limit}", self.host)
        }));
        warnings
    }
}

impl Merged {
    pub(super) fn new(parts: &[Part], words: &[Word], out: &Path) -> Result<Self, MergeError> {
        let orders = words.iter().find_map(|w| w.orders.as_ref());
        let start_s = orders
            .and_then(|o| o.start_unix_ns)
            .map(|ns| ns as f64 / 1e9);
        let mut hosts = Vec::new();
        for part in parts {
            let word = words.iter().find(|w| w.host == part.host);
            hosts.push(HostPart::new(Some(part), word, start_s)?);
        }
        for word in words {
            if parts.iter().all(|p| p.host != word.host) {
                hosts.push(HostPart::new(None, Some(word), start_s)?);
            }
        }
        let starts: Vec<f64> = hosts.iter().filter_map(|h| h.started_unix_s).collect();
        let first = starts.iter().copied().reduce(f64::min).unwrap_or(0.0);
        let last = starts.iter().copied().reduce(f64::max).unwrap_or(0.0);
        let sum = |name: &str| hosts.iter().map(|h| h.count(name)).sum();
        let most = |name: &str| hosts.iter().map(|h| h.number(name)).fold(0.0, f64::max);
        let failures = hosts.iter().flat_map(|h| {
            h.list("failures").iter().map(|failure| {
                let mut failure = failure.clone();
                failure["host"] = h.host.clone().into();
                failure
            })
        });
        let any = |name: &str| {
            let mut found = hosts.iter().filter_map(|h| h.summary.as_ref());
            found.find_map(|s| s.get(name)).cloned().unwrap_or_default()
        };
        let word = |name: &str| any(name).as_str().unwrap_or_default().to_owned();
        let of = |state: State| hosts.iter().filter(move |h| h.state == state);
        Ok(Self {
            name: word("name"),
            folder: out.to_owned(),
            topology: word("topology"),
            seed: any("seed").as_u64().unwrap_or(0),
            ended: worst(&hosts),
            lost: of(State::Lost).map(|h| h.host.clone()).collect(),
            started_unix_s: first,
            starts_apart_ms: (last - first) * 1e3,
            run_s: most("run_s"),
            processes: hosts.iter().map(|h| h.processes).sum(),
            done: sum("done"),
            failed: sum("failed"),
            running: sum("running"),
            not_started: sum("not_started"),
            unknown: hosts
                .iter()
                .filter(|h| h.summary.is_none())
                .map(|h| h.processes)
                .sum(),
            started: sum("started"),
            killed: sum("killed"),
            late_max_ms: most("late_max_ms"),
            cpu_s: hosts.iter().map(|h| h.number("cpu_s")).sum(),
            traffic: traffic(&hosts),
            failures: failures.take(MOST_FAILURES).collect(),
            warnings: hosts.iter().flat_map(HostPart::warnings).collect(),
            hosts,
        })
    }

    /// Whether all went as it should; lost hosts are no failure where they were to be
    /// marked.
    pub fn is_good(&self) -> bool {
        let ended = ENDS[..2].contains(&self.ended.as_str());
        self.failed == 0 && ended && self.hosts.iter().all(|h| h.state != State::Failed)
    }
}

/// The worst end of a host that has one.
fn worst(hosts: &[HostPart]) -> String {
    let ends = hosts
        .iter()
        .filter_map(|h| h.summary.as_ref()?["ended"].as_str());
    let rank = |end: &str| ENDS.iter().position(|e| *e == end).unwrap_or(ENDS.len());
    ends.max_by_key(|end| rank(end))
        .unwrap_or("broken")
        .to_owned()
}

/// The hosts' traffic, number by number.
fn traffic(hosts: &[HostPart]) -> serde_json::Map<String, Value> {
    let mut sum = serde_json::Map::new();
    let all = hosts
        .iter()
        .filter_map(|h| h.summary.as_ref()?["traffic"].as_object());
    for (name, value) in all.flatten() {
        let before = sum.get(name).and_then(Value::as_u64).unwrap_or(0);
        let more = value.as_u64().unwrap_or(0);
        sum.insert(name.clone(), before.saturating_add(more).into());
    }
    sum
}
