//! Corruption: delivered data is intact, and the kernel counts corrupted packets.
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use integration::{command::TopologyFile, netns::isolated, udp};
use socket2::{Domain, Socket, Type};

use super::{kernel_counter, reason, topology};

/// Bytes from which the position in the stream can be told.
fn pattern(seed: u32, bytes: usize) -> Vec<u8> {
    (0..bytes as u32)
        .map(|i| (i.wrapping_add(seed).wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

/// 4,000 datagrams of 200 bytes with 5 % corrupted: the checksum of UDP or IP detects each
/// single-bit error.
#[test]
fn corrupted_datagrams_are_dropped_by_their_checksum() {
    isolated(|| {
        topology("up: {corrupt: 5%}").load();
        let (from, to) = (udp::socket("10.1.0.1"), udp::socket("10.1.0.2"));
        let errors = || {
            ["Udp InCsumErrors", "IpExt InCsumErrors"]
                .map(kernel_counter)
                .iter()
                .sum::<u64>()
        };
        let (count, before) = (4_000u32, errors());
        for tag in 0..count {
            from.send_to(&pattern(tag, 200), "10.1.0.2:7000").unwrap();
        }
        to.set_read_timeout(Some(Duration::from_millis(400)))
            .unwrap();
        let (mut arrived, mut next, mut buffer) = (0, 0, [0u8; 2048]);
        while let Ok(bytes) = to.recv(&mut buffer) {
            // The datagrams keep their order, so each one follows the previous match.
            let tag = (next..count).find(|tag| pattern(*tag, 200) == buffer[..bytes]);
            next = tag.expect("a datagram that nobody sent") + 1;
            arrived += 1;
        }
        let (corrupted, counted) = (reason("corrupted"), errors() - before);
        println!("{arrived} of {count} arrived, {corrupted} corrupted, {counted} checksum errors");
        assert_eq!(u64::from(count - arrived), corrupted);
        // The bound is five standard errors of 14. The kernel detects a changed version or
        // length in the IP header before it checks the checksum.
        assert!((corrupted as f64 - 200.0).abs() < 5.0 * 14.0);
        assert!(counted * 10 > corrupted * 9 && counted <= corrupted);
    });
}

/// Sends `data` from one address to another over TCP; returns the data that arrived.
fn transfer(from: &str, to: &str, data: &[u8]) -> Vec<u8> {
    let listener = TcpListener::bind((to, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let receiver = thread::spawn(move || {
        let (mut stream, mut all) = (listener.accept().unwrap().0, Vec::new());
        stream.read_to_end(&mut all).unwrap();
        all
    });
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    let own = SocketAddr::new(from.parse().unwrap(), 0);
    socket.bind(&own.into()).unwrap();
    socket.connect(&address.into()).unwrap();
    (&socket).write_all(data).unwrap();
    drop(socket);
    receiver.join().unwrap()
}

/// 1 MB, some 720 segments, of which 3 % are corrupted in the data's direction.
#[test]
fn tcp_delivers_intact_data_through_a_corrupting_line() {
    isolated(|| {
        let file = TopologyFile::new(
            "
version: 1
seed: 3
groups:
  a: {prefix: 10.1.0.0/24, nodes: 2, latency: 2ms, up: {corrupt: 3%}}
  b: {prefix: 'fd01::/64', nodes: 2, latency: 2ms, up: {corrupt: 3%}}
",
        );
        file.load();
        let data = pattern(0, 1_000_000);
        for (from, to) in [("10.1.0.1", "10.1.0.2"), ("fd01::1", "fd01::2")] {
            let before = (reason("corrupted"), kernel_counter("Tcp InCsumErrors"));
            let arrived = transfer(from, to, &data);
            assert!(arrived == data, "{from}: {} bytes", arrived.len());
            let corrupted = reason("corrupted") - before.0;
            let found = kernel_counter("Tcp InCsumErrors") - before.1;
            println!("{from}: {corrupted} corrupted, {found} checksum errors of TCP");
            assert!(corrupted >= 8, "{corrupted}");
            // The other corrupted packets had a changed bit in the IP header.
            assert!(found * 10 >= corrupted * 7 && found <= corrupted, "{found}");
        }
    });
}
