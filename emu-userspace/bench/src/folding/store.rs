//! Storage of runs: each ratio has a folder of its own, so that several calls, also in
//! parallel and on several machines, contribute to one report.
use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{Run, Settings, curves::Curve};
use crate::BenchError;

/// Name of the file with the results of a finished run.
const FILE: &str = "run.json";
/// Name of the table of received bytes against time, of all clients together and of each
/// client.
pub const TABLE: &str = "received.csv";

/// Contents of [`FILE`].
#[derive(Serialize, Deserialize)]
struct FinishedRun {
    settings: Settings,
    run: Run,
}

/// Writes a finished run into its folder.
pub fn write(folder: &Path, settings: &Settings, run: &Run) -> io::Result<()> {
    let record = FinishedRun {
        settings: settings.clone(),
        run: run.clone(),
    };
    fs::write(folder.join(FILE), serde_json::to_string_pretty(&record)?)
}

/// All finished runs below a folder, ordered by ratio; empty if the folder does not exist.
///
/// # Errors
/// [`BenchError::OtherSettings`] if a run was made with different swarm settings.
pub fn read(folder: &Path, settings: &Settings) -> Result<Vec<Run>, BenchError> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let own = entry.path();
        let Ok(text) = fs::read_to_string(own.join(FILE)) else {
            continue;
        };
        let record: FinishedRun = serde_json::from_str(&text)
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

/// The first two columns of a table: the time, and the bytes that all clients received.
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
        // A run in progress has no results yet.
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
