//! The commands that get faults, and what must hold after each.
use std::fs;

use super::trace::{self, Fault, Traced};
use crate::{
    command::{TopologyFile, emu, try_emu},
    snapshot::{left_behind, snapshot},
};

/// A command that gets faults.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Name, for reports.
    pub name: &'static str,
    /// Commands before, in the notation of [`Lab::line`].
    before: &'static [&'static str],
    /// The command.
    command: &'static str,
    /// The command that repairs after a fault.
    repair: &'static str,
}

const LOAD_A: &str = "load A --no-verify --force";
const LOAD_B: &str = "load B --no-verify --force";

/// The commands that change the kernel.
pub const SCENARIOS: [Scenario; 11] = [
    Scenario {
        name: "load of processes",
        before: &[],
        command: LOAD_A,
        repair: LOAD_A,
    },
    Scenario {
        name: "load of machines",
        before: &[],
        command: "load M --no-verify --force",
        repair: "load M --no-verify --force",
    },
    Scenario {
        name: "load with a measurement",
        before: &[],
        command: "load A --force",
        repair: LOAD_A,
    },
    Scenario {
        name: "load in place",
        before: &[LOAD_A],
        command: LOAD_B,
        repair: LOAD_B,
    },
    Scenario {
        name: "full reload",
        before: &[LOAD_A],
        command: "load B --no-verify --force --full-reload",
        repair: LOAD_B,
    },
    Scenario {
        name: "set",
        before: &[LOAD_A],
        command: "set a up=2mbit latency=7ms",
        repair: "set a up=2mbit latency=7ms",
    },
    Scenario {
        name: "exec",
        before: &[LOAD_A],
        command: "exec a/0 -- true",
        repair: "exec a/0 -- true",
    },
    Scenario {
        name: "status",
        before: &[LOAD_A],
        command: "status",
        repair: "status",
    },
    Scenario {
        name: "unload of processes",
        before: &[LOAD_A, "exec a/0 -- true"],
        command: "unload --force",
        repair: "unload --force",
    },
    Scenario {
        name: "unload of machines",
        before: &["load M --no-verify --force"],
        command: "unload --force",
        repair: "unload --force",
    },
    Scenario {
        name: "run",
        before: &[],
        command: "run E --out OUT",
        repair: "run E --out OUT",
    },
];

const PROCESSES: &str = "version: 1\nseed: 1\ngroups:\n  \
    a: {prefix: 10.1.0.0/24, nodes: 3, up: 1mbit, latency: 1ms}\n";
const OTHER_PROCESSES: &str = "version: 1\nseed: 1\ngroups:\n  \
    a: {prefix: 10.1.0.0/24, nodes: 4, up: 2mbit, latency: 2ms}\n";
const MACHINES: &str = "version: 1\nseed: 1\ngroups:\n  \
    m: {prefix: 10.2.0.0/24, kind: machine, nodes: 2, up: 1mbit}\n  \
    a: {prefix: 10.1.0.0/24, nodes: 2, latency: 1ms}\n";
const EXPERIMENT: &str = "name: e\ntopology: TOPOLOGY\nduration: 20s\nprograms:\n  \
    - {name: p, on: a, shell: 'echo hello > file', collect: [file]}\n";

/// The files of a scenario, and the state before it.
pub(super) struct Lab {
    scenario: Scenario,
    files: [(&'static str, TopologyFile); 4],
    folder: tempfile::TempDir,
    network: String,
    outside: Vec<String>,
}

/// A command with a fault, and what was wrong afterwards.
pub(super) struct Attempt {
    pub traced: Traced,
    pub findings: Vec<String>,
    /// Whether the unload left something.
    pub left_something: bool,
}

impl Lab {
    pub fn new(scenario: &Scenario) -> Self {
        let a = TopologyFile::new(PROCESSES);
        let experiment = TopologyFile::new(&EXPERIMENT.replace("TOPOLOGY", &a.path()));
        let [b, m] = [OTHER_PROCESSES, MACHINES].map(TopologyFile::new);
        // The first load of a boot mounts file systems and loads modules, which stay.
        emu(&format!("load {} --no-verify", m.path()));
        emu("unload");
        Self {
            scenario: *scenario,
            files: [("A", a), ("B", b), ("M", m), ("E", experiment)],
            folder: tempfile::tempdir().unwrap(),
            network: snapshot(),
            outside: left_behind(),
        }
    }

    /// A command line with the paths of its files.
    fn line(&self, words: &str) -> String {
        let word = |word: &str| match self.files.iter().find(|(name, _)| *name == word) {
            Some((_, file)) => file.path(),
            None if word == "OUT" => self.folder.path().join("out").display().to_string(),
            None => word.to_owned(),
        };
        words.split(' ').map(word).collect::<Vec<_>>().join(" ")
    }

    /// Runs the command with a fault, then the command that repairs, then an unload.
    pub fn attempt(&self, fault: Fault) -> Attempt {
        for words in self.scenario.before {
            let output = try_emu(&self.line(words));
            assert!(output.status.success(), "{words}: {output:?}");
        }
        let traced = trace::run(&self.line(self.scenario.command), fault);
        let mut findings = Vec::new();
        check_end(&self.scenario, &traced, fault, &mut findings);
        let _ = fs::remove_dir_all(self.folder.path().join("out"));
        let mut must = |words: &str| {
            let line = self.line(words);
            let output = try_emu(&line);
            if !output.status.success() {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                findings.push(format!("then `emu {words}`: {}: {text}", output.status));
            }
        };
        // Each other time the fault is followed by an unload alone.
        let repairs = match fault {
            Fault::None => false,
            Fault::Call(n) | Fault::Request(n) | Fault::Kill(n) => n.is_multiple_of(2),
        };
        if repairs {
            must(self.scenario.repair);
            let _ = fs::remove_dir_all(self.folder.path().join("out"));
            if self.scenario.repair.starts_with("load") {
                must("status");
            }
        }
        must("unload --force --kill");
        let (network, outside) = (snapshot(), left_behind());
        if network != self.network {
            findings.push(format!("residue: {}", difference(&self.network, &network)));
        }
        if outside != self.outside {
            findings.push(format!("residue: {outside:?}"));
        }
        Attempt {
            left_something: network != self.network || outside != self.outside,
            traced,
            findings,
        }
    }
}

/// How a command may end: by itself, with a code of the table in its help, and if it fails with
/// a message that says what failed.
fn check_end(scenario: &Scenario, traced: &Traced, fault: Fault, findings: &mut Vec<String>) {
    // As of env(1), `exec` ends with 125 if it itself fails.
    let own = if scenario.name == "exec" { 125 } else { 1 };
    let Traced {
        code, signal, text, ..
    } = traced;
    let killed = matches!(fault, Fault::Kill(_)) && traced.hit.is_some();
    match (code, signal) {
        (_, Some(9)) if killed => {}
        (_, Some(signal)) => findings.push(format!("ended by signal {signal}: {text}")),
        (Some(0), _) => {}
        (Some(code), _) if fault != Fault::None && [own, 2].contains(code) => {
            // A message names the operation and, behind a colon, why it failed.
            let message = text.lines().any(|line| {
                let error = line.strip_prefix("emu: ").unwrap_or(line);
                error.contains(": ") && error.len() > 20
            });
            if !message {
                findings.push(format!("no clear message: {text:?}"));
            }
        }
        _ => findings.push(format!("exit code {code:?}: {text}")),
    }
    if text.contains("panicked") {
        findings.push(format!("a panic: {text}"));
    }
}

/// The first lines that differ.
fn difference(before: &str, after: &str) -> String {
    let lacks = |all: &str, line: &str| !all.lines().any(|other| other == line);
    let gone = before.lines().filter(|line| lacks(after, line));
    let new = after.lines().filter(|line| lacks(before, line));
    let gone = gone.take(3).map(|line| format!("-{line}"));
    let new = new.take(3).map(|line| format!("+{line}"));
    gone.chain(new).collect::<Vec<_>>().join(" ")
}
