//! Which `fq` flow a packet joins.
//!
//! `fq` keeps a flow behind its head: a packet with an earlier deadline waits
//! for it. One flow for each vnode and destination group keeps the deadlines of
//! a flow in order, because departures of a pipe are in order and the latency
//! is the same for all of them. With `orphan_mask 0xffffffff` the identifier is
//! used whole (`fq_classify` in the kernel's net/sched/sch_fq.c), so flows never
//! share by accident.
use super::random::mix;
use crate::layout::{AddrKey, MAX_GROUPS, MAX_VNODES};

/// Bits for the vnode index.
pub const VNODE_BITS: u32 = 16;
/// Bits for the destination group plus one.
pub const GROUP_BITS: u32 = 11;

// The largest topology fits.
const _: () = assert!(MAX_VNODES <= 1 << VNODE_BITS && MAX_GROUPS < 1 << GROUP_BITS);

/// Generations of a pipe; the last value marks packets that may overtake.
pub const GENERATIONS: u32 = 31;

/// A flow of its own for a packet that may overtake others of its vnode. Two such
/// packets share one flow once in 2^27.
#[inline(always)]
pub const fn unique_flow(random: u32) -> u32 {
    (GENERATIONS << (VNODE_BITS + GROUP_BITS)) | (random >> 5)
}

/// Tells packets that come from a peer from those that go to it.
pub const FROM_PEER: u32 = 1 << 8;

/// Flow of the packets of one vnode to one address, for paths with jitter: none
/// overtakes another, and none waits for one that goes elsewhere. With
/// [`FROM_PEER`] in the generation: those from that address.
#[inline(always)]
pub const fn to_peer(vnode_index: u32, peer: &AddrKey, generation: u32) -> u32 {
    let [a, b, c, d, e, f, g, h, rest @ ..] = peer.octets;
    let high = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    let low = u64::from_ne_bytes(rest);
    let own = (vnode_index as u64) << 32 | generation as u64;
    // Each part by an odd number of its own (those of MurmurHash3), then one mix.
    let sum = low
        .wrapping_mul(0x87c3_7b91_1142_53d5)
        .wrapping_add(high.wrapping_mul(0x4cf5_ad43_2745_937f))
        .wrapping_add(own.wrapping_mul(0xff51_afd7_ed55_8ccd));
    unique_flow((mix(sum) >> 32) as u32)
}

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
    fn peers_directions_and_generations_have_flows_of_their_own() {
        let peer = AddrKey::from_v4([10, 0, 0, 1]);
        let all = [
            to_peer(1, &peer, 0),
            to_peer(1, &peer, FROM_PEER),
            to_peer(1, &peer, 1),
            to_peer(2, &peer, 0),
            to_peer(1, &AddrKey::from_v4([10, 0, 0, 2]), 0),
        ];
        for (i, flow) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(flow));
            assert_eq!(flow >> 27, GENERATIONS);
        }
    }

    #[test]
    fn flows_differ_in_every_part() {
        let all = [
            up(0, 0, 0),
            up(65_535, 0, 0),
            up(0, 1_024, 0),
            up(0, 0, 30),
            up(65_535, 1_024, 30),
            unique_flow(0),
            unique_flow(u32::MAX),
        ];
        for (i, a) in all.iter().enumerate() {
            for b in &all[i + 1..] {
                assert_ne!(a, b);
            }
        }
    }
}
