//! The sections `latencies` and `latency_matrix` of a file: links between groups.
use std::{collections::HashMap, time::Duration};

use super::{
    GroupId, GroupLink, Impairments, Pipe,
    impair::{IMPAIR_KEYS, keys_with_impairments},
    reader::{Field, Record},
    sections::Groups,
    units,
};

/// Keys of an entry of `latencies`.
pub(super) const LINK_KEYS: &[&str] =
    keys_with_impairments!(["between", "from", "to", "latency", "rate", "queue"], []);
/// Keys of `latency_matrix`.
pub(super) const MATRIX_KEYS: &[&str] = &["groups", "rows"];

/// Reads both sections.
pub(super) fn links(record: &Record<'_>, groups: &Groups<'_>, own: &[&str]) -> Vec<GroupLink> {
    let mut links = Links::default();
    if let Some(list) = record.get("latencies").and_then(|f| f.list()) {
        for entry in list {
            if let Some(link) = read_link(&entry, groups, own) {
                links.add(link, &entry);
            }
        }
    }
    if let Some(section) = record.get("latency_matrix") {
        read_matrix(&section, groups, &mut links);
    }
    links.list
}

/// Links, with the line of the file for each directed pair, to detect duplicates.
#[derive(Default)]
struct Links {
    list: Vec<GroupLink>,
    lines: HashMap<(GroupId, GroupId), u32>,
}

impl Links {
    fn add(&mut self, link: GroupLink, field: &Field<'_>) {
        let there = (link.a, link.b);
        let back = (!link.one_way && link.a != link.b).then_some((link.b, link.a));
        let first = [Some(there), back]
            .into_iter()
            .flatten()
            .find_map(|pair| self.lines.get(&pair));
        if let Some(line) = first {
            field.report(
                field
                    .problem("this pair of groups already has a latency")
                    .hint(format!("the first one is in line {line}")),
            );
            return;
        }
        let line = field.at().line;
        self.lines.insert(there, line);
        if let Some(back) = back {
            self.lines.insert(back, line);
        }
        self.list.push(link);
    }
}

fn read_link(entry: &Field<'_>, groups: &Groups<'_>, own: &[&str]) -> Option<GroupLink> {
    let record = entry.record(LINK_KEYS)?;
    // A link may exist for its loss or its capacity alone.
    let says_more = IMPAIR_KEYS
        .iter()
        .chain(&["rate"])
        .any(|key| record.get(key).is_some());
    let latency = if says_more && record.get("latency").is_none() {
        Some(Duration::ZERO)
    } else {
        record
            .need("latency", "100ms")
            .and_then(|f| f.unit(units::time))
    };
    let mut impairments = Impairments::default();
    impairments.read(&record, own);
    let rate = record.get("rate").and_then(|f| f.unit(units::rate));
    let queue = record.get("queue").and_then(|f| f.unit(units::queue));
    for key in ["queue", "aqm"] {
        if let (Some(field), None) = (record.get(key), record.get("rate")) {
            field.report(
                field
                    .problem("a link without a rate has no queue")
                    .hint(format!("add `rate: 100mbit`, or leave `{key}` out")),
            );
        }
    }
    let (between, from, to) = (record.get("between"), record.get("from"), record.get("to"));
    let (a, b, one_way) = match (between, from, to) {
        (Some(between), None, None) => {
            let ends = between.list()?;
            let [a, b] = &ends[..] else {
                between.report(
                    between
                        .problem(format!(
                            "expected two groups in `between`, found {}",
                            ends.len()
                        ))
                        .expected("two groups, as in `between: [a, b]`"),
                );
                return None;
            };
            (groups.resolve(a), groups.resolve(b), false)
        }
        (None, Some(from), Some(to)) => (groups.resolve(&from), groups.resolve(&to), true),
        _ => {
            entry.report(
                entry
                    .problem("the ends of the link are not clear")
                    .expected("`between: [a, b]` for both directions, or `from: a` and `to: b`"),
            );
            return None;
        }
    };
    Some(GroupLink {
        a: a?,
        b: b?,
        one_way,
        latency: latency?,
        impairments,
        rate,
        queue: queue.unwrap_or(Pipe::default().queue),
    })
}

fn read_matrix(section: &Field<'_>, groups: &Groups<'_>, links: &mut Links) -> Option<()> {
    let record = section.record(MATRIX_KEYS)?;
    let names = record.need("groups", "[a, b]")?.list()?;
    let ids: Vec<Option<GroupId>> = names.iter().map(|f| groups.resolve(f)).collect();
    let rows_field = record.need("rows", "[[0ms, 20ms], [20ms, 0ms]]")?;
    let rows = rows_field.list()?;
    if rows.len() != ids.len() {
        rows_field.report(
            rows_field
                .problem(format!(
                    "the matrix has {} rows for {} groups",
                    rows.len(),
                    ids.len()
                ))
                .expected(format!("{} rows of {} latencies", ids.len(), ids.len())),
        );
        return None;
    }
    for (row, from) in rows.iter().zip(&ids) {
        let Some(cells) = row.list() else { continue };
        if cells.len() != ids.len() {
            row.report(
                row.problem(format!(
                    "the row has {} latencies for {} groups",
                    cells.len(),
                    ids.len()
                ))
                .expected(format!("{} latencies", ids.len())),
            );
            continue;
        }
        for (cell, to) in cells.into_iter().zip(&ids) {
            if let (Some(latency), Some(a), Some(b)) = (cell.unit(units::time), *from, *to) {
                let link = GroupLink {
                    a,
                    b,
                    one_way: true,
                    latency,
                    impairments: Impairments::default(),
                    rate: None,
                    queue: Pipe::default().queue,
                };
                links.add(link, &cell);
            }
        }
    }
    Some(())
}
