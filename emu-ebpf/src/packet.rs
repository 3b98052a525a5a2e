//! Reading the addresses of a packet. The only place that looks at its bytes.
use aya_ebpf::programs::{SkBuffContext, TcContext};
use emu_common::{
    layout::{AddrKey, SocketAddress},
    reason::Reason,
};

const ETH_HEADER: u32 = 14;
const ETH_P_IP: u32 = network_order(0x0800);
const ETH_P_IPV6: u32 = network_order(0x86dd);
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

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
}

/// Parses the headers, or says why the packet is none of ours.
#[inline(always)]
pub fn parse(ctx: &TcContext) -> Result<Packet, Reason> {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the live context; the fields are readable by TC programs.
    let (protocol, len, wire_len) = unsafe { ((*skb).protocol, (*skb).len, (*skb).wire_len) };
    let (source, destination) = match protocol {
        ETH_P_IP => v4_addresses(ctx)?,
        ETH_P_IPV6 => v6_addresses(ctx)?,
        _ => return Err(Reason::NotIp),
    };
    Ok(Packet {
        source,
        destination,
        // Segments of a GSO packet each have headers, which only wire_len counts;
        // it is 0 where no qdisc has seen the packet yet.
        ip_bytes: wire_len.max(len).saturating_sub(ETH_HEADER),
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

#[inline(always)]
fn v4_addresses(ctx: &TcContext) -> Result<(AddrKey, AddrKey), Reason> {
    let header: [u8; IPV4_HEADER] = ctx
        .load(ETH_HEADER as usize)
        .map_err(|_| Reason::Truncated)?;
    if header[0] >> 4 != 4 || header[0] & 0xf < 5 {
        return Err(Reason::Truncated);
    }
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = header;
    Ok((
        AddrKey::from_v4([s0, s1, s2, s3]),
        AddrKey::from_v4([d0, d1, d2, d3]),
    ))
}

/// The addresses stand in the fixed header, whatever extension headers follow.
#[inline(always)]
fn v6_addresses(ctx: &TcContext) -> Result<(AddrKey, AddrKey), Reason> {
    #[repr(C)]
    struct Header {
        first: [u8; 8],
        source: [u8; 16],
        destination: [u8; 16],
    }
    const { assert!(size_of::<Header>() == IPV6_HEADER) };
    let header: Header = ctx
        .load(ETH_HEADER as usize)
        .map_err(|_| Reason::Truncated)?;
    if header.first[0] >> 4 != 6 {
        return Err(Reason::Truncated);
    }
    Ok((
        AddrKey::from_v6(header.source),
        AddrKey::from_v6(header.destination),
    ))
}
