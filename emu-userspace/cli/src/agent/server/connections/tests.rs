#![expect(
    clippy::disallowed_methods,
    reason = "a test that cannot start a thread must fail"
)]
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Instant,
};

use axum::routing::get;

use super::*;

const PATIENT: Limits = Limits {
    connections: 4,
    request: Duration::from_secs(60),
    connection: Duration::from_secs(60),
};

/// More than the buffers of a connection on loopback can take.
const LARGE_BYTES: usize = 64 << 20;

/// A server in a thread of its own.
fn start(limits: Limits) -> (SocketAddr, Arc<Refusals>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let refusals = Arc::new(Refusals::default());
    let counted = Arc::clone(&refusals);
    let router = Router::new()
        .route("/", get(|| async { "ok" }))
        .route("/large", get(|| async { vec![b'x'; LARGE_BYTES] }));
    thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).unwrap();
            serve(listener, router, limits, counted).await;
        });
    });
    (address, refusals)
}

fn client(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let timeout = Some(Duration::from_secs(30));
    stream.set_read_timeout(timeout).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

/// The whole answer; `None` if the server closed the connection before it.
fn answer(mut stream: TcpStream) -> Option<String> {
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Ok(_) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn count(refusals: &Refusals, why: Refusal) -> u64 {
    refusals.counts()[why as usize].1
}

/// Waits until a counter has a value.
fn wait_for(refusals: &Refusals, why: Refusal, value: u64) {
    let begin = Instant::now();
    while count(refusals, why) != value {
        assert!(begin.elapsed() < Duration::from_secs(30), "{refusals:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: emu\r\n\r\n";
const LARGE_REQUEST: &str = "GET /large HTTP/1.1\r\nHost: emu\r\n\r\n";

#[test]
fn a_request_is_answered_among_slow_clients() {
    let (address, refusals) = start(PATIENT);
    let slow: Vec<TcpStream> = (0..100).map(|_| client(address, "GET / HT")).collect();
    wait_for(&refusals, Refusal::Displaced, 96);
    let text = answer(client(address, REQUEST)).unwrap();
    assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("\r\n\r\nok"));
    assert_eq!(count(&refusals, Refusal::Displaced), 97);
    assert_eq!(count(&refusals, Refusal::Full), 0);
    // The oldest went first.
    let mut slow = slow.into_iter();
    assert_eq!(slow.next().and_then(answer), None);
    let mut last = slow.next_back().unwrap();
    last.write_all(b"TP/1.1\r\nHost: emu\r\n\r\n").unwrap();
    assert!(answer(last).unwrap().ends_with("ok"));
}

#[test]
fn one_connection_has_one_request() {
    let (address, refusals) = start(PATIENT);
    let text = answer(client(address, &REQUEST.repeat(3))).unwrap();
    assert_eq!(text.matches("HTTP/1.1 200").count(), 1, "{text}");
    assert!(refusals.counts().iter().all(|(_, count)| *count == 0));
}

#[test]
fn requests_in_work_are_not_displaced() {
    let (address, refusals) = start(PATIENT);
    let readers: Vec<TcpStream> = (0..4).map(|_| client(address, LARGE_REQUEST)).collect();
    for mut reader in &readers {
        // Its request is being answered.
        reader.read_exact(&mut [0; 12]).unwrap();
    }
    assert_eq!(answer(client(address, REQUEST)), None);
    assert_eq!(count(&refusals, Refusal::Full), 1);
    assert_eq!(count(&refusals, Refusal::Displaced), 0);
    for reader in readers {
        assert!(answer(reader).unwrap().len() >= LARGE_BYTES);
    }
}

#[test]
fn slow_clients_are_closed_in_time() {
    let (address, refusals) = start(Limits {
        request: Duration::from_millis(100),
        connection: Duration::from_millis(400),
        ..PATIENT
    });
    for text in ["", "G", "GET / HTTP/1.1\r\nHost: emu\r\n"] {
        let before = count(&refusals, Refusal::SlowRequest);
        // The server may answer 408 or only close the connection.
        assert!(answer(client(address, text)).is_none_or(|text| text.contains(" 408 ")));
        wait_for(&refusals, Refusal::SlowRequest, before + 1);
    }
    let _reader = client(address, LARGE_REQUEST);
    wait_for(&refusals, Refusal::SlowReader, 1);
    // A body that never comes does not keep the place either.
    let head = "GET / HTTP/1.1\r\nHost: emu\r\nContent-Length: 5\r\n\r\n";
    assert!(answer(client(address, head)).unwrap().ends_with("ok"));
}

#[test]
fn a_request_that_is_too_long_is_refused() {
    let (address, _) = start(PATIENT);
    let head = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    assert!(answer(client(address, &head)).is_none_or(|text| text.contains(" 431 ")));
}
