//! Numbered datagrams that carry their send time and get a kernel receive timestamp.
use std::{
    io::IoSliceMut,
    net::UdpSocket,
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
        time::TimeSpec,
    },
    time::{ClockId, clock_gettime},
};

use super::BenchError;

/// Receive buffer for tens of thousands of datagrams that wait for a slow reader.
const BUFFER_BYTES: usize = 64 << 20;
/// Payload in bytes: long enough that most corrupted bits are not in the headers.
pub const PAYLOAD_BYTES: usize = 200;

/// The sockets at both ends of a path.
pub struct Ends {
    /// The sending socket, connected to the receiving one.
    pub from: UdpSocket,
    /// The receiving socket.
    pub to: UdpSocket,
}

/// A received datagram.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Sequence number, from 0.
    pub number: u32,
    /// Milliseconds from just before the send call to the kernel's receive timestamp.
    pub delay_ms: f64,
    /// The kernel's receive timestamp, `CLOCK_REALTIME` in nanoseconds.
    pub arrival_ns: u64,
}

/// Number and timing of the datagrams of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Number of datagrams.
    pub count: u32,
    /// Datagrams that are sent at once, before a pause of a millisecond.
    pub group: u32,
    /// Time from one datagram to the next; replaces the groups.
    pub gap: Option<Duration>,
    /// The stream ends when no datagram has arrived for this time.
    pub quiet: Duration,
}

fn now_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

/// Opens a receiving socket for [`stream`].
///
/// # Errors
/// [`BenchError::System`] if the address cannot be bound or the options cannot be set.
pub fn receiver(address: &str) -> Result<UdpSocket, BenchError> {
    let socket = UdpSocket::bind(address).map_err(BenchError::system(format!("bind {address}")))?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)
        .map_err(|e| BenchError::system("ask for receive stamps")(e.into()))?;
    // This needs root; without it the default buffer has to do.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES);
    Ok(socket)
}

/// Interval of the heartbeat thread that detects stalls of the machine.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(5);

/// Repeats a measurement if the machine stalled for longer than `max_stall` meanwhile, with
/// `attempts` attempts in all; the attempt with the shortest stall counts. A stall does not
/// depend on what was measured, so the choice does not bias the result. `prepare` runs
/// before each attempt and is not watched for stalls.
///
/// # Errors
/// The error of `prepare` or of the measurement.
pub fn retry_on_stall<P: Sync, T>(
    max_stall: Duration,
    attempts: u32,
    mut prepare: impl FnMut() -> Result<P, BenchError>,
    mut measure: impl FnMut(&P) -> Result<T, BenchError>,
) -> Result<T, BenchError> {
    let mut best: Option<(Duration, T)> = None;
    for _ in 0..attempts {
        let prepared = prepare()?;
        let done = AtomicBool::new(false);
        let (result, worst) = thread::scope(|scope| {
            let heart = scope.spawn(|| {
                let mut worst = Duration::ZERO;
                while !done.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    thread::sleep(HEARTBEAT_INTERVAL);
                    worst = worst.max(start.elapsed().saturating_sub(HEARTBEAT_INTERVAL));
                }
                worst
            });
            let result = measure(&prepared);
            done.store(true, Ordering::Relaxed);
            (result, heart.join().unwrap_or(Duration::MAX))
        });
        let result = result?;
        if best.as_ref().is_none_or(|(least, _)| worst < *least) {
            best = Some((worst, result));
        }
        if worst <= max_stall {
            break;
        }
    }
    best.map(|(_, result)| result).ok_or(BenchError::Thread)
}

/// Sends a stream of datagrams and returns those that arrived, in the order of arrival.
///
/// # Errors
/// [`BenchError::System`] if a socket operation fails.
pub fn stream(ends: &Ends, pace: &Pace) -> Result<Vec<Arrival>, BenchError> {
    ends.to
        .set_read_timeout(Some(pace.quiet))
        .map_err(BenchError::system("set a time-out"))?;
    let sent = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&ends.to, &sent));
        let outcome = send(&ends.from, pace);
        sent.store(true, Ordering::Release);
        let arrivals = receiver.join().map_err(|_| BenchError::Thread)?;
        outcome.and(arrivals)
    })
}

fn send(from: &UdpSocket, pace: &Pace) -> Result<(), BenchError> {
    let start = Instant::now();
    for number in 0..pace.count {
        let mut payload = [0u8; PAYLOAD_BYTES];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        payload[4..12].copy_from_slice(&now_ns().to_be_bytes());
        from.send(&payload)
            .map_err(BenchError::system("send a datagram"))?;
        if let Some(gap) = pace.gap {
            thread::sleep((gap * (number + 1)).saturating_sub(start.elapsed()));
        } else if (number + 1) % pace.group == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Receives datagrams until all were sent and none came for the timeout.
fn receive(socket: &UdpSocket, sent: &AtomicBool) -> Result<Vec<Arrival>, BenchError> {
    let mut arrivals = Vec::new();
    let mut buffer = [0u8; 2 * PAYLOAD_BYTES];
    let mut control = nix::cmsg_space!(TimeSpec);
    loop {
        let was_sent = sent.load(Ordering::Acquire);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message = match recvmsg::<()>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        ) {
            Ok(message) => message,
            Err(Errno::EAGAIN) if was_sent => return Ok(arrivals),
            Err(Errno::EAGAIN) => continue,
            Err(errno) => return Err(BenchError::system("receive")(errno.into())),
        };
        let stamp = message
            .cmsgs()
            .ok()
            .into_iter()
            .flatten()
            .find_map(|c| match c {
                ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
                _ => None,
            });
        let Some(stamp) = stamp else { continue };
        let [a, b, c, d, rest @ ..] = buffer;
        let sent_ns = rest[..8].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
        arrivals.push(Arrival {
            number: u32::from_be_bytes([a, b, c, d]),
            delay_ms: (stamp.as_nanos() as u64).wrapping_sub(sent_ns) as i64 as f64 / 1e6,
            arrival_ns: stamp.as_nanos() as u64,
        });
    }
}
