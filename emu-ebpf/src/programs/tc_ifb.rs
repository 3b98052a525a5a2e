//! `emu_ifb`: the down pipe of the receiver and its latency.
use aya_ebpf::{macros::classifier, programs::TcContext};
use emu_common::{
    layout::Direction,
    model::{delay, flow},
    reason::Reason,
};

use super::egress_verdict;
use crate::{clock, maps, packet, pipe};

/// TC egress of the ifb device.
///
/// Runs when the packet has really arrived, so a slow path never holds back the
/// pipe for a fast one.
#[classifier]
pub fn emu_ifb(ctx: TcContext) -> i32 {
    let reason = match try_ifb(&ctx) {
        Ok(reason) | Err(reason) => reason,
    };
    egress_verdict(reason)
}

#[inline(always)]
fn try_ifb(ctx: &TcContext) -> Result<Reason, Reason> {
    let packet = packet::parse(ctx)?;
    let vnode = maps::vnode(&packet.destination).ok_or(Reason::NotVnode)?;
    let now_ns = clock::now_ns();
    let passage = pipe::pass(vnode.pipe_index(Direction::Down), packet.ip_bytes, now_ns)?;
    let due_ns = delay::due_ns(passage.departure_ns, passage.latency_ns, 0);
    clock::release_at(ctx, due_ns, flow::down(vnode.index, passage.generation));
    Ok(Reason::ShapedDown)
}
