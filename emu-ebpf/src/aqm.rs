//! Active management of a pipe's queue: the state of CoDel and RED in its stage.
use aya_ebpf::programs::TcContext;
use emu_common::{
    layout::{Stage, stage_flag},
    model::{
        aqm::{self, Codel, Red},
        random::{self, Purpose},
    },
    reason::Reason,
};

use crate::{atomic, maps, packet};

/// Whether the queue's active management drops the packet that would join it
/// now. A packet that allows it is marked instead where the stage says so.
#[inline(always)]
pub fn drops(
    ctx: &TcContext,
    stage_plus_one: u32,
    now_ns: u64,
    free_ns: u64,
    serialisation_ns: u64,
) -> bool {
    let Some(stage) = maps::stage(stage_plus_one - 1) else {
        return false;
    };
    // SAFETY: `stage` points to a live map value.
    let (kind, flags) = unsafe { ((*stage).aqm_kind, (*stage).flags) };
    let wait_ns = free_ns.saturating_sub(now_ns);
    let hit = match kind {
        aqm::CODEL => codel(stage, now_ns + wait_ns + serialisation_ns, wait_ns),
        aqm::RED => red(stage, wait_ns),
        _ => return false,
    };
    if !hit {
        return false;
    }
    if flags & stage_flag::ECN != 0 && packet::mark_congestion(ctx) {
        maps::count(Reason::Marked);
        // SAFETY: as above.
        atomic::fetch_add(unsafe { &raw mut (*stage).marks }, 1);
        return false;
    }
    // SAFETY: as above.
    atomic::fetch_add(unsafe { &raw mut (*stage).aqm_drops }, 1);
    true
}

#[inline(always)]
fn codel(stage: *mut Stage, departure_ns: u64, wait_ns: u64) -> bool {
    // SAFETY: `stage` points to a live map value; two CPUs at once may lose one
    // step of the control law.
    unsafe {
        let before = Codel {
            first_above_ns: (*stage).codel_first_above_ns,
            drop_next_ns: (*stage).codel_drop_next_ns,
            count: (*stage).codel_count,
            last_count: (*stage).codel_last_count,
            dropping: (*stage).codel_dropping,
        };
        let (target_ns, interval_ns) = ((*stage).aqm_low_ns, (*stage).aqm_high_ns);
        let (next, hit) = aqm::codel(before, departure_ns, wait_ns, target_ns, interval_ns);
        (*stage).codel_first_above_ns = next.first_above_ns;
        (*stage).codel_drop_next_ns = next.drop_next_ns;
        (*stage).codel_count = next.count;
        (*stage).codel_last_count = next.last_count;
        (*stage).codel_dropping = next.dropping;
        hit
    }
}

#[inline(always)]
fn red(stage: *mut Stage, wait_ns: u64) -> bool {
    // SAFETY: as for `codel`.
    unsafe {
        let settings = Red {
            min_ns: (*stage).aqm_low_ns,
            max_ns: (*stage).aqm_high_ns,
            max_probability: (*stage).red_probability,
            weight_bits: (*stage).red_weight_bits & 31,
        };
        let average = aqm::red_average_q8((*stage).red_average_q8, wait_ns, settings.weight_bits);
        (*stage).red_average_q8 = average;
        let probability = aqm::red_probability(&settings, average >> 8);
        // The queue comes after the stage took its number.
        let packet = atomic::read(&raw const (*stage).sequence);
        let (random, _) = random::draw((*stage).seed, packet, Purpose::Queue);
        random::happens(probability, random)
    }
}
