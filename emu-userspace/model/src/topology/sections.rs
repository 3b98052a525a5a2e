//! The sections of a file about access links: profiles and groups.

use std::collections::{HashMap, HashSet};

use crate::name::Name;

use super::{
    Filtering, Group, GroupId, Kind, Pipe, Vnodes,
    impair::{self, keys_with_impairments},
    reader::{Field, Record, report_unknown, resolve},
    units::{self, MOST_QUEUED_PACKETS},
};

/// Keys of a profile, which a group has too.
pub(super) const LINE_KEYS: &[&str] =
    keys_with_impairments!(["up", "down", "latency", "queue", "burst"], ["filtering"]);
/// Keys of the long form of a pipe.
pub(super) const PIPE_KEYS: &[&str] =
    keys_with_impairments!(["rate", "latency", "queue", "burst"], []);
/// Keys of a group.
pub(super) const GROUP_KEYS: &[&str] = keys_with_impairments!(
    [
        "prefix",
        "kind",
        "nodes",
        "addresses",
        "profile",
        "up",
        "down",
        "latency",
        "queue",
        "burst"
    ],
    ["filtering", "groups"]
);
const MOST_NODES: i64 = 16_777_216;
const DEEPEST: usize = 12;

/// Both pipes of an access link.
#[derive(Clone, Copy, Default)]
pub(super) struct AccessLinkSection {
    up: Pipe,
    down: Pipe,
    filtering: Filtering,
}

/// Profiles by name.
pub(super) type Profiles<'a> = Vec<(&'a str, AccessLinkSection)>;

/// Groups with the positions of their parts. `complete` is false if a group could not be
/// read, so that references to it are not reported.
pub(super) struct Groups<'a> {
    pub list: Vec<ReadGroup<'a>>,
    pub complete: bool,
    names: Vec<(&'a str, Option<GroupId>)>,
    /// Places in `names`.
    index: HashMap<&'a str, usize>,
}

pub(super) struct ReadGroup<'a> {
    pub group: Group,
    pub prefix: Field<'a>,
    /// `nodes`, or the list of addresses.
    pub nodes: Option<Field<'a>>,
    pub addresses: Vec<Field<'a>>,
}

/// Reads the keys of an access link, on top of inherited settings.
fn line(record: &Record<'_>, base: AccessLinkSection, own: &[&str]) -> AccessLinkSection {
    let mut line = base;
    line.up.impairments.read(record, own);
    line.down.impairments.read(record, own);
    if let Some(filtering) = record.get("filtering").and_then(|f| impair::filtering(&f)) {
        line.filtering = filtering;
    }
    if let Some(latency) = record.get("latency").and_then(|f| f.unit(units::time)) {
        (line.up.latency, line.down.latency) = (latency, latency);
    }
    if let Some(queue) = record.get("queue").and_then(|f| f.unit(units::queue)) {
        (line.up.queue, line.down.queue) = (queue, queue);
    }
    if let Some(burst) = record.get("burst").and_then(|f| f.unit(units::size)) {
        (line.up.burst_bytes, line.down.burst_bytes) = (burst, burst);
    }
    for (key, pipe) in [("up", &mut line.up), ("down", &mut line.down)] {
        if let Some(field) = record.get(key) {
            read_pipe(&field, pipe, own);
        }
    }
    line
}

fn read_pipe(field: &Field<'_>, pipe: &mut Pipe, own: &[&str]) {
    if !field.is_map() {
        pipe.rate = field.unit(units::rate).or(pipe.rate);
        return;
    }
    let Some(record) = field.record(PIPE_KEYS) else {
        return;
    };
    pipe.impairments.read(&record, own);
    if let Some(rate) = record.get("rate").and_then(|f| f.unit(units::rate)) {
        pipe.rate = Some(rate);
    }
    if let Some(latency) = record.get("latency").and_then(|f| f.unit(units::time)) {
        pipe.latency = latency;
    }
    if let Some(queue) = record.get("queue").and_then(|f| f.unit(units::queue)) {
        pipe.queue = queue;
    }
    if let Some(burst) = record.get("burst").and_then(|f| f.unit(units::size)) {
        pipe.burst_bytes = burst;
    }
}

pub(super) fn profiles<'a>(record: &Record<'a>, own: &[&str]) -> Profiles<'a> {
    let Some(section) = record.get("profiles") else {
        return Vec::new();
    };
    section
        .named()
        .into_iter()
        .map(|(name, at, field)| {
            field.checked_name(at, name);
            let read = field.record(LINE_KEYS);
            (
                name,
                read.map_or_else(AccessLinkSection::default, |r| {
                    line(&r, AccessLinkSection::default(), own)
                }),
            )
        })
        .collect()
}

pub(super) fn groups<'a>(record: &Record<'a>, profiles: &Profiles<'a>, own: &[&str]) -> Groups<'a> {
    let mut groups = Groups {
        list: Vec::new(),
        complete: true,
        names: Vec::new(),
        index: HashMap::new(),
    };
    if let Some(section) = record.need("groups", "{peers: {prefix: 10.1.0.0/16, nodes: 10}}") {
        let around = Around {
            profiles,
            own,
            parent: None,
            line: AccessLinkSection::default(),
            kind: kind(record).unwrap_or_default(),
            depth: 0,
        };
        read_groups(&section, &around, &mut groups);
        if section.named().is_empty() {
            section.report(
                section
                    .problem("a topology needs at least one group")
                    .expected("`peers: {prefix: 10.1.0.0/16, nodes: 10}`"),
            );
        }
    } else {
        groups.complete = false;
    }
    groups
}

/// The context of a map of groups.
struct Around<'a, 'p> {
    profiles: &'p Profiles<'a>,
    /// Names of the file's own distributions.
    own: &'p [&'p str],
    parent: Option<GroupId>,
    /// Settings that the groups inherit.
    line: AccessLinkSection,
    kind: Kind,
    depth: usize,
}

/// Names of the kinds of vnodes.
const KINDS: [(&str, Kind); 2] = [("process", Kind::Process), ("machine", Kind::Machine)];

/// The kind of vnodes that a topology or a group names.
fn kind(record: &Record<'_>) -> Option<Kind> {
    let field = record.get("kind")?;
    resolve(&field, "kind", KINDS.iter().map(|(name, _)| *name)).map(|i| KINDS[i].1)
}

fn read_groups<'a>(section: &Field<'a>, around: &Around<'a, '_>, groups: &mut Groups<'a>) {
    let (profiles, own) = (around.profiles, around.own);
    if around.depth >= DEEPEST {
        section.report(section.problem(format!("groups are nested deeper than {DEEPEST}")));
        return;
    }
    let mut here: HashSet<&str> = HashSet::new();
    for (name, name_at, field) in section.named() {
        let checked = field.checked_name(name_at, name);
        // A second time in one map is a duplicate key, which is reported as such.
        let elsewhere = groups.index.contains_key(name) && !here.contains(name);
        here.insert(name);
        if elsewhere {
            field.report(
                super::error::Problem::new(
                    name_at,
                    field.path.clone(),
                    format!("there are two groups `{name}`"),
                )
                .expected("names that are unique in the file, nested groups included"),
            );
        }
        let Some(record) = field.record(GROUP_KEYS) else {
            groups.complete = false;
            groups.add_name(name, None);
            continue;
        };
        let base = record
            .get("profile")
            .and_then(|f| resolve(&f, "profile", profiles.iter().map(|(n, _)| *n)))
            .map_or(around.line, |i| profiles[i].1);
        let line = line(&record, base, own);
        managed_lines_have_rates(&record, &line);
        let kind = kind(&record).unwrap_or(around.kind);
        let id = read_group(checked, &record, around.parent, (line, kind), groups);
        groups.add_name(name, id);
        groups.complete &= id.is_some();
        if let Some(nested) = record.get("groups") {
            let inside = Around {
                profiles,
                own,
                parent: id.or(around.parent),
                line,
                kind,
                depth: around.depth + 1,
            };
            read_groups(&nested, &inside, groups);
        }
    }
}

/// Reports `aqm` on a pipe without a rate, which has no queue.
fn managed_lines_have_rates(record: &Record<'_>, line: &AccessLinkSection) {
    for (key, pipe) in [("up", &line.up), ("down", &line.down)] {
        if pipe.impairments.aqm.is_some() && pipe.rate.is_none() {
            let field = record.get(key).or_else(|| record.get("aqm"));
            let field = field.as_ref().unwrap_or(record.field());
            field.report(
                field
                    .problem(format!(
                        "`aqm` manages the queue of the {key} pipe, which has no rate"
                    ))
                    .hint(format!(
                        "give it one, as in `{key}: 10mbit`, or leave `aqm` to the other pipe"
                    )),
            );
        }
    }
}

fn read_group<'a>(
    name: Option<Name>,
    record: &Record<'a>,
    parent: Option<GroupId>,
    (line, kind): (AccessLinkSection, Kind),
    groups: &mut Groups<'a>,
) -> Option<GroupId> {
    let field = record.field();
    let (nodes, list) = (record.get("nodes"), record.get("addresses"));
    if let (Some(_), Some(list)) = (&nodes, &list) {
        list.report(
            list.problem("a group has `nodes` or `addresses`, not both")
                .hint("`nodes` counts the first addresses of the prefix; `addresses` names them"),
        );
    }
    if nodes.is_none() && list.is_none() && record.get("groups").is_none() {
        field.report(
            field
                .problem("the group has no vnodes")
                .expected("`nodes: COUNT`, `addresses: [...]`, or nested `groups`"),
        );
    }
    let addresses: Vec<Field<'a>> = list.as_ref().and_then(Field::list).unwrap_or_default();
    let vnodes = match (&nodes, &list) {
        (Some(nodes), _) => Vnodes::Count(nodes.number(1, MOST_NODES).map_or(0, |n| n as u32)),
        (None, Some(_)) => Vnodes::List(addresses.iter().filter_map(Field::address).collect()),
        (None, None) => Vnodes::None,
    };
    let prefix = record.need("prefix", "10.1.0.0/16")?;
    let network = prefix.prefix();
    let group = Group {
        name: name?,
        parent,
        prefix: network?,
        kind,
        vnodes,
        up: line.up,
        down: line.down,
        filtering: line.filtering,
    };
    groups.list.push(ReadGroup {
        group,
        prefix,
        nodes: nodes.or(list),
        addresses,
    });
    Some(groups.list.len() - 1)
}

impl<'a> Groups<'a> {
    /// The group that a field names; reports nothing if the group exists but could not be
    /// read.
    pub fn resolve(&self, field: &Field<'_>) -> Option<GroupId> {
        let name = field.text()?;
        let Some(index) = self.index.get(name) else {
            report_unknown(field, "group", name, self.names.iter().map(|(n, _)| *n));
            return None;
        };
        self.names[*index].1
    }

    /// Adds a name; the first of two that are equal counts.
    fn add_name(&mut self, name: &'a str, id: Option<GroupId>) {
        self.index.entry(name).or_insert(self.names.len());
        self.names.push((name, id));
    }
}

/// Largest total of packet queues, the size of the departure log.
pub(super) fn most_ring_slots() -> u64 {
    u64::from(MOST_QUEUED_PACKETS) * 256
}
