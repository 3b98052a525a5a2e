//! The ready experiments in `experiments/`: real programs, which say themselves
//! whether they did what they were to do.
use std::{fs, path::PathBuf};

use integration::{command::emu_command, netns::isolated};
use serde_json::Value;

/// Results of a run.
struct Results {
    folder: tempfile::TempDir,
    summary: Value,
}

/// Runs one to its end; every program must have ended well.
fn run(name: &str) -> Results {
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
    /// What the processes of a program printed.
    fn printed(&self, program: &str) -> Vec<String> {
        let vnodes = self.folder.path().join("out/vnodes");
        let folders = fs::read_dir(vnodes).unwrap().flatten();
        let files = folders.map(|vnode| vnode.path().join(program).join("stdout"));
        files
            .filter_map(|file| fs::read_to_string(file).ok())
            .collect()
    }

    fn table(&self, name: &str) -> Vec<Vec<String>> {
        let file: PathBuf = self.folder.path().join("out").join(name);
        let text = fs::read_to_string(file).unwrap();
        let rows = text.lines().skip(1);
        rows.map(|row| row.split(',').map(str::to_owned).collect())
            .collect()
    }
}

/// The median of what homes sent in all, for the swarm is none if only seeders do.
fn median_upload_bytes(results: &Results) -> u64 {
    let mut last = std::collections::BTreeMap::new();
    for row in results.table("counters.csv") {
        if row[1].starts_with("10.21.") {
            last.insert(row[1].clone(), row[3].parse::<u64>().unwrap());
        }
    }
    let mut sent: Vec<u64> = last.into_values().filter(|bytes| *bytes > 0).collect();
    sent.sort_unstable();
    sent[sent.len() / 2]
}

#[test]
fn bittorrent_clients_get_the_same_file_and_share_it() {
    isolated(|| {
        let results = run("bittorrent");
        let clients = results.printed("client");
        assert_eq!(clients.len(), 8);
        assert!(
            clients.iter().all(|text| text.contains("file: OK")),
            "{clients:?}"
        );
        // A sixteenth of the file is far more than the acknowledgements of it.
        let sent = median_upload_bytes(&results);
        assert!(sent > (1 << 20) / 16, "clients sent {sent} bytes (median)");
    });
}

#[test]
fn dht_nodes_find_every_value() {
    isolated(|| {
        let nodes = run("dht").printed("node");
        assert_eq!(nodes.len(), 20);
        assert!(
            nodes.iter().all(|text| text.contains("\nfound ")),
            "{nodes:?}"
        );
    });
}

#[test]
fn gossip_members_know_all_members() {
    isolated(|| {
        let members = run("gossip").printed("member");
        assert_eq!(members.len(), 20);
        assert!(
            members.iter().all(|text| text.starts_with("members 20 ")),
            "{members:?}"
        );
    });
}

#[test]
fn http_pages_arrive_and_iperf3_gets_its_line() {
    isolated(|| {
        let results = run("http");
        let pages = results.printed("reader");
        assert_eq!(pages, ["page: OK\n"; 4]);
        let meter: Value = serde_json::from_str(&results.printed("meter")[0]).unwrap();
        let bits_per_s = meter["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .unwrap();
        // 1448 of 1500 bytes are data, and TCP has to find the rate first.
        let share = bits_per_s / 8e6;
        println!("iperf3: {share:.3} of the line");
        assert!((0.85..=1.0).contains(&share), "{share} of the line");
    });
}

#[test]
fn fairness_counters_share_the_processor() {
    isolated(|| {
        let results = run("fairness");
        let busy = results.summary["host_health"]["busy"].as_f64().unwrap();
        assert!(busy > 0.8, "ten counters made the processors {busy} busy");
        let limits = results.summary["host_health"]["limits"].to_string();
        assert!(limits.contains("all processors were busy"), "{limits}");
        let share = &results.summary["cpu_shares"][0];
        assert_eq!(share["vnodes"].as_u64(), Some(10), "{share}");
        // All have the same to do, and did it.
        let jain_index = share["jain_index"].as_f64().unwrap();
        assert!((0.9..=1.0 + 1e-9).contains(&jain_index), "{share}");
    });
}
