//! Active management of a pipe's queue: the state of CoDel and RED in its stage.
use aya_ebpf::programs::TcContext;
use emu_common::{
    layout::{ImpairmentState, feature, stage_flag},
    model::{
        aqm::{self, Codel, Red},
        random::{self, Purpose},
    },
    reason::Reason,
};

use crate::{
    atomic, maps, packet,
    pipe::{self, AccessLink},
};

/// Drops the packet that would join the line's queue now, if the queue's active
/// management says so. One that allows it is marked instead where the stage says
/// so.
#[inline(always)]
pub fn manage(
    ctx: &TcContext,
    line: &AccessLink,
    ip_bytes: u32,
    now_ns: u64,
) -> Result<(), Reason> {
    if maps::features() & feature::AQM == 0 || line.stage == 0 {
        return Ok(());
    }
    let Some(stage) = maps::stage(line.stage - 1) else {
        return Ok(());
    };
    // SAFETY: `stage` points to a live map value.
    if unsafe { (*stage).aqm_kind } == aqm::NONE {
        return Ok(());
    }
    let (wait_ns, serialisation_ns) = pipe::outlook(line, ip_bytes, now_ns);
    let departure_ns = now_ns + wait_ns + serialisation_ns;
    let hit = emu_aqm(line.stage, wait_ns, departure_ns);
    if hit == 0 {
        return Ok(());
    }
    let marked = hit == HIT_ECN && packet::mark_congestion(ctx);
    // SAFETY: `stage` points to a live map value.
    let counter = unsafe {
        if marked {
            &raw mut (*stage).marks
        } else {
            &raw mut (*stage).aqm_drops
        }
    };
    atomic::fetch_add(counter, 1);
    if !marked {
        return Err(Reason::Aqm);
    }
    maps::count(Reason::Marked);
    Ok(())
}

/// Result of [`emu_aqm`]: drop.
const HIT: u32 = 1;
/// Result of [`emu_aqm`]: mark, or drop.
const HIT_ECN: u32 = 2;

/// A function of its own, which the verifier checks once for all callers.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emu_aqm(stage_plus_one: u32, wait_ns: u64, departure_ns: u64) -> u32 {
    let Some(stage) = maps::stage(stage_plus_one.wrapping_sub(1)) else {
        return 0;
    };
    // SAFETY: `stage` points to a live map value.
    let (kind, flags) = unsafe { ((*stage).aqm_kind, (*stage).flags) };
    let hit = match kind {
        aqm::CODEL => codel(stage, departure_ns, wait_ns),
        aqm::RED => red(stage, wait_ns),
        _ => false,
    };
    match (hit, flags & stage_flag::ECN != 0) {
        (false, _) => 0,
        (true, false) => HIT,
        (true, true) => HIT_ECN,
    }
}

#[inline(always)]
fn codel(stage: *mut ImpairmentState, departure_ns: u64, wait_ns: u64) -> bool {
    // SAFETY: `stage` points to a live map value; two CPUs at once may lose one
    // step of the control law.
    unsafe {
        let before = Codel {
            first_above_ns: (*stage).codel_first_above_ns,
            drop_next_ns: (*stage).codel_drop_next_ns,
            count: (*stage).codel_count,
            last_count: (*stage).codel_last_count,
            dropping: (*stage).codel_dropping,
            inverse_root: (*stage).codel_inverse_root,
        };
        let (target_ns, interval_ns) = ((*stage).aqm_low_ns, (*stage).aqm_high_ns);
        let (next, hit) = aqm::codel(before, departure_ns, wait_ns, target_ns, interval_ns);
        (*stage).codel_first_above_ns = next.first_above_ns;
        (*stage).codel_drop_next_ns = next.drop_next_ns;
        (*stage).codel_count = next.count;
        (*stage).codel_last_count = next.last_count;
        (*stage).codel_dropping = next.dropping;
        (*stage).codel_inverse_root = next.inverse_root;
        hit
    }
}

#[inline(always)]
fn red(stage: *mut ImpairmentState, wait_ns: u64) -> bool {
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
