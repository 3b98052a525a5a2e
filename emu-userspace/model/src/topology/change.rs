//! Changes of a running network: their types and their keys, in a file's `events`
//! and on the command line.
use std::{net::IpAddr, time::Duration};

use super::{
    GroupId, Impairments, Queue, Rate, Topology,
    error::{Position, Problem, similar},
    impair::keys_with_impairments,
    node::{self, Entry, Node, Value},
    reader::{Field, Problems, Record},
    sections::PIPE_KEYS,
    units::{self, UnitError},
};

/// Keys of a change of lines.
pub(super) const LINE_CHANGE_KEYS: &[&str] =
    keys_with_impairments!(["up", "down", "latency", "queue", "burst"], []);
/// Keys of a change of links.
pub(super) const LINK_CHANGE_KEYS: &[&str] =
    keys_with_impairments!(["latency", "rate", "queue"], []);

/// What a change is made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// The lines of a group's vnodes, those of nested groups included.
    Group(GroupId),
    /// The line of one vnode.
    Vnode(IpAddr),
    /// The link between two groups and those nested in them.
    Pair(GroupId, GroupId),
}

impl Target {
    /// Reads `GROUP`, `ADDRESS` or `GROUP:GROUP`.
    ///
    /// # Errors
    /// What is wrong and what there is instead.
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

/// What changes of one direction of a line, or of a link; the rest stays.
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
    /// Those impairments that change.
    pub impairments: Impairments,
}

/// What changes of a line.
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
    /// What the keys that a record of this kind has say.
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

    /// Reads `key=value` words.
    ///
    /// # Errors
    /// All that is wrong, one thing a line.
    pub fn from_words(words: &[String]) -> Result<Self, String> {
        from_words(words, LINE_CHANGE_KEYS, |record| Self::of(record, &[]))
    }
}

impl PipeChange {
    pub(super) fn of_link(record: &Record<'_>, own: &[&str]) -> Self {
        let mut change = Self::default();
        change.read(record, own);
        change
    }

    /// Reads `key=value` words about a link.
    ///
    /// # Errors
    /// All that is wrong, one thing a line.
    pub fn from_words(words: &[String]) -> Result<Self, String> {
        from_words(words, LINK_CHANGE_KEYS, |record| Self::of_link(record, &[]))
    }
}

/// Reads words as if they stood in a file.
fn from_words<T>(
    words: &[String],
    keys: &[&str],
    read: impl Fn(&Record<'_>) -> T,
) -> Result<T, String> {
    let problems = Problems::default();
    let mut entries = Vec::new();
    for word in words {
        let Some((key, value)) = word.split_once('=') else {
            problems.add(
                Problem::new(Position::default(), "", format!("`{word}` sets nothing"))
                    .expected("KEY=VALUE, as in `latency=50ms`"),
            );
            continue;
        };
        let value = if value.starts_with('{') {
            node::document(value).map_err(|p| format!("`{word}`: {}", p.message))?
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
        _ => Err(problems.iter().map(words_of).collect::<Vec<_>>().join("\n")),
    }
}

/// A problem without a place.
fn words_of(problem: &Problem) -> String {
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

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn words_are_read_as_a_file_would_be() {
        let change =
            AccessLinkChange::from_words(&words("up=64kbit latency=50ms loss=1%")).unwrap();
        assert_eq!(change.up.rate, Some(Some(Rate(64_000))));
        assert_eq!(change.down.rate, None);
        assert_eq!(change.down.latency, Some(Duration::from_millis(50)));
        assert!(change.down.impairments.loss.is_some());
        let change = AccessLinkChange::from_words(&words("down={rate:\t1mbit,queue:\t9KB}"));
        assert!(change.is_err() || change.unwrap().up == PipeChange::default());
        let change = AccessLinkChange::from_words(&["down={rate: 1mbit, queue: 9KB}".to_owned()]);
        assert_eq!(change.unwrap().down.queue, Some(Queue::Bytes(9_000)));
        let change = AccessLinkChange::from_words(&words("up=unlimited")).unwrap();
        assert_eq!(change.up.rate, Some(None));
    }

    #[test]
    fn bad_words_are_all_named() {
        let error = AccessLinkChange::from_words(&words("up=64 latncy=5ms loss")).unwrap_err();
        assert_eq!(error.lines().count(), 3, "{error}");
        for part in [
            "`64` has no unit",
            "did you mean `latency`",
            "`loss` sets nothing",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(PipeChange::from_words(&words("up=1mbit")).is_err());
    }
}
