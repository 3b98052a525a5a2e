//! Recordings, applied as settings that change over time: mahimahi's delivery opportunities
//! and tables of rate, latency and loss.
use std::{io, path::PathBuf, time::Duration};

use emu_common::layout::Direction;
use emu_model::{
    input,
    topology::{
        self, AccessLinkChange, Chance, EventTarget, Loss, PipeChange, Probability, Rate, Side,
        Trace,
    },
};

use super::{Changed, Live, LiveError};
use crate::user;

/// Bits of one delivery opportunity of mahimahi.
const OPPORTUNITY_BITS: u64 = 1_500 * 8;
/// Largest file that is read.
const MOST_BYTES: u64 = 256 << 20;

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be read.
    #[error("read the trace {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A line of it is wrong.
    #[error("{}:{line}: {detail}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        detail: String,
    },
    /// The recording has rates, and the link has no capacity.
    #[error(
        "the trace {} has rates, and the link between {a} and {b} has no capacity of its own; \
         give it one in `latencies`, as in `rate: 10gbit`: the initial capacity",
        path.display()
    )]
    Capacity {
        path: PathBuf,
        /// One end of the link.
        a: String,
        b: String,
    },
}

/// Settings from a time onwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    at: Duration,
    change: PipeChange,
}

/// A recording, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recording {
    trace: Trace,
    rows: Vec<Row>,
    /// Time of its end, or of its repetition.
    end: Duration,
}

/// Reads all recordings of a topology, to report errors early.
///
/// # Errors
/// [`TraceError`] of the first invalid one.
pub fn check(topology: &topology::Topology) -> Result<(), TraceError> {
    let ways = topology.pair_links();
    for trace in &topology.traces {
        let recording = Recording::read(trace)?;
        let has_rates = recording.rows.iter().any(|row| row.change.rate.is_some());
        if let EventTarget::Link((a, b), one_way) = trace.target
            && has_rates
            && topology.capacity_fault(&ways, (a, b), one_way).is_some()
        {
            let name = |group: topology::GroupId| topology.groups[group].name.clone();
            return Err(TraceError::Capacity {
                path: trace.file.clone(),
                a: name(a).into(),
                b: name(b).into(),
            });
        }
    }
    Ok(())
}

impl Recording {
    pub fn read(trace: &Trace) -> Result<Self, TraceError> {
        let error = |source| TraceError::Read {
            path: trace.file.clone(),
            source,
        };
        let read = || input::text(&trace.file, MOST_BYTES);
        let text = user::as_caller(read).map_err(|e| error(io::Error::other(e)))?;
        let text = text.map_err(error)?;
        let (rows, end) =
            parse(&text, trace.window).map_err(|(line, detail)| TraceError::Line {
                path: trace.file.clone(),
                line,
                detail,
            })?;
        Ok(Self {
            trace: trace.clone(),
            rows,
            end,
        })
    }

    /// Earliest start, since the start of the clock.
    pub fn at(&self) -> Duration {
        self.trace.at
    }

    /// Whether it waits for the first packet of its target.
    pub fn waits(&self) -> bool {
        self.trace.waits
    }

    /// Packets that its target's pipes have accepted.
    pub fn packets(&self, live: &Live) -> u64 {
        let EventTarget::AccessLink(target) = self.trace.target else {
            return 0;
        };
        let sides: &[Direction] = match self.trace.side {
            Side::Both => &[Direction::Up, Direction::Down],
            Side::Up => &[Direction::Up],
            Side::Down => &[Direction::Down],
        };
        let vnodes = live.vnodes(target).unwrap_or_default();
        vnodes
            .iter()
            .flat_map(|vnode| sides.iter().map(|side| live.index(*vnode, *side)))
            .filter_map(|index| live.maps.pipes.get(index as usize))
            .map(|pipe| pipe.packets)
            .sum()
    }

    /// The row at a time since the start, and the due time of the next; `None` if there is no
    /// next.
    pub fn row(&self, now: Duration) -> (usize, Option<Duration>) {
        let round = if self.trace.loops {
            let nanoseconds = now.as_nanos() / self.end.as_nanos() * self.end.as_nanos();
            Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
        } else {
            Duration::ZERO
        };
        let after = self.rows.partition_point(|row| row.at <= now - round);
        let next = match self.rows.get(after) {
            // In a repeated recording the last row only marks the end.
            Some(row) if !self.trace.loops || row.at < self.end => Some(round + row.at),
            _ if self.trace.loops => Some(round + self.end),
            _ => None,
        };
        (after.saturating_sub(1), next)
    }

    /// Enlarges fq for the slowest rate and the longest latency.
    pub fn reserve(&self, live: &mut Live) -> Result<(), LiveError> {
        let changes = || self.rows.iter().map(|row| row.change);
        let mut worst = changes().next().unwrap_or_default();
        worst.rate = changes().filter_map(|c| c.rate).min_by_key(|r| {
            // An unlimited pipe delays nothing.
            r.map_or(u64::MAX, |r| r.0)
        });
        worst.latency = changes().filter_map(|c| c.latency).max();
        match self.trace.target {
            EventTarget::AccessLink(target) => live.reserve_line(target, &self.line(worst)),
            EventTarget::Link(ends, one_way) => live.reserve_pair(ends, one_way, &worst),
        }
    }

    /// Applies the settings of a row.
    pub fn put(&self, live: &mut Live, row: usize) -> Result<Changed, LiveError> {
        let change = self.rows[row].change;
        match self.trace.target {
            EventTarget::AccessLink(target) => live.change_line(target, &self.line(change), false),
            EventTarget::Link(ends, one_way) => live.change_pair(ends, one_way, &change, false),
        }
    }

    fn line(&self, change: PipeChange) -> AccessLinkChange {
        let none = PipeChange::default();
        let (up, down) = match self.trace.side {
            Side::Both => (change, change),
            Side::Up => (change, none),
            Side::Down => (none, change),
        };
        AccessLinkChange { up, down }
    }
}

type Parsed = Result<(Vec<Row>, Duration), (usize, String)>;

/// Parses a table if the first line names columns, otherwise delivery opportunities.
fn parse(text: &str, window: Duration) -> Parsed {
    let mut lines = text
        .lines()
        .enumerate()
        .map(|(i, line)| (i + 1, line.split('#').next().unwrap_or("").trim()))
        .filter(|(_, line)| !line.is_empty())
        .peekable();
    match lines.peek() {
        None => Err((1, "the trace is empty".to_owned())),
        Some((_, first)) if first.starts_with("time") => table(lines),
        Some(_) => opportunities(lines, window),
    }
}

/// One opportunity per line to deliver 1500 bytes, in milliseconds. Counted in windows; a
/// window without any is merged with the next, since a pipe with a rate of zero would never
/// release a packet.
fn opportunities<'a>(lines: impl Iterator<Item = (usize, &'a str)>, window: Duration) -> Parsed {
    let mut counts: Vec<u64> = Vec::new();
    let (mut last_ms, mut last_line) = (0u64, 1);
    for (line, text) in lines {
        let Ok(ms) = text.parse::<u64>() else {
            return Err((line, "not a whole number of milliseconds".to_owned()));
        };
        if ms < last_ms || ms > 86_400_000 {
            return Err((
                line,
                "the time is earlier than in the line above, or over a day".to_owned(),
            ));
        }
        (last_ms, last_line) = (ms, line);
        // An opportunity at the end of a window belongs to that window.
        let at = Duration::from_millis(ms.saturating_sub(1));
        let index = (at.as_nanos() / window.as_nanos()) as usize;
        counts.resize(counts.len().max(index + 1), 0);
        counts[index] += 1;
    }
    if last_ms == 0 {
        return Err((last_line, "the trace ends at 0 ms".to_owned()));
    }
    let end = Duration::from_millis(last_ms);
    let mut rows = Vec::new();
    let mut first = 0;
    for (index, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let start = window * first as u32;
        let time = (window * (index as u32 + 1)).min(end) - start;
        let bits = (count * OPPORTUNITY_BITS) as f64 / time.as_secs_f64();
        rows.push(Row {
            at: start,
            change: PipeChange {
                rate: Some(Some(Rate(bits.round() as u64))),
                ..PipeChange::default()
            },
        });
        first = index + 1;
    }
    Ok((rows, end))
}

/// Columns `time`, and some of `rate`, `latency` and `loss`, with units as in a
/// topology.
fn table<'a>(mut lines: impl Iterator<Item = (usize, &'a str)>) -> Parsed {
    let (line, header) = lines.next().unwrap_or((1, "time"));
    let columns: Vec<&str> = header.split(',').map(str::trim).collect();
    for (i, column) in columns.iter().enumerate() {
        if !["time", "rate", "latency", "loss"].contains(column) || columns[..i].contains(column) {
            return Err((
                line,
                format!(
                    "column {} is not one of time, rate, latency, loss, or is repeated",
                    i + 1
                ),
            ));
        }
    }
    if columns.len() < 2 {
        return Err((line, "there is no column except the time".to_owned()));
    }
    let mut rows: Vec<Row> = Vec::new();
    let mut last = line;
    for (line, text) in lines {
        let cells: Vec<&str> = text.split(',').map(str::trim).collect();
        if cells.len() != columns.len() {
            return Err((
                line,
                format!("{} values for {} columns", cells.len(), columns.len()),
            ));
        }
        let mut row = Row {
            at: Duration::ZERO,
            change: PipeChange::default(),
        };
        for (column, cell) in columns.iter().zip(cells) {
            put(&mut row, column, cell)
                .map_err(|e| (line, format!("the {column}: expected {}", e.expected)))?;
        }
        match rows.last() {
            None if !row.at.is_zero() => {
                return Err((line, "the first row must be at 0s".to_owned()));
            }
            Some(before) if before.at >= row.at => {
                return Err((
                    line,
                    "the time is not later than in the row above".to_owned(),
                ));
            }
            _ => rows.push(row),
        }
        last = line;
    }
    match rows.last() {
        Some(row) if !row.at.is_zero() => {
            let end = row.at;
            Ok((rows, end))
        }
        _ => Err((last, "a trace needs two rows or more".to_owned())),
    }
}

fn put(row: &mut Row, column: &str, cell: &str) -> Result<(), topology::UnitError> {
    match column {
        "time" => row.at = topology::time(cell)?,
        "rate" => row.change.rate = Some(Some(topology::rate(cell)?)),
        "latency" => row.change.latency = Some(topology::time(cell)?),
        _ => {
            row.change.impairments.loss = Some(Loss::Random(Chance {
                chance: topology::probability(cell)?,
                correlation: Probability::default(),
            }));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_millis(100);

    fn rates(text: &str) -> Vec<(u64, u64)> {
        let (rows, _) = parse(text, WINDOW).unwrap();
        rows.iter()
            .map(|row| {
                (
                    row.at.as_millis() as u64,
                    row.change.rate.unwrap().unwrap().0,
                )
            })
            .collect()
    }

    #[test]
    fn opportunities_become_rates_and_gaps_are_joined() {
        // Ten in the first 100 ms, none in the next 200, one then.
        let mut text = String::new();
        for ms in 1..=10 {
            text += &format!("{}\n", ms * 10);
        }
        text += "400\n";
        assert_eq!(rates(&text), [(0, 1_200_000), (100, 40_000)]);
        // The bits of all rows are those of all lines.
        let (_, end) = parse(&text, WINDOW).unwrap();
        let bits = 1_200_000.0 * 0.1 + 40_000.0 * 0.3;
        assert!((bits - 11.0 * 12_000.0f64).abs() < 1e-6);
        assert_eq!(end, Duration::from_millis(400));
    }

    #[test]
    fn tables_have_units_and_mistakes_have_lines() {
        let text = "time, rate, latency, loss\n0s, 1mbit, 40ms, 0%\n1.5s, 2mbit, 50ms, 1%\n";
        let (rows, end) = parse(text, WINDOW).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(end, Duration::from_millis(1500));
        assert_eq!(rows[1].change.latency, Some(Duration::from_millis(50)));
        for (text, line, word) in [
            ("", 1, "empty"),
            ("time,speed\n", 1, "column 2"),
            ("time,rate\n0s,5\n", 2, "the rate: expected"),
            ("time,rate\n0s,5kbit\n0s,6kbit\n", 3, "not later"),
            ("time,rate\n1s,5kbit\n", 2, "first row"),
            ("time,rate\n0s,5kbit\n", 2, "two rows"),
            ("time,rate\n0s\n", 2, "1 values for 2"),
            ("5\nx\n", 2, "not a whole number"),
            ("5\n4\n", 2, "earlier"),
        ] {
            let (at, detail) = parse(text, WINDOW).unwrap_err();
            assert!(
                at == line && detail.contains(word),
                "{text:?}: {at}: {detail}"
            );
        }
    }

    #[test]
    fn rows_follow_the_clock_once_or_in_rounds() {
        let text = "time,latency\n0s,1ms\n1s,2ms\n3s,3ms\n";
        let (rows, end) = parse(text, WINDOW).unwrap();
        let trace = |loops| Recording {
            trace: Trace {
                file: PathBuf::new(),
                target: EventTarget::Link((0, 0), false),
                side: Side::Both,
                at: Duration::ZERO,
                waits: false,
                loops,
                window: WINDOW,
            },
            rows: rows.clone(),
            end,
        };
        let s = Duration::from_secs;
        assert_eq!(trace(false).row(s(0)), (0, Some(s(1))));
        assert_eq!(trace(false).row(s(2)), (1, Some(s(3))));
        assert_eq!(trace(false).row(s(3)), (2, None));
        assert_eq!(trace(true).row(s(2)), (1, Some(s(3))));
        assert_eq!(trace(true).row(s(3)), (0, Some(s(4))));
        assert_eq!(trace(true).row(s(10)), (1, Some(s(12))));
    }
}
