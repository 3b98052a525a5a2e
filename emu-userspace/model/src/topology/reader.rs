//! Typed access to maps of the tree, which collects all errors.
use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    net::IpAddr,
};

use emu_document::{Entry, Node, Position, Problem, Value};
use ipnet::IpNet;

use super::{
    error::{MOST_PROBLEMS, similar},
    units::UnitError,
};
use crate::name::{self, Name};

/// Names that are compared in all for the hints of one file. A file full of mistakes has
/// hints for its first ones only.
const COMPARISONS: usize = 20_000;

/// The problems of one file.
pub(crate) struct Problems {
    list: RefCell<Vec<Problem>>,
    comparisons_left: Cell<usize>,
}

impl Default for Problems {
    fn default() -> Self {
        Self {
            list: RefCell::default(),
            comparisons_left: Cell::new(COMPARISONS),
        }
    }
}

impl Problems {
    pub fn add(&self, problem: Problem) {
        if !self.is_full() {
            self.list.borrow_mut().push(problem);
        }
    }

    /// Whether there are enough that the rest of the file is read over.
    fn is_full(&self) -> bool {
        self.list.borrow().len() >= MOST_PROBLEMS
    }

    pub fn take(self) -> Vec<Problem> {
        self.list.into_inner()
    }

    pub fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    /// The hint for a name that is not among the known ones.
    fn similar<'a>(&self, name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
        let left = &self.comparisons_left;
        similar(
            name,
            known.take_while(|_| {
                let some = left.get() > 0;
                left.set(left.get().saturating_sub(1));
                some
            }),
        )
    }
}

/// A value with its position and path.
#[derive(Clone)]
pub(crate) struct Field<'a> {
    pub node: &'a Node,
    pub path: String,
    problems: &'a Problems,
}

/// A map whose keys are known; unknown keys are reported.
pub(crate) struct Record<'a> {
    field: Field<'a>,
    entries: &'a [Entry],
}

impl<'a> Field<'a> {
    pub fn root(node: &'a Node, problems: &'a Problems) -> Self {
        Self {
            node,
            path: String::new(),
            problems,
        }
    }

    pub fn at(&self) -> Position {
        self.node.at
    }

    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::new(self.node.at, self.path.clone(), message)
    }

    pub fn report(&self, problem: Problem) {
        self.problems.add(problem);
    }

    /// The hint for a name that is not among the known ones.
    pub fn similar<'n>(&self, name: &str, known: impl Iterator<Item = &'n str>) -> Option<String> {
        self.problems.similar(name, known)
    }

    /// Whether no problem has been found so far.
    pub fn is_sound_so_far(&self) -> bool {
        self.problems.is_empty()
    }

    fn child(&self, key: &str, node: &'a Node) -> Field<'a> {
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        Field {
            node,
            path,
            problems: self.problems,
        }
    }

    fn wrong_kind(&self, wanted: &str) {
        let found = self.node.value.kind();
        self.report(self.problem(format!("found {found}, expected {wanted}")));
    }

    /// A map with only these keys.
    pub fn record(&self, keys: &[&str]) -> Option<Record<'a>> {
        if self.problems.is_full() {
            return None;
        }
        let entries = self.entries()?;
        for entry in entries.iter().take_while(|_| !self.problems.is_full()) {
            if !keys.contains(&entry.key.as_str()) {
                let path = self.child(&entry.key, &entry.value).path;
                self.report(
                    Problem::new(entry.key_at, path, format!("unknown key `{}`", entry.key))
                        .expected(format!("one of {}", keys.join(", ")))
                        .maybe_hint(self.similar(&entry.key, keys.iter().copied())),
                );
            }
        }
        Some(Record {
            field: self.clone(),
            entries,
        })
    }

    fn entries(&self) -> Option<&'a [Entry]> {
        match &self.node.value {
            Value::Map(entries) => {
                self.report_duplicates(entries);
                Some(entries)
            }
            Value::Nothing(_) => Some(&[]),
            _ => {
                self.wrong_kind("a map");
                None
            }
        }
    }

    fn report_duplicates(&self, entries: &'a [Entry]) {
        let mut seen = HashSet::new();
        let again = entries.iter().filter(|e| !seen.insert(e.key.as_str()));
        for entry in again.take_while(|_| !self.problems.is_full()) {
            let path = self.child(&entry.key, &entry.value).path;
            let message = format!("the key `{}` is a duplicate", entry.key);
            self.report(
                Problem::new(entry.key_at, path, message).expected("each key once in a map"),
            );
        }
    }

    /// A map from names to values: name, position of the name, value.
    pub fn named(&self) -> Vec<(&'a str, Position, Field<'a>)> {
        self.entries()
            .unwrap_or_default()
            .iter()
            .map(|e| (e.key.as_str(), e.key_at, self.child(&e.key, &e.value)))
            .collect()
    }

    pub fn list(&self) -> Option<Vec<Field<'a>>> {
        match &self.node.value {
            Value::List(nodes) => Some(
                nodes
                    .iter()
                    .enumerate()
                    .map(|(i, node)| Field {
                        node,
                        path: format!("{}[{i}]", self.path),
                        problems: self.problems,
                    })
                    .collect(),
            ),
            _ => {
                self.wrong_kind("a list");
                None
            }
        }
    }

    pub fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    pub fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    pub fn text(&self) -> Option<&'a str> {
        if self.problems.is_full() {
            return None;
        }
        match &self.node.value {
            Value::Scalar(text) => Some(text),
            // `null` is a text where a text is expected.
            Value::Nothing(text) if !text.is_empty() => Some(text),
            _ => {
                self.wrong_kind("a value");
                None
            }
        }
    }

    /// A name of a host, a group, a program, a topology or a run.
    pub fn name(&self) -> Option<Name> {
        self.checked_name(self.at(), self.text()?)
    }

    /// A name that stands at this place: the value itself, or its key.
    pub fn checked_name(&self, at: Position, text: &str) -> Option<Name> {
        match Name::new(text) {
            Ok(name) => Some(name),
            Err(_) => {
                self.report(
                    Problem::new(at, self.path.clone(), format!("`{text}` is not a name"))
                        .expected(name::RULE),
                );
                None
            }
        }
    }

    /// A quantity with a unit.
    pub fn unit<T>(&self, parse: impl Fn(&str) -> Result<T, UnitError>) -> Option<T> {
        match parse(self.text()?) {
            Ok(value) => Some(value),
            Err(e) => {
                self.report(
                    self.problem(e.message)
                        .expected(e.expected)
                        .maybe_hint(e.hint),
                );
                None
            }
        }
    }

    /// A whole number in a range.
    pub fn number(&self, least: i64, most: i64) -> Option<i64> {
        let text = self.text()?;
        let range = format!("a whole number from {least} to {most}");
        // `012` would be ten in YAML 1.1, and twelve in YAML 1.2.
        let digits = text.strip_prefix('-').unwrap_or(text);
        let plain = text == "0" || !digits.starts_with(['0', '+']);
        match text.parse::<i128>() {
            Err(_) => {
                self.report(
                    self.problem(format!("`{text}` is no whole number"))
                        .expected(range),
                );
                None
            }
            Ok(_) if !plain => {
                self.report(
                    self.problem(format!("`{text}` can be read as several numbers"))
                        .expected(range)
                        .hint("write it without a sign and without zeros at the beginning"),
                );
                None
            }
            Ok(n) if (i128::from(least)..=i128::from(most)).contains(&n) => {
                Some(i64::try_from(n).unwrap_or(most))
            }
            Ok(_) => {
                self.report(
                    self.problem(format!("{text} is out of range"))
                        .expected(range),
                );
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        match self.text()? {
            "true" => Some(true),
            "false" => Some(false),
            other => {
                self.report(
                    self.problem(format!("`{other}` is neither `true` nor `false`"))
                        .expected("true or false"),
                );
                None
            }
        }
    }

    pub fn address(&self) -> Option<IpAddr> {
        let text = self.text()?;
        match text.parse::<IpAddr>() {
            Ok(address) => Some(address),
            Err(_) => {
                self.report(
                    self.problem(format!("`{text}` is not an IP address"))
                        .expected("an address, as in 10.1.1.1"),
                );
                None
            }
        }
    }

    /// A prefix whose host bits are zero.
    pub fn prefix(&self) -> Option<IpNet> {
        let text = self.text()?;
        let Ok(net) = text.parse::<IpNet>() else {
            self.report(
                self.problem(format!("`{text}` is not a prefix"))
                    .expected("an address and a length, as in 10.1.1.0/24"),
            );
            return None;
        };
        if net.addr() != net.network() {
            self.report(
                self.problem(format!("`{text}` has bits set beyond its length"))
                    .hint(format!("did you mean `{}`?", net.trunc())),
            );
            return None;
        }
        if let Some(why) = unusable(net) {
            self.report(
                self.problem(format!("`{text}` {why}"))
                    .expected("addresses that vnodes can have, as in 10.0.0.0/8"),
            );
            return None;
        }
        Some(net)
    }
}

/// Why no vnode can have an address of this prefix.
fn unusable(net: IpNet) -> Option<&'static str> {
    let overlaps = |other: &str| {
        other
            .parse::<IpNet>()
            .is_ok_and(|o| o.contains(&net) || net.contains(&o))
    };
    if net.prefix_len() == 0 {
        Some("covers all addresses")
    } else if overlaps("127.0.0.0/8") || overlaps("::1/128") {
        Some("is the machine's own loopback")
    } else if overlaps("224.0.0.0/4") || overlaps("ff00::/8") {
        Some("is multicast")
    } else if overlaps("fe80::/10") {
        Some("is link-local: it means another node on each interface")
    } else if overlaps("::ffff:0:0/96") {
        Some("is the IPv6 form of IPv4 addresses; write those")
    } else if overlaps("0.0.0.0/8") || overlaps("240.0.0.0/4") {
        Some("is reserved")
    } else {
        None
    }
}

impl<'a> Record<'a> {
    pub fn get(&self, key: &str) -> Option<Field<'a>> {
        self.entries
            .iter()
            .find(|e| e.key == key)
            .map(|e| self.field.child(key, &e.value))
    }

    /// A mandatory key.
    pub fn need(&self, key: &str, example: &str) -> Option<Field<'a>> {
        let found = self.get(key);
        if found.is_none() {
            self.field.report(
                self.field
                    .problem(format!("`{key}` is missing"))
                    .expected(format!("`{key}: {example}`")),
            );
        }
        found
    }

    pub fn field(&self) -> &Field<'a> {
        &self.field
    }
}

/// Finds a name among the known ones, or reports it.
pub(crate) fn resolve<'n>(
    field: &Field<'_>,
    what: &str,
    known: impl Iterator<Item = &'n str> + Clone,
) -> Option<usize> {
    let name = field.text()?;
    let found = known.clone().position(|k| k == name);
    if found.is_none() {
        report_unknown(field, what, name, known);
    }
    found
}

/// Names that are listed where another was expected.
const LISTED: usize = 12;

/// Reports a name that is not among the known ones.
pub(crate) fn report_unknown<'n>(
    field: &Field<'_>,
    what: &str,
    name: &str,
    known: impl Iterator<Item = &'n str> + Clone,
) {
    let mut listed: Vec<&str> = known.clone().take(LISTED + 1).collect();
    let more = if listed.len() > LISTED { ", …" } else { "" };
    listed.truncate(LISTED);
    listed.sort_unstable();
    listed.dedup();
    let expected = if listed.is_empty() {
        format!("a {what} of the file, which has none")
    } else {
        format!("one of {}{more}", listed.join(", "))
    };
    field.report(
        field
            .problem(format!("there is no {what} `{name}`"))
            .expected(expected)
            .maybe_hint(field.similar(name, known)),
    );
}
