//! Goodput of a sample of pipes, TCP and UDP, with real sockets.
use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use emu_common::{
    layout::{Direction, Pipe},
    model::rate,
};
use emu_model::{plan::Plan, topology::GroupId};
use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use super::stamp;
use crate::machines::Machines;

/// Payload of the UDP probes in bytes.
const UDP_PAYLOAD: usize = 1200;
const UDP_HEADER: u32 = 8;
/// TCP header with timestamps.
const TCP_HEADER: u32 = 32;
/// Number of packets for a measurement.
const PACKETS: u32 = 200;
const SHORTEST_UDP: Duration = Duration::from_secs(3);
/// TCP overshoots in slow start and needs seconds to recover from the losses.
const SHORTEST_TCP: Duration = Duration::from_secs(12);
const LONGEST: Duration = Duration::from_secs(20);
/// Pipes faster than this are limited by the host.
const FASTEST_BITS_PER_SEC: u64 = 200_000_000;
/// The kernel's default limit of a receive window.
const LARGEST_WINDOW: u64 = 4 << 20;
/// Bounds of the ratio of goodput to its expected value. TCP loses a little to
/// retransmissions and delayed acknowledgements.
const UDP_SHARE: (f64, f64) = (0.98, 1.02);
const TCP_SHARE: (f64, f64) = (0.93, 1.03);

/// Number of attempts for a pipe that is out of bounds: a wrong pipe is wrong every time, a
/// machine that paused for longer than a queue lasts is not.
const TRIES: u32 = 3;

/// Goodput of one pair of vnodes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RateReport {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// `tcp` or `udp`.
    pub proto: &'static str,
    /// Payload bits per second that the slower pipe passes.
    pub expected_bps: u64,
    /// Payload bits per second that arrived.
    pub measured_bps: u64,
    /// Whether the ratio is within its bounds.
    pub ok: bool,
    /// Number of attempts; the figures are those of the last one.
    pub tries: u32,
}

struct RateSample {
    src: IpAddr,
    dst: IpAddr,
    rate_bits_per_sec: u64,
    overhead_bytes: i32,
    rtt: Duration,
    /// Bytes that TCP may have in flight: enough to fill the path, too few to overflow a
    /// queue. After a loss the receiver would get all the data behind the missing packet at
    /// once, and a few seconds' goodput would mean nothing.
    window_bytes: usize,
}

/// Capacity of a pipe's queue in bytes.
fn queue_bytes(pipe: &Pipe, mtu_bytes: u32) -> u64 {
    if pipe.limit_packets > 0 {
        u64::from(pipe.limit_packets) * u64::from(mtu_bytes)
    } else {
        let ns = u128::from(pipe.limit_ns) << 20;
        let bytes = ns.checked_div(u128::from(pipe.ns_per_byte_q20));
        bytes.map_or(LARGEST_WINDOW, |b| u64::try_from(b).unwrap_or(u64::MAX))
    }
}

/// Window for a path: its capacity, a quarter more, and half a queue.
fn window_bytes(plan: &Plan, from: GroupId, to: GroupId, rate_bits_per_sec: u64) -> u64 {
    let mtu = plan.mtu_bytes;
    let rtt_ns = u128::from(plan.idle_rtt_ns(from, to, mtu));
    let path = u128::from(rate_bits_per_sec) * rtt_ns / 8_000_000_000;
    let queue = [
        plan.pipe(from, Direction::Up),
        plan.pipe(to, Direction::Down),
    ]
    .iter()
    .map(|pipe| queue_bytes(pipe, mtu))
    .min()
    .unwrap_or(0);
    let path = u64::try_from(path).unwrap_or(u64::MAX).saturating_mul(5) / 4;
    path.saturating_add(queue / 2)
        .clamp(4 * u64::from(mtu), LARGEST_WINDOW)
}

/// The rate of the slower pipe from a group to another; `None` if unlimited.
fn bottleneck(plan: &Plan, from: GroupId, to: GroupId) -> Option<u64> {
    [
        plan.pipe(from, Direction::Up),
        plan.pipe(to, Direction::Down),
    ]
    .iter()
    .filter_map(|pipe| rate::rate_bits_per_sec(pipe.ns_per_byte_q20))
    .min()
}

/// One pair inside each group that has two local vnodes and a rate.
fn samples(plan: &Plan) -> Vec<RateSample> {
    (0..plan.groups.len())
        .filter_map(|group| {
            let mut vnodes = plan.vnodes.iter().filter(|v| v.group == group);
            let (src, dst) = (vnodes.next()?.address, vnodes.next_back()?.address);
            let rate_bits_per_sec =
                bottleneck(plan, group, group).filter(|r| *r <= FASTEST_BITS_PER_SEC)?;
            Some(RateSample {
                src,
                dst,
                rate_bits_per_sec,
                overhead_bytes: plan.pipe(group, Direction::Up).overhead_bytes,
                rtt: Duration::from_nanos(plan.idle_rtt_ns(group, group, 1500)),
                window_bytes: window_bytes(plan, group, group, rate_bits_per_sec) as usize,
            })
        })
        .collect()
}

impl RateSample {
    /// Header bytes of a packet: IP and transport.
    fn headers(&self, transport: u32) -> u32 {
        transport + if self.dst.is_ipv4() { 20 } else { 40 }
    }

    fn goodput(&self, payload: u32, headers: u32) -> u64 {
        let charged = rate::charged_bytes(payload + headers, self.overhead_bytes);
        self.rate_bits_per_sec * u64::from(payload) / u64::from(charged.max(1))
    }

    fn duration(&self, shortest: Duration) -> Duration {
        let seconds = f64::from(PACKETS * 1500 * 8) / self.rate_bits_per_sec as f64;
        Duration::from_secs_f64(seconds).clamp(shortest, LONGEST) + self.rtt * 4
    }

    fn report(
        &self,
        proto: &'static str,
        expected: u64,
        measured: f64,
        share: (f64, f64),
    ) -> RateReport {
        let ratio = measured / expected as f64;
        RateReport {
            src: self.src,
            dst: self.dst,
            proto,
            expected_bps: expected,
            measured_bps: measured as u64,
            ok: ratio >= share.0 && ratio <= share.1,
            tries: 1,
        }
    }

    fn measure(&self, machines: &Machines, udp: bool, mtu_bytes: u32) -> io::Result<RateReport> {
        if udp {
            self.udp(machines)
        } else {
            self.tcp(machines, mtu_bytes)
        }
    }

    /// Sends datagrams at twice the rate and counts what arrives.
    fn udp(&self, machines: &Machines) -> io::Result<RateReport> {
        let bind = |address| machines.inside(address, || UdpSocket::bind((address, 0)));
        let receiver = bind(self.dst)?;
        socket2::SockRef::from(&receiver).set_recv_buffer_size(4 << 20)?;
        setsockopt(&receiver, sockopt::ReceiveTimestampns, &true)?;
        let to = receiver.local_addr()?;
        let sender = bind(self.src)?;
        let duration = self.duration(SHORTEST_UDP);
        let gap = Duration::from_secs_f64(
            (UDP_PAYLOAD as f64 + f64::from(self.headers(UDP_HEADER))) * 8.0
                / (2.0 * self.rate_bits_per_sec as f64),
        );
        let sending = thread::Builder::new().spawn(move || -> io::Result<()> {
            let (start, payload) = (Instant::now(), [0u8; UDP_PAYLOAD]);
            let mut sent = 0u32;
            while start.elapsed() < duration {
                sender.send_to(&payload, to)?;
                sent += 1;
                let due = gap * sent;
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
            Ok(())
        })?;
        // First and last timestamp.
        let (mut span, mut packets) = (None, 0u64);
        let start = Instant::now();
        receiver.set_read_timeout(Some(self.rtt + Duration::from_secs(2)))?;
        let mut buffer = [0u8; 2048];
        while start.elapsed() < duration + self.rtt
            && let Some((_, at)) = stamp::receive(&receiver, &mut buffer)?
        {
            span = Some((span.map_or(at, |(first, _)| first), at));
            packets += 1;
        }
        sending
            .join()
            .map_err(|_| io::Error::other("the sending thread panicked"))??;
        let seconds = span.map_or(0.0, |(first, last)| {
            last.saturating_sub(first).as_secs_f64()
        });
        let bits = packets.saturating_sub(1) as f64 * UDP_PAYLOAD as f64 * 8.0;
        let expected = self.goodput(UDP_PAYLOAD as u32, self.headers(UDP_HEADER));
        let measured = if seconds > 0.0 { bits / seconds } else { 0.0 };
        Ok(self.report("udp", expected, measured, UDP_SHARE))
    }

    /// One TCP flow; what arrives in the second half of the time counts.
    fn tcp(&self, machines: &Machines, mtu_bytes: u32) -> io::Result<RateReport> {
        let stream = |at: IpAddr| {
            machines.inside(at, || {
                let domain = Domain::for_address(SocketAddr::new(at, 0));
                let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
                socket.bind(&SocketAddr::new(at, 0).into())?;
                Ok(socket)
            })
        };
        let listener = stream(self.dst)?;
        listener.set_recv_buffer_size(self.window_bytes)?;
        listener.listen(1)?;
        let listener: TcpListener = listener.into();
        let to = listener.local_addr()?;
        let (socket, duration) = (stream(self.src)?, self.duration(SHORTEST_TCP));
        let sending = thread::Builder::new().spawn(move || -> io::Result<()> {
            socket.connect(&to.into())?;
            socket.set_write_timeout(Some(duration * 3))?;
            let mut stream: std::net::TcpStream = socket.into();
            let start = Instant::now();
            while start.elapsed() < duration {
                if stream.write_all(&[0u8; 4096]).is_err() {
                    break;
                }
            }
            Ok(())
        })?;
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(duration * 3))?;
        let start = Instant::now();
        let (mut bytes, mut first, mut last) = (0u64, None, start);
        let mut buffer = vec![0u8; 64 * 1024];
        while start.elapsed() < duration {
            let n = stream.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            if start.elapsed() < duration / 2 {
                continue;
            }
            last = Instant::now();
            match first {
                // The bytes before the first mark took no part of the time.
                None => first = Some(last),
                Some(_) => bytes += n as u64,
            }
        }
        drop(stream);
        sending
            .join()
            .map_err(|_| io::Error::other("the sending thread panicked"))??;
        let seconds = first.map_or(0.0, |f: Instant| (last - f).as_secs_f64());
        let headers = self.headers(TCP_HEADER);
        let expected = self.goodput(mtu_bytes.saturating_sub(headers).max(1), headers);
        let measured = if seconds > 0.0 {
            bytes as f64 * 8.0 / seconds
        } else {
            0.0
        };
        Ok(self.report("tcp", expected, measured, TCP_SHARE))
    }
}

/// Measures UDP, then TCP, of all samples in parallel; those out of bounds again, one at a
/// time.
pub fn measure(plan: &Plan) -> io::Result<Vec<RateReport>> {
    let samples = samples(plan);
    let machines = &Machines::here(plan)?;
    let mut reports = Vec::new();
    for udp in [true, false] {
        let results: Vec<io::Result<RateReport>> = thread::scope(|scope| {
            let threads: Vec<_> = samples
                .iter()
                .map(|sample| {
                    let measure = move || sample.measure(machines, udp, plan.mtu_bytes);
                    thread::Builder::new().spawn_scoped(scope, measure)
                })
                .collect();
            threads
                .into_iter()
                .map(|t| {
                    t?.join()
                        .unwrap_or_else(|_| Err(io::Error::other("a measuring thread panicked")))
                })
                .collect()
        });
        for (sample, result) in samples.iter().zip(results) {
            let mut report = result?;
            while !report.ok && report.tries < TRIES {
                let tries = report.tries + 1;
                report = sample.measure(machines, udp, plan.mtu_bytes)?;
                report.tries = tries;
            }
            reports.push(report);
        }
    }
    Ok(reports)
}
