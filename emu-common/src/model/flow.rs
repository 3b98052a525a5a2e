//! Which `fq` flow a packet joins.
//!
//! `fq` keeps a flow behind its head: a packet with an earlier deadline waits
//! for it. One flow for each vnode and destination group keeps the deadlines of
//! a flow in order, because departures of a pipe are in order and the latency
//! is the same for all of them. With `orphan_mask 0xffffffff` the identifier is
//! used whole (`fq_classify` in the kernel's net/sched/sch_fq.c), so flows never
//! share by accident.
use crate::layout::{MAX_GROUPS, MAX_VNODES};

/// Bits for the vnode index.
pub const VNODE_BITS: u32 = 16;
/// Bits for the destination group plus one.
pub const GROUP_BITS: u32 = 11;

// The largest topology fits.
const _: () = assert!(MAX_VNODES <= 1 << VNODE_BITS && MAX_GROUPS < 1 << GROUP_BITS);

/// Flow of a packet in an up pipe; `group_plus_one` is 0 for a destination
/// outside all groups.
#[inline(always)]
pub const fn up(vnode_index: u32, group_plus_one: u32, generation: u32) -> u32 {
    (generation << (VNODE_BITS + GROUP_BITS))
        | ((group_plus_one & ((1 << GROUP_BITS) - 1)) << VNODE_BITS)
        | (vnode_index & ((1 << VNODE_BITS) - 1))
}

/// Flow of a packet in a down pipe.
#[inline(always)]
pub const fn down(vnode_index: u32, generation: u32) -> u32 {
    up(vnode_index, 0, generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_differ_in_every_part() {
        let all = [
            up(0, 0, 0),
            up(65_535, 0, 0),
            up(0, 1_024, 0),
            up(0, 0, 31),
            up(65_535, 1_024, 31),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }
}
