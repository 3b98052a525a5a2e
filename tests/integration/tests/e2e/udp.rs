//! Rates and losses of UDP.
use std::{
    thread,
    time::{Duration, Instant},
};

use integration::{
    command::{TopologyFile, emu_json},
    median,
    netns::isolated,
    udp::{self, Arrival, blast},
};
use nix::sys::socket::{setsockopt, sockopt};

/// Payload of 1472 bytes in an IP packet of 1500.
const PAYLOAD: usize = 1472;

/// IP bits per second between the first and the last arrival.
fn rate_bits_per_sec(arrivals: &[Arrival]) -> f64 {
    let times = || arrivals.iter().map(|a| a.arrived);
    let time = times().max().unwrap() - times().min().unwrap();
    (arrivals.len() - 1) as f64 * 1500.0 * 8.0 / time.as_secs_f64()
}

fn drops(vnode: &str, direction: &str) -> u64 {
    let counters = &emu_json(&format!("status {vnode}"))[direction]["counters"];
    counters["drops_packets"].as_u64().unwrap() + counters["drops_bytes"].as_u64().unwrap()
}

#[test]
fn twice_the_rate_is_delivered_at_the_rate_and_the_rest_counted() {
    isolated(|| {
        let file = TopologyFile::new(
            "version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 2, up: 2mbit, latency: 5ms}}\n",
        );
        file.load();
        let (from, to) = (udp::socket("10.1.0.1"), udp::socket("10.1.0.2"));
        let receiver = thread::spawn(move || udp::receive(&to, usize::MAX, Duration::from_secs(2)));
        // 1500 bytes at 2 Mbit/s last 6 ms; a send that reports a drop fails the test.
        let sent = blast(
            &from,
            "10.1.0.2",
            PAYLOAD,
            Duration::from_millis(3),
            Duration::from_secs(6),
        );
        let arrivals = receiver.join().unwrap();
        let rate = rate_bits_per_sec(&arrivals);
        assert!((rate / 2e6 - 1.0).abs() <= 0.01, "{rate}");
        assert_eq!(
            arrivals.len() as u64 + drops("10.1.0.1", "up"),
            u64::from(sent)
        );
        // The steady delay of a full queue of 50 packets: 300 ms.
        let last: Vec<f64> = arrivals
            .iter()
            .rev()
            .take(100)
            .map(Arrival::delay_ms)
            .collect();
        let typical = median(&last);
        assert!((280.0..320.0).contains(&typical), "{typical}");
    });
}

#[test]
fn eight_senders_at_once_get_the_one_rate() {
    isolated(|| {
        let file = TopologyFile::new(
            "version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 2, up: 4mbit}}\n",
        );
        file.load();
        let to = udp::socket("10.1.0.2");
        let receiver = thread::spawn(move || udp::receive(&to, usize::MAX, Duration::from_secs(2)));
        let senders: Vec<_> = (0..8)
            .map(|i| {
                thread::spawn(move || {
                    let from = udp::socket(&format!("10.1.0.1:{}", 7001 + i));
                    let gap = Duration::from_millis(12);
                    blast(&from, "10.1.0.2", PAYLOAD, gap, Duration::from_secs(5))
                })
            })
            .collect();
        let sent: u32 = senders.into_iter().map(|s| s.join().unwrap()).sum();
        let arrivals = receiver.join().unwrap();
        let rate = rate_bits_per_sec(&arrivals);
        assert!((rate / 4e6 - 1.0).abs() <= 0.01, "{rate}");
        assert_eq!(
            arrivals.len() as u64 + drops("10.1.0.1", "up"),
            u64::from(sent)
        );
    });
}

/// Limits in packets and in bytes: the part of a burst that an idle link accepts.
#[test]
fn a_queue_holds_what_its_limit_says() {
    isolated(|| {
        for (queue, taken) in [
            ("10 packets", 10),
            ("50 packets", 50),
            ("15KB", 10),
            ("120ms", 10),
        ] {
            let file = TopologyFile::new(&format!(
                "version: 1\ngroups: {{a: {{prefix: 10.1.0.0/24, nodes: 2, up: {{rate: 1mbit, queue: {queue}}}}}}}\n"
            ));
            file.load();
            let (from, to) = (udp::socket("10.1.0.1"), udp::socket("10.1.0.2"));
            let start = Instant::now();
            for tag in 0..100 {
                udp::send(&from, "10.1.0.2", tag, PAYLOAD).unwrap();
            }
            // The pipe serves a packet every 12 ms while the burst is sent.
            let served = start.elapsed().as_millis() as usize / 12 + 1;
            let arrivals = udp::receive(&to, 100, Duration::from_secs(1));
            let served = taken..=taken + served;
            assert!(
                served.contains(&arrivals.len()),
                "{queue}: {}",
                arrivals.len()
            );
            assert_eq!(drops("10.1.0.1", "up"), 100 - arrivals.len() as u64);
            assert!(arrivals.windows(2).all(|w| w[0].tag < w[1].tag));
        }
    });
}

/// Packets in flight must not count against the sender's socket: 20 Mbit/s for 400 ms are 1
/// MB, five times the default send buffer.
#[test]
fn a_long_path_does_not_throttle_the_sender() {
    isolated(|| {
        let file = TopologyFile::new(
            "version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 2, up: {rate: 20mbit, queue: 1000 packets}, latency: 200ms}}\n",
        );
        file.load();
        let (from, to) = (udp::socket("10.1.0.1"), udp::socket("10.1.0.2"));
        let receiver = thread::spawn(move || udp::receive(&to, usize::MAX, Duration::from_secs(2)));
        blast(
            &from,
            "10.1.0.2",
            PAYLOAD,
            Duration::from_micros(350),
            Duration::from_secs(4),
        );
        let rate = rate_bits_per_sec(&receiver.join().unwrap());
        // One send buffer per round trip would be 4 Mbit/s. A machine that stalls for
        // longer than the queue lasts also costs some of the rate.
        println!("{:.2} of 20 Mbit/s", rate / 1e6);
        assert!((0.8..=1.02).contains(&(rate / 20e6)), "{rate}");
    });
}

/// fq sends control-priority packets at once; such packets of a vnode must wait
/// nevertheless.
#[test]
fn no_priority_bypasses_the_line() {
    isolated(|| {
        let file = TopologyFile::new(
            "version: 1\ngroups: {a: {prefix: 10.1.0.0/24, nodes: 2, latency: 60ms}}\n",
        );
        file.load();
        let (from, to) = (udp::socket("10.1.0.1"), udp::socket("10.1.0.2"));
        for priority in [0, 6, 7] {
            setsockopt(&from, sockopt::Priority, &priority).unwrap();
            let delays = [0; 3].map(|tag| {
                udp::send(&from, "10.1.0.2", tag, 100).unwrap();
                udp::receive(&to, 1, Duration::from_secs(2))[0].delay_ms()
            });
            let delay = median(&delays);
            assert!(
                (120.0..135.0).contains(&delay),
                "priority {priority}: {delay} ms"
            );
        }
    });
}
