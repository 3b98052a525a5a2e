//! Reading the headers of a packet, and changing the one bit that a link corrupts.
//! The only place that looks at its bytes.
use aya_ebpf::{
    helpers::generated::{
        bpf_csum_level, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_ecn_set_ce,
    },
    programs::{SkBuffContext, TcContext},
};
use emu_common::{
    layout::{AddrKey, SocketAddress},
    model::checksum,
    reason::Reason,
};

const ETH_HEADER: u32 = 14;
const ETH_P_IP: u32 = network_order(0x0800);
const ETH_P_IPV6: u32 = network_order(0x86dd);
const ETH_P_8021Q: u32 = network_order(0x8100);
const ETH_P_8021AD: u32 = network_order(0x88a8);
const VLAN_HEADER: u32 = 4;
/// VLAN tags inside the frame: a service and a customer tag.
const MOST_TAGS: u32 = 2;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: u32 = 40;
/// Extension headers that are walked to find the ports.
const MOST_EXTENSIONS: u32 = 6;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// `BPF_CSUM_LEVEL_RESET` of the kernel's uapi/linux/bpf.h.
const CSUM_LEVEL_RESET: u64 = 3;

/// An ethertype as `__sk_buff` has it.
const fn network_order(ethertype: u16) -> u32 {
    ethertype.to_be() as u32
}

/// What the programs need to know of an IP packet.
pub struct Packet {
    /// Source address.
    pub source: AddrKey,
    /// Destination address.
    pub destination: AddrKey,
    /// Length of the IP packet in bytes; of all segments for a GSO packet.
    pub ip_bytes: u32,
    /// Where the IP header begins.
    ip_at: u32,
    /// Where what follows the fixed IPv6 header or the whole IPv4 header begins.
    next_at: u32,
    /// Its protocol, or [`LATER`].
    next: u32,
    is_v6: bool,
}

impl Packet {
    /// Where the time to live or the hop limit stands.
    #[inline(always)]
    fn hops_at(&self) -> u32 {
        self.ip_at + if self.is_v6 { 7 } else { 8 }
    }
}

/// A fragment after the first, which has no transport header.
const LATER: u32 = 256;

/// What a filter looks at.
pub struct Ends {
    /// IP protocol.
    pub protocol: u8,
    /// Source port in network order, or the identifier of an ICMP echo request.
    pub source_port: u16,
    /// Destination port in network order, or the identifier of an ICMP echo reply.
    pub destination_port: u16,
}

/// Parses the headers, or says why the packet is none of ours.
#[inline(always)]
pub fn parse(ctx: &TcContext) -> Result<Packet, Reason> {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the live context; the fields are readable by TC programs.
    let (outer, len, wire_len) = unsafe { ((*skb).protocol, (*skb).len, (*skb).wire_len) };
    let (protocol, ip_at) = match outer {
        ETH_P_IP | ETH_P_IPV6 => (outer, ETH_HEADER),
        _ => behind_tags(ctx, outer)?,
    };
    let is_v6 = protocol == ETH_P_IPV6;
    let fixed = match protocol {
        ETH_P_IP => v4_header(ctx, ip_at)?,
        ETH_P_IPV6 => v6_header(ctx, ip_at)?,
        _ => return Err(Reason::NotIp),
    };
    Ok(Packet {
        source: fixed.source,
        destination: fixed.destination,
        next_at: ip_at + fixed.bytes,
        next: fixed.next,
        // Segments of a GSO packet each have headers, which only wire_len counts;
        // it is 0 where no qdisc has seen the packet yet.
        ip_bytes: wire_len.max(len).saturating_sub(ip_at),
        ip_at,
        is_v6,
    })
}

/// Source of a packet of a socket, which begins with its IP header.
#[inline(always)]
pub fn source(ctx: &SkBuffContext) -> Option<SocketAddress> {
    const IPV4_SOURCE: usize = 12;
    const IPV6_SOURCE: usize = 8;
    match ctx.skb.protocol() {
        ETH_P_IP => peek(ctx, IPV4_SOURCE).map(SocketAddress::from_v4),
        ETH_P_IPV6 => peek(ctx, IPV6_SOURCE).map(SocketAddress::from_v6),
        _ => None,
    }
}

/// Destination of a packet of a socket, which begins with its IP header.
#[inline(always)]
pub fn destination(ctx: &SkBuffContext) -> Option<SocketAddress> {
    const IPV4_DESTINATION: usize = 16;
    const IPV6_DESTINATION: usize = 24;
    match ctx.skb.protocol() {
        ETH_P_IP => peek(ctx, IPV4_DESTINATION).map(SocketAddress::from_v4),
        ETH_P_IPV6 => peek(ctx, IPV6_DESTINATION).map(SocketAddress::from_v6),
        _ => None,
    }
}

/// Reads from a packet in place, which is faster than through the helper that
/// takes any packet.
#[inline(always)]
fn peek<T>(ctx: &SkBuffContext, offset: usize) -> Option<T> {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the live context; the fields are readable by this program.
    let (start, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    let at = start + offset;
    if at + size_of::<T>() > end {
        return ctx.load(offset).ok();
    }
    // SAFETY: between start and end (checked above), which the verifier tracks.
    Some(unsafe { (at as *const T).read_unaligned() })
}

/// The ethertype and the place of what is behind VLAN tags inside the frame.
#[inline(always)]
fn behind_tags(ctx: &TcContext, outer: u32) -> Result<(u32, u32), Reason> {
    let (mut protocol, mut at) = (outer, ETH_HEADER);
    for _ in 0..MOST_TAGS {
        if protocol != ETH_P_8021Q && protocol != ETH_P_8021AD {
            break;
        }
        let inner: u16 = load(ctx, at + 2)?;
        protocol = u32::from(inner);
        at += VLAN_HEADER;
    }
    Ok((protocol, at))
}

#[inline(always)]
fn load<T>(ctx: &TcContext, at: u32) -> Result<T, Reason> {
    ctx.load(at as usize).map_err(|_| Reason::Truncated)
}

/// What the IP header says.
struct Fixed {
    source: AddrKey,
    destination: AddrKey,
    bytes: u32,
    next: u32,
}

#[inline(always)]
fn v4_header(ctx: &TcContext, ip_at: u32) -> Result<Fixed, Reason> {
    let header: [u8; IPV4_HEADER] = load(ctx, ip_at)?;
    if header[0] >> 4 != 4 || header[0] & 0xf < 5 {
        return Err(Reason::Truncated);
    }
    let is_later = (header[6] & 0x1f) | header[7] != 0;
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = header;
    Ok(Fixed {
        source: AddrKey::from_v4([s0, s1, s2, s3]),
        destination: AddrKey::from_v4([d0, d1, d2, d3]),
        bytes: u32::from(header[0] & 0xf) * 4,
        next: if is_later {
            LATER
        } else {
            u32::from(header[9])
        },
    })
}

/// The addresses stand in the fixed header, whatever extension headers follow.
#[inline(always)]
fn v6_header(ctx: &TcContext, ip_at: u32) -> Result<Fixed, Reason> {
    #[repr(C)]
    struct Header {
        first: [u8; 8],
        source: [u8; 16],
        destination: [u8; 16],
    }
    const { assert!(size_of::<Header>() == IPV6_HEADER as usize) };
    let header: Header = load(ctx, ip_at)?;
    if header.first[0] >> 4 != 6 {
        return Err(Reason::Truncated);
    }
    Ok(Fixed {
        source: AddrKey::from_v6(header.source),
        destination: AddrKey::from_v6(header.destination),
        bytes: IPV6_HEADER,
        next: u32::from(header.first[6]),
    })
}

/// Protocol and place of the transport header; none for a later fragment, which
/// has no ports.
#[inline(always)]
fn transport(ctx: &TcContext, packet: &Packet) -> Option<(u8, u32)> {
    if packet.next == LATER {
        return None;
    }
    let mut next = packet.next as u8;
    if !packet.is_v6 {
        return Some((next, packet.next_at));
    }
    let mut at = packet.next_at;
    for _ in 0..MOST_EXTENSIONS {
        let bytes = match next {
            // Hop-by-hop, routing, destination options; fragment; authentication.
            0 | 43 | 60 => (u32::from(load::<u8>(ctx, at + 1).ok()?) + 1) * 8,
            44 => {
                let [high, low]: [u8; 2] = load(ctx, at + 2).ok()?;
                if high != 0 || low >> 3 != 0 {
                    return None;
                }
                8
            }
            51 => (u32::from(load::<u8>(ctx, at + 1).ok()?) + 2) * 4,
            _ => return Some((next, at)),
        };
        next = load(ctx, at).ok()?;
        at += bytes;
    }
    None
}

/// What a filter looks at; none for a packet that no filter stops: later
/// fragments, ICMP errors, neighbour discovery.
#[inline(always)]
pub fn ends(ctx: &TcContext, packet: &Packet) -> Option<Ends> {
    let (protocol, at) = transport(ctx, packet)?;
    let (source_port, destination_port) = match protocol {
        ICMP | ICMPV6 => {
            let kind: u8 = load(ctx, at).ok()?;
            let identifier: u16 = load(ctx, at + 4).ok()?;
            match (protocol, kind) {
                (ICMP, 8) | (ICMPV6, 128) => (identifier, 0),
                (ICMP, 0) | (ICMPV6, 129) => (0, identifier),
                _ => return None,
            }
        }
        _ => {
            let [source, destination]: [u16; 2] = load(ctx, at).unwrap_or_default();
            (source, destination)
        }
    };
    Some(Ends {
        protocol,
        source_port,
        destination_port,
    })
}

/// Index of the interface that the packet leaves or arrives by.
#[inline(always)]
pub fn interface(ctx: &TcContext) -> u32 {
    // SAFETY: the context is live; `ifindex` is readable by TC programs.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Whether the packet was made in this network namespace and has not been on any of its
/// interfaces.
#[inline(always)]
pub fn is_new(ctx: &TcContext) -> bool {
    // SAFETY: as for `interface`.
    unsafe { (*ctx.skb.skb).ingress_ifindex == 0 }
}

/// Time to live, or hop limit.
#[inline(always)]
pub fn hops(ctx: &TcContext, packet: &Packet) -> Result<u8, Reason> {
    load(ctx, packet.hops_at())
}

/// Reduces the time to live, or the hop limit, by one, as a router does; `hops` is the
/// present one.
#[inline(always)]
pub fn pass_hop(ctx: &TcContext, packet: &Packet, hops: u8) {
    let left = hops.saturating_sub(1);
    if !packet.is_v6 {
        const IPV4_CHECKSUM: u32 = 10;
        // The byte in front of the protocol, in the packet's order.
        let word = |hops: u8| u64::from((u16::from(hops) << 8).to_be());
        // SAFETY: the live context; the helper checks the offset.
        unsafe {
            bpf_l3_csum_replace(
                ctx.skb.skb,
                packet.ip_at + IPV4_CHECKSUM,
                word(hops),
                word(left),
                2,
            )
        };
    }
    let _ = ctx.store(packet.hops_at() as usize, &left, 0);
}

/// Sets the frame's destination.
#[inline(always)]
pub fn set_destination(ctx: &TcContext, mac: &[u8; 6]) {
    let _ = ctx.store(0, mac, 0);
}

/// Marks congestion in a packet that allows it (ECN); returns whether it did.
#[inline(always)]
pub fn mark_congestion(ctx: &TcContext) -> bool {
    // SAFETY: the live context; the helper checks that it is an IP packet.
    unsafe { bpf_skb_ecn_set_ce(ctx.skb.skb) == 1 }
}

/// Changes one bit of the IP packet, so that a checksum that the kernel or a
/// device has yet to compute does not hide it.
#[inline(always)]
pub fn corrupt(ctx: &TcContext, packet: &Packet, random: (u32, u32)) {
    let at = packet.ip_at + random.0 % packet.ip_bytes.max(1);
    let Ok(old) = load::<u8>(ctx, at) else { return };
    let new = old ^ (1 << (random.1 & 7));
    if let Some((protocol, transport_at)) = transport(ctx, packet) {
        let sum_at = match protocol {
            TCP => transport_at + 16,
            UDP => transport_at + 6,
            _ => 0,
        };
        let is_sum = at == sum_at || at == sum_at + 1;
        if sum_at != 0 && at >= transport_at && !is_sum && is_sum_due(ctx, sum_at) {
            let is_low = (at - transport_at) & 1 == 1;
            if let Ok(start) = load::<u16>(ctx, sum_at) {
                let hidden = checksum::hide_change(u16::from_be(start), old, new, is_low);
                let _ = ctx.store(sum_at as usize, &hidden.to_be(), 0);
            }
        }
    }
    let _ = ctx.store(at as usize, &new, 0);
    // A checksum that a device found right is wrong now. No harm where none was.
    // SAFETY: the live context.
    unsafe { bpf_csum_level(ctx.skb.skb, CSUM_LEVEL_RESET) };
}

/// Whether the transport checksum is still to be computed (`CHECKSUM_PARTIAL`):
/// then, and only then, the helper leaves the field alone.
#[inline(always)]
fn is_sum_due(ctx: &TcContext, sum_at: u32) -> bool {
    let Ok(before) = load::<u16>(ctx, sum_at) else {
        return false;
    };
    // SAFETY: the live context; the helper checks the offset.
    unsafe { bpf_l4_csum_replace(ctx.skb.skb, sum_at, 0, 1, 2) };
    let after: u16 = load(ctx, sum_at).unwrap_or(before);
    if after != before {
        let _ = ctx.store(sum_at as usize, &before, 0);
    }
    after == before
}
