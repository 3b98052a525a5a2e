//! `emu run`: real programs on many vnodes, by a schedule, with results.
use std::{fs, path::PathBuf, process::Output};

use integration::{
    command::{emu, emu_command, try_emu},
    netns::isolated,
};
use serde_json::Value;

use crate::safety::snapshot;

const TOPOLOGY: &str = "
version: 1
name: small
seed: 5
groups:
  servers: {prefix: 10.2.0.0/24, nodes: 2, latency: 2ms}
  adsl: {prefix: 10.1.0.0/24, nodes: 60, up: 1mbit, down: 8mbit, latency: 5ms}
";

/// A temporary folder with an experiment, its topology and the results.
pub struct Lab(tempfile::TempDir);

impl Lab {
    pub fn new(experiment: &str) -> Self {
        Self::with(TOPOLOGY, experiment)
    }

    pub fn with(topology: &str, experiment: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("topology.yaml"), topology).unwrap();
        let probe = env!("CARGO_BIN_EXE_probe");
        let text = format!("topology: topology.yaml\n{experiment}").replace("PROBE", probe);
        fs::write(folder.path().join("e.yaml"), text).unwrap();
        Self(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The command line of a run with its results in a folder.
    pub fn command_line(&self, out: &str) -> String {
        let (file, out) = (self.path("e.yaml"), self.path(out));
        format!(
            "run {} --host-network --out {}",
            file.display(),
            out.display()
        )
    }

    /// Runs the experiment to completion, whatever its exit status.
    pub fn run(&self, further: &str) -> Output {
        try_emu(&format!("{} {further}", self.command_line("out")))
    }

    /// Runs the experiment, which must succeed; returns the summary.
    pub fn good(&self, further: &str) -> Value {
        let output = self.run(&format!("--json {further}"));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{errors}{text}");
        serde_json::from_str(&text).unwrap()
    }

    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The named columns of each row of a table of the results.
    pub fn table(&self, name: &str, columns: &[&str]) -> Vec<Vec<String>> {
        let text = self.read(&format!("out/{name}"));
        let mut lines = text.lines().map(|l| l.split(',').collect::<Vec<_>>());
        let header = lines.next().unwrap();
        let places: Vec<usize> = columns
            .iter()
            .map(|c| header.iter().position(|h| h == c).unwrap())
            .collect();
        lines
            .map(|row| places.iter().map(|p| row[*p].to_owned()).collect())
            .collect()
    }
}

/// Text of all state that a run may change: what a load changes, and emu's cgroups.
pub fn everything() -> String {
    let ours = fs::read_dir("/sys/fs/cgroup/emu");
    let folders = ours.into_iter().flatten().flatten();
    let mut names: Vec<_> = folders
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.file_name())
        .collect();
    names.sort();
    format!("{}# cgroups\n{names:?}", snapshot())
}

/// Checks that a run left nothing behind.
pub fn no_residue(before: &str) {
    assert_eq!(everything(), before);
}

/// Peers see the vnodes' addresses, later programs wait for earlier ones, files are
/// collected, and afterwards the machine is as before.
#[test]
fn run_does_what_the_file_says() {
    isolated(|| {
        let before = everything();
        let lab = Lab::new(
            "
name: whole
duration: 60s
programs:
  - name: server
    on: servers/0
    shell: 'while PROBE tcp serve 0.0.0.0 7000; do :; done'
    ready: {tcp: 7000}
    background: true
  - name: client
    on: adsl/10-14
    shell: 'until PROBE tcp connect {ip:server} 7000; do :; done'
    start: {every: 20ms}
  - name: words
    on: [adsl/3, 10.1.0.50]
    shell: 'echo {vnode} {number} {group} {index} $EMU_VNODE $COLOUR > a.txt; echo lost > b.txt; pwd'
    env: {COLOUR: 'green {name}'}
    collect: ['a.*']
",
        );
        let summary = lab.good("");
        assert_eq!(summary["ended"], "complete", "{summary}");
        assert_eq!(summary["done"], 7, "{summary}");
        assert_eq!(summary["running"], 1, "{summary}");
        for i in 11..=15 {
            let seen = lab.read(&format!("out/vnodes/10.1.0.{i}/client/stdout"));
            // The server handles one client after another, and does not listen in between.
            let last = seen.lines().last();
            assert_eq!(last, Some(format!("10.1.0.{i}").as_str()), "{seen}");
        }
        assert_eq!(
            lab.read("out/vnodes/10.1.0.50/words/a.txt"),
            "adsl/49 1 adsl 49 10.1.0.50 green words\n"
        );
        assert!(!lab.path("out/vnodes/10.1.0.50/words/b.txt").exists());
        assert!(!lab.path("out/work").exists());
        let rows = lab.table("processes.csv", &["program", "start_s", "end", "exit_code"]);
        assert_eq!(rows.len(), 8);
        let first = |program: &str| {
            let of = rows.iter().filter(|r| r[0] == program);
            of.map(|r| r[1].parse::<f64>().unwrap())
                .reduce(f64::min)
                .unwrap()
        };
        assert!(first("server") < first("client"), "{rows:?}");
        for row in rows.iter().filter(|r| r[0] != "server") {
            assert_eq!((row[2].as_str(), row[3].as_str()), ("exited", "0"));
        }
        // The counters include the packets that passed the access links.
        let counters = lab.table(
            "counters.csv",
            &["vnode", "sent_packets", "received_packets"],
        );
        let client: Vec<_> = counters.iter().filter(|r| r[0] == "10.1.0.11").collect();
        let packets: u64 = client.last().unwrap()[1].parse().unwrap();
        assert!(packets >= 3, "{client:?}");
        no_residue(&before);
    });
}

#[test]
fn run_reports_failures() {
    isolated(|| {
        let before = everything();
        let lab = Lab::new(
            "
programs:
  - {name: good, on: adsl/0, run: [true]}
  - {name: bad, on: adsl/1, shell: 'echo alas >&2; exit 7'}
  - {name: shot, on: adsl/2, shell: 'kill -KILL $$'}
",
        );
        let output = lab.run("");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("FAILED: bad on adsl/1: exit status: 7: alas"),
            "{text}"
        );
        assert!(text.contains("FAILED: shot on adsl/2: signal: 9"), "{text}");
        assert!(text.contains("1 done, 2 failed"), "{text}");
        // The results folder exists now.
        let again = lab.run("");
        assert_eq!(again.status.code(), Some(2));
        let missing = Lab::new("programs: [{name: a, on: adsl/0, run: [no-such-program]}]\n");
        let output = missing.run("");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.contains("no program `no-such-program`"), "{errors}");
        no_residue(&before);
    });
}

/// A loaded topology is used if it is the same, and remains loaded; another one is refused.
#[test]
fn run_uses_what_is_loaded() {
    isolated(|| {
        let lab = Lab::new("programs: [{name: a, on: adsl/0, run: [true]}]\n");
        let output = lab.run("--no-load");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(errors.contains("--no-load forbids"), "{errors}");
        let lab = Lab::new("programs: [{name: a, on: adsl/0, run: [true]}]\n");
        emu(&format!(
            "load {} --no-verify",
            lab.path("topology.yaml").display()
        ));
        lab.good("--no-load");
        emu("status");
        let other = Lab::with(
            "version: 1\ngroups: {b: {prefix: 10.3.0.0/24, nodes: 2}}\n",
            "programs: [{name: a, on: b/0, run: [true]}]\n",
        );
        let output = other.run("");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert!(errors.contains("another topology is loaded"), "{errors}");
        // The experiment's file accepts any loaded topology.
        let text = "topology: loaded\nprograms: [{name: a, on: adsl/0, run: [true]}]\n";
        let path = other.path("loaded.yaml");
        fs::write(&path, text).unwrap();
        let out = other.path("second");
        emu(&format!("run {} --out {}", path.display(), out.display()));
        emu("unload");
    });
}

/// Equal seeds give equal plans; another seed gives another plan.
#[test]
fn run_plans_the_same_for_the_same_seed() {
    isolated(|| {
        let text = |seed: u32| {
            format!(
                "
name: plan
seed: {seed}
duration: 2s
programs:
  - name: a
    on: adsl/0-9
    run: [sleep, '9']
    start: {{poisson: 20/s}}
    churn:
      up: {{weibull: {{shape: 0.6, scale: 1s}}}}
      down: {{exponential: {{mean: 500ms}}}}
      leave: kill
"
            )
        };
        let plans = [1, 1, 2].map(|seed| {
            let lab = Lab::new(&text(seed));
            lab.good("");
            let plan = lab.read("out/plan.json");
            let dry = emu_command(&format!("{} --dry-run --json", lab.command_line("no")))
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&dry.stdout).trim(), plan.trim());
            plan
        });
        assert_eq!(plans[0], plans[1]);
        assert_ne!(plans[0], plans[2]);
    });
}
