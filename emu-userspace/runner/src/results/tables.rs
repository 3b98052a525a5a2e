//! The tables of several hosts in one, each row with its host, in the order of time.
use std::{fs, path::Path};

use super::{MergeError, Part};

/// Tables of a run, and the columns that order their rows.
pub(super) const TABLES: [(&str, &[&str]); 3] = [
    ("processes.csv", &["start_s", "vnode", "program"]),
    ("counters.csv", &["time_s", "vnode"]),
    ("events.csv", &["at_s"]),
];

/// A part of a row's place in the order: a number if it is one.
#[derive(Debug, PartialEq, PartialOrd)]
enum Key {
    Number(f64),
    Word(String),
}

impl Key {
    fn new(text: &str) -> Self {
        match text.parse::<f64>() {
            Ok(number) => Key::Number(number),
            Err(_) => Key::Word(text.to_owned()),
        }
    }
}

/// Merges one table; there is none if no part has it.
pub(super) fn merge(
    parts: &[Part],
    name: &str,
    order: &[&str],
    out: &Path,
) -> Result<(), MergeError> {
    let mut header: Option<csv::StringRecord> = None;
    let mut rows: Vec<(Vec<Key>, csv::StringRecord)> = Vec::new();
    for part in parts {
        let path = part.folder.join(name);
        let Ok(text) = fs::read(&path) else {
            continue;
        };
        // The last row of a host that died may be cut off.
        let whole = text
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        let bad = |what: String| MergeError::Bad {
            path: path.clone(),
            what,
        };
        let mut reader = csv::Reader::from_reader(&text[..whole]);
        let own = reader.headers().map_err(|e| bad(e.to_string()))?.clone();
        if own.is_empty() {
            continue;
        }
        let known = header.get_or_insert_with(|| own.clone());
        if *known != own {
            return Err(bad("its columns are others than those before".to_owned()));
        }
        let places: Vec<usize> = order
            .iter()
            .filter_map(|column| own.iter().position(|c| c == *column))
            .collect();
        for record in reader.records() {
            let record = record.map_err(|e| bad(e.to_string()))?;
            let key = places.iter().map(|at| Key::new(&record[*at])).collect();
            let row = [part.host.as_str()].into_iter().chain(record.iter());
            rows.push((key, row.collect()));
        }
    }
    let Some(header) = header else {
        return Ok(());
    };
    rows.sort_by(|(a, _), (b, _)| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    let path = out.join(name);
    let failed = |e: csv::Error| MergeError::system("write", &path)(std::io::Error::other(e));
    let mut writer = csv::Writer::from_path(&path).map_err(failed)?;
    let header = ["host"].into_iter().chain(header.iter());
    writer.write_record(header).map_err(failed)?;
    for (_, row) in rows {
        writer.write_record(&row).map_err(failed)?;
    }
    writer.flush().map_err(MergeError::system("write", &path))
}
