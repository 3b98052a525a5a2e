//! `emu set`, `partition`, `heal`, `down` and `up` under traffic.
use std::{net::UdpSocket, thread, time::Duration};

use integration::{
    clock::{is_virtual, tries},
    command::{TopologyFile, emu, emu_json, try_emu},
    median,
    netns::isolated,
    udp::{self, Arrival, blast, crossings, overtaken},
};

use crate::reload::{THREE, counter, under_traffic};

/// Number of datagrams that arrive, of ten.
fn arriving(from: &UdpSocket, to: &UdpSocket, address: &str) -> usize {
    for tag in 0..10 {
        udp::send(from, address, tag, 100).unwrap();
    }
    udp::receive(to, 10, Duration::from_millis(700)).len()
}

#[test]
fn byhand_latency_and_rate_change_without_a_loss() {
    isolated(|| {
        TopologyFile::new(THREE).load();
        let gap = Duration::from_millis(4);
        let (sent, arrivals) = under_traffic("10.1.0.1", "10.2.0.1", gap, || {
            for change in [
                "a latency=100ms",
                "a latency=1ms",
                "a:b latency=90ms",
                "a:b latency=2ms",
                "a up=3mbit down=unlimited queue=64KB",
                "10.1.0.1 up=5mbit",
                "b loss=0% jitter=2ms",
                "b jitter=0ms",
            ] {
                let report = emu_json(&format!("set {change}"));
                assert_eq!(report["ok"], true, "{report}");
                thread::sleep(Duration::from_millis(150));
            }
        });
        assert_eq!(arrivals.len() as u32, sent, "lost");
        let status = emu_json("status 10.1.0.1");
        assert_eq!(status["up"]["rate_bits_per_sec"], 5_000_000);
        assert_eq!(status["up"]["latency_ns"], 1_000_000);
        assert_eq!(status["up"]["counters"]["packets"], sent);
        let other = emu_json("status 10.1.0.2");
        assert_eq!(other["up"]["rate_bits_per_sec"], 3_000_000);
        assert!(other["down"]["rate_bits_per_sec"].is_null());
        // 64 KB at 3 Mbit/s.
        let limit = other["up"]["queue_limit_ns"].as_f64().unwrap();
        assert!((limit / 170_666_666.0 - 1.0).abs() < 1e-3, "{limit}");
        // After the last change the latencies are 1 ms, 2 ms and 30 ms.
        let late: Vec<f64> = arrivals
            .iter()
            .rev()
            .take(40)
            .map(Arrival::delay_ms)
            .collect();
        let delay = median(&late);
        assert!((33.0..45.0).contains(&delay), "{delay}");
    });
}

#[test]
fn byhand_losses_are_those_that_were_set() {
    isolated(|| {
        TopologyFile::new(THREE).load();
        let (from, to) = (udp::socket("10.1.0.1"), udp::socket("10.2.0.1"));
        emu("set a:b --one-way loss=100%");
        assert_eq!(arriving(&from, &to, "10.2.0.1"), 0);
        assert_eq!(arriving(&to, &from, "10.1.0.1"), 10);
        emu("set a:b loss=0%");
        assert_eq!(arriving(&from, &to, "10.2.0.1"), 10);
        emu("set 10.1.0.1 loss=100%");
        assert_eq!(arriving(&from, &to, "10.2.0.1"), 0);
        // A load restores the values of the file.
        TopologyFile::new(THREE).load_again();
        assert_eq!(arriving(&from, &to, "10.2.0.1"), 10);
    });
}

#[test]
fn byhand_partition_drops_all_between_two_groups_and_nothing_else() {
    isolated(|| {
        let file = TopologyFile::new(
            "
version: 1
groups:
  eu:
    prefix: 10.1.0.0/16
    groups:
      de: {prefix: 10.1.1.0/24, nodes: 2, latency: 2ms}
      fr: {prefix: 10.1.2.0/24, nodes: 2, latency: 2ms}
  us: {prefix: 10.2.0.0/24, nodes: 2, latency: 2ms}
",
        );
        file.load();
        let gap = Duration::from_millis(5);
        let (sent, arrivals) = under_traffic("10.1.1.1", "10.1.2.1", gap, || {
            let ends = ["10.1.1.2", "10.1.2.2", "10.2.0.2"].map(|a| (a, udp::socket(a)));
            let [de, fr, us] = &ends;
            let passes = |a: &(&str, UdpSocket), b: &(&str, UdpSocket)| {
                let both = arriving(&a.1, &b.1, b.0) + arriving(&b.1, &a.1, a.0);
                assert!(both == 0 || both == 20, "{both} from {} to {}", a.0, b.0);
                both == 20
            };
            emu("partition eu us");
            assert!(!passes(de, us) && !passes(fr, us) && passes(de, fr));
            let cut = emu_json("status")["cut"].clone();
            assert_eq!(cut.as_array().unwrap().len(), 6, "{cut}");
            // A load keeps a partition that was made by hand.
            file.load_again();
            emu("heal fr us");
            assert!(!passes(de, us) && passes(fr, us));
            emu("heal eu us");
            assert!(passes(de, us) && passes(fr, us) && passes(de, fr));
            emu("down 10.1.1.2");
            assert!(!passes(de, us) && passes(fr, us));
            assert_eq!(emu_json("status")["down"][0], "10.1.1.2");
            emu("up eu");
            assert!(passes(de, us));
        });
        assert_eq!(arrivals.len() as u32, sent);
        assert!(overtaken(&arrivals) <= crossings(sent), "out of order");
        assert!(counter("10.2.0.2", "up", "drops_closed") >= 20);
    });
}

/// Sends more than the access link's rate, which changes from 1 to 3 Mbit/s; returns the
/// datagrams that arrived between one and two and a half seconds after the change.
fn full_line() -> Vec<Arrival> {
    TopologyFile::new(
        "version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 2, up: {rate: 1mbit, queue: 15KB}}}\n",
    )
    .load();
    let (from, to) = (udp::socket("10.1.0.1"), udp::socket("10.1.0.2"));
    let receiver = thread::spawn(move || udp::receive(&to, usize::MAX, Duration::from_secs(2)));
    let sender = thread::spawn(move || {
        let (gap, time) = (Duration::from_millis(3), Duration::from_secs(6));
        blast(&from, "10.1.0.2", 1472, gap, time)
    });
    thread::sleep(Duration::from_secs(3));
    emu("set a up=3mbit");
    let start = udp::now() + Duration::from_secs(1);
    let sent = sender.join().unwrap();
    let arrivals = receiver.join().unwrap();
    let drops = counter("10.1.0.1", "up", "drops_bytes");
    assert_eq!(arrivals.len() as u64 + drops, u64::from(sent));
    let counts = |a: &Arrival| a.arrived > start && a.arrived < start + Duration::from_millis(1500);
    arrivals.into_iter().filter(counts).collect()
}

/// Longest time between two datagrams that the access link accepted. The queue holds 40 ms:
/// if a busy machine delays the sender for longer, the link runs idle.
fn longest_gap(part: &[Arrival]) -> Duration {
    let gaps = part.windows(2).map(|w| w[1].sent.saturating_sub(w[0].sent));
    gaps.max().unwrap_or(Duration::MAX)
}

#[test]
fn byhand_rate_of_a_full_line() {
    isolated(|| {
        let mut gaps = Vec::new();
        let steady = (0..tries(4)).map(|_| full_line()).find(|part| {
            let gap = longest_gap(part);
            gaps.push(gap);
            gap < Duration::from_millis(25)
        });
        let Some(part) = steady else {
            assert!(!is_virtual(), "the sender sent nothing for {gaps:?}");
            println!("SKIPPED: a busy machine kept the sender from sending for {gaps:?}");
            return;
        };
        let time = part[part.len() - 1].arrived - part[0].arrived;
        let rate = (part.len() - 1) as f64 * 12_000.0 / time.as_secs_f64();
        // Packets that a busy machine delayed arrive at once, so the rate of a short part
        // is inexact.
        let share = if is_virtual() { 0.002 } else { 0.25 };
        assert!((rate / 3e6 - 1.0).abs() < share, "{rate}");
        // The queue still holds 15 KB: 40 ms at the new rate, 120 ms at the old one.
        let delays: Vec<f64> = part.iter().map(Arrival::delay_ms).collect();
        let delay = median(&delays);
        assert!((30.0..70.0).contains(&delay), "{delay}");
    });
}

#[test]
fn byhand_mistakes_say_what_to_do() {
    isolated(|| {
        let plain = TopologyFile::new(
            "version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 2}, b: {prefix: 10.2.0.0/24, nodes: 2}}\n",
        );
        plain.load();
        for (command, message) in [
            ("set a loss=1%", "add `loss: 0%` to the group a"),
            (
                "set a:b loss=1%",
                "add `loss: 0%` to the link between a and b",
            ),
            ("set a:b rate=1mbit", "has no capacity; add `rate: …`"),
            ("set c latency=1ms", "there is no group `c`"),
            ("set 10.9.9.9 latency=1ms", "10.9.9.9 is not a vnode"),
            ("set a up=1", "did you mean `1kbit`?"),
            ("set a latncy=1ms", "did you mean `latency`?"),
            ("set a --one-way latency=1ms", "--one-way is for two groups"),
            ("partition a 10.1.0.1", "is not a group"),
            ("down a:b", "name a group or a vnode"),
            ("set a up={rate:1mbit}", "unknown key `rate:1mbit`"),
        ] {
            let output = try_emu(command);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{command}: {said}");
            assert!(said.contains(message), "{command}: {said}");
        }
    });
}
