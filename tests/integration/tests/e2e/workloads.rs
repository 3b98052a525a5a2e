//! The measurements with real programs: folding, fairness, scale.
use std::path::PathBuf;

use integration::{command::emu_command, netns::isolated};
use serde_json::Value;

/// Runs a measurement; what it says, whatever its status. Its report must be there.
fn bench(name: &str, further: &str) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let output = emu_command(&format!("bench {name} --json {further} --out"))
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let report = folder.path().join(format!("bench-{name}.html"));
    assert!(report.exists(), "no report: {said}{errors}");
    serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {said}{errors}"))
}

/// What the machine did not keep up with in any run.
fn limits(runs: &[Value]) -> Vec<String> {
    let words = |run: &Value| {
        let limits = run["host_health"]["limits"].as_array().unwrap();
        limits.iter().map(Value::to_string).collect::<Vec<_>>()
    };
    runs.iter().flat_map(words).collect()
}

#[test]
fn folding_six_hosts_into_one_changes_nothing() {
    isolated(|| {
        let report = bench("folding", "--clients 6 --size 512 --ratios 1,6");
        assert_eq!(report["complete"], true, "{report}");
        let runs = report["runs"].as_array().unwrap();
        assert_eq!(runs[0]["hosts"], 6);
        assert_eq!(runs[1]["hosts"], 1);
        let distance = report["largest_distance"].as_f64().unwrap();
        println!("curves are {:.2} % of all data apart", distance * 100.0);
        let limits = limits(runs);
        if limits.is_empty() {
            // The luck of so small a swarm moves its curves by some per cent: 4.1 % with
            // eight clients. Hosts that shared what is not shared would move them by half.
            assert!(distance <= 0.10, "{report}");
        } else {
            println!(
                "SKIPPED the distance: the machine was the limit: {}",
                limits.join(", ")
            );
        }
    });
}

#[test]
fn fairness_is_near_equal_shares() {
    isolated(|| {
        let report = bench("fairness", "--programs 6 --alone 500ms");
        let outcome = &report["outcome"];
        let index = outcome["jain_index"].as_f64().unwrap();
        println!("Jain's index {index:.4}");
        assert_eq!(outcome["programs"].as_array().unwrap().len(), 6);
        assert!((0.9..=1.0).contains(&index), "{report}");
    });
}

#[test]
fn scale_peers_bootstrap_and_find() {
    isolated(|| {
        let before = cgroups();
        let report = bench("scale", "--peers 20 --settle 12s");
        let outcome = &report["outcome"];
        let limits = &outcome["limits"];
        if report["ok"] == false && *limits != serde_json::json!([]) {
            // Only that all of them ran and that they found each other in part.
            println!("SKIPPED who found whom in time: the machine was the limit: {limits}");
            assert_eq!(outcome["failed"], 0, "{report}");
            assert!(outcome["found"].as_u64().unwrap() > 0, "{report}");
        } else {
            assert_eq!(report["ok"], true, "{report}");
            assert_eq!(outcome["found"], 19);
        }
        assert!(outcome["resident_bytes"].as_u64().unwrap() > 1 << 20);
        assert_eq!(cgroups(), before, "cgroups are left");
    });
}

/// Cgroups of emu, of all network namespaces.
fn cgroups() -> Vec<PathBuf> {
    let namespaces = std::fs::read_dir("/sys/fs/cgroup/emu")
        .into_iter()
        .flatten();
    let mut folders: Vec<_> = namespaces
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    folders
}
