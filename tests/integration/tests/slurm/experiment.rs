//! Experiments in a folder that all nodes share, and helpers to run them.
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use integration::command::emu_path;
use serde_json::Value;

use crate::cluster::Cluster;

/// A topology without a `hosts` section: the run uses the nodes of the job.
pub const TOPOLOGY: &str = "version: 1
groups:
  servers: {prefix: 10.9.0.0/24, nodes: 4, up: 100mbit, down: 100mbit, latency: 5ms}
  clients: {prefix: 10.1.0.0/24, nodes: 8, up: 2mbit, down: 8mbit, latency: 20ms}
latencies:
  - {between: [servers, clients], latency: 50ms}
";

/// A folder that all nodes share, with an experiment in it.
pub struct Shared(tempfile::TempDir);

impl Shared {
    pub fn new(experiment: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("topology.yaml"), TOPOLOGY).unwrap();
        fs::write(folder.path().join("experiment.yaml"), experiment).unwrap();
        Self(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The command `srun OPTIONS emu run experiment.yaml --out out MORE`, not started.
    pub fn srun(&self, cluster: &Cluster, options: &str, out: &str, more: &str) -> Command {
        let options: Vec<&str> = options.split_whitespace().collect();
        let mut command = cluster.command("srun", &options);
        command.arg(emu_path()).arg("run");
        command.arg(self.path("experiment.yaml"));
        command.arg("--out").arg(self.path(out));
        command.args(more.split_whitespace());
        command
    }

    pub fn json(&self, name: &str) -> Value {
        let text = fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        serde_json::from_str(&text).unwrap()
    }

    pub fn table(&self, name: &str) -> Vec<BTreeMap<String, String>> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut lines = text.lines();
        let header: Vec<&str> = lines.next().unwrap().split(',').collect();
        let row = |line: &str| {
            let cells = line.split(',').map(str::to_owned);
            let names = header.iter().map(|name| (*name).to_owned());
            names.zip(cells).collect()
        };
        lines.map(row).collect()
    }
}

/// Runs a command to completion; it must succeed.
pub fn succeed(cluster: &Cluster, mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        output_text(&output),
        cluster.logs()
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Standard output and standard error of a command.
pub fn output_text(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!(
        "{}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    )
}

/// Starts a command with captured output.
pub fn start(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Polls until a condition holds; returns the time that this took.
pub fn until(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < within,
            "timed out after {within:?}: {what}"
        );
        thread::sleep(Duration::from_millis(50));
    }
    start.elapsed()
}

/// Files below a folder with this name.
pub fn files(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, name));
        } else if path.file_name().is_some_and(|n| n == name) {
            found.push(path);
        }
    }
    found
}
