//! What a vnode's filter lets in: answers to what the vnode has sent.
use aya_ebpf::programs::TcContext;
use emu_common::{
    layout::{AddrKey, Direction, FilterEntry, feature, pipe_flag},
    model::filter,
};

use crate::{
    maps,
    packet::{self, Ends, Packet},
};

const NOBODY: AddrKey = AddrKey { octets: [0; 16] };

/// Filter class in the flags of a pipe.
#[inline(always)]
fn class(flags: u32) -> u32 {
    if maps::features() & feature::FILTERS == 0 {
        return filter::OPEN;
    }
    flags >> pipe_flag::FILTER_SHIFT & pipe_flag::FILTER_MASK
}

/// What a packet that the vnode sends opens, or one that it receives needs open;
/// none for a packet that no filter stops.
#[inline(always)]
fn opening(
    ctx: &TcContext,
    packet: &Packet,
    vnode: u32,
    class: u32,
    direction: Direction,
) -> Option<FilterEntry> {
    let Ends {
        protocol,
        source_port,
        destination_port,
    } = packet::ends(ctx, packet)?;
    let (local_port, remote, remote_port) = match direction {
        Direction::Up => (source_port, &packet.destination, destination_port),
        Direction::Down => (destination_port, &packet.source, source_port),
    };
    Some(FilterEntry {
        remote: if filter::keeps_address(class) {
            *remote
        } else {
            NOBODY
        },
        vnode,
        local_port,
        remote_port: if filter::keeps_port(class) {
            remote_port
        } else {
            0
        },
        protocol,
    })
}

/// Opens the vnode's filter for answers to a packet that it sends.
#[inline(always)]
pub fn open(ctx: &TcContext, packet: &Packet, vnode: u32, flags: u32, now_ns: u64) {
    let class = class(flags);
    if class == filter::OPEN {
        return;
    }
    if let Some(opening) = opening(ctx, packet, vnode, class, Direction::Up) {
        maps::set_opening(&opening, now_ns);
    }
}

/// Whether the vnode's filter lets a packet in.
#[inline(always)]
pub fn lets_in(
    ctx: &TcContext,
    packet: &Packet,
    vnode: u32,
    flags: u32,
    timeout_ns: u64,
    now_ns: u64,
) -> bool {
    let class = class(flags);
    if class == filter::OPEN {
        return true;
    }
    let Some(opening) = opening(ctx, packet, vnode, class, Direction::Down) else {
        return true;
    };
    maps::opening(&opening).is_some_and(|opened_ns| filter::is_open(opened_ns, now_ns, timeout_ns))
}
