//! Ends of `emu run`: by signals, by a killed emu, with many programs.
use std::{
    fs,
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use integration::{
    command::{emu, emu_command},
    netns::isolated,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::run::{Lab, everything, no_residue};

/// Programs that escape simple cleanup: children in other sessions, and one that ignores
/// SIGTERM and SIGINT. The duration of their sleep marks them.
const STUBBORN: &str = "
duration: 100s
sample: 200ms
programs:
  - name: family
    on: adsl/0-4
    shell: 'setsid sleep 86311 & (sleep 86311 & sleep 86311) & wait'
    stop: {grace: 500ms}
  - name: deaf
    on: adsl/5
    shell: \"trap '' TERM INT; while :; do sleep 86311; done\"
    stop: {grace: 500ms}
  - name: gone
    on: adsl/6
    run: [sleep, '86311']
    churn: {up: {constant: 100ms}, leave: dark}
    background: true
";

/// Command lines of processes with the mark.
fn lines() -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|e| fs::read(e.path().join("cmdline")).ok());
    lines
        .map(|l| String::from_utf8_lossy(&l).replace('\0', " "))
        .filter(|l| l.contains("86311"))
        .collect()
}

/// Number of processes with the mark.
fn marked() -> usize {
    lines().len()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    integration::wait_for(what, || is_so().then_some(()));
}

fn start(lab: &Lab) -> Child {
    emu_command(&lab.command_line("out"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn run_stops_cleanly_at_a_signal() {
    isolated(|| {
        let before = everything();
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let lab = Lab::new(STUBBORN);
            let child = start(&lab);
            // Three of each family, the one that ignores signals, and the one that has
            // exited.
            wait_until("all processes run", || {
                let sleeps = lines().iter().filter(|l| l.starts_with("sleep ")).count();
                let ended = fs::read_to_string(lab.path("out/processes.csv"));
                sleeps >= 16 && ended.is_ok_and(|text| text.contains(",gone,"))
            });
            kill(Pid::from_raw(child.id() as i32), signal).unwrap();
            let output = child.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert!(text.contains("interrupted after"), "{text}");
            assert_eq!(marked(), 0);
            let summary: Value = serde_json::from_str(&lab.read("out/summary.json")).unwrap();
            assert_eq!(summary["ended"], "interrupted");
            // The program that ignores signals was signalled and then killed; no other one
            // was killed.
            let rows = lab.table("processes.csv", &["program", "end", "signal", "killed"]);
            assert_eq!(rows.len(), 7, "{rows:?}");
            for row in rows {
                let cells: Vec<&str> = row.iter().map(String::as_str).collect();
                match cells[0] {
                    "deaf" => assert_eq!(cells[1..], ["run_over", "9", "true"]),
                    "gone" => assert_eq!(cells[1..], ["left", "9", "false"]),
                    _ => assert_eq!(cells[1..], ["run_over", "15", "false"]),
                }
            }
            assert!(lab.read("out/counters.csv").lines().count() > 7);
            no_residue(&before);
        }
    });
}

/// SIGKILL at moments from the load to the middle of the run: no process remains, whatever
/// its session, and the machine is as before.
#[test]
fn run_that_is_killed_leaves_nothing() {
    isolated(|| {
        let before = everything();
        let mut with_programs = 0;
        for wait_ms in [Some(5), Some(60), Some(120), Some(200), Some(300), None] {
            let lab = Lab::new(STUBBORN);
            let mut child = start(&lab);
            match wait_ms {
                Some(ms) => thread::sleep(Duration::from_millis(ms)),
                None => wait_until("programs run", || marked() > 3),
            }
            with_programs += usize::from(marked() > 0);
            child.kill().unwrap();
            child.wait().unwrap();
            wait_until("the guardian clears up", || marked() == 0);
            wait_until("the guardian unloads", || everything() == before);
            no_residue(&before);
        }
        println!("{with_programs} of 6 kills struck while programs ran");
        assert!(with_programs > 0);
    });
}

/// A topology that was loaded before the run remains, and the dark vnode comes back up.
#[test]
fn run_that_is_killed_gives_networks_back() {
    isolated(|| {
        let before = everything();
        let lab = Lab::new(STUBBORN);
        let topology = lab.path("topology.yaml");
        emu(&format!("load {} --no-verify", topology.display()));
        let down = || {
            let status = integration::command::emu_json("status");
            status["down"].as_array().unwrap().len()
        };
        let mut child = start(&lab);
        wait_until("a vnode is dark", || down() == 1);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("all processes are gone and the vnode is up", || {
            marked() == 0 && down() == 0
        });
        emu("unload");
        no_residue(&before);
    });
}

/// Many programs at once; stopping them takes no longer than starting them.
/// `EMU_PROGRAMS=1000` for the long form.
#[test]
fn run_starts_and_stops_many() {
    isolated(|| {
        let before = everything();
        let count: u32 = std::env::var("EMU_PROGRAMS").map_or(200, |n| n.parse().unwrap());
        let lab = Lab::with(
            &format!("version: 1\ngroups: {{a: {{prefix: 10.1.0.0/16, nodes: {count}}}}}\n"),
            "
until: {exited: last}
programs:
  - {name: many, on: a, run: [sleep, '86311'], background: true, ready: {after: 1ms}}
  - {name: last, on: a/0, run: [true]}
",
        );
        let summary = lab.good("");
        let number = |key: &str| summary[key].as_f64().unwrap();
        println!(
            "{count} programs started in {:.2} s, stopped in {:.2} s",
            number("run_s"),
            number("stop_s")
        );
        assert_eq!(summary["started"], count + 1, "{summary}");
        assert_eq!(summary["running"], count, "{summary}");
        assert_eq!(summary["killed"], 0, "{summary}");
        assert!(number("stop_s") < number("run_s"), "{summary}");
        assert_eq!(marked(), 0);
        no_residue(&before);
    });
}
