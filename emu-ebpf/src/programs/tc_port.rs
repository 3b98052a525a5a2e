//! `emu_port_in` and `emu_port_out`: the access router at the port of a machine.
//!
//! What a machine sends goes through `lo`, or the interface to the other hosts, so that
//! `emu_egress` takes it through the machine's up pipe and holds it there.
use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_STOLEN, TC_ACT_UNSPEC},
    helpers::generated::{bpf_redirect, bpf_redirect_neigh},
    macros::classifier,
    programs::TcContext,
};
use emu_common::{model::port, reason::Reason};

use super::LOOPBACK;
use crate::{maps, packet};

/// What `lo` accepts as its own address.
const LOOPBACK_MAC: [u8; 6] = [0; 6];

/// TC ingress of a machine's port.
#[classifier]
pub fn emu_port_in(ctx: TcContext) -> i32 {
    match try_in(&ctx) {
        Ok(verdict) => verdict,
        Err(reason) => {
            maps::count(reason);
            if reason.drops() {
                TC_ACT_STOLEN as i32
            } else {
                TC_ACT_OK as i32
            }
        }
    }
}

#[inline(always)]
fn try_in(ctx: &TcContext) -> Result<i32, Reason> {
    let Ok(packet) = packet::parse(ctx) else {
        return Err(Reason::Foreign);
    };
    if port::is_multicast(&packet.destination) {
        return Err(Reason::Multicast);
    }
    let from = maps::vnode(&packet.source).ok_or(Reason::Spoofed)?;
    let here = maps::port(from.index).ok_or(Reason::Spoofed)?;
    if here.interface != packet::interface(ctx) {
        return Err(Reason::Spoofed);
    }
    maps::group(&packet.destination).ok_or(Reason::Outside)?;
    let to = maps::vnode(&packet.destination);
    let there = match to {
        Some(to) => maps::port(to.index),
        None => None,
    };
    let hops = packet::hops(ctx, &packet)?;
    let mtu_bytes = match there {
        Some(port) => port.mtu_bytes,
        None => here.mtu_bytes,
    };
    if port::needs_router(hops, packet.ip_bytes, mtu_bytes) {
        return Err(Reason::ToRouter);
    }
    let uplink = maps::uplink();
    if to.is_none() && uplink == 0 {
        // An address of a group that no vnode has.
        return Err(Reason::Outside);
    }
    packet::pass_hop(ctx, &packet, hops);
    if to.is_some() {
        packet::set_destination(ctx, &LOOPBACK_MAC);
        // SAFETY: the helper takes numbers only.
        return Ok(unsafe { bpf_redirect(LOOPBACK, 0) } as i32);
    }
    // SAFETY: without parameters the helper looks the next hop up itself.
    Ok(unsafe { bpf_redirect_neigh(uplink, core::ptr::null_mut(), 0, 0) } as i32)
}

/// TC egress of a machine's port, in front of `emu_ingress`: a process of this network
/// namespace sends to the machine, and the packet has not been in the up pipe.
#[classifier]
pub fn emu_port_out(ctx: TcContext) -> i32 {
    match try_out(&ctx) {
        Ok(verdict) => {
            maps::count(Reason::FromPort);
            verdict
        }
        Err(_) => TC_ACT_UNSPEC,
    }
}

#[inline(always)]
fn try_out(ctx: &TcContext) -> Result<i32, Reason> {
    if !packet::is_new(ctx) {
        return Err(Reason::NotVnode);
    }
    let packet = packet::parse(ctx)?;
    maps::vnode(&packet.source).ok_or(Reason::NotVnode)?;
    // SAFETY: the helper takes numbers only.
    Ok(unsafe { bpf_redirect(LOOPBACK, 0) } as i32)
}
