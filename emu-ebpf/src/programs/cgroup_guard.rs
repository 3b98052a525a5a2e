//! `emu_guard`: nothing leaves a vnode's socket from somebody else's address.
use aya_ebpf::{macros::cgroup_skb, programs::SkBuffContext};
use emu_common::model::identity::{self, Event};

use crate::{identity as who, maps, packet, sockaddr};

const PASSES: i32 = 1;
const IS_DROPPED: i32 = 0;

/// Every packet of the sockets of vnodes' processes.
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
    if sockaddr::is_of_socket(&ctx, &source) {
        return PASSES;
    }
    match who::of_packet(&ctx) {
        Some(vnode) if !identity::may_emit(&vnode, &source) => {
            maps::count_event(Event::ForeignSource);
            IS_DROPPED
        }
        _ => PASSES,
    }
}
