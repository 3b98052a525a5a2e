//! Who a task or a socket is: the vnode of its cgroup.
use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_skb_ancestor_cgroup_id,
        bpf_skb_cgroup_id,
    },
    programs::SkBuffContext,
};
use emu_common::layout::SocketAddress;

use crate::maps;

/// How deep below the root a vnode's cgroup may lie.
const LEVELS: i32 = 12;

/// Address of the vnode whose process this is.
#[inline(always)]
pub fn of_task() -> Option<SocketAddress> {
    // SAFETY: the helper takes no argument and reads the current task.
    let own = unsafe { bpf_get_current_cgroup_id() };
    maps::identity(own).or_else(|| {
        // SAFETY: the helper reads the current task; 0 for a level too deep.
        ancestor(|level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
    })
}

/// Address of the vnode whose socket sends a packet.
#[inline(always)]
pub fn of_packet(ctx: &SkBuffContext) -> Option<SocketAddress> {
    let skb = ctx.as_ptr().cast();
    // SAFETY: `skb` is the live context of this program run.
    let own = unsafe { bpf_skb_cgroup_id(skb) };
    maps::identity(own).or_else(|| {
        // SAFETY: as above; 0 for a level too deep.
        ancestor(|level| unsafe { bpf_skb_ancestor_cgroup_id(skb, level) })
    })
}

/// For programs that make cgroups of their own inside the vnode's.
#[inline(always)]
fn ancestor(id_at: impl Fn(i32) -> u64) -> Option<SocketAddress> {
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
