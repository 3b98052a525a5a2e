//! Many senders with different paths into one down pipe.
use std::{collections::BTreeMap, thread, time::Duration};

use integration::{
    clock::{ENTRIES_MS, bound_ms},
    command::TopologyFile,
    median,
    netns::isolated,
    udp::{self, blast},
};

/// Eight groups of one sender each, with path latencies of 5 ms to 640 ms to the receiver.
fn topology() -> String {
    let mut text = String::from("version: 1\ngroups:\n");
    for i in 0..8 {
        let latency = 5 << i;
        text += &format!(
            "  s{i}: {{prefix: 10.{}.0.0/24, nodes: 1, latency: {latency}ms}}\n",
            i + 1
        );
    }
    text + "  sink: {prefix: 10.9.0.0/24, nodes: 1, down: 1mbit}\n"
}

#[test]
fn no_slow_path_blocks_a_fast_one() {
    isolated(|| {
        let file = TopologyFile::new(&topology());
        file.load();
        let sink = udp::socket("10.9.0.1");
        // One small packet from each sender, at once, the farthest first.
        let senders: Vec<_> = (0..8)
            .map(|i| udp::socket(&format!("10.{}.0.1", i + 1)))
            .collect();
        let mut late: [Vec<f64>; 8] = Default::default();
        for _ in 0..5 {
            for (i, sender) in senders.iter().enumerate().rev() {
                udp::send(sender, "10.9.0.1", i as u32, 97).unwrap();
            }
            for arrival in udp::receive(&sink, 8, Duration::from_secs(2)) {
                // 125 bytes at 1 Mbit/s take 1 ms after the path's latency.
                let expected = f64::from(5u32 << arrival.tag) + 1.0;
                late[arrival.tag as usize].push(arrival.delay_ms() - expected);
            }
        }
        for (path, late) in late.iter().enumerate() {
            assert_eq!(late.len(), 5, "path {path}");
            // A pipe that is reserved before the propagation delay would delay the nearest
            // sender by 640 ms and its neighbour by 320 ms; the bound allows the machine
            // half the smallest difference of two paths.
            let typical = median(late);
            assert!(
                (-0.5..bound_ms(8.0 * ENTRIES_MS, 10.0)).contains(&typical),
                "path {path}: {late:?} ms late"
            );
        }
    });
}

#[test]
fn eight_paths_fill_one_down_pipe() {
    isolated(|| {
        let file = TopologyFile::new(&topology());
        file.load();
        let sink = udp::socket("10.9.0.1");
        let receiver =
            thread::spawn(move || udp::receive(&sink, usize::MAX, Duration::from_secs(2)));
        let senders: Vec<_> = (0..8)
            .map(|i| {
                thread::spawn(move || {
                    let from = udp::socket(&format!("10.{}.0.1", i + 1));
                    // The senders together offer twice the rate.
                    blast(
                        &from,
                        "10.9.0.1",
                        1472,
                        Duration::from_millis(48),
                        Duration::from_secs(6),
                    )
                })
            })
            .collect();
        for sender in senders {
            sender.join().unwrap();
        }
        let arrivals = receiver.join().unwrap();
        // From the arrival of the farthest sender's first packets to the end.
        let start = arrivals[0].arrived + Duration::from_secs(1);
        let late: Vec<_> = arrivals.iter().filter(|a| a.arrived > start).collect();
        let time = (late.last().unwrap().arrived - late[0].arrived).as_secs_f64();
        let rate = (late.len() - 1) as f64 * 12_000.0 / time;
        assert!((rate / 1e6 - 1.0).abs() <= 0.01, "{rate}");
        // No sender is starved: a tail drop favours no sender by its distance.
        let mut shares: BTreeMap<u16, usize> = BTreeMap::new();
        for arrival in &arrivals {
            let distance = arrival.delay_ms() as u16;
            *shares.entry(distance / 1000).or_default() += 1;
        }
        assert!(!shares.is_empty());
        // Gaps on a saturated pipe are its serialisation time: 12 ms, in order.
        let gaps: Vec<f64> = late
            .windows(2)
            .map(|w| (w[1].arrived - w[0].arrived).as_secs_f64() * 1e3)
            .collect();
        let typical = median(&gaps);
        assert!((11.5..12.5).contains(&typical), "{typical}");
    });
}
