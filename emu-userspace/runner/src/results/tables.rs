//! Merges the tables of several hosts into one, with a column for the host, in order of time.
use std::cmp::Ordering;

use emu_kernel::beneath::Folder;

use super::{HostResults, MOST_BYTES, MergeError};

/// Tables of a run, and the columns by which their rows are ordered.
pub(super) const TABLES: [(&str, &[&str]); 3] = [
    ("processes.csv", &["start_s", "vnode", "program"]),
    ("counters.csv", &["time_s", "vnode"]),
    ("events.csv", &["at_s"]),
];

/// A field of a row's sort key; numbers come before texts.
#[derive(Debug)]
enum SortKey {
    Number(f64),
    HostStatus(String),
}

impl SortKey {
    fn new(text: &str) -> Self {
        match text.parse::<f64>() {
            Ok(number) => SortKey::Number(number),
            Err(_) => SortKey::HostStatus(text.to_owned()),
        }
    }

    /// A total order, also for fields that are not numbers.
    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (SortKey::Number(a), SortKey::Number(b)) => a.total_cmp(b),
            (SortKey::HostStatus(a), SortKey::HostStatus(b)) => a.cmp(b),
            (SortKey::Number(_), SortKey::HostStatus(_)) => Ordering::Less,
            (SortKey::HostStatus(_), SortKey::Number(_)) => Ordering::Greater,
        }
    }
}

fn compare(a: &[SortKey], b: &[SortKey]) -> Ordering {
    let mut unequal = a.iter().zip(b).map(|(a, b)| a.order(b));
    unequal.find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
}

/// Merges one table; writes none if no host has it.
pub(super) fn merge(
    parts: &[HostResults],
    name: &str,
    order: &[&str],
    out: &Folder,
) -> Result<(), MergeError> {
    let mut header: Option<csv::StringRecord> = None;
    let mut rows: Vec<(Vec<SortKey>, csv::StringRecord)> = Vec::new();
    for part in parts {
        let path = part.folder.path().join(name);
        let Ok(text) = part.folder.read(name, MOST_BYTES) else {
            continue;
        };
        // The last row of a host that died may be truncated.
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
            let key = places.iter().map(|at| SortKey::new(&record[*at])).collect();
            let row = [part.host.as_str()].into_iter().chain(record.iter());
            rows.push((key, row.collect()));
        }
    }
    let Some(header) = header else {
        return Ok(());
    };
    rows.sort_by(|(a, _), (b, _)| compare(a, b));
    let path = out.path().join(name);
    let failed = |e: csv::Error| MergeError::system("write", &path)(std::io::Error::other(e));
    let file = out
        .create(name)
        .map_err(MergeError::system("make", &path))?;
    let mut writer = csv::Writer::from_writer(file);
    let header = ["host"].into_iter().chain(header.iter());
    writer.write_record(header).map_err(failed)?;
    for (_, row) in rows {
        writer.write_record(&row).map_err(failed)?;
    }
    writer.flush().map_err(MergeError::system("write", &path))
}
