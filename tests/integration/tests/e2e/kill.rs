//! SIGKILL at any moment of a load or an unload.
use std::{process::Stdio, thread, time::Duration};

use integration::{
    command::{emu, emu_command, try_emu},
    netns::isolated,
};

use crate::{latency::TOPOLOGIES, safety::snapshot};

/// Kills spread evenly over the time that the command takes.
const KILLS: u32 = 20;

fn duration_of(arguments: &str) -> Duration {
    let start = std::time::Instant::now();
    emu(arguments);
    start.elapsed()
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

#[test]
fn a_killed_load_is_undone_by_unload() {
    isolated(|| {
        let load = format!("load {TOPOLOGIES}/p2plab.yaml --no-verify");
        let before = snapshot();
        let whole = duration_of(&load);
        emu("unload");
        let mut broken_off = 0;
        for i in 0..KILLS {
            kill_after(&load, whole * i / KILLS);
            broken_off += u32::from(snapshot() != before);
            emu("unload");
            assert_eq!(snapshot(), before, "killed after {:?}", whole * i / KILLS);
        }
        println!("{broken_off} of {KILLS} kills struck after the first change");
        assert!(broken_off >= 2, "the kills did not hit the changes");
    });
}

#[test]
fn a_killed_load_is_completed_by_load() {
    isolated(|| {
        let load = format!("load {TOPOLOGIES}/p2plab.yaml --no-verify");
        let before = snapshot();
        let whole = duration_of(&load);
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
    isolated(|| {
        let load = format!("load {TOPOLOGIES}/p2plab.yaml --no-verify");
        let before = snapshot();
        emu(&load);
        let whole = duration_of("unload");
        for i in 0..KILLS {
            emu(&load);
            kill_after("unload", whole * i / KILLS);
            emu("unload");
            assert_eq!(snapshot(), before, "killed after {:?}", whole * i / KILLS);
        }
    });
}
