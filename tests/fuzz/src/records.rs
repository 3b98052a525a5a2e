//! What emu itself wrote, and somebody may have damaged or forged: state, journal, results of
//! another host.
use std::{collections::BTreeMap, fs, path::Path};

use emu_kernel::{
    beneath::Folder,
    machines::Attachments,
    session::Loaded,
    state::{self, IdentityRecord, State},
};
use emu_runner::results;

/// A line that begins the next part of an input, `=== NAME`.
const PART: &str = "=== ";

/// The parts of an input by their names.
fn parts(data: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut parts: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut current = None;
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        let name = std::str::from_utf8(line).ok();
        match name.and_then(|line| line.strip_prefix(PART)) {
            Some(name) => current = Some(name.trim().to_owned()),
            None => {
                if let Some(name) = &current {
                    parts.entry(name.clone()).or_default().extend(line);
                }
            }
        }
    }
    parts
}

/// The state folder of a namespace.
pub fn state(data: &[u8]) {
    let parts = parts(data);
    let part = |name: &str| parts.get(name).map_or(&[][..], Vec::as_slice);
    let journal = state::parse_journal(part("journal.jsonl"));
    for step in &journal.expect("names of interfaces").steps {
        assert!(serde_json::to_vec(step).is_ok());
    }
    let _ = serde_json::from_slice::<IdentityRecord>(part("identity.json"));
    let _ = serde_json::from_slice::<Attachments>(part("attachments.json"));
    if let Ok(state) = serde_json::from_slice::<State>(part("state.json")) {
        let text = String::from_utf8_lossy(part("topology.yaml"));
        if let Ok(loaded) = Loaded::from_state(state, &text) {
            assert_eq!(loaded.slots.len(), loaded.plan.vnodes.len());
        }
    }
}

/// Files of results that the merge reads; others are left out of the folder.
const RESULTS: [&str; 8] = [
    "plan.json",
    "environment.json",
    "summary.json",
    "processes.csv",
    "counters.csv",
    "events.csv",
    "experiment.yaml",
    "topology.yaml",
];

/// The shared folder of two hosts: their results and statuses. Each part is named
/// `HOST/FILE` or `meet/RANK.json`.
pub fn results(data: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in parts(data) {
        let Some((place, file)) = name.split_once('/') else {
            continue;
        };
        let target = match place {
            "h1" | "h2" if RESULTS.contains(&file) => folder.path().join("hosts").join(place),
            "meet" if ["0.json", "1.json"].contains(&file) => folder.path().join("meet"),
            _ => continue,
        };
        fs::create_dir_all(&target).unwrap();
        fs::write(target.join(file), bytes).unwrap();
    }
    merge(folder.path());
}

fn merge(path: &Path) {
    let shared = Folder::open(path).unwrap();
    let Ok((parts, statuses)) = results::shared(&shared) else {
        return;
    };
    let out = shared.make_folder("out").unwrap();
    if let Err(error) = results::merge(&parts, &statuses, &out, false) {
        assert!(!error.to_string().is_empty());
    }
}
