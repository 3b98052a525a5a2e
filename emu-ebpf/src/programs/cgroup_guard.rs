//! `emu_guard`, `emu_guard_in`: nothing leaves a vnode's socket from another address, and nothing
//! to another address reaches it.
use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};
use emu_common::model::identity::{self, SocketEvent};

use crate::{
    identity as who, maps, packet,
    sockaddr::{self, HookKind},
};

const PASSES: i32 = 1;
const IS_DROPPED: i32 = 0;

/// Every packet that the sockets of vnodes' processes send.
///
/// The safety net below the other hooks, for what they do not see: listeners
/// that never called bind, raw and ping sockets, addresses named by control
/// messages or socket options. A program learns of it by `EPERM` where the call
/// sends at once.
#[cgroup_skb(egress)]
pub fn emu_guard(ctx: SkBuffContext) -> i32 {
    let Some(source) = packet::source(&ctx) else {
        return PASSES;
    };
    // Nearly all packets, and cheaper than asking for the vnode.
    let kind = sockaddr::kind(&ctx, &source);
    if kind == HookKind::Has {
        return PASSES;
    }
    match who::of_packet(&ctx) {
        Some(own) if !identity::may_emit(&own, &source, kind == HookKind::Raw) => {
            maps::count_event(SocketEvent::ForeignSource);
            IS_DROPPED
        }
        _ => PASSES,
    }
}

/// Every packet that the sockets of vnodes' processes would receive. A socket without an address
/// would get those of other vnodes too.
#[cgroup_skb(ingress)]
pub fn emu_guard_in(ctx: SkBuffContext) -> i32 {
    let Some(destination) = packet::destination(&ctx) else {
        return PASSES;
    };
    let kind = sockaddr::kind(&ctx, &destination);
    if kind == HookKind::Has {
        return PASSES;
    }
    match who::of_packet(&ctx) {
        Some(own) if !identity::may_receive(&own, &destination, kind == HookKind::Raw) => {
            maps::count_event(SocketEvent::ForeignDestination);
            IS_DROPPED
        }
        _ => PASSES,
    }
}
