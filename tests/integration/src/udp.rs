//! UDP sockets whose datagrams carry their send time and get a kernel receive timestamp.
use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
        time::TimeSpec,
    },
    time::{ClockId, clock_gettime},
};

/// `CLOCK_REALTIME`, the clock of the receive timestamps.
pub fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_REALTIME).unwrap().into()
}

/// A received datagram.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Number that the sender gave the datagram.
    pub tag: u32,
    /// Send time, as the sender wrote it.
    pub sent: Duration,
    /// The kernel's receive timestamp.
    pub arrived: Duration,
    /// Payload length in bytes.
    pub bytes: usize,
}

impl Arrival {
    /// Time from sending to arrival, in milliseconds.
    pub fn delay_ms(&self) -> f64 {
        (self.arrived.as_secs_f64() - self.sent.as_secs_f64()) * 1e3
    }
}

/// Parses an address; the default port is 7000.
fn end(text: &str) -> SocketAddr {
    text.parse::<IpAddr>()
        .map_or_else(|_| text.parse().unwrap(), |ip| SocketAddr::new(ip, 7000))
}

/// A socket bound to an address; the default port is 7000.
///
/// # Panics
/// If the address is not local.
pub fn socket(address: &str) -> UdpSocket {
    let address = end(address);
    let socket = UdpSocket::bind(address).unwrap_or_else(|e| panic!("bind {address}: {e}"));
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true).unwrap();
    // A large receive buffer: thousands of small datagrams may wait for a slow test.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20));
    socket
}

/// Sends a datagram of `bytes` payload bytes with a tag and the time.
///
/// # Errors
/// The error of the send call; an emulated loss must not cause one.
pub fn send(socket: &UdpSocket, to: &str, tag: u32, bytes: usize) -> io::Result<()> {
    let to = end(to);
    let mut payload = vec![0u8; bytes.max(12)];
    payload[..4].copy_from_slice(&tag.to_be_bytes());
    payload[4..12].copy_from_slice(&(now().as_nanos() as u64).to_be_bytes());
    socket.send_to(&payload, to).map(|_| ())
}

/// Receives datagrams until none came for `quiet`, or `most` have come.
///
/// # Panics
/// If the socket fails.
pub fn receive(socket: &UdpSocket, most: usize, quiet: Duration) -> Vec<Arrival> {
    let mut arrivals = Vec::new();
    let mut buffer = vec![0u8; 65_536];
    let mut control = nix::cmsg_space!(TimeSpec);
    socket.set_read_timeout(Some(quiet)).unwrap();
    while arrivals.len() < most {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        );
        let (bytes, stamp) = match received {
            Ok(message) => {
                let stamp = message.cmsgs().unwrap().find_map(|c| match c {
                    ControlMessageOwned::ScmTimestampns(t) => Some(Duration::from(t)),
                    _ => None,
                });
                (message.bytes, stamp)
            }
            Err(nix::errno::Errno::EAGAIN) => break,
            // A call with a timeout is not resumed after a signal (signal(7)).
            Err(nix::errno::Errno::EINTR) => continue,
            Err(errno) => panic!("receive: {errno}"),
        };
        let number = |range: std::ops::Range<usize>| {
            buffer[range]
                .iter()
                .fold(0u64, |n, b| n << 8 | u64::from(*b))
        };
        arrivals.push(Arrival {
            tag: number(0..4) as u32,
            sent: Duration::from_nanos(number(4..12)),
            arrived: stamp.unwrap(),
            bytes,
        });
    }
    arrivals
}

/// Sends datagrams every `gap` for `time`; returns their number.
///
/// # Panics
/// If a send fails: the sender must not notice an emulated loss.
pub fn blast(socket: &UdpSocket, to: &str, bytes: usize, gap: Duration, time: Duration) -> u32 {
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < time {
        send(socket, to, sent, bytes).unwrap_or_else(|e| panic!("send {sent}: {e}"));
        sent += 1;
        thread::sleep((gap * sent).saturating_sub(start.elapsed()));
    }
    sent
}

/// Calls `send` every `gap` with the number of earlier calls, for as long as `meanwhile`
/// runs; returns the number of calls.
///
/// # Panics
/// If `meanwhile` or `send` panics; the sending stops then.
pub fn send_while(gap: Duration, send: impl Fn(u32) + Sync, meanwhile: impl FnOnce()) -> u32 {
    /// Stops the sending thread even if `meanwhile` panics, because the scope joins the
    /// thread.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let stopped = AtomicBool::new(false);
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let (mut sent, begin) = (0, Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                send(sent);
                sent += 1;
                thread::sleep((gap * sent).saturating_sub(begin.elapsed()));
            }
            sent
        });
        let stop = Stop(&stopped);
        meanwhile();
        drop(stop);
        sender.join().unwrap()
    })
}

/// Number of datagrams that arrived behind one that was sent later.
pub fn overtaken(arrivals: &[Arrival]) -> usize {
    let mut newest = 0;
    arrivals
        .iter()
        .filter(|a| {
            newest = newest.max(a.tag);
            a.tag < newest
        })
        .count()
}

/// Number of `sent` datagrams that may be reordered although the access link keeps their
/// order. Two CPUs take packets off `lo`, each in its own order; where a CPU is emulated
/// and stalls for longer than the gap between two packets, these two are reordered.
pub fn crossings(sent: u32) -> usize {
    match crate::processor_is_emulated() {
        true => sent as usize / 200,
        false => 0,
    }
}
