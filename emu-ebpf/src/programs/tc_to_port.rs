//! `emu_to_port`: brings packets for a machine to its port.
use aya_ebpf::{
    bindings::TC_ACT_UNSPEC, helpers::generated::bpf_redirect, macros::classifier,
    programs::TcContext,
};
use emu_common::{model::port, reason::Reason};

use crate::{maps, packet};

/// TC ingress of every interface that carries vnode traffic, behind `emu_ingress`.
///
/// `emu_ingress` has counted every packet that is not for a machine.
#[classifier]
pub fn emu_to_port(ctx: TcContext) -> i32 {
    match try_to_port(&ctx) {
        Ok(verdict) => verdict,
        Err(_) => TC_ACT_UNSPEC,
    }
}

#[inline(always)]
fn try_to_port(ctx: &TcContext) -> Result<i32, Reason> {
    let packet = packet::parse(ctx)?;
    let vnode = maps::vnode(&packet.destination).ok_or(Reason::NotVnode)?;
    let port = maps::port(vnode.index).ok_or(Reason::NotVnode)?;
    packet::set_destination(ctx, &port::mac(vnode.index));
    // SAFETY: the helper takes numbers only.
    Ok(unsafe { bpf_redirect(port.interface, 0) } as i32)
}
