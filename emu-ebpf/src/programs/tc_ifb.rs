//! `emu_ifb`: the down pipe of the receiver and its latency.
use aya_ebpf::{macros::classifier, programs::TcContext};
use emu_common::{
    layout::Direction,
    model::{delay, flow},
    reason::Reason,
};

use super::egress_verdict;
use crate::{clock, filter, impair, maps, packet, pipe};

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
    let line = pipe::line(vnode.pipe_index(Direction::Down))?;
    line.check_up()?;
    let timeout_ns = line.filter_timeout_ns();
    if !filter::lets_in(ctx, &packet, vnode.index, line.flags, timeout_ns, now_ns) {
        return Err(line.closed(Reason::Filtered));
    }
    let may_copy = !impair::is_copy(ctx);
    let own = impair::pass(ctx, line.stage, may_copy)?;
    let departure_ns = pipe::pass(ctx, &line, packet.ip_bytes, now_ns)?;
    line.count_wait(Direction::Down, now_ns, departure_ns);
    impair::corrupt(ctx, &packet, [own, own]);
    let (latency_ns, generation) = line.latency_ns(departure_ns);
    let access = impair::latency(own, latency_ns);
    let due_ns = delay::due_ns(departure_ns, access.ns, 0);
    impair::release(
        ctx,
        due_ns,
        [access, access],
        || flow::to_peer(vnode.index, &packet.source, generation | flow::FROM_PEER),
        || flow::down(vnode.index, generation),
    );
    Ok(Reason::ShapedDown)
}
