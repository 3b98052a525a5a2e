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
        let late: Vec<f64> = lines
            .iter()
            .map(|l| l["late_ms"].as_f64().unwrap())
            .collect();
        println!("events late by {:.2} ms (median)", median(&late));
        assert!(median(&late) < 20.0, "{late:?}");
        assert!(lines.iter().all(|l| l["ok"] == true), "{lines:?}");
        // What was sent from 200 ms after one second on to 200 ms before another:
        // so many arrive, after so long.
        let window = |from_s: f64, to_s: f64| -> Vec<f64> {
            let at = |s: f64| begin + Duration::from_secs_f64(s);
            let sent = |a: &&Arrival| a.sent > at(from_s) && a.sent < at(to_s);
            arrivals
                .iter()
                .filter(sent)
                .map(Arrival::delay_ms)
                .collect()
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
        assert!(
            text.contains("stopped; the network stays as it is"),
            "{text}"
        );
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

/// Lines follow a recording of mahimahi's, a link a table, both in rounds.
#[test]
fn events_traces_are_followed() {
    isolated(|| {
        let folder = tempfile::tempdir().unwrap();
        // 1500 bytes each 3 ms for a second (4 Mbit/s), then each 12 ms (1 Mbit/s).
        let fast = (1..=333).map(|i| i * 3);
        let slow = (1..=83).map(|i| 1000 + i * 12);
        let text: Vec<String> = fast
            .chain(slow)
            .chain([2000])
            .map(|ms| ms.to_string())
            .collect();
        std::fs::write(folder.path().join("up.trace"), text.join("\n")).unwrap();
        let table =
            "time, latency, loss\n0s, 20ms, 0%\n1s, 120ms, 0%\n2s, 20ms, 100%\n3s, 20ms, 0%\n";
        std::fs::write(folder.path().join("path.csv"), table).unwrap();
        let file = TopologyFile::new(&format!(
            "
version: 1
groups:
  a: {{prefix: 10.1.0.0/24, nodes: 2, queue: 20 packets, up: 1mbit}}
  b: {{prefix: 10.2.0.0/24, nodes: 2}}
traces:
  - {{group: a, up: {folder}/up.trace, loop: true}}
  - {{between: [a, b], file: {folder}/path.csv}}
",
            folder = folder.path().display()
        ));
        file.load();
        let (full, there) = (udp::socket("10.1.0.1"), udp::socket("10.1.0.2"));
        let receiver =
            thread::spawn(move || udp::receive(&there, usize::MAX, Duration::from_secs(2)));
        let sender = thread::spawn(move || {
            let (gap, time) = (Duration::from_millis(2), Duration::from_millis(6_500));
            udp::blast(&full, "10.1.0.2", 1472, gap, time)
        });
        let gap = Duration::from_millis(10);
        let mut begin = Duration::ZERO;
        // The other vnode's line: the small datagrams would find a full queue.
        let (_, arrivals) = under_traffic("10.1.0.2:7001", "10.2.0.1", gap, || {
            let mut child = emu_command("start").stdout(Stdio::null()).spawn().unwrap();
            begin = udp::now();
            thread::sleep(Duration::from_millis(5_300));
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(child.id() as i32),
                nix::sys::signal::Signal::SIGINT,
            )
            .unwrap();
            assert!(child.wait().unwrap().success());
        });
        sender.join().unwrap();
        let delays = |from_s: f64, to_s: f64| -> Vec<f64> {
            let at = |s: f64| begin + Duration::from_secs_f64(s);
            let sent = |a: &&Arrival| a.sent > at(from_s) && a.sent < at(to_s);
            arrivals
                .iter()
                .filter(sent)
                .map(Arrival::delay_ms)
                .collect()
        };
        for (from, ms) in [(0.4, 20.0), (1.4, 120.0), (3.4, 20.0)] {
            let delay = median(&delays(from, from + 0.4));
            assert!((ms..ms + 15.0).contains(&delay), "{from} s: {delay}");
        }
        assert!(delays(2.4, 2.8).is_empty());
        let full = receiver.join().unwrap();
        // Packets that wait leave at the rate of when they came. The median of the
        // rounds: a pause of the sender empties the queue.
        for (windows, rate) in [(&[0.4, 2.5, 4.5][..], 4e6), (&[1.5, 3.5][..], 1e6)] {
            let rates: Vec<f64> = windows
                .iter()
                .map(|from| {
                    let at = |s: f64| begin + Duration::from_secs_f64(s);
                    let part: Vec<&Arrival> = full
                        .iter()
                        .filter(|a| a.arrived > at(*from) && a.arrived < at(from + 0.45))
                        .collect();
                    let time = part[part.len() - 1].arrived - part[0].arrived;
                    (part.len() - 1) as f64 * 12_000.0 / time.as_secs_f64()
                })
                .collect();
            println!("{rate} bit/s: {rates:.0?}");
            assert!(
                (median(&rates) / rate - 1.0).abs() < 0.1,
                "{rate}: {rates:?}"
            );
        }
    });
}

/// A recording that waits for traffic begins with it.
#[test]
fn events_traces_wait_for_the_first_packet() {
    isolated(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("late.csv");
        std::fs::write(&path, "time,latency\n0s,5ms\n500ms,100ms\n1s,5ms\n").unwrap();
        TopologyFile::new(&format!(
            "
version: 1
groups: {{a: {{prefix: 10.1.0.0/24, nodes: 2}}}}
traces: [{{vnode: 10.1.0.1, up: {}, begin: first-packet}}]
",
            path.display()
        ))
        .load();
        let runner = thread::spawn(|| start(""));
        thread::sleep(Duration::from_millis(1_500));
        let (from, to) = (udp::socket("10.1.0.1"), udp::socket("10.1.0.2"));
        let begin = Instant::now();
        let mut delays = [0.0; 3];
        udp::send(&from, "10.1.0.2", 0, 100).unwrap();
        udp::receive(&to, 1, Duration::from_secs(1));
        for (at_ms, delay) in [200, 750, 1_400].into_iter().zip(&mut delays) {
            thread::sleep(Duration::from_millis(at_ms).saturating_sub(begin.elapsed()));
            udp::send(&from, "10.1.0.2", 1, 100).unwrap();
            *delay = udp::receive(&to, 1, Duration::from_secs(1))[0].delay_ms();
        }
        let lines = runner.join().unwrap();
        let words: Vec<&str> = lines.iter().filter_map(|l| l["event"].as_str()).collect();
        assert!(
            words[0].ends_with("begins") && words[1].ends_with("ends"),
            "{words:?}"
        );
        assert!(lines[0]["at_s"].as_f64().unwrap() > 1.0, "{lines:?}");
        println!("{delays:.1?} ms");
        assert!(
            delays[0] < 60.0 && delays[1] > 99.0 && delays[2] < 60.0,
            "{delays:?}"
        );
    });
}
