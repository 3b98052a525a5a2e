//! The form of an experiment file as types, for the JSON Schema that editors use.
//!
//! The file itself is read through a located tree, see `read`; a test holds the keys
//! of both equal.
#![expect(dead_code, reason = "the types exist for the schema alone")]
use std::collections::BTreeMap;

use crate::topology::NameSchema as Name;
use schemars::{JsonSchema, schema_for};

/// An experiment: which programs run on which vnodes of a topology, when, and for how
/// long.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct File {
    /// Name of the folder of results.
    name: Option<Name>,
    /// File of the topology, relative to this one; or `loaded`.
    topology: String,
    /// Seed of the schedule and of churn; the topology's when left out.
    #[schemars(range(min = 0, max = 9_223_372_036_854_775_807i64))]
    seed: Option<i64>,
    /// Time limit of the whole run.
    duration: Option<Span>,
    /// Time between two rows of `counters.csv`, or `off`.
    sample: Option<String>,
    /// The clock that the run needs: `virtual` (a VM whose clock goes on with its work) or
    /// `real`; any when left out.
    clock: Option<ClockName>,
    /// Programs, in the order in which they wait for each other.
    #[schemars(length(min = 1))]
    programs: Vec<Program>,
    /// When the run is over; when all programs that are not in the background have
    /// ended, when left out.
    until: Option<Until>,
}

/// A clock.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum ClockName {
    Virtual,
    Real,
}

/// A time with its unit.
#[derive(JsonSchema)]
struct Span(#[schemars(regex(pattern = r"^[0-9][0-9_.]* ?(ns|us|µs|ms|s|min|h|d)$"))] String);

/// A size of memory with its unit.
#[derive(JsonSchema)]
struct Memory(#[schemars(regex(pattern = r"^[0-9][0-9_.]* ?(B|KB|MB|GB|KiB|MiB|GiB)$"))] String);

/// A rate of starts.
#[derive(JsonSchema)]
struct Frequency(#[schemars(regex(pattern = r"^[0-9][0-9_.]* ?/ ?(s|min|h)$"))] String);

#[derive(JsonSchema)]
#[serde(untagged)]
enum OneOrMore<T> {
    One(T),
    More(Vec<T>),
}

/// A text, in which placeholders as in `{ip}` are filled in.
#[derive(JsonSchema)]
#[serde(untagged)]
enum TemplateText {
    Text(String),
    Number(f64),
    Truth(bool),
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Until {
    /// All processes of these programs have ended.
    exited: Option<OneOrMore<String>>,
    /// This number of processes have failed.
    #[schemars(range(min = 1))]
    failed: Option<u64>,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Program {
    /// Unique; folders are named after it.
    name: Name,
    /// Vnodes: a group, `group/0`, `group/10-19`, an address, `all`, or a list.
    on: OneOrMore<String>,
    /// The first of these vnodes, up to this number.
    #[schemars(range(min = 1))]
    count: Option<u32>,
    /// Program and arguments.
    run: Option<Vec<TemplateText>>,
    /// A line for /bin/sh.
    shell: Option<String>,
    /// Additional environment variables.
    env: Option<BTreeMap<String, TemplateText>>,
    /// When its processes start: at once, when left out.
    start: Option<Start>,
    /// The condition that later programs wait for.
    ready: Option<Ready>,
    /// How long each process runs at most.
    #[serde(rename = "for")]
    lasts: Option<Span>,
    /// How it is stopped.
    stop: Option<Stop>,
    /// Its resource limits.
    limits: Option<Limits>,
    /// Alternating sessions and down times.
    churn: Option<Churn>,
    /// Patterns of files in the working folder that are results.
    collect: Option<Vec<String>>,
    /// Whether the end of the run does not depend on it.
    background: Option<bool>,
}

#[derive(JsonSchema)]
#[serde(untagged)]
enum Start {
    TemplateText(StartName),
    Map(StartMap),
}

#[derive(JsonSchema)]
enum StartName {
    #[serde(rename = "at once")]
    AtOnce,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct StartMap {
    /// All at this time.
    at: Option<Span>,
    /// One after another, with this time between.
    every: Option<Span>,
    /// As a Poisson process with this mean rate.
    poisson: Option<Frequency>,
    /// Each at a random time within this period.
    within: Option<Span>,
    /// Start of the first process.
    from: Option<Span>,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ready {
    /// It listens on this TCP port.
    #[schemars(range(min = 1))]
    tcp: Option<u16>,
    /// It has this UDP port.
    #[schemars(range(min = 1))]
    udp: Option<u16>,
    /// It has run for this time.
    after: Option<Span>,
    /// It has ended without a failure.
    exited: Option<bool>,
    /// Longest wait for it.
    within: Option<Span>,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Stop {
    /// The first signal.
    signal: Option<Signal>,
    /// Time from the signal to SIGKILL.
    grace: Option<Span>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
enum Signal {
    Hup,
    Int,
    Quit,
    Term,
    Kill,
    Usr1,
    Usr2,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Limits {
    /// Memory.
    memory: Option<Memory>,
    /// CPU weight; the default of others is 100.
    #[schemars(range(min = 1, max = 10_000))]
    cpu_weight: Option<u16>,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Churn {
    /// Length of a session.
    up: Lengths,
    /// Time until the next session; default: there is none.
    down: Option<Lengths>,
    /// How a session ends.
    leave: Option<Leave>,
    /// Whether the working folder is kept for the next session.
    state: Option<State>,
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Leave {
    Term,
    Kill,
    Dark,
    Unplug,
}

#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
enum State {
    Keep,
    Lose,
}

/// A distribution of lengths: exactly one of these.
#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Lengths {
    constant: Option<Span>,
    uniform: Option<Uniform>,
    exponential: Option<Exponential>,
    weibull: Option<Shaped>,
    pareto: Option<Shaped>,
    lognormal: Option<LogNormal>,
    /// A file with one length per line.
    trace: Option<String>,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Uniform {
    from: Span,
    to: Span,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Exponential {
    mean: Span,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct Shaped {
    #[schemars(range(min = 0.01, max = 100.0))]
    shape: f64,
    scale: Span,
}

#[derive(JsonSchema)]
#[serde(deny_unknown_fields)]
struct LogNormal {
    median: Span,
    #[schemars(range(min = 0.01, max = 100.0))]
    sigma: f64,
}

/// The JSON Schema of an experiment file.
pub fn json_schema() -> String {
    let mut schema = serde_json::to_string_pretty(&schema_for!(File)).unwrap_or_default();
    schema.push('\n');
    schema
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{Signal, lengths, read};

    #[test]
    fn the_schema_has_the_keys_that_are_read() {
        let schema: serde_json::Value = serde_json::from_str(&json_schema()).unwrap();
        let keys = |definition: &serde_json::Value| {
            let found = definition["properties"].as_object().unwrap();
            let mut keys: Vec<String> = found.keys().cloned().collect();
            keys.sort();
            keys
        };
        let sorted = |keys: &[&str]| {
            let mut keys: Vec<String> = keys.iter().map(|k| (*k).to_owned()).collect();
            keys.sort();
            keys
        };
        assert_eq!(keys(&schema), sorted(read::TOP_KEYS));
        let definitions = &schema["$defs"];
        for (name, wanted) in [
            ("Program", read::PROGRAM_KEYS),
            ("Ready", read::READY_KEYS),
            ("Churn", read::CHURN_KEYS),
            ("Lengths", &lengths::KINDS[..]),
        ] {
            assert_eq!(keys(&definitions[name]), sorted(wanted), "{name}");
        }
        let signals = definitions["Signal"]["enum"].as_array().unwrap();
        assert_eq!(signals.len(), Signal::ALL.len());
    }

    #[test]
    fn the_committed_schema_is_current() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/experiment.schema.json"
        );
        let committed = std::fs::read_to_string(path).unwrap();
        assert_eq!(
            committed,
            json_schema(),
            "emu schema experiment > docs/experiment.schema.json"
        );
    }
}
