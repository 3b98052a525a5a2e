//! ICMP and ICMPv6 echo from many source addresses over one raw socket each.
//!
//! The kernel answers and timestamps the replies, so the sender is the only process in the
//! path of a measurement.
use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    net::{IpAddr, Ipv4Addr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use emu_model::plan::Plan;
use nix::{
    errno::Errno,
    libc,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn,
        SockaddrIn6, SockaddrLike, sendmsg, setsockopt, socket, sockopt,
    },
};

use crate::machines::Machines;

use super::{
    pairs::{Pair, rounds},
    probe_ip_bytes, stamp,
};

const ICMP_HEADER: usize = 8;
/// Length of the ICMP message: header and the data that `ping` adds.
const MESSAGE: usize = ICMP_HEADER + 56;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const V6_ECHO_REQUEST: u8 = 128;
const V6_ECHO_REPLY: u8 = 129;
/// Pause between the probes of one pair.
const INTERVAL: Duration = Duration::from_millis(200);
/// Pause between the first probes of two pairs.
const STAGGER: Duration = Duration::from_millis(3);
/// Time after the expected reply at which a probe counts as lost.
const GRACE: Duration = Duration::from_secs(3);

/// A probe in flight: index of its pair, and its send time.
type Sent = BTreeMap<(u16, u16), (usize, Duration)>;

struct Prober {
    v4: OwnedFd,
    /// `None` if the kernel has no IPv6.
    v6: Option<OwnedFd>,
    /// Sockets of machines that send.
    machines: BTreeMap<IpAddr, OwnedFd>,
    identifier: u16,
    sent: Sent,
}

/// Round-trip times in milliseconds of `samples` probes for each pair.
///
/// # Errors
/// The socket (needs `CAP_NET_RAW`) or a send.
pub fn probe(
    plan: &Plan,
    pairs: &[Pair],
    samples: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> io::Result<Vec<Vec<f64>>> {
    let mut rtts = vec![Vec::new(); pairs.len()];
    let mut done = 0;
    let machines = Machines::here(plan)?;
    for round in rounds(pairs) {
        let mut prober = Prober::new()?;
        for pair in round.iter().map(|index| &pairs[*index]) {
            prober.add(&machines, pair.src)?;
        }
        prober.round(plan, pairs, &round, samples, &mut rtts, &mut |new| {
            done += new;
            progress(done, pairs.len() * samples);
        })?;
    }
    Ok(rtts)
}

pub(super) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn echo_request(kind: u8, identifier: u16, sequence: u16) -> Vec<u8> {
    let mut packet = vec![0u8; MESSAGE];
    packet[0] = kind;
    packet[4..6].copy_from_slice(&identifier.to_be_bytes());
    packet[6..8].copy_from_slice(&sequence.to_be_bytes());
    for (i, byte) in packet[ICMP_HEADER..].iter_mut().enumerate() {
        *byte = i as u8;
    }
    // The kernel overwrites it for ICMPv6, whose checksum covers the addresses.
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Identifier and sequence number of an echo reply. A raw IPv4 socket gives the
/// packet with its IP header, an IPv6 one without.
fn echo_reply(packet: &[u8], v6: bool) -> Option<(u16, u16)> {
    let (start, kind) = if v6 {
        (0, V6_ECHO_REPLY)
    } else {
        (usize::from(packet.first()? & 0xf) * 4, ECHO_REPLY)
    };
    let header: &[u8; ICMP_HEADER] = packet.get(start..)?.first_chunk()?;
    (header[0] == kind).then(|| {
        (
            u16::from_be_bytes([header[4], header[5]]),
            u16::from_be_bytes([header[6], header[7]]),
        )
    })
}

impl Prober {
    fn new() -> io::Result<Self> {
        let v4 = raw_socket(AddressFamily::Inet, SockProtocol::Icmp)?;
        let v6 = raw_socket(AddressFamily::Inet6, SockProtocol::IcmpV6).ok();
        Ok(Self {
            v4,
            v6,
            machines: BTreeMap::new(),
            identifier: std::process::id() as u16,
            sent: Sent::new(),
        })
    }

    /// Makes a socket in the network namespace of a sender that is a machine.
    fn add(&mut self, machines: &Machines, address: IpAddr) -> io::Result<()> {
        if !machines.has(address) || self.machines.contains_key(&address) {
            return Ok(());
        }
        let socket = machines.inside(address, || match address {
            IpAddr::V4(_) => raw_socket(AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => raw_socket(AddressFamily::Inet6, SockProtocol::IcmpV6),
        })?;
        self.machines.insert(address, socket);
        Ok(())
    }

    fn round(
        mut self,
        plan: &Plan,
        pairs: &[Pair],
        round: &[usize],
        samples: usize,
        rtts: &mut [Vec<f64>],
        progress: &mut dyn FnMut(usize),
    ) -> io::Result<()> {
        let expected = |index: usize| {
            let pair = &pairs[index];
            let bytes = probe_ip_bytes(pair.dst);
            Duration::from_nanos(plan.idle_rtt_ns(pair.from, pair.to, bytes))
        };
        let start = Instant::now();
        let mut schedule: Vec<(Duration, usize)> = (0..samples as u32)
            .flat_map(|sample| {
                round
                    .iter()
                    .enumerate()
                    .map(move |(place, index)| (INTERVAL * sample + STAGGER * place as u32, *index))
            })
            .collect();
        schedule.sort_unstable();
        let longest = round.iter().map(|i| expected(*i)).max().unwrap_or_default();
        let end = schedule.last().map_or(Duration::ZERO, |(t, _)| *t) + longest * 2 + GRACE;
        let mut next = schedule.into_iter().peekable();
        let mut sequence = 0u16;
        while next.peek().is_some() || !self.sent.is_empty() {
            let elapsed = start.elapsed();
            if elapsed >= end {
                break;
            }
            let wait = match next.peek() {
                Some((due, index)) if *due <= elapsed => {
                    let index = *index;
                    next.next();
                    self.send(&pairs[index], index, sequence)?;
                    sequence = sequence.wrapping_add(1);
                    Duration::ZERO
                }
                Some((due, _)) => *due - elapsed,
                None => end - elapsed,
            };
            progress(self.receive(wait, rtts)?);
        }
        Ok(())
    }

    fn send(&mut self, pair: &Pair, index: usize, sequence: u16) -> io::Result<()> {
        let key = (self.identifier, sequence);
        match (pair.src, pair.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let in_addr = |a: Ipv4Addr| libc::in_addr {
                    s_addr: u32::from_ne_bytes(a.octets()),
                };
                let source = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: in_addr(src),
                    ipi_addr: in_addr(Ipv4Addr::UNSPECIFIED),
                };
                let packet = echo_request(ECHO_REQUEST, self.identifier, sequence);
                let to = SockaddrIn::from(SocketAddrV4::new(dst, 0));
                self.sent.insert(key, (index, stamp::now()?));
                let control = [ControlMessage::Ipv4PacketInfo(&source)];
                let own = self.machines.get(&pair.src);
                transmit(own.unwrap_or(&self.v4), &packet, &control, &to)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let own = self.machines.get(&pair.src);
                let socket = own.or(self.v6.as_ref()).ok_or(io::ErrorKind::Unsupported)?;
                let source = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: src.octets(),
                    },
                    ipi6_ifindex: 0,
                };
                let packet = echo_request(V6_ECHO_REQUEST, self.identifier, sequence);
                let to = SockaddrIn6::from(SocketAddrV6::new(dst, 0, 0, 0));
                self.sent.insert(key, (index, stamp::now()?));
                let control = [ControlMessage::Ipv6PacketInfo(&source)];
                transmit(socket, &packet, &control, &to)
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Waits for replies and reads all of them; returns their number.
    fn receive(&mut self, wait: Duration, rtts: &mut [Vec<f64>]) -> io::Result<usize> {
        let machines = self.machines.iter();
        let machines = machines.map(|(address, socket)| (socket, address.is_ipv6()));
        let sockets: Vec<(&OwnedFd, bool)> = [(&self.v4, false)]
            .into_iter()
            .chain(self.v6.as_ref().map(|socket| (socket, true)))
            .chain(machines)
            .collect();
        let mut fds: Vec<PollFd<'_>> = sockets
            .iter()
            .map(|(socket, _)| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
            .collect();
        // Rounded down: a late send costs accuracy, an early poll costs nothing.
        let timeout = PollTimeout::try_from(wait.as_millis() as i32).unwrap_or(PollTimeout::ZERO);
        match poll(&mut fds, timeout) {
            Ok(0) => return Ok(0),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let mut count = 0;
        for (socket, v6) in sockets {
            while let Some((key, received)) = next_reply(socket, v6)? {
                if let Some((index, sent)) = key.and_then(|key| self.sent.remove(&key)) {
                    rtts[index].push(received.saturating_sub(sent).as_secs_f64() * 1e3);
                    count += 1;
                }
            }
        }
        Ok(count)
    }
}

fn raw_socket(family: AddressFamily, protocol: SockProtocol) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Raw, flags, protocol)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    // The socket also receives every echo request of every vnode.
    setsockopt(&socket, sockopt::RcvBuf, &(4 << 20))?;
    Ok(socket)
}

fn transmit(
    socket: &OwnedFd,
    packet: &[u8],
    control: &[ControlMessage<'_>],
    to: &impl SockaddrLike,
) -> io::Result<()> {
    let parts = [IoSlice::new(packet)];
    sendmsg(
        socket.as_raw_fd(),
        &parts,
        control,
        MsgFlags::empty(),
        Some(to),
    )?;
    Ok(())
}

/// The key of an echo reply (`None` for other messages) and its receive time in the kernel;
/// `Ok(None)` if no packet is left.
type Reply = (Option<(u16, u16)>, Duration);

fn next_reply(socket: &OwnedFd, v6: bool) -> io::Result<Option<Reply>> {
    let mut buffer = [0u8; 2048];
    let Some((length, received)) = stamp::receive(socket, &mut buffer)? else {
        return Ok(None);
    };
    Ok(Some((echo_reply(&buffer[..length], v6), received)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_has_the_length_and_checksum_of_ping() {
        let packet = echo_request(ECHO_REQUEST, 7, 9);
        assert_eq!(
            packet.len() + 20,
            probe_ip_bytes(Ipv4Addr::LOCALHOST.into()) as usize
        );
        assert_eq!(checksum(&packet), 0);
    }

    #[test]
    fn short_and_foreign_packets_are_no_replies() {
        for bytes in [&[][..], &[0x45], &[0x4f; 40], &[0x45; 27]] {
            assert_eq!(echo_reply(bytes, false), None);
            assert_eq!(echo_reply(bytes, true), None);
        }
        let mut reply = vec![0x45; 20];
        reply.extend([ECHO_REPLY, 0, 0, 0, 1, 2, 3, 4]);
        assert_eq!(echo_reply(&reply, false), Some((0x0102, 0x0304)));
        let reply = [V6_ECHO_REPLY, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(echo_reply(&reply, true), Some((0x0102, 0x0304)));
    }
}
