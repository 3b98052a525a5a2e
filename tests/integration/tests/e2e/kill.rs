//! SIGKILL at any moment of a load or an unload.
use std::{fs, path::Path, process::Stdio, thread, time::Duration};

use integration::{
    command::{emu, emu_command, emu_json, try_emu},
    netns::isolated,
};

use crate::{latency::TOPOLOGIES, safety::snapshot};

/// Number of kills, spread evenly over the time of the command.
const KILLS: u32 = 8;

/// The commands that load a topology of processes and one of machines.
fn loads() -> [String; 2] {
    ["p2plab", "machines"].map(|name| format!("load {TOPOLOGIES}/{name}.yaml --no-verify"))
}

/// Time of a load with warm caches.
fn load_time(load: &str) -> Duration {
    emu(load);
    emu("unload");
    let start = std::time::Instant::now();
    emu(load);
    let time = start.elapsed();
    emu("unload");
    time
}

fn kill_after(arguments: &str, wait: Duration) {
    let mut child = emu_command(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    thread::sleep(wait);
    let _ = child.kill();
    let _ = child.wait();
}

/// Number of undo steps recorded so far in this namespace.
fn recorded(journal: &Path) -> usize {
    fs::read_to_string(journal).map_or(0, |text| text.lines().count())
}

/// Kills a load as soon as it has recorded N steps, for each N, that is, in the middle of
/// each of its changes.
#[test]
fn a_load_killed_in_each_phase_is_undone_by_unload() {
    for load in loads() {
        isolated(move || killed_in_each_phase(&load));
    }
}

fn killed_in_each_phase(load: &str) {
    let before = snapshot();
    emu(load);
    let pins = emu_json("status")["pins"].as_str().unwrap().to_owned();
    let name = Path::new(&pins).file_name().unwrap().to_owned();
    let journal = Path::new("/run/emu").join(name).join("journal.jsonl");
    let phases = recorded(&journal);
    assert!(phases >= 8, "{phases}");
    emu("unload");
    for phase in 1..=phases {
        let mut child = emu_command(load)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while recorded(&journal) < phase && child.try_wait().unwrap().is_none() {
            thread::sleep(Duration::from_micros(200));
        }
        let _ = child.kill();
        let _ = child.wait();
        emu("unload");
        assert_eq!(snapshot(), before, "killed in phase {phase}");
    }
}

#[test]
fn a_killed_load_is_undone_by_unload() {
    for load in loads() {
        isolated(move || killed_at_times(&load));
    }
}

fn killed_at_times(load: &str) {
    let before = snapshot();
    let whole = load_time(load);
    let mut broken_off = 0;
    for i in 0..KILLS {
        kill_after(load, whole * i / KILLS);
        broken_off += u32::from(snapshot() != before);
        emu("unload");
        assert_eq!(snapshot(), before, "killed after {:?}", whole * i / KILLS);
    }
    println!("{broken_off} of {KILLS} kills struck after the first change");
}

#[test]
fn a_killed_load_is_completed_by_load() {
    isolated(|| {
        let load = format!("load {TOPOLOGIES}/p2plab.yaml --no-verify");
        let before = snapshot();
        let whole = load_time(&load);
        for i in 0..KILLS / 2 {
            kill_after(&load, whole * i / (KILLS / 2));
            emu(&load);
            assert_eq!(try_emu("status").status.code(), Some(0));
        }
        emu("unload");
        assert_eq!(snapshot(), before);
    });
}

#[test]
fn a_killed_unload_is_completed_by_unload() {
    for load in loads() {
        isolated(move || killed_unload(&load));
    }
}

fn killed_unload(load: &str) {
    let before = snapshot();
    emu(load);
    let start = std::time::Instant::now();
    emu("unload");
    let whole = start.elapsed();
    for i in 0..KILLS {
        emu(load);
        kill_after("unload", whole * i / KILLS);
        emu("unload");
        assert_eq!(snapshot(), before, "killed after {:?}", whole * i / KILLS);
    }
}
