//! Measures the offset between this host's clock and the first host's.
//!
//! The measurement is a datagram exchange as in NTP (RFC 5905, section 8): with t1 and t4 of
//! this clock, t2 and t3 of the other, the other clock is ahead by ((t2-t1)+(t3-t4))/2, with
//! an error of at most half of the round trip (t4-t1)-(t3-t2). Of several exchanges, the one
//! with the shortest round trip counts.
use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::unix_ns;

/// Number of exchanges.
const PROBES: u64 = 16;
/// Longest wait for an answer.
const READ_TIMEOUT: Duration = Duration::from_millis(100);
/// First bytes of a request and of its answer.
const MAGIC: &[u8; 8] = b"emuclock";

/// Offset between two clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offset {
    /// How far this host's clock is ahead of the first host's.
    pub ahead_ns: i64,
    /// Round trip of the exchange that measured the offset; the error is at most half of it.
    pub round_trip_ns: u64,
}

impl Offset {
    /// Computes the offset from the four timestamps of an exchange: request sent, request
    /// received, answer sent, answer received.
    fn new(t1: u64, t2: u64, t3: u64, t4: u64) -> Self {
        let apart = |a: u64, b: u64| i128::from(a) - i128::from(b);
        let ahead = (apart(t1, t2) + apart(t4, t3)) / 2;
        let trip = (apart(t4, t1) - apart(t3, t2)).max(0);
        Self {
            ahead_ns: i64::try_from(ahead).unwrap_or(i64::MAX),
            round_trip_ns: u64::try_from(trip).unwrap_or(u64::MAX),
        }
    }
}

/// Answers time requests until it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Opens a port on all addresses.
    pub fn start() -> io::Result<Self> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let socket = UdpSocket::bind(any).or_else(|_| UdpSocket::bind("0.0.0.0:0"))?;
        socket.set_read_timeout(Some(READ_TIMEOUT))?;
        let port = socket.local_addr()?.port();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = thread::Builder::new()
            .name("clock".to_owned())
            .spawn(move || {
                while !seen.load(Ordering::Relaxed) {
                    answer(&socket);
                }
            })?;
        Ok(Self {
            port,
            stop,
            thread: Some(thread),
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An answer repeats the request and adds the times when it arrived and was answered.
fn answer(socket: &UdpSocket) {
    let mut question = [0; 64];
    let Ok((16, from)) = socket.recv_from(&mut question) else {
        return;
    };
    let came = unix_ns(SystemTime::now());
    if &question[..8] == MAGIC {
        let mut statuses = question[..16].to_vec();
        statuses.extend(came.to_be_bytes());
        statuses.extend(unix_ns(SystemTime::now()).to_be_bytes());
        let _ = socket.send_to(&statuses, from);
    }
}

/// Measures the offset to the clock at the first of the addresses that answers; `None` if
/// none answers.
pub(super) fn measure(servers: &[SocketAddr]) -> Option<Offset> {
    servers
        .iter()
        .find_map(|server| measure_from(*server).ok()?)
}

fn measure_from(server: SocketAddr) -> io::Result<Option<Offset>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => [0, 0, 0, 0].into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(READ_TIMEOUT))?;
    let (mut best, mut unanswered) = (None, 0);
    for number in 0..PROBES {
        let mut question = MAGIC.to_vec();
        question.extend(number.to_be_bytes());
        let (began, t1) = (Instant::now(), unix_ns(SystemTime::now()));
        socket.send(&question)?;
        let mut reply = [0; 64];
        match socket.recv(&mut reply) {
            Ok(32) if reply[..16] == question[..] => {
                // This clock may be stepped during the wait, a monotonic one is not.
                let t4 = t1.saturating_add(u64::try_from(began.elapsed().as_nanos()).unwrap_or(0));
                let status = |at: usize| {
                    let mut bytes = [0; 8];
                    bytes.copy_from_slice(&reply[at..at + 8]);
                    u64::from_be_bytes(bytes)
                };
                let offset = Offset::new(t1, status(16), status(24), t4);
                let better = best.is_none_or(|b: Offset| offset.round_trip_ns < b.round_trip_ns);
                best = if better { Some(offset) } else { best };
            }
            _ => unanswered += 1,
        }
        if unanswered > 3 && best.is_none() {
            break;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_what_the_two_ways_differ_by() {
        // The other clock is 1,000 behind; 30 there, 5 inside, 50 back.
        let offset = Offset::new(10_000, 9_030, 9_035, 10_085);
        assert_eq!(offset.round_trip_ns, 80);
        assert!(offset.ahead_ns.abs_diff(1_000) <= offset.round_trip_ns / 2);
        assert_eq!(Offset::new(5, 1_005, 1_005, 5).ahead_ns, -1_000);
    }

    #[test]
    fn one_clock_is_not_ahead_of_itself() {
        let server = Server::start().unwrap();
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let here = SocketAddr::from(([127, 0, 0, 1], server.port()));
        let offset = measure(&[nobody, here]).unwrap();
        assert!(
            offset.ahead_ns.unsigned_abs() <= offset.round_trip_ns / 2 + 1,
            "{offset:?}"
        );
        drop(server);
        assert_eq!(measure(&[here]), None);
    }
}
