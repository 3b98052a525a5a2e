//! A YAML document as a tree that records the position of each part, and the problems of a
//! file. Reading emu's files starts here; what their parts mean is the model's.
//!
//! Reading into a tree first, instead of directly into the topology's types, makes it
//! possible to report all errors of a file in one run.
//!
//! The tree is built from the parser's events, and a scalar is the text that stands
//! in the file: no schema of YAML turns `no` into `false`, `012` into a number or
//! `1.10` into `1.1`. Whoever reads a scalar decides what it means.
//!
//! The parser is generic, so its code is compiled here: a crate of its own, which the
//! development profile optimises, since debug builds read large files too.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

mod problem;

pub use problem::{Position, Problem};

/// A part of the document.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where it begins.
    pub at: Position,
    /// Its content.
    pub value: Value,
}

/// The content of the part.
#[derive(Debug, Clone)]
pub enum Value {
    /// Nothing, `~` or `null`, as it stands in the file.
    Nothing(String),
    /// A scalar: the text that stands in the file.
    Scalar(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file; keys may be repeated.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key's text.
    pub key: String,
    /// Where the key begins.
    pub key_at: Position,
    /// The value.
    pub value: Node,
}

impl Value {
    /// What it is, for messages: "a list".
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Nothing(_) => "nothing",
            Value::Scalar(_) => "a value",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Parts that aliases may add to a file. What stands in the file itself is bounded by
/// its length.
const MOST_ALIASED_NODES: usize = 250_000;

/// Lists and maps inside each other. Reading and dropping the tree recurses, and a
/// thread may have 2 MB of stack. Nested groups take two.
const DEEPEST: usize = 32;

/// Parses a document.
///
/// # Errors
/// The first [`Problem`]: what is no YAML, a tag, a cycle, or a part that is too deep or, by its
/// aliases, too large.
pub fn document(text: &str) -> Result<Node, Problem> {
    let mut tree = Tree::default();
    for event in Parser::new_from_str(text) {
        let (event, span) =
            event.map_err(|e| Problem::new(position(e.marker()), "", e.info().clone()))?;
        tree.event(event, &span, text)?;
    }
    Ok(tree.root.unwrap_or(Node {
        at: Position { line: 1, column: 1 },
        value: Value::Nothing(String::new()),
    }))
}

fn position(marker: &Marker) -> Position {
    Position {
        line: u32::try_from(marker.line()).unwrap_or(0),
        column: u32::try_from(marker.col() + 1).unwrap_or(0),
    }
}

/// A list or map whose end is still to come.
struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value comes next.
    key: Option<(String, Position)>,
    /// Maps named by merge keys (`<<`): their entries follow the map's own.
    merged: Vec<Node>,
    /// The counts of the finished node.
    size: Size,
}

/// Parts of a finished node, and how deep they are inside each other.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    depth: usize,
}

/// The document as far as it is known.
#[derive(Default)]
struct Tree {
    root: Option<Node>,
    open: Vec<Open>,
    /// The finished nodes with an anchor.
    anchors: HashMap<usize, (Node, Size)>,
    /// Parts that aliases have added.
    aliased: usize,
}

impl Tree {
    fn event(&mut self, event: Event<'_>, span: &Span, text: &str) -> Result<(), Problem> {
        let at = position(&span.start);
        match event {
            Event::Scalar(scalar, style, anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                // The parser returns `~` for a scalar that is not there.
                let missing = style == ScalarStyle::Plain && span.slice(text) == Some("");
                let scalar = if missing {
                    String::new()
                } else {
                    scalar.into_owned()
                };
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let value = if plain && ["", "~", "null", "Null", "NULL"].contains(&&*scalar) {
                    Value::Nothing(scalar)
                } else {
                    Value::Scalar(scalar)
                };
                self.finished(Node { at, value }, anchor, Size { nodes: 1, depth: 0 })
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                self.begin(Value::List(Vec::new()), at, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                self.begin(Value::Map(Vec::new()), at, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(anchor, at),
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(Problem::new(at, "", "a second document begins here")
                    .expected("one document in a file"))
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, value: Value, at: Position, anchor: usize) -> Result<(), Problem> {
        if self.open.len() == DEEPEST {
            return Err(too_deep(at));
        }
        self.open.push(Open {
            node: Node { at, value },
            anchor,
            key: None,
            merged: Vec::new(),
            size: Size { nodes: 1, depth: 0 },
        });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        let Some(mut open) = self.open.pop() else {
            return Ok(());
        };
        if let Value::Map(entries) = &mut open.node.value {
            merge(entries, open.merged)?;
        }
        open.size.depth += 1;
        self.finished(open.node, open.anchor, open.size)
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<(), Problem> {
        let Some((node, size)) = self.anchors.get(&anchor) else {
            return Err(Problem::new(
                at,
                "",
                "this alias refers to a part of the file that contains it: a cycle",
            )
            .expected("anchors that do not contain their own aliases"));
        };
        let size = *size;
        self.aliased += size.nodes;
        if self.aliased > MOST_ALIASED_NODES {
            return Err(
                Problem::new(at, "", "the aliases of this file stand for too much")
                    .hint("let equal groups share a profile"),
            );
        }
        if self.open.len() + size.depth > DEEPEST {
            return Err(too_deep(at));
        }
        let value = node.value.clone();
        self.finished(Node { at, value }, 0, size)
    }

    /// Puts a node where it belongs.
    fn finished(&mut self, node: Node, anchor: usize, size: Size) -> Result<(), Problem> {
        if anchor != 0 {
            self.aliased += size.nodes;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.size.nodes += size.nodes;
        open.size.depth = open.size.depth.max(size.depth);
        match &mut open.node.value {
            Value::List(list) => list.push(node),
            Value::Map(entries) => match open.key.take() {
                None => open.key = Some(key(node)?),
                Some((key, _)) if key == "<<" => open.merged.push(node),
                Some((key, key_at)) => entries.push(Entry {
                    key,
                    key_at,
                    value: node,
                }),
            },
            Value::Nothing(_) | Value::Scalar(_) => {}
        }
        Ok(())
    }
}

fn too_deep(at: Position) -> Problem {
    Problem::new(at, "", "lists and maps are nested too deeply here")
}

fn key(node: Node) -> Result<(String, Position), Problem> {
    match node.value {
        Value::Scalar(text) => Ok((text, node.at)),
        Value::Nothing(text) if !text.is_empty() => Ok((text, node.at)),
        other => {
            let message = format!("{} where a key should be", other.kind());
            Err(Problem::new(node.at, "", message))
        }
    }
}

/// Adds the entries of merged maps whose keys the map itself does not have.
fn merge(entries: &mut Vec<Entry>, merged: Vec<Node>) -> Result<(), Problem> {
    if merged.is_empty() {
        return Ok(());
    }
    let mut maps = Vec::new();
    for node in merged {
        match node.value {
            Value::List(list) => maps.extend(list),
            _ => maps.push(node),
        }
    }
    let mut keys: HashSet<String> = entries.iter().map(|e| e.key.clone()).collect();
    for map in maps {
        let Value::Map(more) = map.value else {
            let problem = Problem::new(map.at, "", "`<<` merges maps, and this is none");
            return Err(problem.expected("an alias of a map, or a list of them"));
        };
        for entry in more {
            if keys.insert(entry.key.clone()) {
                entries.push(entry);
            }
        }
    }
    Ok(())
}

/// Tags would give a value a meaning of their own. Those of YAML's core schema are
/// redundant here, and are read over.
fn check_tag(tag: Option<&Tag>, at: Position) -> Result<(), Problem> {
    let core = ["str", "int", "float", "bool", "null", "map", "seq"];
    match tag {
        Some(tag) if !core.iter().any(|name| tag.is_yaml_core_schema_tag(name)) => Err(
            Problem::new(at, "", format!("the tag `{}` is not known", tag.original()))
                .expected("values without tags"),
        ),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
