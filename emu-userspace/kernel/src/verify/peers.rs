//! What lies between this host and the others: the round trip of the link itself, and
//! how far their clocks are apart.
//!
//! The clock is asked for by ICMP timestamps (RFC 792), which a host's kernel answers
//! without any program of ours. An answer says that the other clock showed the
//! millisecond `t` at some time between sending and receiving, so its offset lies
//! between `t - received` and `t + 1 ms - sent`; of many answers at other phases of the
//! millisecond the intervals' intersection holds, about as wide as a round trip.
use std::{
    io::{self, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use emu_model::{plan::Plan, topology::Topology};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Pair, RttMs, ping};

const TIMESTAMP_REQUEST: u8 = 13;
const TIMESTAMP_REPLY: u8 = 14;
const MESSAGE: usize = 20;
const DAY_MS: f64 = 86_400_000.0;
/// Number of requests, and the pause between them, which varies within the millisecond.
const REQUESTS: u32 = 16;
const PAUSE: Duration = Duration::from_micros(3_170);
const PATIENCE: Duration = Duration::from_millis(200);

/// Bounds of the difference between the other clock and this one, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OffsetMs {
    /// At least.
    pub least: f64,
    /// At most.
    pub most: f64,
}

/// Another host of the topology.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PeerReport {
    pub host: String,
    pub address: IpAddr,
    /// Round trip of the link, unshaped; `None` without an answer.
    pub rtt_ms: Option<RttMs>,
    /// Offset of its clock; `None` if it does not answer, or for IPv6.
    pub clock_offset_ms: Option<OffsetMs>,
}

/// Measures all other hosts that share an address family with this one.
///
/// # Errors
/// The socket, which needs `CAP_NET_RAW`.
pub(super) fn measure(
    topology: &Topology,
    plan: &Plan,
    samples: usize,
) -> io::Result<Vec<PeerReport>> {
    let own = topology
        .hosts
        .iter()
        .find(|h| Some(h.name.as_str()) == plan.host.as_deref());
    let Some(own) = own else {
        return Ok(Vec::new());
    };
    let others = topology.hosts.iter().filter(|h| h.name != own.name);
    let found: Vec<(&str, Pair)> = others
        .filter_map(|other| {
            let mut ways = own.addresses.iter().flat_map(|src| {
                let same = other
                    .addresses
                    .iter()
                    .filter(|dst| dst.is_ipv4() == src.is_ipv4());
                same.map(|dst| (*src, *dst))
            });
            let (src, dst) = ways.next()?;
            let (from, to) = (0, 0);
            Some((other.name.as_str(), Pair { from, to, src, dst }))
        })
        .collect();
    let pairs: Vec<Pair> = found.iter().map(|(_, pair)| *pair).collect();
    let rtts = ping::probe(plan, &pairs, samples, &mut |_, _| {})?;
    let reports = found.into_iter().zip(rtts).map(|((host, pair), mut rtts)| {
        rtts.sort_unstable_by(f64::total_cmp);
        PeerReport {
            host: host.to_owned(),
            address: pair.dst,
            rtt_ms: RttMs::of(&rtts),
            clock_offset_ms: match (pair.src, pair.dst) {
                // A missing answer is not an error, since many networks block timestamps.
                (IpAddr::V4(src), IpAddr::V4(dst)) => offset(src, dst).ok().flatten(),
                _ => None,
            },
        }
    });
    Ok(reports.collect())
}

/// Milliseconds since midnight, universal time.
fn of_day_ms(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs() % 86_400) as f64 * 1e3 + f64::from(since.subsec_nanos()) / 1e6
}

/// The offset that one answer allows.
fn allowed(sent_ms: f64, received_ms: f64, told_ms: f64) -> OffsetMs {
    // Midnight may lie between the clocks.
    let near = |difference: f64| (difference + DAY_MS * 1.5) % DAY_MS - DAY_MS / 2.0;
    OffsetMs {
        least: near(told_ms - received_ms),
        most: near(told_ms + 1.0 - sent_ms),
    }
}

fn offset(src: Ipv4Addr, dst: Ipv4Addr) -> io::Result<Option<OffsetMs>> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.bind(&SocketAddr::new(src.into(), 0).into())?;
    socket.connect(&SocketAddr::new(dst.into(), 0).into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut found: Option<OffsetMs> = None;
    for number in 0..REQUESTS {
        let sent = SystemTime::now();
        socket.send(&request(number as u16))?;
        match answer(&socket, number as u16)? {
            Some((told_ms, received)) => {
                let one = allowed(of_day_ms(sent), of_day_ms(received), told_ms);
                found = Some(found.map_or(one, |all| OffsetMs {
                    least: all.least.max(one.least),
                    most: all.most.min(one.most),
                }));
            }
            // A host that does not answer at all gets no more requests.
            None if found.is_none() => return Ok(None),
            None => {}
        }
        thread::sleep(PAUSE);
    }
    // Clocks that drift during the requests give contradicting bounds.
    Ok(found.filter(|offset| offset.least <= offset.most))
}

fn request(number: u16) -> [u8; MESSAGE] {
    let mut packet = [0u8; MESSAGE];
    packet[0] = TIMESTAMP_REQUEST;
    packet[4..6].copy_from_slice(&(std::process::id() as u16).to_be_bytes());
    packet[6..8].copy_from_slice(&number.to_be_bytes());
    let sum = ping::checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Time of the other clock, and the arrival of the answer.
fn answer(socket: &Socket, number: u16) -> io::Result<Option<(f64, SystemTime)>> {
    let begin = Instant::now();
    let (mut buffer, mut socket) = ([0u8; 256], socket);
    while begin.elapsed() < PATIENCE {
        let length = match socket.read(&mut buffer) {
            Ok(length) => length,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        let received = SystemTime::now();
        if let Some(told_ms) = reply(&buffer[..length], number) {
            return Ok(Some((told_ms, received)));
        }
    }
    Ok(None)
}

/// Time of the other clock in milliseconds of the day, if the packet is the answer.
fn reply(packet: &[u8], number: u16) -> Option<f64> {
    let start = usize::from(packet.first()? & 0xf) * 4;
    let message: &[u8; MESSAGE] = packet.get(start..)?.first_chunk()?;
    let ours = message[4..6] == (std::process::id() as u16).to_be_bytes()
        && message[6..8] == number.to_be_bytes();
    let told = u32::from_be_bytes([message[12], message[13], message[14], message[15]]);
    // The first bit marks a time that is not the time of day.
    let standard = message[0] == TIMESTAMP_REPLY && told >> 31 == 0;
    (ours && standard).then_some(f64::from(told))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_bounds_the_offset() {
        // Sent at 1000.2 and received at 1000.9 ms, when the other showed 1003.
        let one = allowed(1_000.2, 1_000.9, 1_003.0);
        assert!(
            (one.least - 2.1).abs() < 1e-6 && (one.most - 3.8).abs() < 1e-6,
            "{one:?}"
        );
        // Two milliseconds before midnight here, one after it there.
        let over = allowed(DAY_MS - 2.0, DAY_MS - 1.0, 1.0);
        assert!(
            (over.least - 2.0).abs() < 1e-6 && (over.most - 4.0).abs() < 1e-6,
            "{over:?}"
        );
        let back = allowed(1.0, 2.0, DAY_MS - 2.0);
        assert!((back.least + 4.0).abs() < 1e-6, "{back:?}");
    }

    #[test]
    fn foreign_packets_are_no_answers() {
        for bytes in [&[][..], &[0x45], &[0x4f; 40], &[0x45; 39]] {
            assert_eq!(reply(bytes, 0), None);
        }
        let mut packet = vec![0x45; 20];
        let mut message = request(7);
        message[0] = TIMESTAMP_REPLY;
        message[12..16].copy_from_slice(&5_000u32.to_be_bytes());
        packet.extend(message);
        assert_eq!(reply(&packet, 7), Some(5_000.0));
        assert_eq!(reply(&packet, 8), None);
        packet[32] |= 0x80;
        assert_eq!(reply(&packet, 7), None);
    }

    #[test]
    fn this_host_has_its_own_clock() {
        let localhost = Ipv4Addr::LOCALHOST;
        match offset(localhost, localhost) {
            Ok(Some(found)) => {
                assert!(found.least <= 0.0 && found.most >= 0.0, "{found:?}");
            }
            other => assert!(other.is_ok_and(|o| o.is_none()) || !nix::unistd::geteuid().is_root()),
        }
    }
}
