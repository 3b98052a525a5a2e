//! Entry points: thin wrappers, and the one place where a reason becomes a
//! verdict.
mod cgroup_bind;
mod cgroup_connect;
mod cgroup_guard;
mod cgroup_option;
mod cgroup_sendmsg;
mod cgroup_socket;
mod cgroup_told;
mod tc_egress;
mod tc_ifb;
mod tc_ingress;
mod tc_port;
mod tc_to_port;

use aya_ebpf::bindings::{TC_ACT_STOLEN, TC_ACT_UNSPEC};
use emu_common::reason::Reason;

use crate::maps;

/// Index of `lo` in every network namespace: LOOPBACK_IFINDEX of the kernel's
/// include/net/flow.h.
const LOOPBACK: u32 = 1;

/// Counts the reason and gives the verdict of an egress program.
///
/// A loss is `TC_ACT_STOLEN`, never `TC_ACT_SHOT`: the sender must not learn of
/// it, as it would not on a real network (TCP would take a local drop as
/// congestion without a retransmission, UDP would see `ENOBUFS`). Everything else
/// is `TC_ACT_UNSPEC`: filters of the user behind ours still see the packet.
#[inline(always)]
fn egress_verdict(reason: Reason) -> i32 {
    maps::count(reason);
    // The clone of an orphaned packet goes on in its place.
    if reason.drops() || reason == Reason::Orphaned {
        TC_ACT_STOLEN as i32
    } else {
        TC_ACT_UNSPEC
    }
}
