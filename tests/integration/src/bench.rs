//! Running the benches at their quick sizes, and checking their verdicts.
use std::path::Path;

use serde_json::Value;

use crate::command::try_emu;

/// Results of `emu bench …`, and the folder of its report.
///
/// # Panics
/// If the output is not JSON.
pub fn bench(arguments: &str) -> (Value, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().display();
    let output = try_emu(&format!("bench {arguments} --quick --json --out {out}"));
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let data = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{errors}"));
    (data, folder)
}

/// Checks the verdicts: a failed one is an error, and an undecided one is printed. Verdicts
/// whose text begins with `except` are about a time that depends on the machine, and may
/// fail.
///
/// # Panics
/// If a verdict failed.
#[expect(clippy::print_stdout, reason = "what a test measured")]
pub fn held(data: &Value, except: &str) {
    for entry in data["verdicts"].as_array().unwrap() {
        let (verdict, text) = (entry[0].as_str().unwrap(), entry[1].as_str().unwrap());
        println!("{verdict}: {text}");
        if verdict == "undecided" {
            println!("SKIPPED: {text}");
        }
        let is_time = !except.is_empty() && text.starts_with(except);
        assert!(verdict != "fails" || is_time, "{text}");
    }
}

/// Checks that the report and its figures were written.
///
/// # Panics
/// If a file is missing.
pub fn files(folder: &Path, name: &str, figures: &[&str]) {
    let html = std::fs::read_to_string(folder.join(format!("{name}.html"))).unwrap();
    assert_eq!(html.matches("<svg").count(), figures.len(), "{name}");
    for figure in figures {
        let png = std::fs::read(folder.join(format!("{name}-{figure}.png"))).unwrap();
        assert!(png.starts_with(b"\x89PNG") && png.len() > 5_000, "{figure}");
    }
}
