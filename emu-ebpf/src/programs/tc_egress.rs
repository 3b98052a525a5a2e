//! `emu_egress`: the up pipe of the sender, its latency and that between the
//! groups.
use aya_ebpf::{macros::classifier, programs::TcContext};
use emu_common::{
    layout::Direction,
    model::{delay, flow},
    reason::Reason,
};

use super::egress_verdict;
use crate::{clock, maps, packet, pipe};

/// TC egress of every interface that carries vnode traffic.
///
/// A packet that still has its socket is replaced by a clone without one, which
/// comes here again: a packet that waits in `fq` for a second must not count
/// against its sender's TCP small queue or send buffer.
#[classifier]
pub fn emu_egress(ctx: TcContext) -> i32 {
    let reason = match try_egress(&ctx) {
        Ok(reason) | Err(reason) => reason,
    };
    egress_verdict(reason)
}

#[inline(always)]
fn try_egress(ctx: &TcContext) -> Result<Reason, Reason> {
    let packet = packet::parse(ctx)?;
    let vnode = maps::vnode(&packet.source).ok_or(Reason::NotVnode)?;
    if packet.source == packet.destination {
        return Err(Reason::ToSelf);
    }
    if maps::orphan() && has_socket(ctx) {
        return orphan(ctx);
    }
    let now_ns = clock::now_ns();
    let passage = pipe::pass(vnode.pipe_index(Direction::Up), packet.ip_bytes, now_ns)?;
    let (pair_ns, group_plus_one) = match maps::group(&packet.destination) {
        Some(group) => (maps::pair_latency_ns(vnode.pair_row, group), group + 1),
        None => (0, 0),
    };
    let due_ns = delay::due_ns(passage.departure_ns, passage.latency_ns, pair_ns);
    clock::release_at(
        ctx,
        due_ns,
        flow::up(vnode.index, group_plus_one, passage.generation),
    );
    Ok(Reason::ShapedUp)
}

#[inline(always)]
fn has_socket(ctx: &TcContext) -> bool {
    // SAFETY: the context is live; the verifier turns `sk` into a checked
    // pointer that is only compared with null.
    unsafe { !(*ctx.skb.skb).__bindgen_anon_2.sk.is_null() }
}

#[inline(always)]
fn orphan(ctx: &TcContext) -> Result<Reason, Reason> {
    // SAFETY: the context is live; `ifindex` is readable by TC programs.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    match ctx.clone_redirect(ifindex, 0) {
        Ok(()) => Ok(Reason::Orphaned),
        Err(_) => Err(Reason::CloneFailed),
    }
}
