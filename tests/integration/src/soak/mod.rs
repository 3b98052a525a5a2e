//! Everything at once for a long time: traffic, changes by hand, loads in place, programs of
//! vnodes, an agent whose file changes, kills, and parts that are taken away. Afterwards
//! nothing may have grown, and no packet may be lost that the model does not lose.
mod usage;
mod work;

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    agent::Agent,
    command::{TopologyFile, emu},
    netns::Host,
};
pub use usage::Usage;
use work::{Traffic, Work};

/// Size of a soak.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Time of both halves together.
    pub time: Duration,
    /// Vnodes of each of the two groups of the calm namespace.
    pub vnodes: u32,
}

/// What was seen.
#[derive(Debug, Default)]
pub struct Report {
    /// At the start, in the middle, and at the end; nothing else runs then.
    pub usage: [Usage; 3],
    /// Number of times that each thing was done, by its name.
    pub counts: BTreeMap<&'static str, u64>,
    /// Datagrams of vnodes that nothing may disturb.
    pub traffic: Traffic,
    /// What did not go as promised.
    pub failures: Vec<String>,
}

/// Rounds before the start, after which caches are filled.
const WARM_UP: Duration = Duration::from_secs(2);

/// Runs a soak in the calling thread's network namespace, which must be a scratch one.
///
/// # Panics
/// If it cannot start. What goes wrong later is in the report.
pub fn run(options: &Options) -> Report {
    let calm = TopologyFile::new(&work::calm(options.vnodes, 0));
    calm.load();
    let [agents, kills] = ["soak-agent", "soak-kill"].map(Host::new);
    // On a file system of the guest kernel: the VM's view of the host's has no inotify
    // events.
    let folder = tempfile::tempdir_in("/run").unwrap();
    let file = folder.path().join("t.yaml");
    fs::write(&file, work::followed(0)).unwrap();
    let arguments = file.display().to_string();
    let agent = agents.enter(move || {
        let agent = Agent::start(&arguments, work::AGENT_PORT);
        agent.wait_good();
        agent
    });
    let killed = TopologyFile::new(work::KILLED);
    let report = Mutex::new(Report::default());
    let work = Work {
        options: *options,
        report: &report,
        calm: &calm,
        agents: &agents,
        followed: &file,
        agent: &agent,
        kills: &kills,
        killed: &killed,
    };
    work.phase(WARM_UP);
    *report.lock().unwrap() = Report::default();
    let usage = || Usage::read(agent.id());
    let start = usage();
    work.phase(options.time / 2);
    let middle = usage();
    work.phase(options.time / 2);
    let end = usage();
    let mut report = std::mem::take(&mut *report.lock().unwrap());
    report.usage = [start, middle, end];
    drop(agent);
    agents.enter(|| emu("unload"));
    emu("unload");
    report
}

impl Work<'_> {
    /// Does everything at once for a time.
    fn phase(&self, time: Duration) {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let parts: [fn(&Self, &AtomicBool); 5] = [
                Self::change,
                Self::enter,
                Self::follow,
                Self::kill,
                Self::send,
            ];
            for part in parts {
                let stop = &stop;
                scope.spawn(move || part(self, stop));
            }
            thread::sleep(time);
            stop.store(true, Ordering::Relaxed);
        });
    }
}

impl Report {
    /// What grew, what was lost, what failed; empty if nothing.
    pub fn findings(&self) -> Vec<String> {
        let mut findings = self.failures.clone();
        let [_, middle, end] = &self.usage;
        findings.extend(middle.grown_to(end));
        let Traffic {
            sent,
            received,
            overtaken,
        } = self.traffic;
        if sent != received {
            findings.push(format!("{} of {sent} datagrams are lost", sent - received));
        }
        if overtaken > 0 {
            findings.push(format!("{overtaken} datagrams were overtaken"));
        }
        // What was not done was not tested.
        for name in work::PARTS {
            if !self.counts.contains_key(name) {
                findings.push(format!("no {name}"));
            }
        }
        findings
    }

    /// The tables and the verdict, as Markdown.
    pub fn to_text(&self) -> String {
        let mut text = String::from("| | start | middle | end |\n|---|---|---|---|\n");
        let [start, middle, end] = &self.usage;
        for (((name, a), (_, b)), (_, c)) in start.rows().zip(middle.rows()).zip(end.rows()) {
            let _ = writeln!(text, "| {name} | {a} | {b} | {c} |");
        }
        text += "\n| done | times |\n|---|---|\n";
        for (name, count) in &self.counts {
            let _ = writeln!(text, "| {name} | {count} |");
        }
        let Traffic {
            sent,
            received,
            overtaken,
        } = self.traffic;
        let _ = writeln!(
            text,
            "\n{sent} datagrams sent, {received} received, {overtaken} overtaken."
        );
        let findings = self.findings();
        match findings.as_slice() {
            [] => text += "Verdict: nothing grew, nothing was lost.\n",
            some => {
                let _ = writeln!(text, "Verdict: {}", some.join("; "));
            }
        }
        text
    }
}
