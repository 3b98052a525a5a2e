//! `emu load` of a changed file under traffic.
use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use integration::{
    command::{TopologyFile, emu, emu_command, emu_json, run},
    median,
    netns::isolated,
    udp::{self, Arrival, crossings, overtaken},
};
use serde_json::Value;

use crate::safety::snapshot;

/// The queues are so long that a sender that the machine delayed loses no packets when it
/// catches up.
pub const THREE: &str = "
version: 1
groups:
  a: {prefix: 10.1.0.0/24, nodes: 4, up: 8mbit, down: 8mbit, latency: 20ms, queue: 4s}
  b: {prefix: 10.2.0.0/24, nodes: 4, up: 4mbit, latency: 30ms, queue: 4s, loss: 0%}
  c: {prefix: 10.3.0.0/24, nodes: 4, latency: 10ms}
latencies:
  - {between: [a, b], latency: 25ms}
  - {between: [a, c], latency: 15ms}
";

/// Loads in place; fails the test if that is not possible.
fn reload(text: &str) -> Value {
    let file = TopologyFile::new(text);
    let report = emu_json(&format!("load {} --no-verify", file.path()));
    let how = report["how"]["in_place"].clone();
    assert!(how.is_object(), "{report}");
    how
}

pub fn counter(vnode: &str, direction: &str, counter: &str) -> u64 {
    emu_json(&format!("status {vnode}"))[direction]["counters"][counter]
        .as_u64()
        .unwrap()
}

/// Sends from one vnode to another during `work`; returns the number of sent datagrams and
/// those that arrived.
pub fn under_traffic(
    from: &'static str,
    to: &'static str,
    gap: Duration,
    work: impl FnOnce(),
) -> (u32, Vec<Arrival>) {
    traffic([from, to], gap, 400, work)
}

/// Like [`under_traffic`], with datagrams of `bytes` payload bytes.
fn traffic(
    [from, to]: [&'static str; 2],
    gap: Duration,
    bytes: usize,
    work: impl FnOnce(),
) -> (u32, Vec<Arrival>) {
    let (sender, receiver) = (udp::socket(from), udp::socket(to));
    let receiver =
        thread::spawn(move || udp::receive(&receiver, usize::MAX, Duration::from_secs(2)));
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let sender = thread::spawn(move || {
        let (start, mut sent) = (Instant::now(), 0);
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            udp::send(&sender, to, sent, bytes).unwrap_or_else(|e| panic!("send {sent}: {e}"));
            sent += 1;
            thread::sleep((gap * sent).saturating_sub(start.elapsed()));
        }
        sent
    });
    thread::sleep(Duration::from_millis(500));
    work();
    thread::sleep(Duration::from_millis(500));
    drop(stop);
    (sender.join().unwrap(), receiver.join().unwrap())
}

/// Like [`under_traffic`], with a second flow, from `control` to another vnode, that no
/// change affects. Returns the first flow, and the arrivals of the second.
fn with_control(
    control: [&'static str; 2],
    flow: [&'static str; 2],
    gap: Duration,
    work: impl FnOnce(),
) -> (u32, Vec<Arrival>, Vec<Arrival>) {
    let (mut sent, mut arrivals) = (0, Vec::new());
    let (_, control) = under_traffic(control[0], control[1], gap, || {
        (sent, arrivals) = under_traffic(flow[0], flow[1], gap, work);
    });
    (sent, arrivals, control)
}

/// Median delay of the datagrams sent in a part of the time, in milliseconds.
fn delay_between(arrivals: &[Arrival], from: Duration, to: Duration) -> f64 {
    let part = arrivals.iter().filter(|a| a.sent > from && a.sent < to);
    median(&part.map(Arrival::delay_ms).collect::<Vec<_>>())
}

#[test]
fn reload_of_other_groups_is_not_noticed() {
    isolated(|| {
        TopologyFile::new(THREE).load();
        let gap = Duration::from_millis(3);
        let (sent, arrivals) = under_traffic("10.1.0.1", "10.1.0.2", gap, || {
            for (from, to) in [
                ("up: 4mbit", "up: 1mbit, down: 3mbit"),
                ("latency: 30ms", "latency: 5ms"),
                ("queue: 4s, loss: 0%", "queue: 80 packets, loss: 10%"),
                ("latency: 10ms}", "latency: 1ms}"),
            ] {
                reload(&THREE.replace(from, to));
                thread::sleep(Duration::from_millis(200));
            }
            let how = reload(THREE);
            assert_eq!(how["pipes"], 8, "{how}");
            let same = reload(THREE);
            assert_eq!((&same["pipes"], &same["links"]), (&0.into(), &0.into()));
        });
        assert_eq!(arrivals.len() as u32, sent);
        assert!(overtaken(&arrivals) <= crossings(sent), "out of order");
        // 40 ms and twice 0.4 ms: unchanged before, during and after the loads.
        let delays: Vec<f64> = arrivals.iter().map(Arrival::delay_ms).collect();
        let delay = median(&delays);
        assert!((40.0..50.0).contains(&delay), "{delay}");
        assert_eq!(counter("10.1.0.1", "up", "packets"), u64::from(sent));
    });
}

#[test]
fn reload_changes_latencies_of_packets_to_come() {
    isolated(|| {
        let slow = THREE.replace("latency: 25ms", "latency: 400ms");
        TopologyFile::new(&slow).load();
        let gap = Duration::from_millis(5);
        let mut changed = Vec::new();
        let control = ["10.3.0.1", "10.3.0.2"];
        let flow = ["10.1.0.1", "10.2.0.1"];
        let (sent, arrivals, control) = with_control(control, flow, gap, || {
            for text in [
                THREE.to_owned(),
                slow.clone(),
                slow.replace("latency: 20ms", "latency: 120ms"),
                THREE.to_owned(),
            ] {
                let how = reload(&text);
                changed.push(udp::now());
                assert_ne!((&how["pipes"], &how["links"]), (&0.into(), &0.into()));
                thread::sleep(Duration::from_millis(700));
            }
        });
        assert_eq!(arrivals.len() as u32, sent, "lost");
        assert_eq!(counter("10.1.0.1", "up", "packets"), u64::from(sent));
        // From 100 ms after a change the new latency applies to new packets, although
        // packets with the old one are still in flight.
        let expected = [75.0, 450.0, 550.0, 75.0];
        for (at, expected) in changed.iter().zip(expected) {
            let (from, to) = (Duration::from_millis(100), Duration::from_millis(400));
            let delay = delay_between(&arrivals, *at + from, *at + to);
            // The delay that the machine adds, measured on the flow of 20 ms that no change
            // affects.
            let late = delay_between(&control, *at + from, *at + to) - 20.0;
            println!("{delay:.1} of {expected} ms, the control {late:+.1} ms");
            assert!(
                (expected..expected + 20.0 + 3.0 * late).contains(&delay),
                "{expected}: {delay}, late {late}"
            );
        }
    });
}

#[test]
fn reload_changes_rates_and_queues_of_a_full_line() {
    isolated(|| {
        let text = |rate, queue| {
            format!(
                "
version: 1
groups:
  a: {{prefix: 10.1.0.0/24, nodes: 2, up: {{rate: {rate}, queue: {queue}}}, latency: 5ms}}
  c: {{prefix: 10.3.0.0/24, nodes: 2, latency: 10ms}}
"
            )
        };
        TopologyFile::new(&text("1mbit", "20 packets")).load();
        let mut changed = Vec::new();
        let (mut sent, mut arrivals) = (0, Vec::new());
        let [gap, control_gap] = [4, 10].map(Duration::from_millis);
        let (_, control) = under_traffic("10.3.0.1", "10.3.0.2", control_gap, || {
            (sent, arrivals) = traffic(["10.1.0.1", "10.1.0.2"], gap, 1472, || {
                changed.push(udp::now());
                for (rate, queue) in [
                    ("1mbit", "40 packets"),
                    ("2mbit", "40 packets"),
                    ("2mbit", "15KB"),
                ] {
                    thread::sleep(Duration::from_secs(2));
                    assert_eq!(reload(&text(rate, queue))["pipes"], 2);
                    changed.push(udp::now());
                }
                thread::sleep(Duration::from_secs(2));
            });
        });
        let drops =
            counter("10.1.0.1", "up", "drops_packets") + counter("10.1.0.1", "up", "drops_bytes");
        assert_eq!(arrivals.len() as u64 + drops, u64::from(sent));
        // Delay of a packet at the end of a full queue, and the rate, from one second after
        // each change.
        let expected = [(240.0, 1e6), (480.0, 1e6), (240.0, 2e6), (60.0, 2e6)];
        for (at, (delay_ms, rate)) in changed.iter().zip(expected) {
            let start = *at + Duration::from_secs(1);
            let part: Vec<Arrival> = arrivals
                .iter()
                .filter(|a| a.arrived > start && a.arrived < start + Duration::from_millis(900))
                .copied()
                .collect();
            let delays: Vec<f64> = part.iter().map(Arrival::delay_ms).collect();
            let delay = median(&delays) - 10.0;
            let time = part[part.len() - 1].arrived - part[0].arrived;
            let got = (part.len() - 1) as f64 * 12_000.0 / time.as_secs_f64();
            // The delay that the machine adds, measured on the flow of 20 ms that no change
            // affects.
            let late = delay_between(&control, *at, *at + Duration::from_secs(2)) - 20.0;
            println!("{delay_ms} ms: {delay:.1} ({late:+.1}); {rate} bit/s: {got:.0}");
            let bounds = 0.8 * delay_ms..1.2 * delay_ms + 3.0 * late;
            assert!(bounds.contains(&delay), "{delay_ms}: {delay}, late {late}");
            // Packets that a busy machine delayed arrive at once, so the rate of a short
            // part is inexact. The rates differ by a factor of two.
            assert!((got / rate - 1.0).abs() < 0.25, "{rate}: {got}");
        }
    });
}

#[test]
fn reload_adds_and_removes_vnodes() {
    isolated(|| {
        for addressing in ["alias", "anyip"] {
            let before = snapshot();
            let text = format!("{}addressing: {addressing}\n", THREE);
            TopologyFile::new(&text).load();
            let gap = Duration::from_millis(5);
            let mut delay = 0.0;
            let (sent, arrivals) = under_traffic("10.1.0.1", "10.3.0.1", gap, || {
                let how = reload(&text.replace("10.2.0.0/24, nodes: 4", "10.2.0.0/24, nodes: 7"));
                assert_eq!(how["added"], 3);
                let (new, there) = (udp::socket("10.2.0.7"), udp::socket("10.1.0.2"));
                let delays = [0; 3].map(|tag| {
                    udp::send(&new, "10.1.0.2", tag, 100).unwrap();
                    udp::receive(&there, 1, Duration::from_secs(2))[0].delay_ms()
                });
                delay = median(&delays);
                let how = reload(&text.replace("10.2.0.0/24, nodes: 4", "10.2.0.0/24, nodes: 2"));
                assert_eq!(how["removed"], 5);
                assert!(std::net::UdpSocket::bind("10.2.0.3:0").is_err());
            });
            assert_eq!(arrivals.len() as u32, sent);
            assert!(overtaken(&arrivals) <= crossings(sent), "out of order");
            // 30, 25 and 20 ms. The flow that no change affects, with 45 ms and 0.8 ms of
            // serialisation, shows the delay that the machine adds.
            let delays: Vec<f64> = arrivals.iter().map(Arrival::delay_ms).collect();
            let late = median(&delays) - 45.8;
            println!("{delay:.1} of 75 ms, the other flow {late:+.1} ms");
            assert!(
                (75.0..90.0 + 3.0 * late).contains(&delay),
                "{delay}, late {late}"
            );
            emu("verify --samples 2");
            emu("unload");
            assert_eq!(snapshot(), before);
        }
    });
}

#[test]
fn reload_grows_fq_without_losses() {
    isolated(|| {
        TopologyFile::new(THREE).load();
        let gap = Duration::from_millis(5);
        let (sent, arrivals) = under_traffic("10.1.0.1", "10.1.0.2", gap, || {
            reload(
                &THREE
                    .replace(
                        "latency: 10ms}",
                        "latency: 14s, up: {rate: 1gbit, queue: 900000 packets}}",
                    )
                    .replace("900000 packets", "10s"),
            );
        });
        assert_eq!(arrivals.len() as u32, sent);
        let shown = run("tc qdisc show dev lo");
        assert!(shown.contains("horizon 2"), "{shown}");
        assert!(!shown.contains("limit 10000p flow"), "{shown}");
    });
}

#[test]
fn reload_says_why_a_full_reload_is_needed() {
    isolated(|| {
        TopologyFile::new(THREE).load();
        let file = TopologyFile::new(&THREE.replace("latency: 25ms", "latency: 35ms"));
        let text = emu(&format!("load {} --dry-run", file.path()));
        assert_eq!(text.trim(), "would change in place: 0 pipes, 1 links");
        let text = emu(&format!("load {} --no-verify", file.path()));
        assert!(
            text.contains("changed in place: 0 pipes, 1 links"),
            "{text}"
        );
        let file = TopologyFile::new(&format!("{THREE}mtu: 1400\n"));
        let text = emu(&format!("load {} --dry-run", file.path()));
        assert!(
            text.contains("would do a full reload, because the MTU changed"),
            "{text}"
        );
        let text = emu(&format!("load {} --no-verify", file.path()));
        assert!(
            text.contains("full reload, because the MTU changed"),
            "{text}"
        );
    });
}

/// A change in place that is killed at any moment leaves a state that `load` or `unload`
/// repairs.
#[test]
fn reload_that_is_killed_is_repaired() {
    isolated(|| {
        let before = snapshot();
        let other = THREE
            .replace("latency: 20ms", "latency: 5ms")
            .replace("nodes: 4", "nodes: 6");
        let (first, second) = (TopologyFile::new(THREE), TopologyFile::new(&other));
        first.load();
        let start = Instant::now();
        second.load_again();
        let whole = start.elapsed();
        for i in 0..12u32 {
            let file = if i % 2 == 0 { &first } else { &second };
            let mut child = emu_command(&format!("load {} --no-verify", file.path()))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            thread::sleep(whole * i / 12);
            let _ = child.kill();
            let _ = child.wait();
            if i % 3 == 0 {
                emu("unload");
                assert_eq!(snapshot(), before, "killed after {i}/12");
            }
            file.load_again();
            let status = emu_json("status");
            assert_eq!(status["ok"], true, "{status}");
            assert_eq!(status["vnodes"], if i % 2 == 0 { 12 } else { 18 });
        }
        emu("verify --samples 2");
        emu("unload");
        assert_eq!(snapshot(), before);
    });
}

/// The largest host: a change of every access link, by a load and by hand.
#[test]
fn reload_of_sixty_five_thousand_vnodes() {
    isolated(|| {
        let text = "
version: 1
addressing: anyip
groups:
  a: {prefix: 10.64.0.0/15, nodes: 65536, up: 1mbit, down: 8mbit, latency: 20ms, queue: 64KB}
";
        TopologyFile::new(text).load();
        let start = Instant::now();
        let how = reload(&text.replace("20ms", "10ms"));
        assert_eq!(how["pipes"], 131_072);
        println!("65,536 vnodes changed by a load in {:?}", start.elapsed());
        let start = Instant::now();
        emu("set a up=2mbit latency=5ms");
        println!("65,536 vnodes changed by hand in {:?}", start.elapsed());
        let (from, to) = (udp::socket("10.64.0.1"), udp::socket("10.65.0.0"));
        let delays = [0; 3].map(|tag| {
            udp::send(&from, "10.65.0.0", tag, 100).unwrap();
            udp::receive(&to, 1, Duration::from_secs(2))[0].delay_ms()
        });
        let delay = median(&delays);
        assert!((10.0..30.0).contains(&delay), "{delay}");
    });
}
