//! What a vnode's filter lets in: answers to what the vnode has sent.
use aya_ebpf::programs::TcContext;
use emu_common::{
    layout::{AddrKey, Opening, feature, pipe_flag},
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

/// The key for a packet between a local and a remote port.
#[inline(always)]
fn opening(
    class: u32,
    vnode: u32,
    protocol: u8,
    local_port: u16,
) -> impl Fn(&AddrKey, u16) -> Opening {
    move |remote, remote_port| Opening {
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
    }
}

/// Opens the vnode's filter for answers to a packet that it sends.
#[inline(always)]
pub fn open(ctx: &TcContext, packet: &Packet, vnode: u32, flags: u32, now_ns: u64) {
    let class = class(flags);
    if class == filter::OPEN {
        return;
    }
    let Some(Ends {
        protocol,
        source_port,
        destination_port,
    }) = packet::ends(ctx, packet)
    else {
        return;
    };
    let key = opening(class, vnode, protocol, source_port);
    maps::set_opening(&key(&packet.destination, destination_port), now_ns);
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
    let Some(Ends {
        protocol,
        source_port,
        destination_port,
    }) = packet::ends(ctx, packet)
    else {
        return true;
    };
    let key = opening(class, vnode, protocol, destination_port);
    maps::opening(&key(&packet.source, source_port))
        .is_some_and(|opened_ns| filter::is_open(opened_ns, now_ns, timeout_ns))
}
