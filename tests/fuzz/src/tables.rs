//! Files of numbers that a topology or an experiment names.
use std::{io::Write, path::Path, time::Duration};

use emu_model::{plan, recording::Recording};

use crate::text;

/// Gives a reader of files the bytes as a file.
fn with_file(data: &[u8], read: impl FnOnce(&Path)) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(data).unwrap();
    read(file.path());
}

/// The errors about a file name the line, and nothing of a content that others may not see.
fn check_error(error: &str, data: &[u8]) {
    let Some(text) = text(data) else { return };
    for word in text.split_whitespace().filter(|word| word.len() > 16) {
        assert!(!error.contains(word), "{error:?} tells the content");
    }
}

/// A recording: delivery opportunities, or a table of rates, latencies and losses.
pub fn recording(data: &[u8]) {
    with_file(data, |path| {
        let window = Duration::from_millis(100);
        let recording = match Recording::read(path, window) {
            Ok(recording) => recording,
            Err(error) => return check_error(&error.to_string(), data),
        };
        let rows = &recording.rows;
        assert_eq!(rows.first().map(|row| row.at), Some(Duration::ZERO));
        assert!(rows.is_sorted_by(|a, b| a.at < b.at));
        assert!(rows.last().is_some_and(|row| row.at <= recording.end));
        for loops in [false, true] {
            for seconds in [0.0, 0.05, 1.0, 1e6] {
                let now = Duration::from_secs_f64(seconds);
                let (row, next) = recording.row(now, loops);
                assert!(row < rows.len() && next.is_none_or(|next| next > now));
            }
        }
    });
}

/// A distribution of jitter.
pub fn distribution(data: &[u8]) {
    with_file(data, |path| match plan::read_distribution(path) {
        Ok(table) => assert!(!table.is_empty() && table.iter().all(|v| v.is_finite())),
        Err(error) => check_error(&error.to_string(), data),
    });
}
