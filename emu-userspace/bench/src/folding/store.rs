//! Runs in a folder: each ratio has a folder of its own, so that several calls, also at
//! the same time and on several machines, make one report.
use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{Run, Settings, curves::Curve};
use crate::BenchError;

/// A finished run's figures.
const FILE: &str = "run.json";
/// What all clients, and each of them, had received at a time.
pub const TABLE: &str = "received.csv";

/// What [`FILE`] holds.
#[derive(Serialize, Deserialize)]
struct Record {
    settings: Settings,
    run: Run,
}

/// Writes a run into its folder.
pub fn write(folder: &Path, settings: &Settings, run: &Run) -> io::Result<()> {
    let record = Record {
        settings: settings.clone(),
        run: run.clone(),
    };
    fs::write(folder.join(FILE), serde_json::to_string_pretty(&record)?)
}

/// All finished runs below a folder, by ratio; none if there is no folder.
///
/// # Errors
/// [`BenchError::OtherSettings`] if a run is of another swarm than these settings describe.
pub fn read(folder: &Path, settings: &Settings) -> Result<Vec<Run>, BenchError> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let own = entry.path();
        let Ok(text) = fs::read_to_string(own.join(FILE)) else {
            continue;
        };
        let record: Record = serde_json::from_str(&text)
            .map_err(io::Error::other)
            .map_err(BenchError::system(&format!("read {}", own.display())))?;
        if record.settings != *settings {
            return Err(BenchError::OtherSettings { folder: own });
        }
        let mut run = record.run;
        let table = fs::read_to_string(own.join(TABLE))
            .map_err(BenchError::system(&format!("read {}", own.display())))?;
        run.received = received(&table);
        runs.push(run);
    }
    runs.sort_by_key(|run| (run.ratio, run.again));
    Ok(runs)
}

/// The first two columns of a table: the time, and what all clients had.
fn received(table: &str) -> Curve {
    let point = |line: &str| {
        let mut cells = line.split(',').map(str::parse);
        Some((cells.next()?.ok()?, cells.next()?.ok()?))
    };
    table.lines().filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_several_calls_are_read_together() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings::quick();
        assert!(read(folder.path(), &settings).unwrap().is_empty());
        for (name, ratio, again) in [("b", 8, 0), ("a", 1, 1), ("c", 1, 0)] {
            let own = folder.path().join(name);
            fs::create_dir(&own).unwrap();
            let mut run = Run::new(&settings, ratio);
            run.again = again;
            write(&own, &settings, &run).unwrap();
            fs::write(
                own.join(TABLE),
                "time_s,received_bytes,a\n0.5,1,1\n1.5,7,7\n",
            )
            .unwrap();
        }
        // One that is still running has no figures yet.
        fs::create_dir(folder.path().join("d")).unwrap();
        let runs = read(folder.path(), &settings).unwrap();
        let order: Vec<_> = runs.iter().map(|run| (run.ratio, run.again)).collect();
        assert_eq!(order, [(1, 0), (1, 1), (8, 0)]);
        assert_eq!(runs[0].received, [(0.5, 1.0), (1.5, 7.0)]);

        let others = Settings {
            clients: 3,
            ..settings
        };
        let refused = read(folder.path(), &others).unwrap_err();
        assert!(matches!(refused, BenchError::OtherSettings { .. }));
    }
}
