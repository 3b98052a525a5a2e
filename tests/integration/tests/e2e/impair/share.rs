//! The capacity that flows between two groups share, and all impairments in one file.
use std::{thread, time::Duration};

use integration::{
    command::{TopologyFile, emu_json},
    median,
    netns::isolated,
    udp::{self, Arrival, crossings, overtaken},
};

use emu_bench::{model::Events, stats::share_z};
use nix::sys::socket::{setsockopt, sockopt};

use super::{missing, stream};

/// Bits of IP packets per second from the first arrival to the last.
fn rate_bits_per_sec(arrivals: &[Arrival]) -> f64 {
    let bytes: usize = arrivals[1..].iter().map(|a| a.bytes + 28).sum();
    let span = arrivals[arrivals.len() - 1].arrived - arrivals[0].arrived;
    bytes as f64 * 8.0 / span.as_secs_f64()
}

/// Two vnodes that each send 1.6 Mbit/s through a capacity of 2 Mbit/s. The queue is long
/// enough that the capacity stays saturated when the machine delays the senders.
#[test]
fn the_goodputs_of_a_pair_add_up_to_its_capacity() {
    isolated(|| {
        let file = TopologyFile::new(
            "
version: 1
groups:
  a: {prefix: 10.1.0.0/24, nodes: 4}
  b: {prefix: 10.2.0.0/24, nodes: 4}
latencies:
  - {between: [a, b], latency: 10ms, rate: 2mbit, queue: 800ms}
",
        );
        file.load();
        let flows: Vec<_> = [1, 2]
            .map(|n| {
                let to = udp::socket(&format!("10.2.0.{n}"));
                let receiver = thread::spawn(move || {
                    udp::receive(&to, usize::MAX, Duration::from_millis(600))
                });
                thread::spawn(move || {
                    let from = udp::socket(&format!("10.1.0.{n}"));
                    let (gap, time) = (Duration::from_millis(5), Duration::from_secs(3));
                    udp::blast(&from, &format!("10.2.0.{n}"), 972, gap, time);
                    receiver.join().unwrap()
                })
            })
            .into_iter()
            .map(|flow| flow.join().unwrap())
            .collect();
        let rates: Vec<f64> = flows.iter().map(|f| rate_bits_per_sec(f)).collect();
        let mut both: Vec<Arrival> = flows.concat();
        both.sort_by_key(|a| a.arrived);
        let sum = rate_bits_per_sec(&both);
        println!(
            "{:.3} + {:.3} Mbit/s, together {:.3}",
            rates[0] / 1e6,
            rates[1] / 1e6,
            sum / 1e6
        );
        assert!((sum / 2e6 - 1.0).abs() < 0.05, "{sum}");
        // No flow is starved: each gets at least a quarter of the capacity.
        assert!(rates.iter().all(|r| *r > 0.5e6), "{rates:?}");
    });
}

/// One sender and two destinations with different impairments.
#[test]
fn a_link_has_all_impairments_at_once_and_another_has_none() {
    isolated(|| {
        let file = TopologyFile::new(
            "
version: 1
seed: 5
groups:
  a: {prefix: 10.1.0.0/24, nodes: 2, up: 50mbit}
  b: {prefix: 10.2.0.0/24, nodes: 2}
  c: {prefix: 10.3.0.0/24, nodes: 2}
latencies:
  - between: [a, b]
    latency: 60ms
    rate: 2mbit
    queue: 200ms
    jitter: {spread: 10ms, distribution: normal}
    loss: {gilbert_elliott: {to_bad: 5%, to_good: 40%}}
    aqm: {codel: {target: 5ms, interval: 100ms, ecn: true}}
  - {between: [a, c], latency: 20ms}
",
        );
        file.load();
        let from = udp::socket("10.1.0.1");
        let (to_b, to_c) = (udp::socket("10.2.0.1"), udp::socket("10.3.0.1"));
        let (count, quiet) = (1_500, Duration::from_millis(500));
        let impaired = stream((&from, &to_b), count, 1, quiet);
        let plain = stream((&from, &to_c), count, 10, quiet);
        let delays =
            |arrivals: &[Arrival]| -> Vec<f64> { arrivals.iter().map(Arrival::delay_ms).collect() };
        assert_eq!(plain.len() as u32, count);
        let near = median(&delays(&plain));
        assert!((20.0..26.0).contains(&near), "{near}");

        // 1,500 datagrams with bursts of 2.5: the bound is five standard errors.
        let lost = missing(&impaired, count).iter().filter(|l| **l).count();
        let promise = Events::GilbertElliott([0.05, 0.4, 1.0, 0.0]).promise();
        let n = f64::from(count);
        let z = share_z(lost as f64 / n, promise.share, n, promise.spread);
        assert!(z.statistic.abs() < 5.0, "{lost}: {z:?}");
        assert!(overtaken(&impaired) <= crossings(count), "overtaken");
        let mut far = delays(&impaired);
        far.sort_unstable_by(f64::total_cmp);
        let (low, middle, high) = (far[20], median(&far), far[far.len() - 20]);
        println!("{lost} lost, {low:.1} / {middle:.1} / {high:.1} ms against {near:.1} ms");
        // In-order delivery delays early datagrams, so the early tail is shorter.
        assert!((40.0..64.0).contains(&low) && (60.0..90.0).contains(&middle));
        assert!((75.0..140.0).contains(&high), "{high}");
        // The rate through the same link between groups.
        let receiver = thread::spawn(move || udp::receive(&to_b, usize::MAX, quiet));
        let gap = Duration::from_millis(3);
        // ECT(0): the sender supports ECN.
        setsockopt(&from, sockopt::Ipv4Tos, &2).unwrap();
        udp::blast(&from, "10.2.0.1", 972, gap, Duration::from_secs(2));
        let rate = rate_bits_per_sec(&receiver.join().unwrap());
        let reasons = &emu_json("status")["reasons"];
        println!("{:.3} Mbit/s, {reasons}", rate / 1e6);
        // Losses happen in front of the capacity, which the other packets saturate.
        assert!((rate / 2e6 - 1.0).abs() < 0.05, "{rate}");
        assert!(reasons["marked"].as_u64().unwrap() > 3, "{reasons}");
    });
}
