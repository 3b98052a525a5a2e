//! Keeping packets of a flow in order although their delays differ.
//!
//! `fq` does not do it: it sorts a flow's packets by due time. So the latest due
//! time of each flow is kept in a slot of a table that is indexed by the flow's
//! hash. Two flows on one slot forget each other's time, and tell themselves apart
//! by a tag: an order may be lost, a packet never waits for a stranger's.

/// Bits of a slot for the due time in microseconds: 200 days from boot.
const TIME_BITS: u32 = 44;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
/// Bits of a flow's hash, of which the upper ones are its tag.
const HASH_BITS: u32 = 27;
/// Smallest table: with it, index and tag together hold the whole hash.
pub const MIN_SLOTS: u32 = 1 << (HASH_BITS - (64 - TIME_BITS));
/// Largest table.
pub const MAX_SLOTS: u32 = 1 << 20;
/// A time farther ahead than any packet is held is one from before the clock's
/// 44 bits were full: 71 minutes in microseconds.
const FARTHEST_US: u64 = 1 << 32;

/// Index of a flow's slot in a table of `mask + 1` slots, a power of two.
#[inline(always)]
pub const fn index(flow: u32, mask: u32) -> u32 {
    flow & mask
}

/// What becomes of a flow's slot, and when its packet is due that would be due at
/// `due_ns` but for those in front of it.
#[inline(always)]
pub const fn clamp_in_order(slot: u64, flow: u32, due_ns: u64) -> (u64, u64) {
    let tag = ((flow & ((1 << HASH_BITS) - 1)) >> (HASH_BITS - (64 - TIME_BITS))) as u64;
    let due_us = due_ns.div_ceil(1_000);
    let ahead_us = (slot & TIME_MASK).wrapping_sub(due_us & TIME_MASK) & TIME_MASK;
    if slot >> TIME_BITS == tag && ahead_us != 0 && ahead_us < FARTHEST_US {
        return (slot, (due_us + ahead_us) * 1_000);
    }
    (tag << TIME_BITS | (due_us & TIME_MASK), due_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{flow, random};
    use proptest::prelude::*;

    const FLOW: u32 = flow::unique_flow(0xdead_beef);

    #[test]
    fn an_earlier_packet_waits_for_the_one_before() {
        let (slot, due) = clamp_in_order(0, FLOW, 5_000_500);
        assert_eq!(due, 5_000_500);
        // The same microsecond, later, and earlier.
        assert_eq!(clamp_in_order(slot, FLOW, 5_000_900).1, 5_000_900);
        assert_eq!(clamp_in_order(slot, FLOW, 9_000_000).1, 9_000_000);
        assert_eq!(clamp_in_order(slot, FLOW, 4_000_000), (slot, 5_001_000));
    }

    #[test]
    fn strangers_and_the_distant_past_do_not_count() {
        let (slot, _) = clamp_in_order(0, FLOW, 5_000_500);
        let other = FLOW ^ 1 << 26;
        assert_eq!(clamp_in_order(slot, other, 4_000_000).1, 4_000_000);
        let (stale, _) = clamp_in_order(0, FLOW, 15_000_000_000_000);
        let wrapped = (1 << 44) * 1_000 + 1_000_000;
        assert_eq!(clamp_in_order(stale, FLOW, wrapped).1, wrapped);
    }

    #[test]
    fn index_and_tag_hold_the_whole_hash() {
        assert_eq!(MIN_SLOTS, 128);
        let key = |flow| {
            let (slot, _) = clamp_in_order(0, flow, 1);
            (index(flow, MIN_SLOTS - 1), slot)
        };
        for i in 0..1_000u64 {
            let flow = flow::unique_flow(random::mix(i) as u32);
            assert_ne!(key(flow), key(flow ^ 1 << (i % 27)));
        }
    }

    proptest! {
        #[test]
        fn due_times_of_a_flow_never_go_back(steps in proptest::collection::vec((0u64..2_000_000, 0u64..50_000_000), 1..60)) {
            let (mut now, mut slot, mut last) = (1_000_000_000u64, 0, 0);
            for (gap, delay) in steps {
                now += gap;
                let (next, due) = clamp_in_order(slot, FLOW, now + delay);
                prop_assert!(due >= now + delay && due + 1_000 > last);
                slot = next;
                last = due;
            }
        }
    }
}
