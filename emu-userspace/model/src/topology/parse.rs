//! From the text of a file to a checked topology.
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use emu_document::{Position, Problem, document};

use crate::{input, name::Name};

use super::{
    Accounting, Addressing, FqSettings, Loopback, Topology,
    error::TopologyErrors,
    events, hosts, impair, links,
    reader::{Field, Problems, Record, resolve},
    sections, traces, units, validate,
};

/// Keys of the document.
pub(super) const TOP_KEYS: &[&str] = &[
    "version",
    "name",
    "kind",
    "addressing",
    "loopback",
    "accounting",
    "mtu",
    "seed",
    "fq",
    "distributions",
    "profiles",
    "groups",
    "latencies",
    "latency_matrix",
    "placement",
    "hosts",
    "host_latency",
    "events",
    "traces",
];
/// Keys of `fq`.
pub(super) const FQ_KEYS: &[&str] = &["limit", "flow_limit", "horizon", "buckets", "orphan_mask"];

/// Keys of the long form of `accounting`.
pub(super) const OVERHEAD_KEYS: &[&str] = &["overhead", "cells"];

/// Accountings with a name. The DSL ones have names and sizes as in tc-cake(8).
pub(super) const ACCOUNTINGS: [(&str, Accounting); 9] = [
    ("ip", Accounting::Ip),
    ("ethernet", Accounting::Ethernet),
    ("docsis", Accounting::Overhead(18)),
    ("pppoe-ptm", Accounting::Overhead(30)),
    ("bridged-ptm", Accounting::Overhead(22)),
    ("pppoa-vcmux", Accounting::Cells(10)),
    ("pppoa-llc", Accounting::Cells(14)),
    ("pppoe-vcmux", Accounting::Cells(32)),
    ("pppoe-llcsnap", Accounting::Cells(40)),
];

/// Largest file that is read; a topology with a million listed addresses is smaller.
pub const MOST_BYTES: u64 = 64 << 20;

/// A topology file, read once: a pipe has no second reading.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file, by the name that the user gave; `-` is the standard input.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// The checked topology.
    pub topology: Topology,
}

impl Source {
    /// Reads and checks a topology file.
    ///
    /// # Errors
    /// As for [`load`].
    pub fn read(path: &Path) -> Result<Self, TopologyErrors> {
        Self::new(path, read_text(path)?)
    }

    /// Checks the text of a topology file.
    ///
    /// # Errors
    /// As for [`parse`].
    pub fn new(path: &Path, text: String) -> Result<Self, TopologyErrors> {
        let topology = parse(&text, &path.display().to_string())?;
        Ok(Self {
            path: path.to_owned(),
            text,
            topology,
        })
    }

    /// The absolute path of the file, to which names in the file are relative; for the
    /// standard input a path in the current folder.
    pub fn absolute(&self) -> PathBuf {
        let absolute = || std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        self.path.canonicalize().unwrap_or_else(|_| absolute())
    }
}

/// Reads and checks a topology file; [`Source`] keeps the text, too.
///
/// # Errors
/// All errors of the file at once; one without a position if it cannot be read.
pub fn load(path: &Path) -> Result<Topology, TopologyErrors> {
    parse(&read_text(path)?, &path.display().to_string())
}

/// Reads the text of a topology file without parsing it.
///
/// # Errors
/// One error without a position.
pub fn read_text(path: &Path) -> Result<String, TopologyErrors> {
    let name = path.display().to_string();
    let unreadable = |why: String| {
        TopologyErrors::new(
            &name,
            "",
            vec![Problem::new(
                Position::default(),
                "",
                format!("cannot read the file: {why}"),
            )],
        )
    };
    match fs::metadata(path) {
        Ok(m) if m.is_dir() => return Err(unreadable("it is a directory".into())),
        _ => {}
    }
    let mut bytes = Vec::new();
    // Limits the bytes read, since a pipe or a device does not report its length.
    let read = input::open_any(path).and_then(|f| f.take(MOST_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|e| unreadable(e.to_string()))?;
    if bytes.len() as u64 > MOST_BYTES {
        let text = format!("it has over {MOST_BYTES} bytes, more than a topology needs");
        return Err(unreadable(text));
    }
    String::from_utf8(bytes).map_err(|e| {
        let line = e.as_bytes()[..e.utf8_error().valid_up_to()]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1;
        unreadable(format!("it is not UTF-8 (line {line})"))
    })
}

/// Checks the text of a topology; `file` is for the errors.
///
/// # Errors
/// All errors of the text at once.
pub fn parse(text: &str, file: &str) -> Result<Topology, TopologyErrors> {
    let problems = Problems::default();
    let topology = match document(text) {
        Ok(root) => {
            let folder = Path::new(file).parent().unwrap_or(Path::new(""));
            read(&Field::root(&root, &problems), folder)
        }
        Err(problem) => {
            problems.add(problem);
            None
        }
    };
    match topology {
        Some(topology) if problems.is_empty() => Ok(topology),
        _ => Err(TopologyErrors::new(file, text, problems.take())),
    }
}

fn read(root: &Field<'_>, folder: &Path) -> Option<Topology> {
    let record = root.record(TOP_KEYS)?;
    if let Some(version) = record.need("version", "1") {
        version.number(1, 1);
    }
    let distributions = impair::distributions(&record);
    let own: Vec<&str> = distributions.iter().map(|(name, _)| *name).collect();
    let profiles = sections::profiles(&record, &own);
    let groups = sections::groups(&record, &profiles, &own);
    let links = links::links(&record, &groups, &own);
    let hosts = hosts::hosts(&record, &groups);
    let mut topology = Topology {
        name: record
            .get("name")
            .and_then(|f| f.name())
            .unwrap_or_else(|| Name::fixed("unnamed")),
        addressing: addressing(&record),
        loopback: loopback(&record),
        accounting: accounting(&record),
        mtu_bytes: record
            .get("mtu")
            .and_then(|f| f.number(576, 65_535))
            .unwrap_or(1500) as u32,
        seed: record
            .get("seed")
            .and_then(|f| f.number(0, i64::MAX))
            .map(i64::cast_unsigned),
        distributions: distributions
            .iter()
            .map(|(_, file)| folder.join(file))
            .collect(),
        fq: fq(&record),
        groups: groups.list.iter().map(|g| g.group.clone()).collect(),
        links,
        hosts: hosts.list.iter().map(|h| h.host.clone()).collect(),
        placement: hosts.placement,
        template: hosts.template.clone(),
        host_latency: record.get("host_latency").and_then(|f| f.unit(units::time)),
        size: None,
        events: Vec::new(),
        traces: Vec::new(),
    };
    topology.traces = traces::traces(&record, &groups, &topology, folder);
    topology.events = events::events(&record, &groups, &topology, &own);
    validate::check(root, &topology, &groups, &hosts.list);
    Some(topology)
}

/// `None`: the addressing depends on the number of vnodes of the host.
fn addressing(record: &Record<'_>) -> Option<Addressing> {
    let field = record.get("addressing")?;
    match field.text() {
        Some("auto") | None => None,
        Some("alias") => Some(Addressing::Alias),
        Some("anyip") => Some(Addressing::AnyIp),
        Some(other) => {
            field.report(
                field
                    .problem(format!("`{other}` is not an addressing"))
                    .expected("auto, alias or anyip"),
            );
            None
        }
    }
}

fn loopback(record: &Record<'_>) -> Loopback {
    let Some(field) = record.get("loopback") else {
        return Loopback::Own;
    };
    match field.text() {
        Some("own") | None => Loopback::Own,
        Some("shared") => Loopback::Shared,
        Some(other) => {
            field.report(
                field
                    .problem(format!("`{other}` is not a kind of loopback"))
                    .expected("own or shared"),
            );
            Loopback::Own
        }
    }
}

fn accounting(record: &Record<'_>) -> Accounting {
    let Some(field) = record.get("accounting") else {
        return Accounting::default();
    };
    if field.is_map() {
        let Some(record) = field.record(OVERHEAD_KEYS) else {
            return Accounting::default();
        };
        let overhead = record
            .need("overhead", "48")
            .and_then(|f| f.number(-64, 1_024))
            .unwrap_or(0) as i32;
        let cells = record.get("cells").and_then(|f| f.boolean());
        return if cells == Some(true) {
            Accounting::Cells(overhead)
        } else {
            Accounting::Overhead(overhead)
        };
    }
    let names = ACCOUNTINGS.iter().map(|(name, _)| *name);
    resolve(&field, "accounting", names).map_or(Accounting::Ip, |i| ACCOUNTINGS[i].1)
}

fn fq(record: &Record<'_>) -> FqSettings {
    let Some(record) = record.get("fq").and_then(|f| f.record(FQ_KEYS)) else {
        return FqSettings::default();
    };
    let number = |key, least, most| {
        let value = record.get(key)?.number(least, most)?;
        u32::try_from(value).ok()
    };
    let buckets = record.get("buckets").and_then(|field| {
        let value = field.number(1, 1 << 18)?;
        if value.count_ones() != 1 {
            field.report(
                field
                    .problem(format!("{value} is not a power of two"))
                    .expected("a power of two up to 262144"),
            );
        }
        u32::try_from(value).ok()
    });
    FqSettings {
        limit_packets: number("limit", 1, i64::from(u32::MAX)),
        flow_limit_packets: number("flow_limit", 1, i64::from(u32::MAX)),
        horizon: record.get("horizon").and_then(|field| {
            let horizon = field.unit(units::time)?;
            if horizon.is_zero() {
                field.report(
                    field
                        .problem("a horizon of 0 delays no packet")
                        .expected("a time longer than any packet waits, as in `20s`"),
                );
            }
            if horizon.as_micros() > u128::from(u32::MAX) {
                field.report(
                    field
                        .problem("fq's horizon is 71 min 34 s at most")
                        .expected("a time longer than any packet waits, as in `20s`"),
                );
            }
            Some(horizon)
        }),
        buckets,
        orphan_mask: number("orphan_mask", 0, i64::from(u32::MAX)),
    }
}
