//! Pipes that follow a schedule: access to its rows.
use emu_common::{
    layout::{Row, Schedule, feature, pipe_flag, schedule_flag},
    model::schedule::{self, Column, Curve, Rows, Service},
};

use crate::{maps, pipe};

/// Position of the generation in the result of [`emu_latency_at`].
const GENERATION_SHIFT: u32 = 56;
/// Result of [`emu_latency_at`]: the schedule gives no latency.
const NONE: u64 = u64::MAX;

/// The rows of a schedule.
struct MapRows {
    first: u32,
}

impl Rows for MapRows {
    #[inline(always)]
    fn row(&self, index: u32) -> Row {
        match maps::row(self.first.wrapping_add(index)) {
            // SAFETY: the pointer is to a live map value of this type, which user space wrote
            // before the schedule started.
            Some(row) => unsafe { *row },
            None => Row::default(),
        }
    }

    #[inline(always)]
    fn find(&self, count: u32, column: Column, key: u64) -> u32 {
        schedule::search(count, key, |index| {
            let Some(row) = maps::row(self.first.wrapping_add(index)) else {
                return u64::MAX;
            };
            // SAFETY: as for `row`.
            unsafe {
                match column {
                    Column::Start => (*row).start_ns,
                    Column::Work => (*row).work,
                }
            }
        })
    }
}

/// The schedule of a pipe with these flags. The verifier removes it where no pipe has one.
#[inline(always)]
pub fn of(pipe: u32, flags: u32) -> Option<Schedule> {
    if maps::features() & feature::SCHEDULES == 0 || flags & pipe_flag::SCHEDULED == 0 {
        return None;
    }
    let schedule = maps::schedule(pipe)?;
    // SAFETY: the pointer is to a live map value of this type. User space changes it only in
    // whole machine words; a start is its last write.
    Some(unsafe { *schedule })
}

/// The service of a pipe, by functions that the verifier checks once for all callers.
struct PipeCurve {
    pipe: u32,
}

impl Curve for PipeCurve {
    #[inline(always)]
    fn after(&self, from_ns: u64, work: u64) -> u64 {
        emu_service_end(self.pipe, from_ns, work)
    }

    #[inline(always)]
    fn work(&self, from_ns: u64, to_ns: u64) -> u64 {
        emu_service_work(self.pipe, from_ns, to_ns)
    }
}

/// [`Curve::after`] of a pipe.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emu_service_end(pipe: u32, from_ns: u64, work: u64) -> u64 {
    match of(pipe, pipe_flag::SCHEDULED) {
        Some(schedule) => schedule::service_end(&rows(&schedule), &schedule, from_ns, work),
        None => from_ns,
    }
}

/// [`Curve::work`] of a pipe.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emu_service_work(pipe: u32, from_ns: u64, to_ns: u64) -> u64 {
    match of(pipe, pipe_flag::SCHEDULED) {
        Some(schedule) => schedule::service_work(&rows(&schedule), &schedule, from_ns, to_ns),
        None => 0,
    }
}

#[inline(always)]
fn rows(schedule: &Schedule) -> MapRows {
    MapRows {
        first: schedule.first_row,
    }
}

/// Reserves a pipe for a packet at the rates of its schedule, if that has begun.
#[inline(always)]
pub fn reserve(
    pipe: u32,
    schedule: &Schedule,
    now_ns: u64,
    free_ns: u64,
    bytes: u32,
    limit_ns: u64,
) -> Option<Service> {
    schedule::reserve(
        &PipeCurve { pipe },
        schedule,
        now_ns,
        free_ns,
        bytes,
        limit_ns,
    )
}

/// Whether a schedule gives the rate of a packet that could be served from `start_ns` on.
#[inline(always)]
pub fn gives_rate(schedule: &Schedule, start_ns: u64) -> bool {
    schedule.flags & schedule_flag::RATES != 0 && schedule::has_begun(schedule, start_ns)
}

/// When a packet would have left a pipe with these flags; none if it has no schedule that has
/// begun.
#[inline(always)]
pub fn end_ns(pipe: u32, flags: u32, bytes: u32, start_ns: u64) -> Option<u64> {
    let schedule = of(pipe, flags)?;
    if !gives_rate(&schedule, start_ns) {
        return None;
    }
    Some(emu_service_end(
        pipe,
        start_ns,
        schedule::packet_work(bytes),
    ))
}

/// Latency of a packet that leaves a pipe at a time, and what is added to the generation of
/// its flow; none if no schedule gives the pipe's latency.
#[inline(always)]
pub fn latency(pipe: u32, departure_ns: u64) -> Option<(u64, u32)> {
    if maps::features() & feature::SCHEDULES == 0 {
        return None;
    }
    let result = emu_latency_at(pipe, departure_ns);
    if result == NONE {
        return None;
    }
    let generation = (result >> GENERATION_SHIFT) as u32;
    Some((result & ((1 << GENERATION_SHIFT) - 1), generation))
}

/// A function of its own, as [`emu_service_end`]: the latency, and the generation above it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn emu_latency_at(pipe: u32, departure_ns: u64) -> u64 {
    let Ok(line) = pipe::line(pipe) else {
        return NONE;
    };
    let Some(schedule) = of(pipe, line.flags) else {
        return NONE;
    };
    match schedule::latency(&rows(&schedule), &schedule, departure_ns) {
        Some((latency_ns, generation)) => {
            let latency_ns = latency_ns & ((1 << GENERATION_SHIFT) - 1);
            u64::from(generation) << GENERATION_SHIFT | latency_ns
        }
        None => NONE,
    }
}
