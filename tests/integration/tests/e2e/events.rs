//! `emu start`: the events of a topology, under traffic.
use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use integration::{
    command::{TopologyFile, emu, emu_command, emu_json, try_emu},
    median,
    netns::isolated,
    udp::{self, Arrival},
};
use serde_json::Value;

use crate::reload::under_traffic;

const EVENTS: &str = "
version: 1
name: weather
groups:
  a: {prefix: 10.1.0.0/24, nodes: 2, up: 8mbit, latency: 20ms}
  b: {prefix: 10.2.0.0/24, nodes: 2, latency: 20ms}
  c: {prefix: 10.3.0.0/24, nodes: 2, latency: 20ms}
events:
  - {at: 1s, set: {group: a, latency: 60ms}}
  - {at: 2s, ramp: {between: [a, b], latency: 200ms}, over: 2s}
  - {at: 5s, partition: [a, b]}
  - {at: 6s, heal: [a, b]}
  - {at: 7s, set: {from: a, to: b, loss: 100%}}
  - {at: 8s, set: {from: a, to: b, loss: 0%}}
  - {at: 9s, flap: 10.2.0.1, period: 1s, down_for: 500ms, until: 11s}
";

/// Runs `emu start` to its end and parses its lines.
fn start(arguments: &str) -> Vec<Value> {
    emu(&format!("start --json {arguments}"))
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn events_happen_in_time() {
    isolated(|| {
        TopologyFile::new(EVENTS).load();
        let gap = Duration::from_millis(10);
        let (mut begin, mut lines) = (Duration::ZERO, Vec::new());
        let (_, arrivals) = under_traffic("10.1.0.1", "10.2.0.1", gap, || {
            begin = udp::now();
            lines = start("");
        });
        assert_eq!(lines.len(), 10, "{lines:?}");
        let late: Vec<f64> = lines.iter().map(|l| l["late_ms"].as_f64().unwrap()).collect();
        println!("events late by {:.2} ms (median)", median(&late));
        assert!(median(&late) < 20.0, "{late:?}");
        assert!(lines.iter().all(|l| l["ok"] == true), "{lines:?}");
        // What was sent from 200 ms after one second on to 200 ms before another:
        // so many arrive, after so long.
        let window = |from_s: f64, to_s: f64| -> Vec<f64> {
            let at = |s: f64| begin + Duration::from_secs_f64(s);
            let sent = |a: &&Arrival| a.sent > at(from_s) && a.sent < at(to_s);
            arrivals.iter().filter(sent).map(Arrival::delay_ms).collect()
        };
        for (from, to, ms) in [
            (0.2, 0.8, 40.0),
            (1.2, 1.8, 80.0),
            (4.2, 4.7, 280.0),
            (6.2, 6.8, 280.0),
            (8.2, 8.5, 280.0),
        ] {
            let delays = window(from, to);
            assert!(delays.len() > 15, "{from} s: {}", delays.len());
            let delay = median(&delays);
            assert!((ms..ms + 20.0).contains(&delay), "{from} s: {delay}");
        }
        // Half way up the ramp.
        let delay = median(&window(2.9, 3.1));
        assert!((150.0..220.0).contains(&delay), "{delay}");
        assert!(window(5.2, 5.8).is_empty());
        assert!(window(7.2, 7.8).is_empty());
        // Up and down: what arrives while the vnode is down is lost.
        let flapping = window(9.0, 10.7);
        assert!((30..140).contains(&flapping.len()), "{}", flapping.len());
        assert_eq!(emu_json("status")["down"].as_array().unwrap().len(), 0);
    });
}

#[test]
fn events_stop_and_leave_the_network_as_it_is() {
    isolated(|| {
        TopologyFile::new(EVENTS).load();
        // From the partition on; stopped before it heals.
        let child = emu_command("start --from 4900ms")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let begin = Instant::now();
        while emu_json("status")["cut"].as_array().unwrap().is_empty() {
            assert!(begin.elapsed() < Duration::from_secs(10), "never cut");
            thread::sleep(Duration::from_millis(20));
        }
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(child.id() as i32),
            nix::sys::signal::Signal::SIGINT,
        )
        .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("partition a b"), "{text}");
        assert!(text.contains("stopped; the network stays as it is"), "{text}");
        assert_eq!(emu_json("status")["cut"].as_array().unwrap().len(), 2);
        // A load of the file keeps the cut, one from anew does not.
        let file = TopologyFile::new(EVENTS);
        emu(&format!("load {} --no-verify --anew", file.path()));
        assert_eq!(emu_json("status")["cut"].as_array().unwrap().len(), 0);
    });
}

#[test]
fn events_need_a_file_that_has_some() {
    isolated(|| {
        TopologyFile::new("version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 2}}\n").load();
        let output = try_emu("start");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1));
        assert!(words.contains("has no `events`"), "{words}");
    });
}
