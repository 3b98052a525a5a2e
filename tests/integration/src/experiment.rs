//! Running the ready-made experiments in `experiments/`.
use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::command::emu_command;

/// Results of an experiment.
pub struct Results {
    /// Temporary folder; the results are in `out` below it.
    pub folder: tempfile::TempDir,
    /// Parsed `summary.json` of the run.
    pub summary: Value,
}

/// Runs an experiment to completion; every program must succeed.
///
/// # Panics
/// If a program failed.
#[expect(clippy::print_stdout, reason = "what a test measured")]
pub fn run(name: &str) -> Results {
    let folder = tempfile::tempdir().unwrap();
    let file = format!(
        "{}/../../experiments/{name}.yaml",
        env!("CARGO_MANIFEST_DIR")
    );
    let output = emu_command("run --json --out")
        .arg(folder.path().join("out"))
        .arg(file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}{errors}");
    let summary: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(summary["ended"], "complete", "{summary}");
    assert_eq!(summary["failed"], 0, "{summary}");
    println!(
        "{name}: {} programs in {:.1} s, processors {:.0} % busy",
        summary["processes"],
        summary["run_s"].as_f64().unwrap(),
        summary["host_health"]["busy"].as_f64().unwrap() * 100.0
    );
    Results { folder, summary }
}

impl Results {
    /// Standard output of each process of a program.
    ///
    /// # Panics
    /// If there are no results.
    pub fn printed(&self, program: &str) -> Vec<String> {
        let vnodes = self.folder.path().join("out/vnodes");
        let folders = fs::read_dir(vnodes).unwrap().flatten();
        let files = folders.map(|vnode| vnode.path().join(program).join("stdout"));
        files
            .filter_map(|file| fs::read_to_string(file).ok())
            .collect()
    }

    /// Rows of a table of the results, without its header.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn table(&self, name: &str) -> Vec<Vec<String>> {
        let file: PathBuf = self.folder.path().join("out").join(name);
        let text = fs::read_to_string(file).unwrap();
        let rows = text.lines().skip(1);
        rows.map(|row| row.split(',').map(str::to_owned).collect())
            .collect()
    }
}
