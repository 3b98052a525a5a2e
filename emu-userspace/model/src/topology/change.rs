//! Changes of a running network: their types, and their keys in a file's `events` and on the
//! command line.
use std::{net::IpAddr, time::Duration};

use emu_document::{Entry, Node, Position, Problem, Value, document};

use super::{
    GroupId, Impairments, Queue, Rate, Topology,
    error::similar,
    impair::keys_with_impairments,
    reader::{Field, Problems, Record},
    sections::PIPE_KEYS,
    units::{self, UnitError},
};

/// Keys of a change of access links.
pub(super) const LINE_CHANGE_KEYS: &[&str] =
    keys_with_impairments!(["up", "down", "latency", "queue", "burst"], []);
/// Keys of a change of links.
pub(super) const LINK_CHANGE_KEYS: &[&str] =
    keys_with_impairments!(["latency", "rate", "queue"], []);

/// The target of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// The access links of a group's vnodes, including nested groups.
    Group(GroupId),
    /// The access link of one vnode.
    Vnode(IpAddr),
    /// The link between two groups and the groups nested in them.
    Pair(GroupId, GroupId),
}

impl Target {
    /// Parses `GROUP`, `ADDRESS` or `GROUP:GROUP`.
    ///
    /// # Errors
    /// The message of the problem, with the known names.
    pub fn parse(text: &str, topology: &Topology) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Vnode(address));
        }
        let group = |name: &str| {
            topology.group_named(name).ok_or_else(|| {
                let names = topology.groups.iter().map(|g| g.name.as_str());
                let hint = similar(name, names.clone())
                    .unwrap_or_else(|| format!("groups: {}", names.collect::<Vec<_>>().join(", ")));
                format!("there is no group `{name}`; {hint}")
            })
        };
        match text.split_once(':') {
            Some((a, b)) => Ok(Self::Pair(group(a)?, group(b)?)),
            None => Ok(Self::Group(group(text)?)),
        }
    }
}

/// A change of a pipe or of a link; `None` leaves a setting as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PipeChange {
    /// Rate; `Some(None)`: unlimited.
    pub rate: Option<Option<Rate>>,
    /// Latency, one way.
    pub latency: Option<Duration>,
    /// Queue limit.
    pub queue: Option<Queue>,
    /// Burst.
    pub burst_bytes: Option<u64>,
    /// The impairments that change.
    pub impairments: Impairments,
}

/// A change of an access link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccessLinkChange {
    /// From the vnode into the network.
    pub up: PipeChange,
    /// From the network to the vnode.
    pub down: PipeChange,
}

fn rate_or_unlimited(text: &str) -> Result<Option<Rate>, UnitError> {
    if text == "unlimited" {
        return Ok(None);
    }
    units::rate(text).map(Some)
}

impl PipeChange {
    /// Reads the settings of a record; `own` has the names of the topology's distributions.
    fn read(&mut self, record: &Record<'_>, own: &[&str]) {
        self.impairments.read(record, own);
        if let Some(field) = record.get("rate") {
            self.rate = field.unit(rate_or_unlimited).or(self.rate);
        }
        if let Some(field) = record.get("latency") {
            self.latency = field.unit(units::time).or(self.latency);
        }
        if let Some(field) = record.get("queue") {
            self.queue = field.unit(units::queue).or(self.queue);
        }
        if let Some(field) = record.get("burst") {
            self.burst_bytes = field.unit(units::size).or(self.burst_bytes);
        }
    }
}

impl AccessLinkChange {
    pub(super) fn of(record: &Record<'_>, own: &[&str]) -> Self {
        let mut both = PipeChange::default();
        both.read(record, own);
        let mut change = Self {
            up: both,
            down: both,
        };
        for (key, pipe) in [("up", &mut change.up), ("down", &mut change.down)] {
            let Some(field) = record.get(key) else {
                continue;
            };
            if !field.is_map() {
                pipe.rate = field.unit(rate_or_unlimited);
            } else if let Some(record) = field.record(PIPE_KEYS) {
                pipe.read(&record, own);
            }
        }
        change
    }

    /// Parses settings of the form `key=value`.
    ///
    /// # Errors
    /// All problems, one per line.
    pub fn from_args(args: &[String]) -> Result<Self, String> {
        from_args(args, LINE_CHANGE_KEYS, |record| Self::of(record, &[]))
    }
}

impl PipeChange {
    pub(super) fn of_link(record: &Record<'_>, own: &[&str]) -> Self {
        let mut change = Self::default();
        change.read(record, own);
        change
    }

    /// Parses settings of a link of the form `key=value`.
    ///
    /// # Errors
    /// All problems, one per line.
    pub fn from_args(args: &[String]) -> Result<Self, String> {
        from_args(args, LINK_CHANGE_KEYS, |record| Self::of_link(record, &[]))
    }
}

/// Parses settings as if they were in a file.
fn from_args<T>(
    args: &[String],
    keys: &[&str],
    read: impl Fn(&Record<'_>) -> T,
) -> Result<T, String> {
    let problems = Problems::default();
    let mut entries = Vec::new();
    for arg in args {
        let Some((key, value)) = arg.split_once('=') else {
            problems.add(
                Problem::new(Position::default(), "", format!("`{arg}` is not a setting"))
                    .expected("KEY=VALUE, as in `latency=50ms`"),
            );
            continue;
        };
        let value = if value.starts_with('{') {
            document(value).map_err(|p| format!("`{arg}`: {}", p.message))?
        } else {
            Node {
                at: Position::default(),
                value: Value::Scalar(value.to_owned()),
            }
        };
        entries.push(Entry {
            key: key.to_owned(),
            key_at: Position::default(),
            value,
        });
    }
    let root = Node {
        at: Position::default(),
        value: Value::Map(entries),
    };
    let read = Field::root(&root, &problems)
        .record(keys)
        .map(|record| read(&record));
    let problems = problems.take();
    match read {
        Some(read) if problems.is_empty() => Ok(read),
        _ => Err(problems.iter().map(text_of).collect::<Vec<_>>().join("\n")),
    }
}

/// The text of a problem without its position.
fn text_of(problem: &Problem) -> String {
    let mut text = problem.message.clone();
    if let Some(expected) = &problem.expected {
        text += &format!("; expected {expected}");
    }
    if let Some(hint) = &problem.hint {
        text += &format!("; {hint}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn words_are_read_as_a_file_would_be() {
        let change = AccessLinkChange::from_args(&args("up=64kbit latency=50ms loss=1%")).unwrap();
        assert_eq!(change.up.rate, Some(Some(Rate(64_000))));
        assert_eq!(change.down.rate, None);
        assert_eq!(change.down.latency, Some(Duration::from_millis(50)));
        assert!(change.down.impairments.loss.is_some());
        let change = AccessLinkChange::from_args(&args("down={rate:\t1mbit,queue:\t9KB}"));
        assert!(change.is_err() || change.unwrap().up == PipeChange::default());
        let change = AccessLinkChange::from_args(&["down={rate: 1mbit, queue: 9KB}".to_owned()]);
        assert_eq!(change.unwrap().down.queue, Some(Queue::Bytes(9_000)));
        let change = AccessLinkChange::from_args(&args("up=unlimited")).unwrap();
        assert_eq!(change.up.rate, Some(None));
    }

    #[test]
    fn bad_words_are_all_named() {
        let error = AccessLinkChange::from_args(&args("up=64 latncy=5ms loss")).unwrap_err();
        assert_eq!(error.lines().count(), 3, "{error}");
        for part in [
            "`64` has no unit",
            "did you mean `latency`",
            "`loss` is not a setting",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(PipeChange::from_args(&args("up=1mbit")).is_err());
    }
}
