//! The YAML document as a tree that records the position of each part.
//!
//! Reading into a tree first, instead of directly into the topology's types, makes it
//! possible to report all errors of a file in one run.
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Location, Spanned};

use super::error::{Position, Problem};

/// A part of the document.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub at: Position,
    pub value: Value,
}

/// The content of the part.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Nothing,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: String,
    pub key_at: Position,
    pub value: Node,
}

impl Value {
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Nothing => "nothing",
            Value::Scalar(_) => "a value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

fn position(location: Location) -> Position {
    Position {
        line: u32::try_from(location.line()).unwrap_or(0),
        column: u32::try_from(location.column()).unwrap_or(0),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Node {
            at: position(spanned.referenced),
            value: spanned.value,
        })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Scalar(v.to_string()))
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Scalar(v.to_string()))
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Scalar(v.to_string()))
    }

    fn visit_i128<E: Error>(self, v: i128) -> Result<Value, E> {
        Ok(Value::Scalar(v.to_string()))
    }

    fn visit_u128<E: Error>(self, v: u128) -> Result<Value, E> {
        Ok(Value::Scalar(v.to_string()))
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        Ok(Value::Scalar(v.to_string()))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
        Ok(Value::Scalar(v.to_owned()))
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Nothing)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        Value::deserialize(d)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = seq.next_element()? {
            list.push(node);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let value = map.next_value()?;
            entries.push(Entry {
                key_at: position(key.referenced),
                key: key.value,
                value,
            });
        }
        Ok(Value::Map(entries))
    }
}

/// Largest number of parts: a matrix of 1,024 groups has a million cells.
const MOST_NODES: usize = 2_500_000;

/// Deepest nesting of lists and maps; each level takes some 30 KB of stack in a debug build,
/// and a thread may have 2 MB. Nested groups take two levels.
const DEEPEST: usize = 32;

/// Duplicate keys and infinite numbers are checked later, since the parser would stop at the
/// first.
fn options() -> serde_yaml::Options {
    serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_nodes: MOST_NODES,
            max_events: 2 * MOST_NODES,
            max_depth: DEEPEST,
        },
        duplicate_keys: serde_yaml::DuplicateKeyPolicy::LastWins,
        non_finite_float_policy: serde_yaml::NonFiniteFloatPolicy::AsString,
    }
}

/// Parses a document.
pub(crate) fn document(text: &str) -> Result<Node, Problem> {
    serde_yaml::from_str_with_options::<Node>(text, options()).map_err(|error| {
        let error = error.without_snippet();
        let at = error.location().map(position).unwrap_or_default();
        let message = error.to_string();
        // The first line, without the position, which the error adds itself.
        let message = message.lines().next().unwrap_or_default();
        let message = message
            .split(" at line ")
            .next()
            .unwrap_or(message)
            .trim_start_matches("error: ");
        explain(at, message)
    })
}

/// The parser's message in the terms of a topology.
fn explain(at: Position, message: &str) -> Problem {
    if message.starts_with("recursive references") {
        Problem::new(
            at,
            "",
            "this alias refers to a part of the file that contains it: a cycle",
        )
        .expected("anchors that do not contain their own aliases")
    } else if message.starts_with("budget breached: Depth") {
        Problem::new(at, "", "lists and maps are nested too deeply here")
    } else if message.starts_with("budget breached") {
        Problem::new(
            at,
            "",
            "the file is too large, after expansion of its aliases",
        )
        .hint("let equal groups share a profile")
    } else {
        Problem::new(at, "", message.to_owned())
    }
}
