//! The merged summary of a run on several hosts.
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use super::{HostResults, MergeError, read_json};
use crate::rendezvous::{HostStatus, Offset, Phase};

/// Largest number of failures in the summary; all are in `processes.csv`.
const MOST_FAILURES: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostOutcome {
    /// The results are complete.
    Done,
    /// The host failed and published why.
    Failed,
    /// The host missed its heartbeats, or left no summary; its results end early.
    Lost,
}

/// The part of one host.
#[derive(Debug, Clone, Serialize)]
pub struct HostSummary {
    /// Name of the host in the topology.
    pub host: String,
    /// Name of the machine, if known.
    pub machine: Option<String>,
    pub state: HostOutcome,
    /// Why the host failed.
    pub error: Option<String>,
    /// Time of its last status if it is lost, in seconds after the start.
    pub last_heard_s: Option<f64>,
    /// Offset to the first host's clock, if measured.
    pub clock: Option<Offset>,
    /// Start by the first host's clock, in seconds since 1970.
    pub started_unix_s: Option<f64>,
    /// Number of processes in its schedule.
    pub processes: u64,
    /// The host's own summary.
    pub summary: Option<Value>,
}

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
    /// Why the run ended, on the host with the worst end.
    pub ended: String,
    /// Names of the lost hosts.
    pub lost: Vec<String>,
    /// Earliest start of a host, in the first host's time.
    pub started_unix_s: f64,
    /// Time between the earliest and the latest start, corrected for clock offsets.
    pub starts_apart_ms: f64,
    /// The longest time from start to first stop.
    pub run_s: f64,
    /// Number of processes in the schedule, on all hosts.
    pub processes: u64,
    /// Processes that ended by themselves without a failure, or were stopped on schedule.
    pub done: u64,
    pub failed: u64,
    /// Processes that were still running at the end of the run.
    pub running: u64,
    pub not_started: u64,
    /// Processes of lost hosts.
    pub unknown: u64,
    /// Number of program starts, one per session.
    pub started: u64,
    /// Processes that needed SIGKILL after the grace period.
    pub killed: u64,
    /// Delay of program starts against the schedule: maximum.
    pub late_max_ms: f64,
    /// CPU time of all programs.
    pub cpu_s: f64,
    /// Traffic, summed over the hosts.
    pub traffic: serde_json::Map<String, Value>,
    pub hosts: Vec<HostSummary>,
    /// The first failures.
    pub failures: Vec<Value>,
    /// Warnings for the reader of the results.
    pub warnings: Vec<String>,
}

/// Reasons for the end of a run, from best to worst.
const ENDS: [&str; 6] = [
    "complete",
    "duration",
    "elsewhere",
    "failures",
    "interrupted",
    "broken",
];

impl HostSummary {
    fn new(
        part: Option<&HostResults>,
        status: Option<&HostStatus>,
        start_s: Option<f64>,
    ) -> Result<Self, MergeError> {
        let read = |name: &str| match part {
            Some(part) => read_json(&part.folder, name),
            None => Ok(None),
        };
        let (plan, summary) = (read("plan.json")?, read("summary.json")?);
        let state = match (status.map(|s| s.phase), &summary) {
            (Some(Phase::Failed), _) => HostOutcome::Failed,
            (Some(Phase::Done) | None, Some(_)) => HostOutcome::Done,
            _ => HostOutcome::Lost,
        };
        let ahead_s = |w: &HostStatus| w.offset.map_or(0.0, |o| o.ahead_ns as f64 / 1e9);
        let behind = status.map_or(0.0, ahead_s);
        let heard = status.map(|s| s.written_unix_ns as f64 / 1e9 - behind);
        let processes = plan.as_ref().and_then(|p| p["processes"].as_array());
        let started = summary.as_ref().and_then(|s| s["started_unix_s"].as_f64());
        Ok(Self {
            host: part
                .map(|p| p.host.clone())
                .or(status.map(|s| s.host.clone()))
                .unwrap_or_default(),
            machine: status.map(|s| s.machine.clone()),
            state,
            error: status.and_then(|s| s.error.clone()),
            last_heard_s: heard
                .zip(start_s)
                .filter(|_| state == HostOutcome::Lost)
                .map(|(heard, start)| heard - start),
            clock: status.and_then(|s| s.offset),
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

    /// Warnings about the host.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        match self.state {
            HostOutcome::Done => {}
            HostOutcome::Failed => warnings.push(format!(
                "{}: {}",
                self.host,
                self.error.as_deref().unwrap_or("gave up")
            )),
            HostOutcome::Lost => {
                let heard = match self.last_heard_s {
                    Some(s) => {
                        let side = if s < 0.0 { "before" } else { "after" };
                        format!("; last heartbeat {:.1} s {side} the start", s.abs())
                    }
                    None => String::new(),
                };
                let count = self.processes;
                warnings.push(format!(
                    "{} was lost{heard}; the outcome of its {count} processes is unknown",
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
    pub(super) fn new(
        parts: &[HostResults],
        statuses: &[HostStatus],
        out: &Path,
    ) -> Result<Self, MergeError> {
        let cluster = statuses.iter().find_map(|s| s.cluster.as_ref());
        let start_s = cluster
            .and_then(|o| o.start_unix_ns)
            .map(|ns| ns as f64 / 1e9);
        let mut hosts = Vec::new();
        for part in parts {
            let status = statuses.iter().find(|s| s.host == part.host);
            hosts.push(HostSummary::new(Some(part), status, start_s)?);
        }
        for status in statuses {
            if parts.iter().all(|p| p.host != status.host) {
                hosts.push(HostSummary::new(None, Some(status), start_s)?);
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
        let field = |name: &str| any(name).as_str().unwrap_or_default().to_owned();
        let of = |state: HostOutcome| hosts.iter().filter(move |h| h.state == state);
        Ok(Self {
            name: field("name"),
            folder: out.to_owned(),
            topology: field("topology"),
            seed: any("seed").as_u64().unwrap_or(0),
            ended: worst(&hosts),
            lost: of(HostOutcome::Lost).map(|h| h.host.clone()).collect(),
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
            warnings: hosts.iter().flat_map(HostSummary::warnings).collect(),
            hosts,
        })
    }

    /// Whether no process failed and the run was not aborted. Lost hosts count as failures
    /// unless the run was to go on without them.
    pub fn is_good(&self) -> bool {
        let ended = ENDS[..2].contains(&self.ended.as_str());
        self.failed == 0 && ended && self.hosts.iter().all(|h| h.state != HostOutcome::Failed)
    }
}

/// The worst end among the hosts.
fn worst(hosts: &[HostSummary]) -> String {
    let ends = hosts
        .iter()
        .filter_map(|h| h.summary.as_ref()?["ended"].as_str());
    let rank = |end: &str| ENDS.iter().position(|e| *e == end).unwrap_or(ENDS.len());
    ends.max_by_key(|end| rank(end))
        .unwrap_or("broken")
        .to_owned()
}

/// Sums the numbers of the hosts' traffic.
fn traffic(hosts: &[HostSummary]) -> serde_json::Map<String, Value> {
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
