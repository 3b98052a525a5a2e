//! Service of a pipe whose rate follows a schedule.
//!
//! The rows of a schedule define the cumulative service `B(t)`: the bytes that the pipe can
//! transmit from the start of the schedule up to a time. A packet of `n` bytes that finds the
//! pipe free at `t` departs at `B⁻¹(B(t) + n)`: the server of variable rate of network calculus
//! (Le Boudec and Thiran, "Network Calculus", 2001, section 1.3), computed on arrival, since
//! the rates to come are known.
//!
//! All products fit 64 bits or are split: the BPF target has no 128-bit product.
use crate::{
    layout::{MAX_SCHEDULE_ROWS, NO_LIMIT_NS, NO_LIMIT_WORK, Row, Schedule, schedule_flag},
    model::{
        flow,
        rate::{self, Reservation},
    },
};

/// Bits of a byte's fraction in a number of bytes, here called work: at 1 kbit/s it is exact
/// to 122 ns.
pub const WORK_BITS: u32 = 16;
/// Halvings of the longest search.
pub const STEPS: u32 = 20;
const _: () = assert!(MAX_SCHEDULE_ROWS <= 1 << STEPS);
/// Longest row of a schedule in nanoseconds, 4.8 hours: within it, [`work_in`] is exact. The
/// last row of a schedule that does not repeat has no end.
pub const MAX_ROW_NS: u64 = 1 << 44;
/// Work beyond all limits, small enough that two of them can be added.
const FULL: u64 = 1 << 62;
/// Most work of all rows, 2^45 bytes: 47 minutes at 100 Gbit/s, 8 hours at 10 Gbit/s.
pub const MAX_PERIOD_WORK: u64 = 1 << 61;

/// A column of [`Row`], by which rows are in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Column {
    /// [`Row::start_ns`].
    Start = 0,
    /// [`Row::work`].
    Work = 1,
}

/// Access to the rows of a schedule.
pub trait Rows {
    /// A row, counted from the first row of the schedule.
    fn row(&self, index: u32) -> Row;

    /// Index of the last of `count` rows whose column is not above `key`; 0 if all are.
    fn find(&self, count: u32, column: Column, key: u64) -> u32;
}

impl Rows for &[Row] {
    fn row(&self, index: u32) -> Row {
        self.get(index as usize).copied().unwrap_or_default()
    }

    fn find(&self, count: u32, column: Column, key: u64) -> u32 {
        search(count, key, |index| match column {
            Column::Start => self.row(index).start_ns,
            Column::Work => self.row(index).work,
        })
    }
}

/// A schedule with its rows.
impl Curve for (&[Row], &Schedule) {
    fn after(&self, from_ns: u64, work: u64) -> u64 {
        service_end(&self.0, self.1, from_ns, work)
    }

    fn work(&self, from_ns: u64, to_ns: u64) -> u64 {
        service_work(&self.0, self.1, from_ns, to_ns)
    }
}

/// [`Rows::find`] by binary search; `value` reads the column.
#[inline(always)]
pub fn search(count: u32, key: u64, value: impl Fn(u32) -> u64) -> u32 {
    let (mut low, mut length) = (0u32, count);
    for _ in 0..STEPS {
        if length <= 1 {
            break;
        }
        let half = length / 2;
        if value(low + half) <= key {
            low += half;
            length -= half;
        } else {
            length = half;
        }
    }
    low
}

/// `a * b >> 36`, saturating: the time of some work at a time per byte.
#[inline(always)]
pub const fn work_ns(ns_per_byte_q20: u64, work: u64) -> u64 {
    const LOW: u64 = 0xffff_ffff;
    const SHIFT: u32 = 20 + WORK_BITS;
    let (a1, a0) = (ns_per_byte_q20 >> 32, ns_per_byte_q20 & LOW);
    let (b1, b0) = (work >> 32, work & LOW);
    let (p00, p01, p10, p11) = (a0 * b0, a0 * b1, a1 * b0, a1 * b1);
    let middle = (p00 >> 32) + (p01 & LOW) + (p10 & LOW);
    let low = (p00 & LOW) | middle << 32;
    let high = p11 + (p01 >> 32) + (p10 >> 32) + (middle >> 32);
    if high >> SHIFT != 0 {
        return u64::MAX;
    }
    high << (64 - SHIFT) | low >> SHIFT
}

/// Work that is done in a time at a time per byte; `FULL` at times beyond [`MAX_ROW_NS`].
#[inline(always)]
pub const fn work_in(ns_per_byte_q20: u64, time_ns: u64) -> u64 {
    if ns_per_byte_q20 == 0 {
        return 0;
    }
    if time_ns >= MAX_ROW_NS {
        return FULL;
    }
    // Long division in two steps: the whole bytes, then their fraction.
    let scaled = time_ns << 20;
    let bytes = scaled / ns_per_byte_q20;
    let rest = scaled % ns_per_byte_q20;
    if bytes >= FULL >> WORK_BITS {
        return FULL;
    }
    (bytes << WORK_BITS) + (rest << WORK_BITS) / ns_per_byte_q20
}

const _: () = assert!(
    rate::ns_per_byte_q20(rate::MIN_RATE_BITS_PER_SEC)
        .checked_mul(1 << WORK_BITS)
        .is_some()
);

/// The work that a number of bytes is.
#[inline(always)]
pub const fn bytes_as_work(bytes: u64) -> u64 {
    if bytes >= FULL >> WORK_BITS {
        return FULL;
    }
    bytes << WORK_BITS
}

/// Computes [`Row::work`] of rows with their starts and rates. Returns the work of all rows up
/// to `end_ns`; none if it exceeds [`MAX_PERIOD_WORK`]. Not for BPF: it sums 128 bits, so that
/// errors of rounding do not add up.
pub fn cumulate(rows: &mut [Row], end_ns: u64) -> Option<u64> {
    const FRACTION: u32 = 20;
    let mut sum = 0u128;
    for index in 0..rows.len() {
        let next_ns = rows.get(index + 1).map_or(end_ns, |row| row.start_ns);
        let row = rows.get_mut(index)?;
        row.work = u64::try_from(sum >> FRACTION).ok()?;
        if row.ns_per_byte_q20 != 0 {
            let time_ns = u128::from(next_ns.checked_sub(row.start_ns)?);
            sum += (time_ns << (20 + WORK_BITS + FRACTION)) / u128::from(row.ns_per_byte_q20);
        }
        if sum >> FRACTION > u128::from(MAX_PERIOD_WORK) {
            return None;
        }
    }
    u64::try_from(sum >> FRACTION).ok()
}

/// The work of a packet, of at most [`rate::MAX_CHARGED_BYTES`].
#[inline(always)]
pub const fn packet_work(bytes: u32) -> u64 {
    bytes_as_work(if bytes > rate::MAX_CHARGED_BYTES {
        rate::MAX_CHARGED_BYTES as u64
    } else {
        bytes as u64
    })
}

/// A time in a schedule.
#[derive(Debug, Clone, Copy)]
struct Position {
    /// Repetitions before it.
    round: u64,
    /// Time since the start of the repetition.
    offset_ns: u64,
    /// Index of its row.
    index: u32,
    row: Row,
}

impl Position {
    /// The position of a time since the start of the schedule.
    #[inline(always)]
    fn of<R: Rows>(rows: &R, schedule: &Schedule, time_ns: u64) -> Self {
        let (round, offset_ns) = match time_ns.checked_div(schedule.period_ns) {
            Some(round) => (round, time_ns % schedule.period_ns),
            None => (0, time_ns),
        };
        let index = rows.find(schedule.rows, Column::Start, offset_ns);
        Self {
            round,
            offset_ns,
            index,
            row: rows.row(index),
        }
    }

    /// Work since the start of the repetition.
    #[inline(always)]
    fn work(&self) -> u64 {
        let time_ns = self.offset_ns.saturating_sub(self.row.start_ns);
        self.row.work + work_in(self.row.ns_per_byte_q20, time_ns)
    }

    /// End of its row, since the start of the repetition.
    #[inline(always)]
    fn end_ns<R: Rows>(&self, rows: &R, schedule: &Schedule) -> u64 {
        if self.index + 1 < schedule.rows {
            rows.row(self.index + 1).start_ns
        } else if schedule.period_ns == 0 {
            u64::MAX
        } else {
            schedule.period_ns
        }
    }
}

/// When `work` has been done since a position, as time since the start of the schedule.
#[inline(always)]
fn after<R: Rows>(rows: &R, schedule: &Schedule, from: &Position, work: u64) -> u64 {
    let begin_ns = from.round * schedule.period_ns;
    let each = from.row.ns_per_byte_q20;
    let end_ns = from.end_ns(rows, schedule);
    let at_ns = from.offset_ns.saturating_add(work_ns(each, work));
    if work == 0 || (each != 0 && at_ns <= end_ns) {
        return begin_ns.saturating_add(at_ns);
    }
    let mut target = from.work() + work;
    let mut begin_ns = begin_ns;
    if schedule.period_ns != 0 && target > schedule.period_work && schedule.period_work != 0 {
        let rounds = (target - 1) / schedule.period_work;
        target -= rounds * schedule.period_work;
        begin_ns = begin_ns.wrapping_add(rounds.wrapping_mul(schedule.period_ns));
    }
    // The last row before which less was done: it transmits, since the next one has more.
    let row = rows.row(rows.find(schedule.rows, Column::Work, target.saturating_sub(1)));
    let inside_ns = work_ns(row.ns_per_byte_q20, target.saturating_sub(row.work));
    begin_ns
        .saturating_add(row.start_ns)
        .saturating_add(inside_ns)
}

/// The row at a time at or after the start.
pub fn row_at<R: Rows>(rows: &R, schedule: &Schedule, time_ns: u64) -> Row {
    Position::of(rows, schedule, time_ns.wrapping_sub(schedule.start_ns)).row
}

/// Longest time that some work takes, from whatever time on. Service is slowest from the start
/// of a row on, or towards an end at that of a row; the latter are not more than a row off.
pub fn longest_ns(rows: &[Row], schedule: &Schedule, work: u64) -> u64 {
    let schedule = Schedule {
        start_ns: 1,
        ..*schedule
    };
    let time_ns = |row: &Row| {
        let from_ns = 1 + row.start_ns;
        service_end(&rows, &schedule, from_ns, work).saturating_sub(from_ns)
    };
    let ends = rows.iter().map(time_ns).max().unwrap_or(0);
    let longest_outage_ns = rows
        .windows(2)
        .filter(|pair| pair[0].ns_per_byte_q20 == 0)
        .map(|pair| pair[1].start_ns - pair[0].start_ns)
        .max()
        .unwrap_or(0);
    ends.saturating_add(longest_outage_ns)
}

/// The generation of a flow of packets, from that of its pipe and that of a latency.
#[inline(always)]
pub const fn generation(pipe: u32, latency: u32) -> u32 {
    (pipe + latency) % flow::GENERATIONS
}

/// What becomes of a packet in the queue of a pipe with a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// The reservation, if the packet is accepted.
    pub reservation: Reservation,
    /// Whether the queue's limit in bytes or in time forbids it.
    pub is_full: bool,
}

/// Whether a schedule gives the rate of a packet that could be served from `start_ns` on.
#[inline(always)]
pub const fn has_begun(schedule: &Schedule, start_ns: u64) -> bool {
    schedule.start_ns != 0 && start_ns.wrapping_sub(schedule.start_ns) as i64 >= 0
}

/// The cumulative service of a pipe, between `CLOCK_MONOTONIC` times at or after the start of
/// its schedule.
pub trait Curve {
    /// When `work` has been done since a time.
    fn after(&self, from_ns: u64, work: u64) -> u64;

    /// Work between two times, of which `to` is not earlier.
    fn work(&self, from_ns: u64, to_ns: u64) -> u64;
}

/// [`Curve::after`] of a schedule.
#[inline(always)]
pub fn service_end<R: Rows>(rows: &R, schedule: &Schedule, from_ns: u64, work: u64) -> u64 {
    let from = Position::of(rows, schedule, from_ns.wrapping_sub(schedule.start_ns));
    let end_ns = after(rows, schedule, &from, work);
    schedule.start_ns.wrapping_add(end_ns)
}

/// [`Curve::work`] of a schedule.
#[inline(always)]
pub fn service_work<R: Rows>(rows: &R, schedule: &Schedule, from_ns: u64, to_ns: u64) -> u64 {
    let from_ns = from_ns.wrapping_sub(schedule.start_ns);
    let to_ns = to_ns.wrapping_sub(schedule.start_ns);
    let from = Position::of(rows, schedule, from_ns);
    let (round, index, before) = (from.round, from.index, from.work());
    let to = Position::of(rows, schedule, to_ns);
    let work = if round == to.round && index == to.index {
        // Not by the difference of two numbers that the last row's age makes large.
        work_in(to.row.ns_per_byte_q20, to_ns.saturating_sub(from_ns))
    } else {
        let rounds = to.round.saturating_sub(round);
        if schedule.period_work != 0 && rounds > FULL / schedule.period_work {
            return FULL;
        }
        (rounds * schedule.period_work + to.work()).saturating_sub(before)
    };
    if work > FULL { FULL } else { work }
}

/// Reserves the pipe for one packet that arrives now, like [`rate::reserve`]; `limit_ns` as in
/// [`crate::layout::Pipe`]. None before the start of the schedule.
#[inline(always)]
pub fn reserve<C: Curve>(
    curve: &C,
    schedule: &Schedule,
    now_ns: u64,
    next_free_ns: u64,
    bytes: u32,
    limit_ns: u64,
) -> Option<Service> {
    let start_ns = if next_free_ns > now_ns {
        next_free_ns
    } else {
        now_ns
    };
    if schedule.flags & schedule_flag::RATES == 0 || !has_begun(schedule, start_ns) {
        return None;
    }
    let work = packet_work(bytes);
    let end_ns = curve.after(start_ns, work);
    let mut departure_ns = end_ns;
    let mut is_full = false;
    let counts_bytes = schedule.limit_work != NO_LIMIT_WORK;
    if counts_bytes || schedule.burst_work != 0 {
        // What waits; of what came before the start of the schedule, the rows tell nothing.
        let from_ns = if has_begun(schedule, now_ns) {
            now_ns
        } else {
            start_ns
        };
        let waiting = curve.work(from_ns, start_ns);
        let early = (waiting + work).saturating_sub(schedule.burst_work);
        is_full = counts_bytes && early > schedule.limit_work;
        if schedule.burst_work != 0 {
            let early_ns = curve.after(from_ns, early);
            departure_ns = if early_ns > now_ns { early_ns } else { now_ns };
        }
    }
    if limit_ns != NO_LIMIT_NS && !counts_bytes && departure_ns.saturating_sub(now_ns) > limit_ns {
        is_full = true;
    }
    Some(Service {
        reservation: Reservation {
            next_free_ns: end_ns,
            departure_ns,
        },
        is_full,
    })
}

/// Latency of a packet that leaves the pipe at a time, and the number of shorter latencies
/// until then, modulo [`flow::GENERATIONS`]; none before the start, and where the schedule has no latencies.
#[inline(always)]
pub fn latency<R: Rows>(rows: &R, schedule: &Schedule, departure_ns: u64) -> Option<(u64, u32)> {
    if schedule.flags & schedule_flag::LATENCIES == 0 || !has_begun(schedule, departure_ns) {
        return None;
    }
    let time_ns = departure_ns.wrapping_sub(schedule.start_ns);
    let at = Position::of(rows, schedule, time_ns);
    let rounds = (at.round % flow::GENERATIONS as u64) as u32;
    let before = rounds * (schedule.period_generations % flow::GENERATIONS);
    let generation = before + at.row.generation % flow::GENERATIONS;
    Some((at.row.latency_ns, generation % flow::GENERATIONS))
}

#[cfg(test)]
mod tests;
