//! AQM: short queues under load, and marks instead of drops.
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use emu_bench::stats::mean;
use integration::{median, netns::isolated, udp};
use socket2::{Domain, Socket, Type};

use super::{kernel_counter, reason, topology};

/// Sends over TCP from the first vnode to the second for a while; returns the number of
/// bytes that arrived.
fn bulk(time: Duration) -> JoinHandle<u64> {
    let listener = TcpListener::bind("10.1.0.2:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sink = thread::spawn(move || {
        let (mut stream, mut buffer, mut all) = (listener.accept().unwrap().0, [0; 65_536], 0u64);
        while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
            all += bytes as u64;
        }
        all
    });
    thread::spawn(move || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let own: SocketAddr = "10.1.0.1:0".parse().unwrap();
        socket.bind(&own.into()).unwrap();
        socket.connect(&address.into()).unwrap();
        let (start, block) = (Instant::now(), [7u8; 16_384]);
        while start.elapsed() < time {
            (&socket).write_all(&block).unwrap();
        }
        socket.set_linger(Some(Duration::ZERO)).unwrap();
        drop(socket);
        sink.join().unwrap()
    })
}

/// Median queueing delay of a probe behind a TCP flow, in milliseconds, and the flow's
/// bytes.
fn wait_ms(aqm: &str) -> (f64, u64) {
    let line = format!("up: {{rate: 4mbit, queue: 300ms, latency: 20ms{aqm}}}");
    isolated(move || {
        topology(&line).load();
        let flow = bulk(Duration::from_millis(3_600));
        let (from, to) = (udp::socket("10.1.0.1"), udp::socket("10.1.0.2"));
        // By then slow start is over.
        thread::sleep(Duration::from_millis(1_300));
        udp::blast(
            &from,
            "10.1.0.2",
            64,
            Duration::from_millis(20),
            Duration::from_millis(2_200),
        );
        let waits: Vec<f64> = udp::receive(&to, usize::MAX, Duration::from_millis(500))
            .iter()
            .map(|a| a.delay_ms() - 20.0)
            .collect();
        assert!(waits.len() > 70, "{}", waits.len());
        (median(&waits), flow.join().unwrap())
    })
}

/// Some 110 probes per AQM, in one run: the bounds are ratios and not times.
#[test]
fn codel_and_red_keep_a_standing_queue_short() {
    let (tail, all) = wait_ms("");
    for aqm in ["codel", "{red: {min: 10ms, max: 60ms, weight: 6}}"] {
        let (managed, bytes) = wait_ms(&format!(", aqm: {aqm}"));
        println!("{aqm}: {managed:.1} ms against {tail:.1} ms, {bytes} bytes against {all}");
        assert!(managed < 0.35 * tail, "{aqm}: {managed} against {tail}");
        // The pipe stays saturated: TCP gets most of its throughput with drop-tail.
        assert!(
            bytes as f64 > 0.7 * all as f64,
            "{aqm}: {bytes} against {all}"
        );
    }
}

#[test]
fn congestion_is_marked_where_both_ends_allow_it() {
    for aqm in [
        "{codel: {ecn: true}}",
        "{red: {min: 10ms, max: 60ms, weight: 6, ecn: true}}",
    ] {
        isolated(move || {
            fs::write("/proc/sys/net/ipv4/tcp_ecn", "1").unwrap();
            topology(&format!(
                "up: {{rate: 4mbit, queue: 2s, latency: 20ms, aqm: {aqm}}}"
            ))
            .load();
            let (before, again) = (
                kernel_counter("IpExt InCEPkts"),
                kernel_counter("Tcp RetransSegs"),
            );
            let bytes = bulk(Duration::from_millis(2_500)).join().unwrap();
            let marks = reason("marked");
            let seen = kernel_counter("IpExt InCEPkts") - before;
            println!("{aqm}: {marks} marks, {seen} arrived, {bytes} bytes");
            assert!(marks > 3 && seen > 3 && seen <= marks, "{aqm}");
            assert_eq!(reason("aqm"), 0, "{aqm}");
            assert_eq!(kernel_counter("Tcp RetransSegs"), again, "{aqm}");
        });
    }
}

/// A constant overload of 5 % settles where RED drops 1 in 21: at a queueing delay of min +
/// (max - min) (1/21) / 10 % = 39 ms. The 4 s have some 4,100 packets of 1 ms.
#[test]
fn red_settles_at_the_wait_of_its_formula() {
    isolated(|| {
        topology(
            "up: {rate: 1mbit, queue: 1s, latency: 10ms, aqm: {red: {min: 20ms, max: 60ms, probability: 10%, weight: 7}}}",
        )
        .load();
        let (from, to) = (udp::socket("10.1.0.1"), udp::socket("10.1.0.2"));
        // 128 bytes of IP take 1.024 ms on the pipe.
        let gap = Duration::from_nanos(1_024_000 * 20 / 21);
        let receiver =
            thread::spawn(move || udp::receive(&to, usize::MAX, Duration::from_millis(500)));
        let sent = udp::blast(&from, "10.1.0.2", 100, gap, Duration::from_secs(4));
        let arrivals = receiver.join().unwrap();
        let late: Vec<f64> = arrivals
            .iter()
            .filter(|a| a.tag > sent / 2)
            .map(|a| a.delay_ms() - 10.0 - 1.024)
            .collect();
        let (wait, drops) = (mean(&late), reason("aqm"));
        println!("{drops} of {sent} dropped, mean wait {wait:.1} ms");
        assert_eq!(arrivals.len() as u64 + drops, u64::from(sent));
        assert!((28.0..50.0).contains(&wait), "{wait}");
    });
}
