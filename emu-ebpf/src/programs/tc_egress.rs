//! `emu_egress`: the up pipe of the sender, its latency and that between the
//! groups.
use aya_ebpf::{macros::classifier, programs::TcContext};
use emu_common::{
    layout::{Direction, PairLink, feature},
    model::{delay, flow, schedule::generation as generation_after},
    reason::Reason,
};

use super::{LOOPBACK, egress_verdict};
use crate::{clock, filter, impair, maps, packet, pipe, schedule};

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
    let line = pipe::line(vnode.pipe_index(Direction::Up))?;
    line.check_up()?;
    let (mut link, group_plus_one) = match maps::group(&packet.destination) {
        Some(group) => (maps::pair(vnode.pair_row, group), group + 1),
        None => (PairLink::default(), 0),
    };
    if link.stage & PairLink::CUT != 0 {
        return Err(line.closed(Reason::Partitioned));
    }
    filter::open(ctx, &packet, vnode.index, line.flags, now_ns);
    let may_copy = !impair::is_copy(ctx);
    let own = impair::pass(ctx, line.stage, may_copy)?;
    let mut departure_ns = pipe::pass(ctx, &line, packet.ip_bytes, now_ns)?;
    line.count_wait(Direction::Up, now_ns, departure_ns);
    let between = impair::pass(ctx, link.stage & !PairLink::CUT, may_copy)?;
    if maps::features() & feature::CAPACITY != 0 && link.pipe != 0 {
        let core = pipe::line(link.pipe)?;
        // A drop of the core is none of the vnode's queue.
        let core_ns =
            pipe::pass(ctx, &core, packet.ip_bytes, now_ns).map_err(|reason| match reason {
                Reason::Aqm => Reason::CoreAqm,
                reason if reason.drops() => Reason::CoreQueue,
                reason => reason,
            })?;
        departure_ns = departure_ns.max(core_ns);
    }
    impair::corrupt(ctx, &packet, [own, between]);
    let (latency_ns, mut generation) = line.latency_ns(departure_ns);
    if maps::features() & feature::CAPACITY != 0
        && link.pipe != 0
        && let Some((latency_ns, later)) = schedule::latency(link.pipe, departure_ns)
    {
        link.latency_ns = latency_ns;
        generation = generation_after(generation, later);
    }
    let access = impair::latency(own, latency_ns);
    let core = impair::latency(between, link.latency_ns);
    let mut due_ns = delay::due_ns(departure_ns, access.ns, core.ns);
    let host_latency_ns = maps::host_latency_ns();
    if host_latency_ns != 0 && packet::interface(ctx) != LOOPBACK {
        due_ns = delay::sent_ns(due_ns, departure_ns, host_latency_ns);
    }
    impair::release(
        ctx,
        due_ns,
        [access, core],
        || flow::to_peer(vnode.index, &packet.destination, generation),
        || flow::up(vnode.index, group_plus_one, generation),
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
    match ctx.clone_redirect(packet::interface(ctx), 0) {
        Ok(()) => Ok(Reason::Orphaned),
        Err(_) => Err(Reason::CloneFailed),
    }
}
