//! Who a task or a socket is: the vnode of its cgroup, or of the process that made it.
use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_socket_cookie,
        bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id,
    },
    programs::{SkBuffContext, SockAddrContext, SockContext},
};
use emu_common::layout::Identity;

use crate::maps;

/// How deep below the root a vnode's cgroup may lie.
const LEVELS: i32 = 12;

/// The vnode whose process this is.
#[inline(always)]
pub fn of_task() -> Option<Identity> {
    // SAFETY: the helper takes no argument and reads the current task.
    let own = unsafe { bpf_get_current_cgroup_id() };
    maps::identity(own).or_else(|| {
        // SAFETY: the helper reads the current task; 0 for a level too deep.
        ancestor(|level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
    })
}

/// The vnode of a call on a socket: that of the socket, whichever process calls, or else that of
/// the process.
#[inline(always)]
pub fn of_call(ctx: &SockAddrContext) -> Option<Identity> {
    of_socket(ctx).or_else(of_task)
}

/// The vnode that a program is to be told its addresses by: the sockets of connections that a
/// listener accepted are not recorded.
#[inline(always)]
pub fn of_caller(ctx: &SockAddrContext) -> Option<Identity> {
    of_task().or_else(|| of_socket(ctx))
}

#[inline(always)]
fn of_socket(ctx: &SockAddrContext) -> Option<Identity> {
    // SAFETY: the context is live.
    maps::socket(unsafe { bpf_get_socket_cookie(ctx.as_ptr()) })
}

/// Records the vnode of a new socket.
#[inline(always)]
pub fn record(ctx: &SockContext, own: &Identity) {
    // SAFETY: the context is live.
    maps::set_socket(unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }, own);
    // Another socket may have been in its place before.
    maps::set_v6_only(ctx.sock as u64, false);
}

/// The vnode whose socket sends or receives a packet.
#[inline(always)]
pub fn of_packet(ctx: &SkBuffContext) -> Option<Identity> {
    let skb = ctx.as_ptr().cast();
    // SAFETY: `skb` is the live context of this program run.
    let own = unsafe { bpf_skb_cgroup_id(skb) };
    maps::identity(own).or_else(|| {
        // SAFETY: `skb` is the live context of this program run; 0 for a level too deep.
        ancestor(|level| unsafe { bpf_skb_ancestor_cgroup_id(skb, level) })
    })
}

/// For programs that make cgroups of their own inside the vnode's.
#[inline(always)]
fn ancestor(id_at: impl Fn(i32) -> u64) -> Option<Identity> {
    for level in 1..LEVELS {
        let id = id_at(level);
        if id == 0 {
            return None;
        }
        if let Some(found) = maps::identity(id) {
            return Some(found);
        }
    }
    None
}
