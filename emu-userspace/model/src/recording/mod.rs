//! Recordings that traces follow: mahimahi's delivery opportunities and tables of rate, latency
//! and loss.
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    input,
    topology::{self, Chance, Loss, PipeChange, Probability, Rate},
};

/// Bits of one delivery opportunity of mahimahi.
const OPPORTUNITY_BITS: u64 = 1_500 * 8;
/// Largest file that is read.
const MOST_BYTES: u64 = 256 << 20;

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be read.
    #[error("read the trace {}: {source}", path.display())]
    Read {
        /// File.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// A line of it is wrong.
    #[error("{}:{line}: {detail}", path.display())]
    Line {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong with it.
        detail: String,
    },
    /// It has too many rows, or too much can be transmitted in it.
    #[error("{}: {detail}", path.display())]
    Whole {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// Settings from a time onwards. A rate of 0 bit/s is an outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordingRow {
    /// Time since the start of the recording.
    pub at: Duration,
    /// The settings.
    pub change: PipeChange,
}

/// A recording, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recording {
    /// In the order of time, the first at 0.
    pub rows: Vec<RecordingRow>,
    /// Time of its end, or of its repetition.
    pub end: Duration,
}

impl Recording {
    /// Reads a file; `window` is the time over which delivery opportunities are counted.
    ///
    /// # Errors
    /// [`RecordingError`].
    pub fn read(path: &Path, window: Duration) -> Result<Self, RecordingError> {
        let text = input::text(path, MOST_BYTES).map_err(|source| RecordingError::Read {
            path: path.to_owned(),
            source,
        })?;
        let (rows, end) = parse(&text, window).map_err(|(line, detail)| RecordingError::Line {
            path: path.to_owned(),
            line,
            detail,
        })?;
        Ok(Self { rows, end })
    }

    /// Whether its rows have rates.
    pub fn has_rates(&self) -> bool {
        self.rows.iter().any(|row| row.change.rate.is_some())
    }

    /// Whether its rows have latencies.
    pub fn has_latencies(&self) -> bool {
        self.rows.iter().any(|row| row.change.latency.is_some())
    }

    /// Whether its rows have losses.
    pub fn has_losses(&self) -> bool {
        self.rows
            .iter()
            .any(|row| row.change.impairments.loss.is_some())
    }

    /// The row at a time since the start, and the due time of the next; `None` if there is no
    /// next.
    pub fn row(&self, now: Duration, loops: bool) -> (usize, Option<Duration>) {
        let round = if loops {
            let nanoseconds = now.as_nanos() / self.end.as_nanos() * self.end.as_nanos();
            Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
        } else {
            Duration::ZERO
        };
        let after = self.rows.partition_point(|row| row.at <= now - round);
        let next = match self.rows.get(after) {
            // In a repeated recording the last row only marks the end.
            Some(row) if !loops || row.at < self.end => Some(round + row.at),
            _ if loops => Some(round + self.end),
            _ => None,
        };
        (after.saturating_sub(1), next)
    }
}

type Parsed = Result<(Vec<RecordingRow>, Duration), (usize, String)>;

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
/// window without any is merged with the next one, as the link's owner would not notice it.
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
        rows.push(RecordingRow {
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
    let mut rows: Vec<RecordingRow> = Vec::new();
    let mut last = line;
    for (line, text) in lines {
        let cells: Vec<&str> = text.split(',').map(str::trim).collect();
        if cells.len() != columns.len() {
            return Err((
                line,
                format!("{} values for {} columns", cells.len(), columns.len()),
            ));
        }
        let mut row = RecordingRow {
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

fn put(row: &mut RecordingRow, column: &str, cell: &str) -> Result<(), topology::UnitError> {
    match column {
        "time" => row.at = topology::time(cell)?,
        "rate" if is_zero(cell) => row.change.rate = Some(Some(Rate(0))),
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

/// Whether a rate is 0, with or without a unit: an outage.
fn is_zero(cell: &str) -> bool {
    let number = cell.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    ["", "bit", "kbit", "mbit", "gbit"].contains(&&cell[number.len()..])
        && number.trim().parse() == Ok(0.0f64)
}

#[cfg(test)]
mod tests;
