//! How far this host's clock is ahead of the first host's.
//!
//! A datagram there and back, as NTP has it (RFC 5905, section 8): with t1 and t4 of
//! this clock, t2 and t3 of the other, the other is ahead by ((t2-t1)+(t3-t4))/2, and
//! wrong by at most half of the round trip (t4-t1)-(t3-t2). Of many, the one with the
//! shortest round trip counts.
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

/// Questions asked.
const QUESTIONS: u64 = 16;
/// Longest wait for an answer.
const WAIT: Duration = Duration::from_millis(100);
/// First bytes of a question and of its answer.
const MARK: &[u8; 8] = b"emuclock";

/// How far a clock is ahead of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offset {
    /// How far this host's clock is ahead of the first host's.
    pub ahead_ns: i64,
    /// Round trip of the datagram that told it: it is wrong by at most half of that.
    pub round_trip_ns: u64,
}

impl Offset {
    /// From the four times of a question: sent, received, answered, back.
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

/// Tells the time to whoever asks, until dropped.
#[derive(Debug)]
pub(super) struct Server {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Opens a port of any address.
    pub fn start() -> io::Result<Self> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let socket = UdpSocket::bind(any).or_else(|_| UdpSocket::bind("0.0.0.0:0"))?;
        socket.set_read_timeout(Some(WAIT))?;
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

/// An answer is the question, then when it came and when the answer left.
fn answer(socket: &UdpSocket) {
    let mut question = [0; 64];
    let Ok((16, from)) = socket.recv_from(&mut question) else {
        return;
    };
    let came = unix_ns(SystemTime::now());
    if &question[..8] == MARK {
        let mut words = question[..16].to_vec();
        words.extend(came.to_be_bytes());
        words.extend(unix_ns(SystemTime::now()).to_be_bytes());
        let _ = socket.send_to(&words, from);
    }
}

/// Asks the clock at one of some addresses; none if nobody answers.
pub(super) fn ask(servers: &[SocketAddr]) -> Option<Offset> {
    servers.iter().find_map(|server| ask_one(*server).ok()?)
}

fn ask_one(server: SocketAddr) -> io::Result<Option<Offset>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => [0, 0, 0, 0].into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(WAIT))?;
    let (mut best, mut unanswered) = (None, 0);
    for number in 0..QUESTIONS {
        let mut question = MARK.to_vec();
        question.extend(number.to_be_bytes());
        let (began, t1) = (Instant::now(), unix_ns(SystemTime::now()));
        socket.send(&question)?;
        let mut reply = [0; 64];
        match socket.recv(&mut reply) {
            Ok(32) if reply[..16] == question[..] => {
                // The clock may be set while we wait; the other one cannot be.
                let t4 = t1.saturating_add(u64::try_from(began.elapsed().as_nanos()).unwrap_or(0));
                let word = |at: usize| {
                    let mut bytes = [0; 8];
                    bytes.copy_from_slice(&reply[at..at + 8]);
                    u64::from_be_bytes(bytes)
                };
                let offset = Offset::new(t1, word(16), word(24), t4);
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
        // The other clock shows 1,000 less; 30 there, 5 inside, 50 back.
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
        let offset = ask(&[nobody, here]).unwrap();
        assert!(
            offset.ahead_ns.unsigned_abs() <= offset.round_trip_ns / 2 + 1,
            "{offset:?}"
        );
        drop(server);
        assert_eq!(ask(&[here]), None);
    }
}
