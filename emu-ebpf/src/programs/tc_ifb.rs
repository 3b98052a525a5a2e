//! `emu_ifb`: the down pipe of the receiver and its latency.
use aya_ebpf::{macros::classifier, programs::TcContext};
use emu_common::{
    layout::Direction,
    model::{delay, flow},
    reason::Reason,
};

use super::egress_verdict;
use crate::{clock, filter, maps, packet, pipe, stage};

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
    let may_copy = !stage::is_copy(ctx);
    let own = stage::pass(ctx, line.stage, may_copy)?;
    let departure_ns = pipe::pass(ctx, &line, packet.ip_bytes, now_ns)?;
    line.count_wait(Direction::Down, now_ns, departure_ns);
    stage::corrupt(ctx, &packet, [own, own]);
    let (latency_ns, generation) = line.latency_ns(departure_ns);
    let access = stage::latency(own, latency_ns);
    let due_ns = delay::due_ns(departure_ns, access.ns, 0);
    let flow = if access.overtakes {
        flow::alone(clock::random())
    } else if access.varies {
        let generation = generation | flow::FROM_PEER;
        let flow = flow::to_peer(vnode.index, &packet.source, generation);
        clock::release_at(ctx, stage::in_order(flow, due_ns), flow);
        return Ok(Reason::ShapedDown);
    } else {
        flow::down(vnode.index, generation)
    };
    clock::release_at(ctx, due_ns, flow);
    Ok(Reason::ShapedDown)
}
